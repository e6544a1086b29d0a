"""The asking half of a pool: the supervisor tells or does something. Each call waits for its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procjobs.client.awaiting import awaitable
from procjobs.client.finding import refuse_in_event_loop
from procjobs.client.schedule_controls import ScheduleControls
from procjobs.errors import ReloadFailed, RetryRefused, UnknownJob
from procjobs.host import observe, rundir
from procjobs.settings.plan import make_plan
from procjobs.shared.config import Workers, check_workers
from procjobs.shared.ids import new_id, parse
from procjobs.shared.records import QueueInfo

if TYPE_CHECKING:
    from procjobs.shared.ids import JobId


class Controls(ScheduleControls):
    """The asking half of a pool. Every call raises SupervisorLost if there is no reply."""

    # About a job ------------------------------------------------------------------------------------------------

    def cancel(self, job_id: JobId) -> bool:
        """Cancel a job, waiting or running; return False if it had ended. Waits for the supervisor's reply.

        Raise UnknownJob if there is no such job.
        """
        return bool(self._ask_about(job_id, "cancel")["cancelled"])

    def logs(self, job_id: JobId) -> str:
        """Return the end (16 KiB) of what a job has printed and logged, while it runs or after it. Asks the supervisor.

        Standard output and error of everything that it started are in it, in the order in which they were read. Of a job
        that is in the pool's store alone, return what that has kept: the last 8 KiB of each attempt. Raise UnknownJob if
        there is no such job, StoreUnavailable if the store cannot be read.
        """
        raw, text = parse(job_id)
        connection = self._link.connect()
        reply = connection.request("logs", id=raw.hex())
        if reply["known"]:
            return str(reply["text"])
        url = connection.welcome["settings"].get("store")
        if url is None:
            raise _unknown(text)
        refuse_in_event_loop(text, "alogs")
        from procjobs.store.reading import find_log  # with SQLAlchemy, which takes longer to load than all the rest

        return find_log(url, text)

    def stack(self, job_id: JobId) -> str | None:
        """Return where a running job is: the Python stacks of its worker's threads, as text, also from C code.

        For a job that does not run, return where it was when it was last examined: before it was stopped because of a
        timeout or a stall, or when it passed `slow_after`; None if it never was. Waits for the supervisor's reply, at
        most about 0.1 s. Raise UnknownJob if there is no such job.
        """
        text = self._ask_about(job_id, "stack")["text"]
        return None if text is None else str(text)

    def _repeat(self, job_id: JobId) -> tuple[bytes, str]:
        """Have a job submitted again; return the id of the new one, and its name."""
        raw, text = parse(job_id)
        new = new_id()
        reply = self._link.persist(lambda connection: connection.request("retry", id=raw.hex(), new=new.hex()))
        if not reply["known"]:
            raise _unknown(text)
        if reply["refusal"]:
            raise RetryRefused(reply["refusal"])
        return new, str(reply["name"])

    def _ask_about(self, job_id: JobId, call: str) -> dict[str, Any]:
        raw, text = parse(job_id)
        reply = self._link.connect().request(call, id=raw.hex())
        if not reply["known"]:
            raise _unknown(text)
        return reply

    # About the pool ---------------------------------------------------------------------------------------------

    def queues(self) -> list[QueueInfo]:
        """Return the pool's queues: their limits, how many of their jobs run, and how many wait for these limits."""
        return [QueueInfo(**values) for values in self._link.connect().request("queues")["queues"]]

    def resize(self, workers: Workers) -> None:
        """Change the number of workers, for everybody: more start at once, fewer remain as jobs end.

        A number is fixed, also for a pool that has scaled before; (least, most) lets any pool scale, from the size that it
        has, as far as the bounds let it. With `affinity="spread"` CPUs are dealt out anew before this returns.
        "auto" is decided for this host and this moment, what the pool's processes have already taken not counted.
        """
        connection = self._link.connect()
        name = self._link.name
        is_private = name is None or name.startswith(rundir.PRIVATE_PREFIX)
        plan = make_plan(None if is_private else name, {"workers": check_workers(workers)})
        held_bytes = observe.tree_private(connection.welcome["pid"]) if workers == "auto" else 0
        connection.request("resize", workers=plan.resolve_workers(held_bytes=held_bytes))

    def pause(self, schedule: str | None = None) -> None:
        """Start no more jobs, for everybody; running ones go on. With the name of a schedule, make no more jobs of that.

        What a schedule would have started while it is paused is not made up for. A schedule stays paused in the store of the
        pool, if it has one. Raise UnknownSchedule for a name that the pool does not have.
        """
        if schedule is not None:
            self._pause_schedule(schedule)
        else:
            self._link.connect().request("pause")

    def resume(self, schedule: str | None = None) -> None:
        """Start jobs again; with the name of a schedule, make jobs of that again, from its next time on."""
        if schedule is not None:
            self._resume_schedule(schedule)
        else:
            self._link.connect().request("resume")

    def reload(self) -> None:
        """Load the code anew, for everybody: new processes import it; running jobs end on what they began with.

        Jobs that wait, and retries, run on the new code, those of processes with this one's code in the environment that it
        has now. Waits until it is loaded; SIGHUP to the supervisor, and `procjobs reload`, do the same and leave the
        environment. Raise ReloadFailed, with the traceback, if the preload fails: the pool goes on with what it had.
        """
        problem = self._link.connect().request("reload", timeout=None, **self._link.renewal())["problem"]
        if problem:
            raise ReloadFailed(f"{self!r} goes on with the code that it had; it could not be loaded anew: {problem}")

    def drain(self, *, hand_over: bool = False) -> None:
        """Take no more jobs from anybody; when those there are have ended, the pool ends. Returns at once.

        With `hand_over`, it ends when its running jobs have ended. Waiting and new ones are kept for the next start
        of the pool, by whatever process, and their handles get their answers from there.
        """
        self._link.connect().request("drain", hand_over=hand_over)

    # To await ---------------------------------------------------------------------------------------------------

    acancel = awaitable(cancel)
    alogs = awaitable(logs)
    astack = awaitable(stack)
    aqueues = awaitable(queues)
    aresize = awaitable(resize)
    apause = awaitable(pause)
    aresume = awaitable(resume)
    areload = awaitable(reload)
    adrain = awaitable(drain)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(f"job {job_id} is not known to this pool")
