"""How each record of a pool is shown by the API: as which document, under which name in the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs import (
    Attempt,
    JobRecord,
    JobStatus,
    KindInfo,
    PoolStats,
    PoolUsage,
    ProcessInfo,
    QueueInfo,
    Run,
    ScheduleInfo,
    SettingInfo,
    TrendPoint,
    WorkerInfo,
)
from procjobs.web.api.records import MOMENT, Shape, or_null
from procjobs.web.documents import progress_document

if TYPE_CHECKING:
    from collections.abc import Mapping

_JOB_MOMENTS: Final = ("submitted_at", "started_at", "finished_at", "scheduled_for")
_NOT_SHOWN: Final = ("progress", "error_details", "version")

STATUS: Final = Shape(JobStatus, "A job as it is now.", moments=_JOB_MOMENTS, without=_NOT_SHOWN)
_RUN_MOMENTS: Final = ("started_at", "ended_at")
ATTEMPT: Final = Shape(Attempt, "An attempt of a job, the traceback of its failure included.", moments=_RUN_MOMENTS)
RUN: Final = Shape(Run, "An attempt of a job as the store keeps it.", moments=_RUN_MOMENTS)
RECORD: Final = Shape(JobRecord, "A job as the store keeps it.", moments=_JOB_MOMENTS, without=("attempts",))
STATS: Final = Shape(PoolStats, "Counters of a pool; sizes in bytes, durations in seconds.", moments=("scaled_at",))
USAGE: Final = Shape(
    PoolUsage,
    "What all processes of a pool use, the seconds since they began. Two of these give the CPU use of a pool: the "
    "difference of `cpu_seconds` divided by that of `at`, both in seconds.",
)
TREND: Final = Shape(TrendPoint, "A pool at one moment of the last hour.", moments=("at",))
WORKER: Final = Shape(WorkerInfo, "A worker in its slot.", moments=("started_at",))
QUEUE: Final = Shape(QueueInfo, "A queue: its limits, its running jobs, and those that its limits hold.")
KIND: Final = Shape(KindInfo, "How the jobs of one name have fared since the pool was started.")
SCHEDULE: Final = Shape(ScheduleInfo, "A schedule: its rule, its next runs, its last one.", moments=("next_at", "last_at"))
PROCESS: Final = Shape(ProcessInfo, "A process of a running job; sizes in bytes.", moments=("started_at",))
SETTING: Final = Shape(SettingInfo, "A setting that the pool runs with, and where its value comes from.")

ID: Final = {"type": "string", "format": "uuid"}
PROGRESS_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "The last report of a job, in its own unit. `fraction` is 0 to 1, `eta` the remaining time in seconds.",
    "properties": {
        **{name: {"type": ["number", "null"]} for name in ("value", "total", "fraction", "eta")},
        "message": {"type": ["string", "null"]},
        "updated_at": dict(MOMENT),
    },
    "required": ["value", "total", "fraction", "message", "eta", "updated_at"],
}


def job_document(status: JobStatus) -> dict[str, Any]:
    """Return the document of a job in a list. What the job has reported as data is not in it."""
    progress = status.progress
    return {
        **STATUS.document(status),
        "done": status.done,
        "progress": None if progress is None else progress_document(progress),
    }


def job_schema() -> dict[str, Any]:
    """Return the schema of `job_document`."""
    return extended(STATUS.schema(), "A job as it is now.", done={"type": "boolean"}, progress=or_null_reference("Progress"))


def record_document(record: JobRecord) -> dict[str, Any]:
    """Return the document of a job of the store."""
    return {**RECORD.document(record), "attempts": [RUN.document(run) for run in record.attempts]}


def record_schema() -> dict[str, Any]:
    """Return the schema of `record_document`."""
    return extended(RECORD.schema(), "A job as the store keeps it, with all attempts.", attempts=list_of("Run"))


def reference(name: str) -> dict[str, Any]:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null_reference(name: str) -> dict[str, Any]:
    """Return a reference to a schema whose value may be null."""
    return or_null(reference(name))


def list_of(name: str) -> dict[str, Any]:
    """Return the schema of a list whose members have a schema of the document."""
    return {"type": "array", "items": reference(name)}


def object_of(about: str, **fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has all of these fields."""
    return {"type": "object", "description": about, "properties": fields, "required": list(fields)}


def extended(schema: Mapping[str, Any], about: str, **fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has these fields too."""
    return object_of(about, **schema["properties"], **fields)
