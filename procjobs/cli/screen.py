"""Writes output: text or JSON, to a terminal or a pipe.

A terminal gets no control characters but those of rich: what jobs have put into a name, a message or their output is made
visible. A pipe gets every text as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from procjobs.cli import colours
from procjobs.shared.records import JobStatus, PoolStats, WorkerInfo
from procjobs.shared.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from rich.console import Console
    from rich.segment import Segment
    from rich.table import Table


_WIDE: Final = 120


def standard_output() -> Console:
    """Return the console for answers. In a pipe it has no colours, and lines of any length."""
    return _console(to_errors=False)


def standard_error(*, is_raw: bool = False) -> Console:
    """Return the console for everything except the answer: progress bars, the output of jobs (`is_raw`: as it is)."""
    return _console(to_errors=True, is_raw=is_raw)


def _console(*, to_errors: bool, is_raw: bool = False) -> Console:
    from rich.console import Console
    from rich.segment import Segment
    from rich.theme import Theme

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - called while the error is handled; the base class would exit with 1

        def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*args, **options):
                yield Segment(text if control or is_raw else visible(text), style, control)

    theme = Theme(colours.BARS)
    stream = sys.stderr if to_errors else sys.stdout
    if stream.isatty():
        return PipedConsole(stderr=to_errors, highlight=False, theme=theme)
    is_raw = True
    return PipedConsole(stderr=to_errors, highlight=False, width=1000, force_terminal=False, color_system=None)


def pass_on(console: Console, text: str) -> None:
    """Write the output of a job on a console, above its bars."""
    from rich.segment import Segment, Segments

    console.print(Segments([Segment(text)]), end="", soft_wrap=True)  # as plain text rich would drop some characters


def write(text: str = "", *, is_raw: bool = False) -> None:
    """Write a line of the answer at once: a reader of the pipe may be waiting for it."""
    writer(sys.stdout, is_raw=is_raw)(text + "\n")


def remark(text: str, *, is_raw: bool = False) -> None:
    """Write a line that is not part of the answer."""
    writer(sys.stderr, is_raw=is_raw)(text + "\n")


def writer(stream: TextIO, *, is_raw: bool = False) -> Callable[[str], None]:
    """Return a function that writes text to a stream at once. `is_raw` passes control characters to a terminal too."""
    is_visible = stream.isatty() and not is_raw

    def write_to_stream(text: str) -> None:
        stream.write(visible(text) if is_visible else text)
        stream.flush()

    return write_to_stream


def write_json(document: Any, *, is_line: bool = False) -> None:
    """Write a JSON document, or a line of JSON. Objects that JSON does not know are written as their repr()."""
    write(json.dumps(document, default=repr, indent=None if is_line else 2))


def is_narrow() -> bool:
    """Return whether a whole job id leaves too little room for the other columns."""
    return standard_output().width < _WIDE


def empty_table() -> Table:
    """Return an empty table in the style of all tables: without lines."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def write_rows(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table. A name that begins with > marks a column of numbers, with < a column that may be cut short."""
    from rich.text import Text

    table = empty_table()
    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    for number, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        lengths = [len(name), *(row[number].cell_len for row in cells if number < len(row))]
        width = None if name.startswith("<") else max(lengths)
        table.add_column(name.lstrip("<>"), justify=justify, no_wrap=True, min_width=width)
    for row in cells:
        table.add_row(*row)
    write_table(table)


def write_table(table: Table) -> None:
    """Write a table, without blanks at the ends of its lines."""
    console = standard_output()
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("".join(line.rstrip(" ") + "\n" for line in capture.get().splitlines()))
    sys.stdout.flush()


def styled(text: str) -> Any:
    """Return a state in its colour."""
    from rich.text import Text

    return Text(text, style=colours.STATES.get(text.partition(" ")[0], ""))


def job_document(status: JobStatus, pool: str) -> dict[str, Any]:
    """Return the JSON document of a job."""
    document: dict[str, Any] = {"pool": pool, **status._asdict()}
    if status.progress is not None:
        progress = status.progress
        shown = {name: value for name, value in progress._asdict().items() if name not in {"pace", "is_running"}}
        document["progress"] = {**shown, "fraction": progress.fraction, "eta": progress.eta()}
    return document


def stats_document(stats: PoolStats, pool: str) -> dict[str, Any]:
    """Return the JSON document of a pool's counters."""
    return {"pool": pool, **stats._asdict()}


def worker_document(worker: WorkerInfo, pool: str) -> dict[str, Any]:
    """Return the JSON document of a worker."""
    return {"pool": pool, **worker._asdict()}
