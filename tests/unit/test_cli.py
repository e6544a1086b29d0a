"""Formats, arguments and pictures of the command line, without a process."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import pathlib
import random
import re
import socket
import string

import pytest

pytest.importorskip("click")
from rich.color import Color
from rich.console import Console
from rich.theme import Theme

from procjobs.cli import bars, checks, colours, keyboard, output, problems
from procjobs.cli.sampling import Line, Sample
from procjobs.cli.text import state
from procjobs.cli.top_view import draw
from procjobs.errors import PoolNotRunning, SupervisorLost, UnknownJob
from procjobs.host.notify import notify_manager
from procjobs.shared.records import JobStatus, PoolStats, Progress, WorkerInfo
from procjobs.shared.states import JobState

NOW = 1_700_000_000.0


@pytest.mark.parametrize("name", ["text", "parameters", "output", "tuning_calls"])
def test_examples_in_docstrings_are_right(name):
    module = importlib.import_module(f"procjobs.cli.{name}")
    result = doctest.testmod(module)
    assert (0, True) == (result.failed, result.attempted > 0)


def job(number, **changes):
    progress = Progress(40, 100, "encoding\n\x1b[31m", None, NOW - 1, NOW - 21)
    job_id = f"01a1fd57-cd2f-7ad2-96aa-{number:012x}"
    status = JobStatus(
        job_id, f"film[{number}].mp4", "running", None, 1, progress, NOW - 30, NOW - 21, None, 4712, None, {}, None, None
    )
    return status._replace(**changes)


def sample(*, workers=2, waiting=1, ended=1, **stats):
    lines = []
    for slot in range(workers):
        info = WorkerInfo(slot, 4700 + slot, 1, "busy", job(slot).id, 3, 2**25, 50.0, NOW - 60)
        lines.append(Line(info, job(slot), 97.0, 2**26))
    values = {"workers": workers, "busy": workers, "idle": 0, "queued": waiting, "problem": None, **stats}
    defaults = dict.fromkeys(PoolStats._fields, 0) | {"supervisor_pid": 4711, "uptime": 75.0}
    queue = [job(100 + n, state="queued", progress=None, started_at=None) for n in range(waiting)]
    done = [job(200 + n, state="failed", reason="raised", error="ValueError: no", finished_at=NOW - 5) for n in range(ended)]
    return Sample("media", "running", NOW, PoolStats(**{**defaults, **values}), lines, queue, done, 2.5, 0.5)


def picture(width, height, taken, **options):
    console = Console(width=width, height=height, file=None, color_system=None)
    with console.capture() as capture:
        console.print(draw(taken, selected=options.get("selected"), message="", width=width, height=height))
    return capture.get()


def test_picture_shows_workers_with_bars_waiting_jobs_and_ended_jobs():
    shown = picture(120, 30, sample(), selected=job(1).id)
    for expected in ("pool media  running  up 1m15s", "cpu 194%", "film[1].mp4", "━", "40% encoding", "WAITING 1", "ENDED",
                     "failed (raised)", "ValueError: no", "rate 2.5/s, 0.5/s fail"):  # fmt: skip
        assert expected in shown
    assert [">    1"] == [line[:6] for line in shown.splitlines() if line.startswith(">")]


@pytest.mark.parametrize("size", [(60, 10), (80, 12), (80, 24), (200, 50)])
@pytest.mark.parametrize("load", [(0, 0, 0), (1, 0, 30), (64, 500, 100)])
def test_picture_fits_into_the_terminal(size, load):
    workers, waiting, ended = load
    shown = picture(*size, sample(workers=workers, waiting=waiting, ended=ended, problem="the preload fails: no"))
    lines = shown.splitlines()
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]


def test_control_characters_of_a_job_do_not_reach_the_terminal():
    assert "\x1b" not in picture(120, 30, sample())


def test_output_that_is_read_again_and_again_is_written_once():
    random.seed(7)
    whole = "".join(random.choices(string.ascii_letters + "\n", k=20_000))
    written: list[str] = []
    shown = [""]
    follower = output.LogFollower(lambda: shown[0], written.append)
    end = 0
    while end < len(whole):
        end = min(end + random.randint(0, 900), len(whole))
        shown[0] = whole[max(end - 2000, 0) : end]
        follower.advance()
    assert whole == "".join(written)


@pytest.mark.parametrize(
    ("data", "key"),
    [(b"\x1b[A", "up"), (b"\x1bOB", "down"), (b"q", "q"), (b"\x1b", "q"), (b"+", "+"), (b"cc", "c"), (b"\x00", None)],
)
def test_keys_have_names(data, key):
    assert key == (keyboard._SEQUENCES.get(data) or keyboard._first_key(data))


@pytest.mark.parametrize(
    ("error", "code"),
    [(PoolNotRunning("no"), 3), (UnknownJob("no"), 4), (SupervisorLost("no"), 5), (problems.Problem("no"), 1)],
)
def test_each_error_has_its_exit_code(error, code):
    assert code == problems.explain(error).code


def test_unknown_error_is_raised_again():
    with pytest.raises(ZeroDivisionError):
        problems.explain(ZeroDivisionError())


def test_reason_is_shown_if_it_differs_from_the_state():
    assert "failed (raised)" == state(job(1, state="failed", reason="raised"))
    assert "cancelled" == state(job(1, state="cancelled", reason="cancelled"))


def test_every_warning_and_failure_can_be_written_as_json():
    findings = [finding for check in checks.CHECKS[:2] for finding in check(None)]
    assert findings
    assert json.dumps([finding._asdict() for finding in findings])


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@nobody-is-there"])
def test_missing_manager_is_no_error(address):
    notify_manager(address, "READY=1")


def test_manager_gets_the_message(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify_manager(str(tmp_path / "notify"), "READY=1")
        assert b"READY=1" == manager.recv(100, socket.MSG_DONTWAIT)


def luminance(colour):
    """Return the brightness of a colour: WCAG 2.1, relative luminance."""
    parts = [part / 255 for part in Color.parse(colour).get_truecolor()]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", ["RED", "GREEN", "AMBER", "MAGENTA", "CYAN", "GREY"])
def test_every_colour_is_readable_on_black_and_on_white(name):
    bright = luminance(getattr(colours, name))
    assert min((bright + 0.05) / 0.05, 1.05 / (bright + 0.05)) >= 3


def test_no_other_colours_are_used():
    folder = pathlib.Path(colours.__file__).parent
    named = re.compile(r'"(?:bold )?(?:black|red|green|yellow|blue|magenta|cyan|white)"|\[(?:bold )?(?:red|green|yellow)')
    assert [] == [path.name for path in folder.glob("*.py") if named.search(path.read_text())]


def test_every_state_that_is_shown_has_a_colour():
    assert {state.name.lower() for state in JobState} <= colours.STATES.keys()


@pytest.mark.parametrize(("end", "colour"), [("succeeded", "38;5;28"), ("failed", "38;5;160")])
def test_bar_of_a_job_ends_in_the_colour_of_its_end(end, colour):
    console = Console(width=100, color_system="256", force_terminal=True, file=io.StringIO(), theme=Theme(colours.BARS))
    with bars.progress_bars(console) as follow:
        follow(job(1, state=end, reason=None, progress=None, finished_at=NOW))
    assert re.search(rf"\x1b\[{colour}m━", console.file.getvalue())
