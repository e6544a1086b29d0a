"""`procjobs.tuning`: real pools of several sizes. No test looks at how fast anything was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from procjobs.errors import ConfigurationError
from procjobs.host import observe
from procjobs.tuning import Call, Report, Skipped, Tuning, TuningFailed, tune

MB = 2**20
SOON = {"seconds": 0.05, "jobs": 3}


def nap(seconds=0.001):
    time.sleep(seconds)  # job


def fill(megabytes, seen):
    """Use so much memory until that was seen."""
    block = b"1" * (megabytes * MB)
    while not os.path.exists(seen):
        time.sleep(0.005)  # job
    return len(block)


def fill_in_a_child(megabytes, seen):
    code = "import os, sys, time\nblock = b'1' * (int(sys.argv[1]) << 20)\n"
    code += "while not os.path.exists(sys.argv[2]): time.sleep(0.005)"  # job
    subprocess.run([sys.executable, "-S", "-c", code, str(megabytes), seen], check=True)


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def leave(path):
    with open(path, "w") as file:
        file.write(str(os.nice(0)))


def choose(what):
    if what:
        raise KeyError(what)


def fail_or_hang(fails):
    if fails:
        raise ValueError
    time.sleep(600)  # job


def test_report_has_a_measurement_for_each_size_in_order():
    moments = []
    report = tune(nap, sizes=[2, 1], tell=moments.append, **SOON)
    assert [1, 2] == [measured.workers for measured in report.measurements]
    assert f"{__name__}:nap" == report.function
    assert report.knee.workers in {1, 2}
    stages = [moment.stage for moment in moments if moment.workers == 2]
    assert ["starting", "warming up", "measuring", "finishing"] == sorted(set(stages), key=stages.index)
    assert json.dumps(report.document())


def test_arguments_by_position_and_by_name_reach_the_job():
    report = tune(nap, [(0.001,), Call((), {"seconds": 0.002})], sizes=[1], **SOON)
    assert (0, True) == (report.measurements[0].failed, report.measurements[0].jobs >= 3)


@pytest.mark.parametrize("function", [fill, fill_in_a_child])
def test_memory_of_workers_and_of_what_they_start_is_seen(function, tmp_path):
    seen = tmp_path / "seen"

    def tell(moment):
        if moment.memory_bytes > 200 * MB:
            seen.touch()

    measured = tune(function, [(200, str(seen))], sizes=[1], tell=tell, seconds=0.01, jobs=1).measurements[0]
    assert seen.exists()
    assert measured.worker_rss_bytes > 190 * MB  # without them, a pool of one worker has some 30 MB
    assert measured.memory_bytes > measured.workers_memory_bytes > 190 * MB


def test_cpu_time_of_jobs_is_counted():
    measured = tune(burn, [(0.1,)], sizes=[1], nice=0, seconds=0.5, jobs=3).measurements[0]
    assert 0.05 < measured.cpu_seconds_per_job < 0.5
    assert measured.p50 >= 0.1


def test_pool_that_outgrows_its_memory_is_ended_and_larger_ones_are_not_tried():
    report = tune(fill, [(200, "/nowhere")], sizes=[1, 2], memory_bytes=150 * MB, seconds=600)
    assert ((), [1, 2], None) == (report.measurements, [one.workers for one in report.skipped], report.knee)
    assert all(isinstance(one, Skipped) and one.expected_bytes > 150 * MB for one in report.skipped)


def test_what_was_measured_before_a_failure_is_kept():
    tuning = Tuning(choose, [("film",)], sizes=[1], seconds=600)
    with pytest.raises(TuningFailed, match=r"jobs failed with 1 worker: KeyError: 'film'"):
        list(tuning.run())
    assert isinstance(tuning.report(), Report)


def test_failure_does_not_wait_for_jobs_that_still_run():
    with pytest.raises(TuningFailed, match="jobs failed with 1 worker"):
        tune(fail_or_hang, [*[(True,)] * 5, (False,)], sizes=[1], seconds=600)


def test_failures_that_are_few_are_counted_by_their_reason():
    measured = tune(choose, [("",), ("",), ("",), ("film",)], sizes=[1], seconds=0.05, jobs=8).measurements[0]
    assert {"KeyError: 'film'"} == measured.failures.keys()
    assert 2 <= measured.failed < measured.jobs


def test_jobs_that_are_lost_with_their_supervisor_are_failures_and_it_goes_on():
    supervisors = []

    def tell(moment):
        if moment.stage == "measuring" and moment.jobs >= 15 and not supervisors:
            supervisors.extend(child for child in psutil.Process().children() if child.name() == "procjobs-super")
            supervisors[0].kill()

    (measured,) = tune(nap, [(0.02,)], sizes=[2], seconds=0.1, jobs=200, tell=tell).measurements
    assert 1 == len(supervisors)
    assert {"SupervisorLost"} == measured.failures.keys()
    assert measured.jobs >= 200
    assert measured.cpu_seconds_per_job >= 0


def test_few_jobs_that_all_fail_are_a_failure_too():
    with pytest.raises(TuningFailed, match="jobs failed"):
        tune(choose, [("film",)], sizes=[1], seconds=0.001, jobs=1)


def test_setting_that_no_pool_has_is_refused_with_a_guess():
    with pytest.raises(ConfigurationError, match="has no setting 'colour'; there are: affinity, "):
        Tuning(nap, colour=3)
    with pytest.raises(ConfigurationError, match="has no setting 'preloads'; did you mean 'preload'"):
        Tuning(nap, preloads=["numpy"])
    with pytest.raises(ConfigurationError, match="has no setting 'workers'"):
        Tuning(nap, workers=3)


def test_settings_are_those_of_the_pool(tmp_path):
    tune(leave, [(str(tmp_path / "nice"),)], sizes=[1], nice=7, **SOON)
    assert os.nice(0) + 7 == int((tmp_path / "nice").read_text())


def test_what_cannot_be_measured_is_refused_at_once():
    with pytest.raises(TypeError, match="cannot be called"):
        Tuning("nap")
    for wrong in ({"sizes": [0]}, {"seconds": 0}, {"jobs": 0}, {"memory_bytes": 0}, {"most": 0}):
        with pytest.raises(ConfigurationError):
            Tuning(nap, **wrong)


def test_shared_pages_are_divided_among_those_that_share_them():
    script = "import os, sys; b = b'1' * (64 << 20); os.fork(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        parent.stdout.readline()
        pids = observe.ProcessTree().members(parent.pid, 0.0)
        used = observe.memory_of(pids)
        parent.stdin.close()
    assert 2 == len(pids)
    assert used.rss_bytes > 128 * MB > 100 * MB > used.pss_bytes > 64 * MB
    assert (0, 0) == observe.memory_of([parent.pid])
