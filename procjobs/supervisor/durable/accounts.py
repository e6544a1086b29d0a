"""Accounts of attempts that have ended, by the names of the store's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.shared.wire import limit_text

if TYPE_CHECKING:
    from procjobs.shared.recorder_wire import Start
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.job import SupervisedJob

_MAX_LOG_BYTES: Final = 8192


def account_of(job: SupervisedJob, start: Start | None, table: TableWriter) -> dict[str, Any]:
    """Return all that is known of the attempt that a job has ended; `start` is its start, if that was not recorded yet."""
    account: dict[str, Any] = {}
    if start is not None and start.attempt == job.attempt:
        account |= {"worker": start.worker, "worker_pid": start.pid, "started_at": start.time}
    if job.transcript is not None:
        account["log"] = limit_text(job.transcript.text_of_attempt(), _MAX_LOG_BYTES)
    if job.row:
        report = table.last_report(job.row, job.id)
        if report.progress is not None:
            account["progress"] = report.progress
    if job.history and (last := job.history[-1])["attempt"] == job.attempt:
        account |= {name: last[name] for name in ("error", "ended_at", "signal", "exit_code")}
        account["started_at"] = last["started_at"] or account.get("started_at")
        account["outcome"] = last["reason"] or "failed"
        if job.stack:
            account["traceback"] = job.stack
    return account
