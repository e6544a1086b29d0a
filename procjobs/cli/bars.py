"""The progress of a job while it runs: bars on a terminal, or a line for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from procjobs.cli import colours, screen, text
from procjobs.clock import wall

if TYPE_CHECKING:
    from procjobs.shared.records import JobStatus


Follower = Callable[["JobStatus"], None]
"""A function that is called with each new status of a job."""


@contextmanager
def progress_bars(console: Any) -> Iterator[Follower]:
    """Draw a bar for each followed job on a console. If the console is not a terminal, draw nothing."""
    if not console.is_terminal:
        yield _ignore
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    class EndColumn(BarColumn):
        """A bar that ends in red, not green, if the job failed."""

        def render(self, task: Any) -> Any:
            self.finished_style = "bar.finished" if task.fields["is_well"] else colours.RED
            return super().render(task)

    columns = (
        TextColumn("{task.description}"),
        TextColumn("{task.fields[state]}"),
        EndColumn(bar_width=max(min(console.width - 70, 30), 10)),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[time]}", style="dim"),
    )
    with Progress(*columns, console=console, refresh_per_second=10) as drawn:
        tasks: dict[str, Any] = {}

        def follow(status: JobStatus) -> None:
            if status.id not in tasks:
                name = escape(text.one_line(status.name)[-40:])
                tasks[status.id] = drawn.add_task(name, total=None, state="", amount="", time="", is_well=True)
            progress = status.progress
            style = colours.STATES.get(status.state, "")
            shown = f"[{style}]{text.state(status)}[/]" if style else text.state(status)
            fields: dict[str, Any] = {"state": shown, "amount": escape(text.amount(progress)[:50]), "time": _times(status)}
            fields["is_well"] = not status.done or status.state == "succeeded"
            if progress is not None:
                fields |= {"completed": progress.value, "total": progress.total}
            if status.done and (progress is None or progress.total is None):
                fields |= {"completed": 1, "total": 1}
            drawn.update(tasks[status.id], **fields)

        yield follow


def _times(status: JobStatus) -> str:
    """Return the time a job has been running, and an estimate of the time left."""
    spent = text.duration(text.run_time(status, wall()))
    left = None if status.done or status.progress is None else status.progress.eta()
    return f"{spent}, {text.duration(left)} left" if left is not None else spent


def _ignore(_status: JobStatus) -> None:
    """Draw nothing: there is no terminal."""


class StatusLines:
    """Writes a line for each change of a job's status, as text or JSON."""

    def __init__(self, pool: str, *, as_json: bool) -> None:
        self._pool = pool
        self._as_json = as_json
        self._last: JobStatus | None = None

    def __call__(self, status: JobStatus) -> None:
        """Write the status if it differs from the last one."""
        if status == self._last:
            return
        self._last = status
        if self._as_json:
            screen.write_json(screen.job_document(status, self._pool), is_line=True)
        else:
            screen.remark(" ".join(filter(None, [status.id, text.state(status), text.amount(status.progress)])))
