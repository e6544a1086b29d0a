"""`retry`: submits jobs again that ended otherwise than well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from procjobs.cli import finding, parameters, screen
from procjobs.cli.problems import FAILED, OK
from procjobs.errors import RetryRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procjobs.client.running_pool import RunningPool


@click.command(short_help="Submit jobs again that failed, expired or were cancelled.")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True, shell_complete=parameters.complete_jobs)
@parameters.pool_option
@parameters.common
def retry(jobs: tuple[str, ...], pool: str | None, directory: str | None, as_json: bool) -> int:
    """Submit the jobs JOB... again, each as a new job with the same call; print the new ids.

    Without --pool a job is looked for in memory; with it also in the store of that pool, by its whole id. Exit code 1 if one
    of the jobs cannot be submitted again.
    """
    codes = []
    for text in jobs:
        if pool is not None and finding.looks_like_id(text):
            with finding.open_pool(pool, directory) as found:
                codes.append(retry_all([(found, text)], as_json=as_json))
            continue
        with finding.open_job(text, pool, directory) as (found, status):
            codes.append(retry_all([(found, status.id)], as_json=as_json))
    return max(codes)


def retry_all(jobs: Iterable[tuple[RunningPool, str]], *, as_json: bool) -> int:
    """Submit jobs again, and show their new ids; return the exit code."""
    documents: list[dict[str, Any]] = []
    for pool, job_id in jobs:
        try:
            documents.append({"id": pool.retry(job_id).id, "retry_of": job_id, "pool": pool.name})
        except RetryRefused as error:
            documents.append({"id": None, "retry_of": job_id, "pool": pool.name, "problem": str(error)})
    for document in [] if as_json else documents:
        is_new = document["id"] is not None
        screen.write(f"job {document['retry_of']} runs again as {document['id']}" if is_new else document["problem"])
    if as_json:
        screen.write_json(documents)
    elif not documents:
        screen.write("there is no such job")
    return OK if all(document["id"] for document in documents) else FAILED
