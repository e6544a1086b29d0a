"""Options, types of arguments and shell completion that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from procjobs.cli.text import one_line
from procjobs.client.running_pool import RunningPool, find_pools
from procjobs.errors import ConfigurationError, ProcjobsError
from procjobs.settings import keys
from procjobs.shared import durations
from procjobs.shared.config import NICE, Affinity, Threads, Workers

if TYPE_CHECKING:
    from procjobs.host.rundir import RunDir

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")
directory_option = click.option(
    "--directory",
    metavar="DIR",
    envvar="PROCJOBS_DIRECTORY",
    help="The directory of the pools, as in Pool(directory=...); also $PROCJOBS_DIRECTORY.",
)


def common(command: F) -> F:
    """Give a command the options that all commands have."""
    return json_option(directory_option(command))


# Completion -----------------------------------------------------------------------------------------------------


def complete_pools(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return the names of this user's pools."""
    pools = _find_pools(context)
    return [CompletionItem(pool.name) for pool in pools if pool.name.startswith(begun)]


def complete_jobs(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return the ids of the jobs in this user's pools, with their names and states, the newest first."""
    items: list[CompletionItem] = []
    for directory in _find_pools(context):
        try:
            with RunningPool(directory) as pool:
                items += [
                    CompletionItem(job.id, help=f"{one_line(job.name)} {job.state}")
                    for job in pool.jobs()
                    if job.id.startswith(begun)
                ]
        except ProcjobsError:
            continue
    return items


def _find_pools(context: click.Context) -> list[RunDir]:
    try:
        return find_pools(context.params.get("directory"))
    except ProcjobsError:  # the command itself says why
        return []


def complete_both(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return names of pools and ids of jobs."""
    return complete_pools(context, parameter, begun) + complete_jobs(context, parameter, begun)


def complete_schedules(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return the names of the schedules of the pool that stands before, with what they call."""
    for directory in _find_pools(context):
        if directory.name != context.params.get("name"):
            continue
        try:
            with RunningPool(directory) as pool:
                found = pool.schedules(upcoming=0)
        except ProcjobsError:  # the command itself says why
            return []
        return [CompletionItem(one.name, help=one_line(one.call)) for one in found if one.name.startswith(begun)]
    return []


name_argument = click.argument("name", shell_complete=complete_pools)
optional_name_argument = click.argument("name", required=False, shell_complete=complete_pools)
schedule_argument = click.argument("schedule", shell_complete=complete_schedules)
optional_schedule_argument = click.argument("schedule", required=False, shell_complete=complete_schedules)
job_argument = click.argument("job", shell_complete=complete_jobs)
pool_option = click.option(
    "--pool", "-p", metavar="NAME", shell_complete=complete_pools, help="The pool; by default all pools are searched."
)
raw_option = click.option(
    "--raw", "is_raw", is_flag=True, help="Pass control characters of the job to the terminal too."
)


# Types ----------------------------------------------------------------------------------------------------------


def parse_workers(text: str) -> Workers:
    """Return a number of workers: 4, auto, or 2-8 for a range."""
    try:
        return keys.parse_workers(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def parse_threads(text: str) -> Threads:
    """Return a number of threads: 2, or auto, or none.

    >>> parse_threads("2"), parse_threads("auto")
    (2, 'auto')
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"{text!r} is no number of threads: give 2, or auto")
    return int(text)


def parse_cpus(text: str) -> Affinity:
    """Return the numbers of CPUs: 0, or 0,2-3, or spread."""
    try:
        return keys.parse_cpus(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def parse_size(text: str) -> int:
    """Return a number of bytes: 5000000, 300M, 1.5G."""
    try:
        return durations.parse_size(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def parse_seconds(text: str) -> float:
    """Return a duration: 90, or 1m30s.

    >>> parse_seconds("90"), parse_seconds("1m30s")
    (90.0, 90.0)
    """
    try:
        seconds = durations.parse_seconds_or_number(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None
    if not math.isfinite(seconds) or seconds < 0:
        raise click.BadParameter(f"{text!r} is no duration: give 0 or more seconds, or a text such as 1h30m")
    return seconds


def parse_value(text: str) -> Any:
    """Return the value of a word on the command line: the value of JSON, or the word itself if it is not JSON.

    >>> parse_value("3"), parse_value("[1, 2]"), parse_value("true"), parse_value("in.mp4")
    (3, [1, 2], True, 'in.mp4')
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_keyword(text: str) -> tuple[str, Any]:
    """Return a keyword argument.

    >>> parse_keyword("size=256")
    ('size', 256)
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"{text!r} is no keyword argument: give NAME=VALUE")
    return name, parse_value(value)


# A call ---------------------------------------------------------------------------------------------------------

ABOUT_ARGUMENTS: Final = """

    ARGS and the VALUEs of --kw that are JSON are read as JSON (3, true, [1,2], "3"), all others as text. After -- every
    word is an argument, also a word that begins with a dash. Modules of the current directory are found.
    """


def call(command: F) -> F:
    """Give a command a function and its arguments, as `function`, `arguments` and `keywords`."""
    keywords = click.option(
        "--kw", "keywords", type=parse_keyword, multiple=True, metavar="NAME=VALUE", help="A keyword argument."
    )
    arguments = click.argument("arguments", metavar="[ARGS]...", nargs=-1)
    return click.argument("function", metavar="MODULE:FUNCTION")(arguments(keywords(command)))


def target_pool(about: str, *, required: bool = False) -> Callable[[F], F]:
    """Return a decorator that gives a command the option for the pool of a call, as `pool`."""
    return click.option("--pool", "-p", metavar="NAME", required=required, shell_complete=complete_pools, help=about)


# Options of jobs and pools --------------------------------------------------------------------------------------

_TIME: Final[dict[str, Any]] = {"type": parse_seconds, "metavar": "TIME"}
_JOB_OPTIONS = (
    click.option("--timeout", **_TIME, help="Stop the job if it runs longer."),
    click.option("--soft-timeout", **_TIME, help="Raise JobTimeout in the job if it runs longer."),
    click.option("--stall-timeout", **_TIME, help="Stop the job if it does nothing for this time."),
    click.option("--grace-period", **_TIME, help="The time that a stopped job has to clean up."),
    click.option("--max-rss", type=parse_size, metavar="SIZE", help="Stop the job if it uses more memory, such as 500M."),
    click.option("--retries", type=int, metavar="N", help="Start the job up to N times again if it fails."),
    click.option("--backoff", **_TIME, help="The pause before the first retry."),
    click.option("--priority", type=int, metavar="N", help="Jobs with a higher priority start first."),
    click.option("--queue", metavar="NAME", help="The queue of the pool whose limits the job shares."),
    click.option("--key", metavar="TEXT", help="Jobs with the same key run one at a time."),
    click.option("--delay", **_TIME, help="Do not start the job before this time has passed."),
    click.option("--expires", **_TIME, help="Do not start the job after this time has passed."),
    click.option("--name", metavar="TEXT", help="The name of the job in records."),
)


def job_options(command: F) -> F:
    """Give a command the options of a job."""
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


_POOL_OPTIONS = (
    click.option("--workers", "-w", type=parse_workers, metavar="N", help="4, or 2-8; auto: as `procjobs host` shows."),
    click.option("--preload", multiple=True, metavar="MODULE", help="Import this module once, before workers are forked."),
    click.option("--environment", multiple=True, metavar="NAME", help="Processes with another value have other workers."),
    click.option("--nice", type=int, metavar="N", help=f"Add to the workers' niceness.  [default: {NICE}]"),
    click.option("--threads", type=parse_threads, metavar="N", help="Threads of numeric libraries; auto: CPUs per worker."),
    click.option("--affinity", type=parse_cpus, metavar="CPUS", help="spread: a share for each worker; or 0,2-3 for all."),
    click.option("--worker-idle", **_TIME, help="End idle workers beyond the minimum after this time."),
    click.option("--max-queued", type=int, metavar="N", help="Refuse further jobs while N jobs wait."),
    click.option("--max-jobs-per-worker", type=int, metavar="N", help="Replace a worker after N jobs."),
    click.option("--result-ttl", **_TIME, help="Keep results for this time."),
    click.option("--store", metavar="URL", help="Keep jobs in this database: sqlite:///FILE, postgresql+psycopg://..."),
    click.option("--timeout", **_TIME, help="The jobs' default timeout."),
    click.option("--retries", type=int, metavar="N", help="The jobs' default retries."),
    click.option("--grace-period", **_TIME, help="The time that a stopped job has to clean up."),
)


def pool_options(command: F) -> F:
    """Give a command the settings of a pool."""
    for option in reversed(_POOL_OPTIONS):
        command = option(command)
    return command


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None and value != ()}
