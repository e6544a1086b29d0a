"""The bar of `map(progress=True)` on a terminal, above which jobs print."""

import re
import signal
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("bar_program.py")
_TOKEN = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


def rendered(raw):
    """Return the lines that a terminal shows, for the few commands that a bar is drawn with."""
    lines, row, column = [""], 0, 0
    for private, number, command, home, feed, text in _TOKEN.findall(raw):
        if text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        elif home:
            column = 0
        elif feed:
            row += 1
            lines += [""] * (row == len(lines))
        elif command == "A":
            row -= int(number or 1)
        elif command == "K":
            lines[row] = {"2": "", "1": " " * column + lines[row][column:]}.get(number, lines[row][:column])
        else:
            assert command == "m" or private, f"a command that this terminal does not know: {number}{command}"
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def start(cli):
    return lambda *arguments: cli.terminal(PROGRAM, *arguments, program=[sys.executable])


def said(numbers):
    return sorted(f"{what} {n} begins and ends{n}" for n in numbers for what in ("job", "error"))


def test_output_of_jobs_is_above_the_bar(start):
    terminal = start("whole")
    assert 0 == terminal.wait(), terminal.text
    lines = rendered(terminal.raw)
    bar = next(place for place, line in enumerate(lines) if line.startswith("talk "))
    assert said(range(30)) == sorted(lines[:bar])
    assert "30/30" in lines[bar]
    assert ["said on the terminal", "sum 435"] == sorted(lines[bar + 1 :])


def test_line_without_an_end_is_shown_before_the_bar_ends(start, cli):
    terminal = start("half")
    terminal.wait_for("0/2")
    Path(cli.environment["XDG_RUNTIME_DIR"], "printed").touch()
    assert 0 == terminal.wait(), terminal.text
    lines = rendered(terminal.raw)
    bar = next(place for place, line in enumerate(lines) if line.startswith("linger "))
    assert [f"job {n} begins and ends{n}" for n in (0, 1)] == sorted(line for line in lines[:bar] if line.startswith("job"))
    assert "2/2" in lines[bar]


@pytest.mark.parametrize("how", ["closed", "raised"])
def test_terminal_has_the_output_again_when_the_bar_has_gone(start, how):
    terminal = start(how)
    assert 0 == terminal.wait(), terminal.text
    lines = rendered(terminal.raw)
    assert "said on the terminal" in lines[-2:]
    assert 1 == sum(re.match("(talk|crash) ", line) is not None for line in lines)


def test_reader_that_has_gone_costs_no_output(start):
    terminal = start("deaf")
    assert 0 == terminal.wait(), terminal.text
    assert ["said on the terminal"] == rendered(terminal.raw)


def test_interrupted_map_leaves_a_whole_bar(start, cli):
    terminal = start("interrupted")
    terminal.wait_for("0/2")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait() in {1, 130, -signal.SIGINT}, terminal.text
    assert "\x1b[?25h" in terminal.raw  # the cursor
    assert [] == list(Path(cli.base).glob("*/output-*"))
