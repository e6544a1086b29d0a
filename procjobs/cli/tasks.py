"""`tasks`: the runner of a task hopper, and its table (procjobs.compat.taskhopper)."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import output, parameters, screen, text
from procjobs.cli.problems import FAILED, OK, UNKNOWN_JOB, Problem
from procjobs.cli.starting import use_working_directory
from procjobs.client.pool import Pool
from procjobs.clock import wall

if TYPE_CHECKING:
    from datetime import datetime

    from procjobs.compat.taskhopper.runner import Event
    from procjobs.compat.taskhopper.table import Task

_VARIABLE: Final = "PROCJOBS_TASKS_DB"
_database_option = click.option(
    "--db", "url", metavar="URL", envvar=_VARIABLE, required=True,
    help=f"The database of the tasks: sqlite:////FILE, postgresql+psycopg://...; also ${_VARIABLE}.",
)  # fmt: skip


@click.group(short_help="Run the tasks of a task hopper, and look at them.", invoke_without_command=True)
@parameters.common
@click.pass_context
def tasks(context: click.Context, directory: str | None, as_json: bool) -> None:
    """Run the functions of tasks.py that an application has put into its table task_status, and look at them.

    See docs/coming-from-a-task-hopper.md.
    """
    del directory, as_json  # its commands have them
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@tasks.command(short_help="Work the queue, until it is stopped.")
@click.option("-Q", "path", metavar="FILE", required=True, help="Work the queue with the functions of this file, tasks.py.")
@_database_option
@click.option("--timeout", type=parameters.parse_seconds, metavar="TIME", help="Stop a task that runs longer; it fails.")
@click.option("--wait", "waits", is_flag=True, help="Wait while another runner works, or the database is away at the start.")
@click.option("--until-empty", is_flag=True, help="End when no task is due.")
@parameters.common
def run(path: str, url: str, directory: str | None, as_json: bool, **options: Any) -> int:
    """Run the tasks that are due, one at a time, in the order of their due time, and wait for more.

    One runner at a time works a database: a second one ends with exit code 1, or waits (--wait). Each task has a fresh
    process, which reads FILE as it is then. What tasks print goes to standard error.

    \b
    SIGTERM, SIGINT  the task that runs has 5 seconds to end, else it is cut off, and queued again
    a second signal  it is cut off at once
    """
    from procjobs.compat.taskhopper.runner import TaskRunner  # imports SQLAlchemy, which is slow to load

    use_working_directory()
    console = screen.standard_error()
    with output.passed_on(console) as redirected:

        def start_pool(**settings: Any) -> Pool:
            with redirected():
                return Pool(directory=directory, **settings)

        tell = _tell_json if as_json else _tell
        runner = TaskRunner(
            url, path, tell=tell, start_pool=start_pool, timeout=options["timeout"], waits=options["waits"]
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        runner.run(until_empty=options["until_empty"])
    return OK


def _tell(event: Event) -> None:
    task = event.task
    about = "" if task is None else f"task {task.id} {text.one_line(task.task_name)}: "
    screen.write(f"{text.moment(wall())} {about}{event.text}")


def _tell_json(event: Event) -> None:
    task = event.task
    about = {} if task is None else {"id": task.id, "task_name": task.task_name}
    screen.write_json({"at": wall(), "event": event.what, **about, "message": event.text}, is_line=True)


@tasks.command("list", short_help="List tasks, the newest first.")
@_database_option
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed"]), help="Only tasks in this state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most N tasks.")
@parameters.common
def list_tasks(url: str, state: str | None, limit: int, directory: str | None, as_json: bool) -> int:
    """List the tasks of the table task_status, the newest first, with their states."""
    del directory
    from procjobs.compat.taskhopper.reading import read_tasks

    found = read_tasks(url, state=state, limit=limit)
    if as_json:
        screen.write_json([_document(task) for task in found])
    elif not found:
        screen.write("there is no such task" if state else "there is no task")
    else:
        rows = [_row(task) for task in found]
        screen.write_rows([">TASK", "STATE", "CREATED", "DUE", ">TOOK", "<NAME", "<DETAIL"], rows)
    return OK


def _row(task: Task) -> list[Any]:
    took = None
    if task.started_on is not None and task.finished_on is not None:
        took = (task.finished_on - task.started_on).total_seconds()
    detail = task.traceback.strip().rpartition("\n")[2] if task.traceback else _as_json(task.task_args)
    due = "" if task.due_on <= task.created_on else text.moment(_unix(task.due_on))
    return [
        task.id, screen.styled(task.status), text.moment(_unix(task.created_on)), due, text.duration(took),
        text.one_line(task.task_name), text.one_line(detail),
    ]  # fmt: skip


@tasks.command(short_help="Show a task, with its result or traceback.")
@click.argument("task_id", metavar="ID", type=click.IntRange(1))
@_database_option
@parameters.common
def status(task_id: int, url: str, directory: str | None, as_json: bool) -> int:
    """Show the row of a task: its state, its times, and its result or why it has failed.

    Exit code 1 if the task has failed, 4 if there is none with this ID.
    """
    del directory
    from procjobs.compat.taskhopper.reading import read_task

    task = read_task(url, task_id)
    if task is None:
        raise Problem(f"there is no task {task_id}", "`procjobs tasks list` lists the tasks", UNKNOWN_JOB)
    if as_json:
        screen.write_json(_document(task))
    else:
        _show(task)
    return FAILED if task.status == "failed" else OK


def _show(task: Task) -> None:
    times = {"created": task.created_on, "due": task.due_on, "started": task.started_on, "finished": task.finished_on}
    facts = {
        "task": task.id, "name": text.one_line(task.task_name), "arguments": _as_json(task.task_args), "state": task.status,
    }  # fmt: skip
    facts |= {name: text.moment(_unix(moment)) for name, moment in times.items() if moment is not None}
    if task.status == "succeeded":
        facts["result"] = _as_json(task.result)
    for name, value in facts.items():
        screen.write(f"{name + ':':<11}{value}")
    if task.traceback:
        screen.write(task.traceback.rstrip())


def _document(task: Task) -> dict[str, Any]:
    times = {name: None if value is None else f"{value.isoformat()}Z" for name, value in _times(task).items()}
    return {**task._asdict(), **times}


def _times(task: Task) -> dict[str, datetime | None]:
    return {name: value for name, value in task._asdict().items() if name.endswith("_on")}


def _unix(moment: datetime) -> float:
    from datetime import UTC

    return moment.replace(tzinfo=UTC).timestamp()


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
