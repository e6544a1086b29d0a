"""`history`: the jobs that the store of a pool keeps, whether the pool runs or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import finding, parameters, retrying, screen, text
from procjobs.cli.problems import OK
from procjobs.clock import wall
from procjobs.shared.states import JobState
from procjobs.shared.store_address import resolve, store_name
from procjobs.shared.visible import visible

if TYPE_CHECKING:
    from procjobs.errors import Attempt
    from procjobs.shared.records import JobRecord, Run

_STATES: Final = [state.text for state in JobState]
_SHORT_ID: Final = 8
_RETRIED: Final = frozenset({"failed", "cancelled", "expired"})


@click.command(short_help="List past jobs from the pool's store, or show the attempts of one job.")
@click.argument("target", metavar="NAME|JOB", shell_complete=parameters.complete_both)
@click.option("--store", metavar="URL", help="Read this database; the pool need not run then.")
@click.option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--job-name", metavar="TEXT", help="Only jobs with this name; a % stands for any text.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Only jobs with this in their meta (VALUE: JSON, or text).")
@click.option("--since", type=parameters.parse_seconds, metavar="TIME", help="Only those of the last TIME, such as 2h.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="At most N jobs.")
@click.option("--retry", is_flag=True, help="Submit these jobs again, those that did not succeed; print the new ids.")
@parameters.common
def history(
    target: str, store: str | None, retry: bool, directory: str | None, as_json: bool, **options: Any
) -> int:
    """List the jobs that the store of the pool NAME keeps, the newest first, each with its attempts.

    Of the job JOB, a whole id, show every attempt with its traceback, also if its pool has no store. With --retry, exit code
    1 if one of the jobs cannot be submitted again.
    """
    if retry:
        if store is not None or finding.looks_like_id(target):
            raise click.UsageError("--retry takes the NAME of a running pool; of one job: procjobs retry JOB")
        with finding.open_pool(target, directory) as pool:
            records = pool.history(**_wanted(options))
            ids = [record.id for record in reversed(records) if record.state in _RETRIED]
            return retrying.retry_all([(pool, job_id) for job_id in ids], as_json=as_json)
    if finding.looks_like_id(target):
        _show(target, _find_attempts(target, store, directory), as_json=as_json)
        return OK
    _list(target, store, directory, as_json=as_json, **options)
    return OK


def _find_attempts(job_id: str, store: str | None, directory: str | None) -> list[Attempt]:
    if store is None:
        with finding.open_job(job_id, None, directory) as (pool, _):
            return list(pool.attempts(job_id))
    from procjobs.store.reading import find_attempts

    return find_attempts(resolve(store, "") or "", job_id)


def _show(job_id: str, attempts: list[Attempt], *, as_json: bool) -> None:
    if as_json:
        screen.write_json({"id": job_id, "attempts": [one._asdict() for one in attempts]})
        return
    if not attempts:
        screen.write(f"nothing is known of an attempt of job {job_id}")
    for one in attempts:
        outcome = one.reason or ("succeeded" if one.ended_at else "running")
        took = one.ended_at - one.started_at if one.ended_at is not None and one.started_at is not None else None
        where = "" if one.worker_pid is None else f", worker {one.worker} (pid {one.worker_pid})"
        begun = f", started {text.moment(one.started_at)}" if one.started_at else ""
        lasted = f", took {text.duration(took)}" if took is not None else ""
        screen.write(f"attempt {one.attempt}: {outcome}{where}{begun}{lasted}")
        for line in (one.traceback or one.error).strip().splitlines():
            screen.write(f"  {visible(line)}")


def _list(name: str, store: str | None, directory: str | None, *, as_json: bool, **options: Any) -> None:
    wanted = _wanted(options)
    if store is not None:
        from procjobs.store.reading import find_history  # imports SQLAlchemy, which is slow to load

        url = resolve(store, name) or ""
        records = find_history(url, store_name(url, name), **wanted)
    else:
        with finding.open_pool(name, directory) as pool:
            records = pool.history(**wanted)
    if as_json:
        screen.write_json([_document(record) for record in records])
    elif records:
        _write(records)
    else:
        screen.write("the store has no such job")


def _wanted(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Pool.history`."""
    since = options["since"]
    return {
        "state": options["state"], "name": options["job_name"], "limit": options["limit"],
        "meta": dict(map(_parse_meta, options["meta"])), "since": None if since is None else max(wall() - since, 0.0),
    }  # fmt: skip


def _parse_meta(text: str) -> tuple[str, Any]:
    """Return a key and its value; raise click.BadParameter for a text without both."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.BadParameter(f"--meta {text}: expected KEY=VALUE, such as user=7")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _document(record: JobRecord) -> dict[str, Any]:
    return {**record._asdict(), "attempts": [run._asdict() for run in record.attempts]}


def _write(records: list[JobRecord]) -> None:
    first = -_SHORT_ID if screen.is_narrow() else 0
    rows = []
    for record in records:
        runs: tuple[Run | None, ...] = record.attempts or (None,)
        for number, run in enumerate(runs):
            head = [record.id[first:], text.moment(record.submitted_at), text.one_line(record.name)]
            rows.append([*(head if not number else ["", "", ""]), *_describe(record, run)])
    columns = ["JOB", "SUBMITTED", "<NAME", ">RUN", "OUTCOME", ">TOOK", ">CPU", ">MEMORY", "<DETAIL"]
    screen.write_rows(columns, rows)


def _describe(record: JobRecord, run: Run | None) -> list[Any]:
    if run is None:
        return ["", screen.styled(record.state), "", "", "", text.one_line(record.error)]
    took = run.ended_at - run.started_at if run.ended_at is not None and run.started_at is not None else None
    cpu = "" if run.cpu_seconds is None else f"{run.cpu_seconds:.2f}s"
    memory = "" if run.peak_bytes is None else text.size(run.peak_bytes)
    detail = text.one_line(run.error) or text.one_line(run.progress)
    return [run.attempt, screen.styled(run.outcome), text.duration(took), cpu, memory, detail]
