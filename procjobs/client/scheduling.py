"""Schedules of a pool, as its clients make them and ask for them: from calls and times to SCHEDULE frames."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from procjobs.client.connection.connection import REQUEST_TIMEOUT
from procjobs.client.connection.interruptible import came_from_outside
from procjobs.client.pool_warnings import warn
from procjobs.errors import ConfigurationError, PayloadError, SettingsDiffer
from procjobs.host import payload
from procjobs.schedules.declared import ScheduledCall, resolve
from procjobs.shared import wire
from procjobs.shared.queues import refuse_queue
from procjobs.shared.schedule_records import ScheduleInfo, info_from_json
from procjobs.shared.schedule_wire import ScheduleRequest
from procjobs.shared.table.layout import HAS_SCHEDULES
from procjobs.shared.wire import U32, Frame
from procjobs.template.declared_schedules import pack_call

if TYPE_CHECKING:
    from procjobs.client.connection.caller import Caller
    from procjobs.client.connection.connection import Connection
    from procjobs.host.descriptors import Descriptor
    from procjobs.settings.plan import Plan
    from procjobs.settings.schedule_tables import FileSchedule
    from procjobs.shared.config import JobOptions
    from procjobs.shared.table.post_mortem import PostMortemTable

_NOT_ANSWERED: Final = 0


def resolve_all(given: Iterable[object] | None, pool: str | None) -> tuple[ScheduledCall, ...] | None:
    """Return the schedules of `Pool(pool, schedules=...)`, None where none were given; raise ConfigurationError."""
    if given is None:
        return None
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(
            f"schedules={given!r:.200}: expected a list of procjobs.ScheduledCall, or of functions under @procjobs.schedule"
        )
    calls = [call for one in given for call in resolve(one)]
    for call in calls:
        if call.pool not in {None, pool}:
            here = "a private one" if pool is None else repr(pool)
            raise ConfigurationError(f"schedules: {call!r} is for pool {call.pool!r}, and this is {here}")
    names = [call.schedule.name for call in calls]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"schedules: {', '.join(map(repr, twice))} is there twice; each needs a name of its own")
    return tuple(calls)


def join_declared(
    label: str, of_file: Mapping[str, FileSchedule] | None, given: tuple[ScheduledCall, ...] | None
) -> tuple[ScheduledCall, ...] | None:
    """Return the schedules of the settings file and those that were given; None where neither says anything of schedules.

    Of two of one name, the one that was given is taken, with a warning.
    """
    if of_file is None:
        return given
    names = {call.schedule.name for call in given or ()}
    for name in names & of_file.keys():
        where = of_file[name].where
        warn(f"{label}: schedule {name!r} is the one of Pool(schedules=...); {where} is not used", SettingsDiffer)
    kept = tuple(one.call for name, one in of_file.items() if name not in names)
    return (*kept, *(given or ()))


def pack_of_file(plan: Plan) -> list[str] | None:
    """Return the schedules of the settings file for the template of a service, which declares them without any client.

    None where the file says nothing of schedules. Raise ConfigurationError if the pool cannot have them with its settings.
    """
    if plan.schedules is None:
        return None
    if misfits := plan.describe_misfits():
        raise ConfigurationError(misfits[0])
    bodies = [pack_call(one.call, plan.job_defaults) for one in plan.schedules.values()]
    return [b64encode(body).decode() for body in bodies]


class ScheduleSender:
    """Packs schedules and sends them over a connection. `defaults` are the pool's options of jobs."""

    def __init__(self, caller: Caller, defaults: JobOptions, label: str) -> None:
        self._caller = caller
        self._defaults = defaults
        self._label = label

    def ask(self, connection: Connection, call: ScheduledCall) -> ScheduleInfo:
        """Have the pool take a schedule; wait until it has, with a store until it is there. Raise ConfigurationError."""
        make, file = self._pack(connection, call, is_declared=False)
        connection.start_receiving()
        reply = connection.requests.ask("schedule", make, REQUEST_TIMEOUT, file)
        if reply["refusal"]:
            raise ConfigurationError(reply["refusal"])
        return info_from_json(reply["info"])

    def declare(self, connection: Connection, calls: Sequence[ScheduledCall]) -> None:
        """Tell the pool of all schedules that this process's code declares. Nothing is waited for."""
        for call in calls:
            self.post(connection, call, is_declared=True)
        connection.requests.post("declare", names=[call.schedule.name for call in calls])

    def post(self, connection: Connection, call: ScheduledCall, *, is_declared: bool = False) -> None:
        """Send a schedule, and wait for no answer."""
        make, file = self._pack(connection, call, is_declared=is_declared)
        connection.sender.post(make(_NOT_ANSWERED), file)

    def _pack(
        self, connection: Connection, call: ScheduledCall, *, is_declared: bool
    ) -> tuple[Callable[[int], bytes], Descriptor | None]:
        """Return what makes the frame, given the number of the request, and the file that goes with it."""
        name = call.schedule.name
        settings = connection.welcome["settings"]
        if call.schedule.catch_up in {"last", "all"} and settings.get("store") is None:
            raise ConfigurationError(
                f"schedule {name!r}: catch_up={call.schedule.catch_up!r} needs Pool(store=...): {self._label} has no store, "
                "so it does not know after a restart when it ran last"
            )
        options = self._defaults.but(call.options)
        if options.queue is not None and (why := refuse_queue(options.queue, settings.get("queues", {}), None)):
            raise ConfigurationError(f"schedule {name!r}: {why}")
        kind = connection.register(call.fn, options)
        (length,) = U32.unpack_from(kind.description)
        description, function = kind.description[4 : 4 + length], kind.description[4 + length :]
        inline, file = self._dump(call, carries_function=kind.carries_function)
        values = call.schedule.to_json()
        request = ScheduleRequest(0, values, is_declared, call.key, call.meta, description, function, inline)
        descriptors = int(file is not None)

        def make(number: int) -> bytes:
            return wire.frame(Frame.SCHEDULE, request._replace(number=number).pack(), descriptors=descriptors)

        return make, file

    def _dump(self, call: ScheduledCall, *, carries_function: bool) -> payload.Payload:
        parts = (call.fn, call.args, call.kwargs) if carries_function else (call.args, call.kwargs)
        try:
            return payload.dump(parts, "/tmp", call.args, self._caller.by_value)  # noqa: S108 - unnamed, without a memfd
        except Exception as error:
            if came_from_outside(error):
                raise
            name = f"schedule {call.schedule.name!r}"
            raise PayloadError(payload.explain(parts, name, error, self._caller.by_value)) from error


