"""`history`: the jobs that the store of a pool keeps, whether the pool runs or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import finding, parameters, screen, text
from procjobs.cli.problems import OK
from procjobs.clock import wall
from procjobs.shared.states import JobState
from procjobs.shared.store_address import resolve, store_name

if TYPE_CHECKING:
    from procjobs.shared.records import JobRecord, Run

_STATES: Final = [state.text for state in JobState]
_SHORT_ID: Final = 8


@click.command(short_help="List past jobs with every attempt, from the pool's store.")
@parameters.name_argument
@click.option("--store", metavar="URL", help="Read this database; the pool need not run then.")
@click.option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--job-name", metavar="TEXT", help="Only jobs with this name; a % stands for any text.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Only jobs with this in their meta (VALUE: JSON, or text).")
@click.option("--since", type=parameters.parse_seconds, metavar="TIME", help="Only those of the last TIME, such as 2h.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="At most N jobs.")
@parameters.common
def history(name: str, store: str | None, directory: str | None, as_json: bool, **options: Any) -> int:
    """List the jobs that the store of the pool NAME keeps, the newest first, each with its attempts."""
    job_name, since = options["job_name"], options["since"]
    wanted = {"state": options["state"], "name": job_name, "limit": options["limit"]}
    wanted["meta"] = dict(map(_parse_meta, options["meta"]))
    wanted["since"] = None if since is None else max(wall() - since, 0.0)
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
    return OK


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
