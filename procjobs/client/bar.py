"""The bar of `map(progress=True)`, and the output of jobs above it.

Jobs of a private pool print where the process that made it does: its supervisor writes that to the terminal, in the middle
of a bar that is drawn there. So while there is a bar, the supervisor writes to a FIFO in the pool's directory, and a thread
here prints the lines above the bar. The supervisor goes back to the terminal when it is asked to, or nobody reads the FIFO.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from procjobs.errors import ConfigurationError, ProcjobsError, SubmitTimeout, SupervisorLost
from procjobs.originals import has_green_threads
from procjobs.shared.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from procjobs.client.link import PoolLink

T = TypeVar("T")
_READ_BYTES: Final = 64 * 1024
_LAST_OUTPUT_TIMEOUT: Final = 1.0
"""How long the last output may take to arrive; a supervisor that is stopped sends none."""

Bar: TypeAlias = Callable[[Iterator[Any], str, "int | None"], Iterator[Any]]


def import_bar(link: PoolLink) -> Bar:
    """Return what draws a bar; raise ConfigurationError where it cannot be drawn, before there is any job."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        raise ConfigurationError("progress=True draws with rich: pip install 'procjobs[cli]'") from None

    def draw(results: Iterator[T], label: str, total: int | None) -> Iterator[T]:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with output_above(console, link) as settle, Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=total)
            try:
                for result in results:
                    bar.advance(task)
                    yield result
            finally:
                settle()

    return draw


@contextlib.contextmanager
def output_above(console: Console, link: PoolLink) -> Iterator[Callable[[], None]]:
    """Print what the jobs of a private pool write to this terminal on `console`, by whole lines, in this block.

    Yield a function that waits until all is printed that the jobs have written until then, and lets no more be printed in
    this block: a bar is about to end.
    Without a terminal nothing is done, nor where threads are greenlets, which would all wait for the one that reads. A pool
    with a name writes to no terminal.
    """
    diversion = None
    if link.is_private and console.is_terminal and not has_green_threads():
        with contextlib.suppress(OSError, RuntimeError, ProcjobsError):  # then the output goes where it went
            diversion = _divert(console, link)
    if diversion is None:
        yield _nothing
        return
    try:
        yield diversion.settle
    finally:
        diversion.end()


def _nothing() -> None:
    pass


def _divert(console: Console, link: PoolLink) -> _Diversion | None:
    """Have the supervisor write to a FIFO; return None if it writes to no terminal."""
    name = f"output-{os.getpid()}-{os.urandom(6).hex()}"
    path = f"{link.directory.path}/{name}"
    os.mkfifo(path, 0o600)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_diverted = link.persist(lambda connection: connection.request("divert", file=name))["is_diverted"]
        except BaseException:
            os.close(fd)
            raise
    finally:
        os.unlink(path)
    if not is_diverted:
        os.close(fd)
        return None
    return _Diversion(console, link, name, fd)


class _Diversion:
    """The output of jobs on its way through a FIFO of this name, and the thread that prints it."""

    def __init__(self, console: Console, link: PoolLink, name: str, fd: int) -> None:
        import threading

        self._console = console
        self._link = link
        self._name = name
        self._is_settled = threading.Event()
        self._printing = threading.Lock()
        self._is_held = False
        os.set_blocking(fd, True)
        self._thread = threading.Thread(target=self._print_lines, args=(fd,), name="procjobs-output", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there can be no more threads
            os.close(fd)
            raise

    def _print_lines(self, fd: int) -> None:
        """Print what comes, many lines at once where they come fast: each time, rich draws the bar again."""
        try:
            with open(fd, "rb", buffering=0) as pipe:
                rest = b""
                while data := pipe.read(_READ_BYTES):
                    *lines, rest = (rest + data).split(b"\n")
                    self._print([line.decode(errors="replace") for line in lines])
                self._print([rest.decode(errors="replace")] if rest else [])
        finally:
            self._is_settled.set()

    def _print(self, lines: list[str]) -> None:
        is_marked = self._name in lines
        printed = [line for line in lines if line != self._name]
        if printed:
            with self._printing:
                _print_text(self._console, printed)
        if is_marked:
            self._is_settled.set()

    def settle(self) -> None:
        """Wait until everything is printed that jobs have written until now, and print no more until `end`.

        A line that comes while rich ends a bar would be written into it.
        """
        self._post("mark_output")
        self._is_settled.wait(_LAST_OUTPUT_TIMEOUT)
        self._is_held = self._printing.acquire(timeout=_LAST_OUTPUT_TIMEOUT)

    def end(self) -> None:
        """Let the supervisor write to the terminal again, when everything before that is printed here."""
        if self._is_held:
            self._printing.release()
        self._post("restore")
        self._thread.join(_LAST_OUTPUT_TIMEOUT)

    def _post(self, call: str) -> None:
        connection = self._link.connection
        if connection is not None:
            with contextlib.suppress(SupervisorLost, SubmitTimeout):
                connection.requests.post(call, file=self._name)


def _print_text(console: Console, lines: list[str]) -> None:
    """Print lines with their colours; other commands to a terminal would break the bar, and are shown instead."""
    from rich.text import Text

    console.print(Text("\n").join(map(_to_text, lines)), soft_wrap=True, highlight=False)


def _to_text(line: str) -> Text:
    from rich.text import Text

    text = Text.from_ansi(line.rstrip("\r"))
    return text if visible(text.plain) == text.plain else Text(visible(line))