class ClientSchedules:
    """The schedules of one process: those that its code declares, and those that it has made in a pool without a store.

    Each new supervisor is told of them, since it may know of none.
    """

    def __init__(self, sender: ScheduleSender, declared: Sequence[ScheduledCall] | None) -> None:
        self._sender = sender
        self._declared = declared
        self._made: dict[str, ScheduledCall] = {}

    @property
    def are_there(self) -> bool:
        """Whether this process has schedules that the pool is to run."""
        return bool(self._declared or self._made)

    def need(self, table: PostMortemTable) -> bool:
        """Return whether the pool is to run for the sake of its schedules, whoever has made them; `table` is the pool's."""
        return self.are_there or (table.is_whole and bool(table.counters().accepting & HAS_SCHEDULES))

    def make(self, connection: Connection, call: ScheduledCall) -> ScheduleInfo:
        """Have the pool take a schedule, as `ScheduleSender.ask`."""
        info = self._sender.ask(connection, call)
        if connection.welcome["settings"].get("store") is None:
            self._made[call.schedule.name] = call
        return info

    def forget(self, name: str) -> None:
        """Note that a schedule was taken out."""
        self._made.pop(name, None)

    def declare_again(self, connection: Connection) -> None:
        """Tell a supervisor of all schedules that are not kept elsewhere."""
        for call in self._made.values():
            self._sender.post(connection, call)
        if self._declared is not None:
            self._sender.declare(connection, self._declared)
