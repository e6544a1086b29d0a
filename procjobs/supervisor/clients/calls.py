"""The calls of clients, by name: each has one function here, and its reply is JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from procjobs.shared import wire
from procjobs.shared.code_spec import check_texts
from procjobs.shared.config import MAX_SLOTS
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.states import JobState
from procjobs.shared.wire import Frame, WireError
from procjobs.supervisor.generations import Renewal

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.host.loop import Loop
    from procjobs.supervisor.clients.admission import Admission
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.clients.deferred import DeferredCalls
    from procjobs.supervisor.clients.retries import Retries
    from procjobs.supervisor.clients.schedule_requests import ScheduleRequests
    from procjobs.supervisor.durable.durability import Durability, Told
    from procjobs.supervisor.generations import Generations
    from procjobs.supervisor.lifecycle import Lifecycle
    from procjobs.supervisor.registry import Registry
    from procjobs.supervisor.workers.processes import WorkerProcesses

_Reply: TypeAlias = dict[str, Any] | None
"""The reply to a call; None where it comes later."""
_Call: TypeAlias = Callable[["ClientLink", dict[str, Any]], _Reply]
_ABOUT_JOBS: Final = frozenset({"cancel", "known", "logs", "stack"})
"""The calls that wait until everything is read that was sent before them, if they are about a job that is not known."""


class Calls:
    """Acts on calls, and sends the replies."""

    def __init__(
        self, loop: Loop, registry: Registry, dispatcher: Dispatcher, workers: WorkerProcesses, generations: Generations,
        durability: Durability, admission: Admission, lifecycle: Lifecycle,
        deferred: DeferredCalls, retries: Retries, schedules: ScheduleRequests,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._registry = registry
        self._dispatcher = dispatcher
        self._workers = workers
        self._generations = generations
        self._durability = durability
        self._admission = admission
        self._lifecycle = lifecycle
        self._deferred = deferred
        self._retries = retries
        self._schedules = schedules
        self._calls: dict[str, _Call] = {
            name.removeprefix("_call_"): getattr(self, name) for name in dir(self) if name.startswith("_call_")
        }

    def act_on(self, client: ClientLink, number: int, request: dict[str, Any]) -> None:
        """Act on a call; raise WireError for one that is unknown or has bad arguments.

        One about a job that is not known is answered when everything is read that clients have sent before it.
        """
        call = self._calls.get(str(request.get("call")))
        if call is None:
            self._pass_on(client, number, request)
            return
        if request["call"] in _ABOUT_JOBS and not self._registry.jobs.keys() >= _ids_in(request):
            self._deferred.add(lambda: self._carry_out(call, client, number, request))
        else:
            self._carry_out(call, client, number, request)

    def _pass_on(self, client: ClientLink, number: int, request: dict[str, Any]) -> None:
        try:
            is_about_schedules = self._schedules.act_on(client, number, request)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WireError(f"the call {request.get('call')} has bad arguments: {error!r}") from None
        if not is_about_schedules:
            raise WireError(f"an unknown call: {request.get('call')!r}")

    def _carry_out(self, call: _Call, client: ClientLink, number: int, request: dict[str, Any]) -> None:
        try:
            reply = call(client, {**request, "number": number})
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # OverflowError: 1e400 workers
            raise WireError(f"the call {request['call']} has bad arguments: {error!r}") from None
        if reply is not None:
            _send(client, number, reply)

    # About jobs -------------------------------------------------------------------------------------------------

    def _call_known(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        return {"known": [job_id.hex() for job_id in _ids_in(request) & self._registry.jobs.keys()]}

    def _call_logs(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        job = self._registry.jobs.get(bytes.fromhex(request["id"]))
        if job is None:
            return {"known": False}
        return {"known": True, "text": job.transcript.everything.text() if job.transcript is not None else ""}

    def _call_stack(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        job = self._registry.jobs.get(bytes.fromhex(request["id"]))
        if job is None:
            return {"known": False}
        slot, number = job.slot, int(request["number"])
        if slot is None or not self._dispatcher.isolate(job, slot, self._loop.now):
            return {"known": True, "text": job.stack or None}
        self._workers.ask_stack(slot, lambda text: _send(client, number, {"known": True, "text": text}))
        return None

    def _call_cancel(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        """Cancel a job; with a store, the reply comes when that is recorded."""
        job_id, number = bytes.fromhex(request["id"]), int(request["number"])
        job = self._registry.jobs.get(job_id)
        was_cancelled = job is not None and self._admission.cancel(job)

        def reply(told: Told) -> None:
            loaded = self._registry.jobs.get(job_id)
            is_cancelled = was_cancelled or bool(told["cancelled"])
            if not is_cancelled and loaded is not None:  # it was loaded in the meantime
                is_cancelled = self._admission.cancel(loaded) or loaded.state is JobState.CANCELLED
            _send(client, number, {"known": bool(told["known"]), "cancelled": is_cancelled})

        is_freed = job is not None and job.durable is not None and job.durable.is_freed
        if job is not None and not was_cancelled and not is_freed:
            return {"known": True, "cancelled": False}
        if len(job_id) != ID_BYTES or not self._durability.cancel(job_id, reply):
            return {"known": job is not None, "cancelled": was_cancelled}
        return None

    def _call_wait(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        """Take note that the job that the client's process runs waits for any of some others."""
        job = self._registry.jobs.get(bytes.fromhex(request["job"]))
        awaited = [self._registry.jobs.get(bytes.fromhex(text)) for text in request["for"]]
        if job is not None and job.slot is not None and job.slot.pid == client.pid:
            known = [other for other in awaited if other is not None]
            self._dispatcher.begin_wait(job, known, owner=client, number=int(request["wait"]), now=self._loop.now)
        return None

    def _call_wait_over(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        self._dispatcher.waits.end(client, int(request["wait"]))
        return None

    def end_waits(self, client: ClientLink) -> None:
        """Take note that the process of a client, a worker, waits for nothing any more."""
        self._dispatcher.waits.end_all(client)

    def _call_retry(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        """Submit a job again, under the id that the client has chosen; with a store, the reply comes when it is there."""
        job_id, new_id, number = bytes.fromhex(request["id"]), bytes.fromhex(request["new"]), int(request["number"])
        self._retries.repeat(job_id, new_id, lambda told: _send(client, number, told))
        return None

    def _call_cancel_queued(self, client: ClientLink, _request: dict[str, Any]) -> _Reply:
        return {"cancelled": self._admission.cancel_waiting(client)}

    def _call_acknowledge(self, client: ClientLink, _request: dict[str, Any]) -> _Reply:
        client.ack_due_at = self._loop.now
        return None

    def _call_divert(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        return {"is_diverted": self._workers.outputs.divert(str(request["file"]))}

    def _call_mark_output(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        self._workers.outputs.mark(str(request["file"]))
        return None

    def _call_restore(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        self._workers.outputs.restore(str(request["file"]))
        return None

    def _call_sweep(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        self._durability.sweep()
        return {}

    # About the pool ---------------------------------------------------------------------------------------------

    def _call_queues(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        return {"queues": self._dispatcher.describe_queues()}

    def _call_resize(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        min_workers, max_workers = map(int, request["workers"])
        if not 1 <= min_workers <= max_workers <= MAX_SLOTS:
            raise ValueError(f"workers={min_workers, max_workers}")
        self._workers.resize(max_workers)  # first: a worker that is started now gets its share of the new number
        self._dispatcher.resize(min_workers, max_workers, self._loop.now)
        return {}

    def _call_pause(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        self._dispatcher.pause(self._loop.now)
        return {}

    def _call_resume(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        self._dispatcher.resume()
        return {}

    def _call_reload(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        number = int(request["number"])
        key, environment = request.get("key"), request.get("environment")
        renewal = Renewal(str(key), check_texts(environment)) if environment is not None else None
        caller = client.generation.newest() if client.generation is not None else None
        self._generations.reload(lambda problem: _send(client, number, {"problem": problem}), caller, renewal)
        return None

    def _call_drain(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        if request.get("hand_over"):
            self._lifecycle.hand_over(self._loop.now)
        else:
            self._lifecycle.drain()
            self._admission.close()
        return {}

    def _call_stop(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        self.stop(at_once=bool(request.get("at_once")))
        return {}

    def stop(self, *, at_once: bool = False) -> None:
        """End the pool for everybody."""
        self._lifecycle.stop("the pool was stopped", self._loop.now, at_once=at_once)
        self._admission.close()


def _ids_in(request: dict[str, Any]) -> set[bytes]:
    """Return the ids of the jobs that a call is about; raise WireError for what is none."""
    try:
        texts = request["ids"] if request["call"] == "known" else [request["id"]]
        return {bytes.fromhex(text) for text in texts}
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"the call {request['call']} has bad ids: {error!r}") from None


def _send(client: ClientLink, number: int, reply: dict[str, Any]) -> None:
    """Answer a call, if its client is still there."""
    if not client.closed:
        client.queue_frame(wire.json_frame(Frame.REPLY, reply, prefix=wire.U32.pack(number)))
