"""The rare events of worker and template processes, as values: the supervisor acts on each.

The one frequent event, the answer to a job, is not among them: it goes to a callable that is a parameter of the read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation, Job, Slot


class WorkerReady(NamedTuple):
    """A worker has started and takes jobs; `baseline_bytes` is its resident memory before the first one."""

    slot: Slot
    baseline_bytes: int


class InitFailed(NamedTuple):
    """The initializer failed in a new worker, which ends after it; `problem` has the traceback."""

    slot: Slot
    problem: str


class FilesLoaded(NamedTuple):
    """A worker has loaded source files; `files` has the digests that they had then."""

    generation: Generation
    files: dict[str, str]


class CheckpointSaved(NamedTuple):
    """A job has handed a checkpoint over, or is about to."""

    job: Job


class WorkerExited(NamedTuple):
    """A worker has ended, by a signal or with an exit code (`how`); `unread` are the ids of jobs that it had not read."""

    slot: Slot
    how: tuple[int | None, int | None]
    unread: list[bytes]


class WorkerSpent(NamedTuple):
    """A worker ends after the answer that it is about to give: `why` says what a job has left and cannot be put back."""

    slot: Slot
    why: str


class SpawnFailed(NamedTuple):
    """A worker that was asked for could not be forked."""

    slot: Slot
    problem: str


class StackDumped(NamedTuple):
    """A worker has told its stack, or could not.

    `job` is the one that it was in when it was asked, None before its first.
    """

    slot: Slot
    job: Job | None
    stack: str


class TemplateReady(NamedTuple):
    """The template of a generation has imported everything and can fork workers.

    `changed` are the source files that are others now than the generation's clients have seen, with their digests;
    `declared` the schedules of its modules and of a service's settings file, each the body of a SCHEDULE frame; None where
    neither says anything of schedules.
    """

    generation: Generation
    changed: dict[str, str]
    declared: list[bytes] | None


class TemplateFailed(NamedTuple):
    """The template of a generation could not be started, or its preload failed."""

    generation: Generation
    problem: str


class ModuleSkipped(NamedTuple):
    """The template of a generation leaves a module out of the preload; `notice` says which, why, and what to do."""

    generation: Generation
    notice: str


class TemplateExited(NamedTuple):
    """The template of a generation has ended; one that `starts_anew` leaves a module out of the preload next time."""

    generation: Generation
    how: tuple[int | None, int | None]
    starts_anew: bool


class WorkerForked(NamedTuple):
    """A template says that it has forked the worker of a slot. Nobody has checked yet that slot and pid can be."""

    generation: Generation
    number: int
    pid: Any


class HooksForked(NamedTuple):
    """A template says that it has forked the process that calls hooks. Nobody has checked yet that the pid can be."""

    generation: Generation
    pid: Any


class HooksRefused(NamedTuple):
    """A template could not fork the process that calls hooks."""

    why: str


class ForkRefused(NamedTuple):
    """A template could not fork the worker of a slot."""

    generation: Generation
    number: int
    why: str


TemplateEvent: TypeAlias = (
    TemplateReady | TemplateFailed | ModuleSkipped | TemplateExited | WorkerForked | ForkRefused | HooksForked | HooksRefused
)
WorkerEvent: TypeAlias = (
    CheckpointSaved | FilesLoaded | WorkerReady | InitFailed | WorkerSpent | WorkerExited | SpawnFailed | StackDumped
)
