"""`procjobs tune`: a real job at several sizes, in a pipe and on a terminal. No test depends on the speed of the host."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tomllib
from pathlib import Path

import pytest

from ..conftest import wait_until
from .conftest import ROOT

pytest.importorskip("click")
pytest.importorskip("tomlkit")
JOBS = "tests.system.tune_jobs"
SOON = ["--seconds", "0.1", "--jobs", "3"]
BAR = "█"


@pytest.fixture
def here(tmp_path):
    """An empty directory where the commands run, and from which the jobs can be imported."""
    return {"cwd": tmp_path, "PYTHONPATH": str(ROOT), "PROCJOBS_CONFIG": ""}


@pytest.fixture(autouse=True)
def no_settings(cli):
    cli.environment["PROCJOBS_CONFIG"] = ""


def settings_of(path, pool="media"):
    return tomllib.loads(Path(path).read_text())["pool"][pool]["hosts"][socket.gethostname()]


def test_table_has_a_line_for_each_size_and_the_recommendation_below(cli):
    done = cli("tune", f"{JOBS}:nap", "--sizes", "2,1,2", *SOON)
    assert 0 == done.returncode, done.stderr
    head, one, two, empty, said, *_ = done.stdout.splitlines()
    assert ["WORKERS", "JOBS/S", "EACH", "P50", "P95", "MEMORY", "LARGEST", "CPU/JOB", "CPUS"] == head.split()
    assert (["1", "2"], "") == ([re.match(r">? +(\d+) ", line)[1] for line in (one, two)], empty)
    assert BAR in one
    assert BAR in two
    chosen = [line for line in (one, two) if line.startswith(">")]
    assert said.startswith(f"{chosen[0].split()[1]} worker")
    assert "jobs/s" in said
    assert "\x1b" not in done.stdout


def test_progress_is_a_line_for_each_size_on_standard_error(cli):
    done = cli("tune", f"{JOBS}:nap", "--sizes", "1,2", *SOON)
    assert ["1 worker", "2 workers"] == [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert all(" jobs/s, " in line for line in done.stderr.splitlines())


def test_document_has_all_measured_values(cli):
    done = cli("tune", f"{JOBS}:nap", "--sizes", "1,2", "--json", *SOON)
    assert (0, "") == (done.returncode, done.stderr)
    document = json.loads(done.stdout)
    assert (f"{JOBS}:nap", True, None, []) == tuple(document[key] for key in ("function", "complete", "written", "skipped"))
    assert document["recommended"]["workers"] in {1, 2}
    for workers, measured in enumerate(document["measurements"], 1):
        assert (workers, 0) == (measured["workers"], measured["failed"])
        assert measured["jobs"] >= 3
        assert measured["p95"] >= measured["p50"] > 0
        assert measured["memory_bytes"] > measured["workers_memory_bytes"] > 0
        assert measured["throughput"] > 0
        assert measured["cpu_seconds_per_job"] >= 0
    assert 1.0 == document["measurements"][0]["efficiency"]


def test_default_sizes_end_at_the_maximum(cli):
    document = cli.json("tune", f"{JOBS}:nap", "--most", "2", *SOON)
    assert [1, 2] == [measured["workers"] for measured in document["measurements"]]


def seen(folder):
    return {tuple(json.loads(path.read_text())) for path in folder.iterdir()}


def test_calls_are_made_in_turn_each_at_every_size(cli, tmp_path):
    more = tmp_path / "calls.jsonl"
    more.write_text('["c", 3]\n\n{"args": ["d"], "kwargs": {"second": 4}}\n{"first": "e"}\n')
    out = tmp_path / "out"
    out.mkdir()
    words = ["--args", "a 1", "--args", '["b b", 2]', "--args-file", more, "--kw", f"folder={out}"]
    done = cli("tune", f"{JOBS}:record", *words, "--sizes", "1", "--seconds", "0.01")
    assert 0 == done.returncode, done.stderr
    assert {("a", 1), ("b b", 2), ("c", 3), ("d", 4), ("e", None)} == seen(out)


def test_call_can_be_the_words_of_the_command_line(cli, tmp_path):
    done = cli("tune", f"{JOBS}:record", "a", "2", "--kw", f"folder={tmp_path}", "--sizes", "1", *SOON)
    assert (0, {("a", 2)}) == (done.returncode, seen(tmp_path)), done.stderr


def test_function_that_fails_ends_tune_with_its_reason(cli):
    done = cli("tune", f"{JOBS}:fail", "--args", "film", "--sizes", "1,2", "--seconds", "600")
    assert (1, "") == (done.returncode, done.stdout)
    assert re.search(r"procjobs: (\d+) of \1 jobs failed with 1 worker: ValueError: no film \(\1\)\n", done.stderr)
    assert f"hint: `procjobs run {JOBS}:fail ...`" in done.stderr


def test_function_that_crashes_ends_tune_and_earlier_sizes_are_shown(cli, tmp_path):
    done = cli("tune", f"{JOBS}:die_in_company", tmp_path, "--sizes", "1,2", *SOON, "--json")
    assert 1 == done.returncode
    assert "jobs failed with 2 workers: crashed (" in json.loads(done.stderr)["error"]
    document = json.loads(done.stdout)
    assert ([1], False) == ([measured["workers"] for measured in document["measurements"]], document["complete"])


def test_some_failures_are_counted_and_shown(cli):
    calls = ["--args", "", "--args", "", "--args", "", "--args", "film"]
    done = cli("tune", f"{JOBS}:fail", *calls, "--sizes", "1", "--seconds", "0.1", "--jobs", "8")
    assert 0 == done.returncode, done.stderr
    assert "FAILED" in done.stdout.splitlines()[0]
    assert re.search(r"\d+ jobs? failed: ValueError: no film", done.stdout)


def test_size_that_does_not_fit_into_memory_is_not_tried(cli):
    done = cli("tune", f"{JOBS}:nap", "--sizes", "1,500", "--memory", "300M", *SOON)
    assert 0 == done.returncode, done.stderr
    assert "500 workers: left out, would need" in done.stderr
    assert "500 workers would need more memory than the 300 MB that may be used" in done.stdout


def test_size_that_outgrows_memory_is_given_up_and_no_size_is_a_failure(cli):
    done = cli("tune", f"{JOBS}:nap", "--sizes", "1,2", "--memory", "1M", "--seconds", "600")
    assert 1 == done.returncode
    assert "1 worker: left out, would need" in done.stderr
    assert "no size fits into memory: the smallest needs" in done.stderr


def test_result_is_written_for_this_host_and_the_only_pool(cli, tmp_path, here):
    settings = tmp_path / "procjobs.toml"
    settings.write_text("# Ours.\n[pool.media]\nworkers = 7 # elsewhere\n")
    done = cli("tune", f"{JOBS}:nap", "--sizes", "2", *SOON, "--write", **here)
    assert 0 == done.returncode, done.stderr
    assert {"workers": 2} == settings_of(settings)
    assert settings.read_text().startswith("# Ours.\n[pool.media]\nworkers = 7 # elsewhere\n")
    assert f'changed {settings}: [pool.media.hosts."{socket.gethostname()}"] workers = 2\n' in done.stdout


def test_missing_settings_file_is_made(cli, tmp_path, here):
    path = tmp_path / "procjobs.toml"
    document = json.loads(cli("tune", f"{JOBS}:nap", "--sizes", "1", *SOON, "--write", "media", "--json", **here).stdout)
    assert ({"workers": 1}, str(path), None) == (
        settings_of(path), document["written"]["path"], document["written"]["before"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chart", "curve.gif"], "curve.gif: a chart must end in one of .png, .svg, .pdf"),
        (["--chart", "/no/where/curve.png"], "there is no directory /no/where"),
        (["--write=a:b"], "'a:b' cannot be the name of a pool"),
        (["--sizes", "1,many"], "'1,many' is no list of sizes: give 1,2,4"),
        (["--sizes", "0"], "sizes=0: expected 1 to 512"),
        (["--sizes", "4", "--most", "2"], "sizes is empty"),
        (["--jobs", "0"], "jobs=0"),
        (["--seconds", "-1"], "'-1' is no duration: give 0 or more seconds"),
        (["--args", "a", "--", "b"], "b: arguments are given twice"),
        (["--args", "it's"], "cannot be split into words"),
        (["--args-file", "/no/where"], "/no/where cannot be read"),
        (["--args-file", "bad.jsonl"], "bad.jsonl, line 2: "),
        (["--args-file", "empty.jsonl"], "empty.jsonl has no line with arguments"),
        (["--nice", "20"], "nice=20"),
    ],
    ids=str,
)
def test_invalid_options_are_refused_before_anything_is_measured(cli, tmp_path, here, words, said):
    (tmp_path / "bad.jsonl").write_text('["a"]\n["b"\n')
    (tmp_path / "empty.jsonl").touch()
    done = cli("tune", f"{JOBS}:nap", "--seconds", "600", *words, **here)
    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_curve_is_drawn_into_a_file(cli, tmp_path, suffix, begin):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"curve{suffix}"
    done = cli("tune", f"{JOBS}:nap", "--sizes", "1", *SOON, "--chart", path, MPLCONFIGDIR=str(tmp_path))
    assert (0, begin) == (done.returncode, path.read_bytes()[: len(begin)]), done.stderr


def test_chart_without_its_package_names_the_extra(cli, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['matplotlib'] = None\n")
    done = cli("tune", f"{JOBS}:nap", "--chart", "curve.png", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (2, "") == (done.returncode, done.stdout)
    assert "charts need matplotlib: pip install 'procjobs[tune]'" in done.stderr


def test_preload_that_fails_ends_tune(cli):
    done = cli("tune", f"{JOBS}:nap", "--preload", "no_such_module_at_all", "--seconds", "600")
    assert (1, "") == (done.returncode, done.stdout)
    assert "procjobs: the pool cannot run jobs: " in done.stderr
    assert "no_such_module_at_all" in done.stderr


def test_ctrl_c_in_a_pipe_shows_the_measured_sizes_and_leaves_nothing(cli, tmp_path):
    process = cli.begin("tune", f"{JOBS}:stay", tmp_path, "2", "--sizes", "1,2", *SOON)
    wait_until((tmp_path / "stays").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert 130 == process.returncode
    assert "1 worker: " in out
    assert "procjobs: interrupted, 1 of 2 sizes measured" in err
    wait_until(lambda: not os.path.exists(f"/proc/{(tmp_path / 'stays').read_text()}"))


def test_ctrl_c_writes_no_settings(cli, tmp_path, here):
    (tmp_path / "procjobs.toml").write_text("[pool.media]\n")
    process = cli.begin("tune", f"{JOBS}:stay", tmp_path, "2", "--sizes", "1,2", *SOON, "--write",
                        PROCJOBS_CONFIG=str(tmp_path / "procjobs.toml"))  # fmt: skip
    wait_until((tmp_path / "stays").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (130, True) == (process.returncode, "nothing is written" in err)
    assert "[pool.media]\n" == (tmp_path / "procjobs.toml").read_text()


def test_terminal_has_bars_while_it_measures_and_a_coloured_table_after(cli, tmp_path):
    terminal = cli.terminal("tune", f"{JOBS}:stay", tmp_path, "2", "--sizes", "1,2", *SOON)
    terminal.wait_for("size 1 of 2", "1 worker", "━")
    terminal.wait_for("size 2 of 2", "2 workers", "warming up")
    (tmp_path / "go").touch()
    assert 0 == terminal.wait()
    last = terminal.text[terminal.text.rindex("WORKERS") :]
    assert BAR in last
    assert "jobs/s" in last
    assert re.search(r"\x1b\[[0-9;]*38;5;28(;49)?m[^\x1b]*█", terminal.raw)
    assert terminal.before == terminal.settings()
    assert "what a job prints" not in terminal.text


def test_ctrl_c_on_a_terminal_restores_it(cli, tmp_path):
    terminal = cli.terminal("tune", f"{JOBS}:stay", tmp_path, "1", "--sizes", "1,2", *SOON)
    wait_until((tmp_path / "stays").exists)
    terminal.press("\x03")
    assert 130 == terminal.wait()
    assert "procjobs: interrupted, 0 of 2 sizes measured" in terminal.text
    assert terminal.before == terminal.settings()
    assert "\x1b[?25h" in terminal.raw  # the cursor is there again
