"""Jobs and kinds of jobs as the supervisor keeps them: the core's, with all that scheduling has no use for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from procjobs.clock import NEVER
from procjobs.dispatch.model import Job, Kind
from procjobs.shared.table.annex import NO_EXTRAS
from procjobs.supervisor.kind_counters import Tally

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.shared.config import JobOptions
    from procjobs.supervisor.transcripts import Transcript


class Watcher(Protocol):
    """A client, as far as those below it know it: it has submitted jobs, or waits for their answers.

    `accepted` counts the submissions that were taken; `tied` are the jobs that are cancelled when nobody waits for them any
    more. A watcher that is `closed` has gone: nothing may be queued for it.
    """

    accepted: int

    @property
    def closed(self) -> bool:
        """Whether the client has disconnected."""

    @property
    def tied(self) -> set[SupervisedJob]:
        """The jobs that end when the last client that waits for them has gone."""

    def queue_answer(self, job: SupervisedJob) -> None:
        """Send the answer of a job with the next flush."""

    def queue_frame(self, frame: bytes) -> None:
        """Send a frame with the next flush."""

    def queue_duplicate(self, job_id: bytes, holder: bytes) -> None:
        """Send word that a submission is none, since another job has its key."""

    def queue_recalled(self, frame: bytes, fd: int) -> None:
        """Send an answer that came from the store; the descriptor is taken over."""


class NoClient:
    """Stands for the client of a job that was loaded from the store: nobody is connected who has submitted it."""

    accepted = 0
    closed = True

    @property
    def tied(self) -> set[SupervisedJob]:
        """No job ends with this client."""
        return set()

    def queue_answer(self, job: SupervisedJob) -> None:
        """Drop it: there is nobody to send it to."""

    def queue_frame(self, frame: bytes) -> None:
        """Drop it."""

    def queue_duplicate(self, job_id: bytes, holder: bytes) -> None:
        """Drop it."""

    def queue_recalled(self, frame: bytes, fd: int) -> None:
        """Never called: only clients ask for an answer from the store."""
        raise AssertionError("nobody has asked for this answer")


NO_CLIENT: Final = NoClient()


class SupervisedKind(Kind):
    """A kind of jobs, with all that the supervisor passes on about it.

    `function` is its pickle, empty where each payload carries its own function; `description` the JSON of its KIND frame;
    `caller` that of the CALLER frame before it, empty without one, which no store gets. `is_recorded` says that a store
    wants to know what its jobs use, `rejection` why none of them is taken. `tally` counts all jobs of its name, and `runs`
    is the tally's list of them.
    """

    __slots__ = ("caller", "description", "function", "is_recorded", "rejection", "runs", "tally")

    def __init__(
        self, number: int, name: bytes, options: JobOptions, *,
        function: bytes, description: bytes, tally: Tally | None = None,
    ) -> None:  # fmt: skip
        """Without a `tally`, its jobs are not counted."""
        super().__init__(number, name, options)
        self.tally = tally or Tally(name, [])
        self.runs = self.tally.runs
        self.function = function
        self.description = description
        self.caller = b""
        self.is_recorded = False
        self.rejection = ""

    def observe(self, seconds: float, waited: float) -> None:
        """Take a run time into the mean, and count the run."""
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean == NEVER else mean + (seconds - mean) * 0.125
        self.note_broken_run(seconds, waited)

    def note_broken_run(self, seconds: float, waited: float) -> None:
        """Count a run."""
        runs = self.runs
        if not runs:
            self.tally.mark_changed()
        runs.append(seconds)
        runs.append(waited)


class DurableState:
    """The part of a job that only a store needs.

    `delay`, `expires` and `submitted_at` (monotonic) are those of a submission that waits for its commit; `is_cancelled`
    says that it was cancelled meanwhile. `not_before` is the wall time before which a job from the store may not start, 0.0
    if there is none. `is_counted` says that the job was loaded from the store and not started yet,
    `is_fenced` that the store has it as another supervisor's: nothing of it is recorded or told any more. `is_freed` says
    that it has ended here because the pool stops, and that the store keeps it for the next start.
    """

    __slots__ = (
        "delay", "expires", "is_cancelled", "is_committed", "is_counted", "is_fenced", "is_freed", "not_before",
        "submitted_at",
    )  # fmt: skip

    def __init__(self, *, delay: float = 0.0, expires: float = 0.0, submitted_at: float = 0.0) -> None:
        self.delay = delay
        self.expires = expires
        self.submitted_at = submitted_at
        self.not_before = 0.0
        self.is_committed = self.is_cancelled = self.is_counted = self.is_fenced = self.is_freed = False


class SupervisedJob(Job):
    """A job with its client, its payload, its row in the table, its output and its answer.

    `client` submitted it, `watchers` are others that wait for its answer. `inline` and `fd` are its payload. `row` is 0
    where the table has none for it. `answer` is one of `procjobs.supervisor.answers`, None until there is one; `unsent`
    counts the clients that it is still to be sent to. `durable` is set where the pool has a store that knows the job.
    `extras` is what few jobs have.
    """

    __slots__ = ("answer", "client", "durable", "extras", "fd", "inline", "row", "transcript", "unsent", "watchers")

    if TYPE_CHECKING:
        kind: SupervisedKind  # narrower than the core's

    def __init__(
        self, job_id: bytes, kind: SupervisedKind, generation: Generation, client: Watcher, inline: bytes, fd: int | None
    ) -> None:
        Job.__init__(self, job_id, kind, generation)
        self.client = client
        self.inline = inline
        self.fd = fd
        self.row = 0
        self.watchers: list[Watcher] | None = None
        self.answer: Any = None
        self.unsent = 0
        self.transcript: Transcript | None = None
        self.durable: DurableState | None = None
        self.extras = NO_EXTRAS


def supervised(job: Any) -> SupervisedJob:
    """Return a job that came back from the core as what it is: the core was given no other ones."""
    assert isinstance(job, SupervisedJob)
    return job
