"""The schedules of a pool, by name: kept in its store if it has one, else here.

1. When a run is due is decided by the timetable (procjobs.schedules.timetable), which is told the wall time. Here its
   decisions are carried out.
2. With a store, the recorder makes the job of a run, in the transaction that notes the period, and only if nobody has noted
   it before. So a period runs once, whatever is killed. The timetable here may be behind: the store has the last word.
3. Without one, jobs are made here; whatever this process knew of its schedules goes with it.
4. A schedule that is declared in code is taken out when newer code no longer declares it, and the clients with the code
   that has declared it have gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.errors import ConfigurationError
from procjobs.host.clock_watch import ClockWatch
from procjobs.schedules.rules import At
from procjobs.schedules.schedule import Schedule, schedule_from_json
from procjobs.schedules.timetable import Cancel, Drop, Run, Timetable
from procjobs.shared import schedule_wire
from procjobs.shared.ids import from_text, new_id, to_text
from procjobs.shared.moments import MICROS
from procjobs.shared.states import FINAL
from procjobs.shared.suggestions import suggest
from procjobs.shared.wire import WireError
from procjobs.supervisor.schedules.declarations import Declarations
from procjobs.supervisor.schedules.entries import Entry, LastRun, describe
from procjobs.supervisor.schedules.kept_calls import JobMaker, ScheduleCall

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.host.loop import Loop
    from procjobs.shared.schedule_wire import ScheduleRequest
    from procjobs.supervisor.durable.durability import Durability, Told
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.registry import Registry

MAX_SCHEDULES: Final = 10_000
_MAX_PAGE: Final = 100
_CHECK_INTERVAL: Final = 30.0
"""How often the store is asked what became of runs that are not known here, and that keep others waiting."""
_LOOK_INTERVAL: Final = 10.0
"""How often the clock is looked at where the kernel does not tell that it was set."""

Reply = dict[str, Any]
Then = Callable[[Reply], None]


def wall_moment() -> int:
    """Return the wall time as schedules have it: Unix time in microseconds."""
    return int(wall() * MICROS)


class Schedules:
    """Keeps schedules, and has the jobs of their runs made."""

    def __init__(
        self, pool: str, loop: Loop, registry: Registry, durability: Durability, maker: JobMaker, log: Log,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._loop = loop
        self._registry = registry
        self._store = durability.schedules
        self._cancel_stored = durability.cancel
        self._maker = maker
        self._log = log
        self._asked_ids: list[bytes] = []  # of the next runs, where a client has chosen them
        self._timetable = Timetable(lambda: self._asked_ids.pop() if self._asked_ids else new_id())
        self._entries: dict[str, Entry] = {}
        self._declarations = Declarations()
        self._clock_watch: ClockWatch | None = None
        self._has_store = self._store.load(self._on_loaded)
        self._is_loaded = not self._has_store
        self._waiting: list[Callable[[], None]] = []
        self._checks_at = NEVER

    def call_of(self, request: ScheduleRequest, caller: bytes = b"", fd: int | None = None) -> ScheduleCall:
        """Return the call of a schedule as it has arrived; raise WireError for one that makes no sense."""
        kind = self._registry.kinds.intern(request.description, request.function, caller)
        return ScheduleCall(kind, request.inline, fd, request.key, request.meta)

    @property
    def are_there(self) -> bool:
        """Whether the pool has schedules, or may have: it has just started, and its store has not told yet."""
        return bool(self._entries) or not self._is_loaded

    def count_unfinished(self) -> int:
        """Return how many jobs of schedules are in memory and have not ended."""
        if not self._entries:
            return 0
        known = self._registry.jobs
        runs = (job_id for name in self._entries for job_id in self._timetable.view(name).running)
        return sum(job_id in known and known[job_id].state not in FINAL for job_id in runs)

    # Wishes -----------------------------------------------------------------------------------------------------

    def put(
        self, values: dict[str, Any], call: ScheduleCall, by: Generation | None, then: Then
    ) -> None:
        """Take a schedule, or one in the place of that of its name; `then` gets {"refusal", "info"}.

        `by` is the generation whose code declares it, None for one that is made at run time. The call is taken over. Raise
        WireError for nonsense.
        """
        try:
            schedule = schedule_from_json(values)
        except (ConfigurationError, ValueError, KeyError, TypeError) as error:
            call.close()
            raise WireError(f"a schedule that makes no sense: {error}") from None
        refusal = self._refusal(schedule, call, is_declared=by is not None)
        if refusal:
            call.close()
            self._log.write_warning(refusal)
            then({"refusal": refusal, "info": None})
            return
        if by is not None:
            self._declarations.add(by, schedule.name)
        now = wall_moment()

        def on_told(told: Told) -> None:
            if "problem" in told:
                then({"refusal": f"schedule {schedule.name!r} was not taken: {told['problem']}", "info": None})
                return
            self._enter(schedule, call.name, told, is_declared=by is not None)
            then({"refusal": "", "info": self._describe(schedule.name, 1)})

        if self._store.put(
            schedule.name, json.dumps(schedule.to_json()), is_declared=by is not None, kind=call.kind, inline=call.inline,
            fd=call.fd, key=call.key, meta=call.meta, cursor=now, then=on_told,
        ):  # fmt: skip
            return
        self._enter_here(schedule, call, is_declared=by is not None, now=now)
        then({"refusal": "", "info": self._describe(schedule.name, 1)})

    def _refusal(self, schedule: Schedule, call: ScheduleCall, *, is_declared: bool) -> str:
        who = f"schedule {schedule.name!r} of pool {self._pool!r}"
        if not self._has_store and schedule.catch_up in {"last", "all"}:
            return f"{who}: catch_up={schedule.catch_up!r} needs a store: without one it is not known when it ran last"
        if call.kind.rejection:
            return f"{who}: {call.kind.rejection}"
        if schedule.name not in self._entries and len(self._entries) >= MAX_SCHEDULES:
            return f"{who} is one too many: a pool has at most {MAX_SCHEDULES}"
        is_over = isinstance(schedule.rule, At) and schedule.rule.next_after(wall_moment()) is None
        if is_over and not is_declared and schedule.name not in self._entries:
            return f"{who} would never run: {schedule.rule.explain()} is over"
        return ""

    def _enter_here(self, schedule: Schedule, call: ScheduleCall, *, is_declared: bool, now: int) -> None:
        """Keep a schedule in a pool without a store."""
        former = self._entries.get(schedule.name)
        is_paused = former is not None and self._timetable.view(schedule.name).is_paused
        if former is not None and former.call is not None:
            former.call.close()
        last = former.last if former is not None else LastRun()
        self._entries[schedule.name] = Entry(call.name, call, is_declared=is_declared, last=last)
        self._timetable.put(schedule, cursor=now, is_paused=is_paused)
        self._watch_clock()

    def _watch_clock(self) -> None:
        """Wake up when somebody sets the clock, from the first schedule on."""
        if self._clock_watch is None:
            self._clock_watch = ClockWatch()
            if self._clock_watch.fd >= 0:
                self._loop.add(self._clock_watch.fd, self._clock_watch.acknowledge)

    def _enter(self, schedule: Schedule, call_name: str, told: Told, *, is_declared: bool) -> None:
        """Take in what the store says of a schedule."""
        former, last = self._entries.get(schedule.name), LastRun.from_store(told)
        if former is not None and former.last.job_id == last.job_id:
            last = former.last  # which knows how late it was
        self._entries[schedule.name] = Entry(call_name, None, is_declared=is_declared, last=last)
        self._put_as_told(schedule, told)

    def _put_as_told(self, schedule: Schedule, told: Told) -> None:
        self._timetable.put(
            schedule, cursor=int(told["cursor"]), is_paused=bool(told["is_paused"]),
            running=[from_text(job_id) for job_id in told["running"]], ended_at=told["ended_at"],
            skipped=int(told["skipped"]), missed=int(told["missed"]),
        )  # fmt: skip
        self._watch_clock()

    def _on_loaded(self, found: list[Told]) -> None:
        for one in found:
            if "problem" in one:
                self._log.write_warning(f"the schedules of the store cannot be read: {one['problem']}")
                continue
            try:
                schedule = schedule_from_json(json.loads(one["spec"]))
            except (ConfigurationError, ValueError) as error:
                self._log.write_warning(f"schedule {one['name']!r} of the store is left alone: it makes no sense: {error}")
                continue
            self._enter(schedule, one["call"], one, is_declared=bool(one["is_declared"]))
        declared = [name for name, entry in self._entries.items() if entry.is_declared]
        self._declarations.expect(declared, self._loop.now)
        self._is_loaded = True
        self._checks_at = self._loop.now + _CHECK_INTERVAL
        while self._waiting:
            self._waiting.pop(0)()

    def when_loaded(self, act: Callable[[], None]) -> None:
        """Act when it is known which schedules the store has: now, unless the pool has just started."""
        if self._is_loaded:
            act()
        else:
            self._waiting.append(act)

    def unschedule(self, name: str, then: Then) -> None:
        """Take a schedule out; `then` gets {"known"}."""
        is_known = self._drop(name)

        def on_told(told: Told) -> None:
            was_put_meanwhile = self._drop(name)  # and the store had that before this
            then({"known": is_known or was_put_meanwhile or bool(told.get("known"))})

        if not self._store.drop(name, on_told):
            then({"known": is_known})

    def _drop(self, name: str) -> bool:
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        if entry.call is not None:
            entry.call.close()
        self._timetable.remove(name)
        return True

    def pause(self, name: str, then: Then) -> None:
        """Make no more jobs of a schedule; `then` gets {"refusal"}."""
        self._set_paused(name, then, is_paused=True)

    def resume(self, name: str, then: Then) -> None:
        """Make jobs of a schedule again; `then` gets {"refusal"}."""
        self._set_paused(name, then, is_paused=False)

    def _set_paused(self, name: str, then: Then, *, is_paused: bool) -> None:
        if name not in self._entries:
            then({"refusal": self._unknown(name)})
            return
        change = self._timetable.pause if is_paused else self._timetable.resume
        change(name, wall_moment())
        self._note(name)
        if not self._store.load(lambda _found: then({"refusal": ""})):  # answered when the note is committed
            then({"refusal": ""})

    def run_now(self, name: str, job_id: bytes, then: Then) -> None:
        """Make a job of a schedule at once, under this id; `then` gets {"refusal", "name"}."""
        entry = self._entries.get(name)
        if entry is None:
            then({"refusal": self._unknown(name), "name": ""})
            return
        if not self._maker.can_make:
            then({"refusal": f"pool {self._pool!r} is stopping, or has no code yet to run jobs with", "name": ""})
            return
        if job_id in self._registry.jobs:  # asked once more
            then({"refusal": "", "name": entry.call_name})
            return
        self._asked_ids.append(job_id)
        self._start(self._timetable.run_now(name, wall_moment()), lambda: then({"refusal": "", "name": entry.call_name}))

    def _unknown(self, name: str) -> str:
        there = suggest([name], self._entries) if self._entries else f" {name!r}; it has none"
        return f"pool {self._pool!r} has no schedule{there}"

    # Declared in code -------------------------------------------------------------------------------------------

    def declare(self, generation: Generation, names: list[str]) -> None:
        """Take note of all the schedules that the code of a generation has."""
        self._declarations.set(generation, names)

    def take_declared(self, generation: Generation, bodies: list[bytes]) -> None:
        """Take all schedules that the template of a generation declares; raise WireError."""
        requests = [schedule_wire.parse(body) for body in bodies]
        for request in requests:
            self.put(request.schedule, self.call_of(request), generation, _ignore)
        self._declarations.set(generation, [request.schedule["name"] for request in requests])

    def _retire(self) -> None:
        """Take out what no present code declares any more."""
        declared = [name for name, entry in self._entries.items() if entry.is_declared]
        for name in self._declarations.retired(declared):
            self._log.write(f"schedule {name!r} is taken out: the newest code of the pool does not declare it any more")
            self.unschedule(name, _ignore)

    # Turns of the loop ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when something is to be done (monotonic), by the wall clock as it is now."""
        if not self._entries or not self._is_loaded or not self._maker.can_make:
            return NEVER
        due = self._timetable.next_due()
        seconds = NEVER if due is None else due / MICROS - wall()
        if self._clock_watch is not None and self._clock_watch.fd < 0:
            seconds = min(seconds, _LOOK_INTERVAL)
        return min(self._loop.now + max(seconds, 0.0), self._checks_at, self._declarations.expected_until)

    def advance(self, now: float) -> None:
        """Note which runs have ended, and start those that are due. Costs nothing where there are no schedules."""
        self._take_ended_runs()
        if not self._entries:
            return
        moment = wall_moment()
        if not self._is_loaded or not self._maker.can_make:
            return
        if self._declarations.have_changed(now):
            self._retire()
        for decision in self._timetable.advance(moment):
            self._carry_out(decision)
        self._check_runs(now)

    def _take_ended_runs(self) -> None:
        for job, error in self._registry.take_ended_runs():
            self._on_ended(job.extras.schedule.decode(), job.id, job.state.text, error, wall_moment())

    def _on_ended(self, name: str, job_id: bytes, state: str, error: str, moment: int) -> None:
        entry = self._entries.get(name)
        if entry is None:
            return
        if entry.last.job_id == job_id:
            entry.last = entry.last._replace(state=state, error=error)
        self._timetable.ended(name, job_id, moment)

    def _carry_out(self, decision: Run | Cancel | Drop) -> None:
        if isinstance(decision, Run):
            self._start(decision, _nothing)
        elif isinstance(decision, Cancel):
            for job_id in decision.run_ids:
                if not self._maker.cancel(job_id):
                    self._cancel_stored(job_id, _ignore)
        else:
            if decision.why == "missed":
                count = f"{decision.count} runs are" if decision.count > 1 else "a run is"
                self._log.write(f"schedule {decision.name!r}: {count} left out: the time passed while nobody could start it")
            self._note(decision.name, decision.period)

    def _start(self, run: Run, then: Callable[[], None]) -> None:
        name = run.name
        entry, view = self._entries[name], self._timetable.view(name)
        entry.last = LastRun(run.run_id, run.period, run.late, "queued")

        def on_told(told: Told) -> None:
            if not told["made"]:  # another supervisor has made it, or the schedule was taken out
                self._timetable.ended(name, run.run_id, wall_moment())
            then()

        # One that is off the grid leaves the cursor, and further decisions about later periods may follow this one.
        cursor = min(run.period, view.cursor)
        is_asked = self._store.fire(
            name, period=run.period, scheduled_for=run.period, job_id=run.run_id, cursor=cursor, then=on_told
        )
        if is_asked and self._checks_at == NEVER:
            self._checks_at = self._loop.now + _CHECK_INTERVAL
        if not is_asked:
            assert entry.call is not None, "a pool without a store keeps the calls"
            self._maker.make(view.schedule, entry.call, run)
            then()

    def _note(self, name: str, cursor: int | None = None) -> None:
        """Have the store keep how far a schedule is, and whether it is paused."""
        view = self._timetable.view(name)
        cursor = view.cursor if cursor is None else cursor
        self._store.note(name, cursor=cursor, is_paused=view.is_paused, skipped=view.skipped, missed=view.missed)

    def _check_runs(self, now: float) -> None:
        """Ask the store now and then about runs that this process does not know: they may have ended there."""
        if now < self._checks_at:
            return
        running = {job_id for name in self._entries for job_id in self._timetable.view(name).running}
        self._checks_at = now + _CHECK_INTERVAL if running else NEVER
        if running - self._registry.jobs.keys():
            self._store.load(self._on_checked)

    def _on_checked(self, found: list[Told]) -> None:
        moment = wall_moment()
        for one in found:
            if "problem" in one or one["name"] not in self._entries:
                continue
            in_store = set(map(from_text, one["running"]))
            for job_id in self._timetable.view(one["name"]).running:
                if job_id not in in_store and job_id not in self._registry.jobs:
                    self._on_ended(one["name"], job_id, one["last_state"] or "", "", moment)

    # Views ------------------------------------------------------------------------------------------------------

    def page(self, after: str, upcoming: int) -> Reply:
        """Return {"schedules", "has_more"}: the schedules whose names come after this one, as many as fit into a frame."""
        self._take_ended_runs()
        names = sorted(name for name in self._entries if name > after)
        limit = max(min(_MAX_PAGE, 5000 // max(upcoming, 1)), 1)
        return {"schedules": [self._describe(name, upcoming) for name in names[:limit]], "has_more": len(names) > limit}

    def _describe(self, name: str, upcoming: int) -> Reply:
        entry, view = self._entries[name], self._timetable.view(name)
        moments = [] if view.is_paused else self._timetable.upcoming(name, wall_moment(), upcoming)
        job = self._registry.jobs.get(entry.last.job_id)
        return describe(entry, view, moments, job, [to_text(run) for run in view.running])

    # From one supervisor to the next ----------------------------------------------------------------------------

    def leave(self) -> list[tuple[Reply, ScheduleCall]]:
        """Return the schedules that the successor cannot have from a store: all that is known of each, and its call."""
        left = []
        for name, entry in self._entries.items():
            if entry.call is not None:
                left.append((entry.to_json(self._timetable.view(name)), entry.call))
        return left

    def inherit(self, values: Reply, call: ScheduleCall) -> None:
        """Take a schedule that the predecessor has left; raise ValueError, or LookupError, for one that makes no sense."""
        schedule = schedule_from_json(values["schedule"])
        call = call._replace(meta=str(values["meta"]).encode())
        last = LastRun.from_store(values)
        self._entries[schedule.name] = Entry(call.name, call, is_declared=bool(values["is_declared"]), last=last)
        self._put_as_told(schedule, values)

    def close(self) -> None:
        """Let go of the payloads."""
        for name in list(self._entries):
            self._drop(name)
        if self._clock_watch is not None:
            self._loop.remove(self._clock_watch.fd)
            self._clock_watch.close()


def _ignore(_told: Reply) -> None:
    """Nobody waits for this."""


def _nothing() -> None:
    """Nobody waits for this."""
