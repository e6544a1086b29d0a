"""Runs participants, each in a process and a session of its own with a timeout, and summarises their repeats.

A peer that hangs is ended with all its workers. A peer that is missing or breaks is listed with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from measures import MEASURES

COMMAND = [sys.executable, str(Path(__file__).with_name("run.py")), "--child"]
EXTRA = "pip install -e '.[benchmarks]'"
REASON_CHARACTERS = 160


# One participant, in its own process ----------------------------------------------------------------------------


def measure_here(measure, participant, size, repeats):
    """Print one line of JSON per repeat, and end without waiting for a pool that may hang."""
    for _ in range(int(repeats)):
        try:
            metrics, note = MEASURES[measure].run(participant, int(size))
            answer = {"metrics": metrics, "note": note}
        except Exception as error:  # noqa: BLE001 - the edge around a peer
            traceback.print_exc()
            answer = {"missing": describe_error(error)}
        print(json.dumps(answer), flush=True)
        if "missing" in answer:
            break
    sys.stderr.flush()
    os._exit(0)


def describe_error(error):
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed ({EXTRA})"
    text = str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:REASON_CHARACTERS]


def run_participant(measure, participant, size, repeats):
    """Return the answers of the repeats; if some are missing, the last answer has the reason."""
    timeout = MEASURES[measure].timeout * repeats
    reason = ""
    with (
        tempfile.TemporaryFile("w+") as stdout,
        tempfile.TemporaryFile("w+") as stderr,  # not pipes, because orphans would hold them open
        tempfile.TemporaryDirectory(prefix="pb-", ignore_cleanup_errors=True) as directory,
    ):
        command = [*COMMAND, measure, participant, str(size), str(repeats)]
        environment = {**os.environ, "TMPDIR": directory}  # files that a participant leaves are removed with it
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True, env=environment)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            reason = f"hangs: not done after {timeout:g} s"
        finally:  # also when the run itself is interrupted
            end_group(process)
        output, errors = (read_again(file) for file in (stdout, stderr))
    answers = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if len(answers) < repeats and not any("missing" in answer for answer in answers):
        tail = errors.strip().splitlines()[-1:] or ["no message"]
        answers.append({"missing": reason or f"exit code {process.returncode}: {tail[0]}"})
    if any("missing" in answer for answer in answers):
        answers[-1]["stderr"] = errors[-4000:]
    return answers


def end_group(process):
    """End the processes that a participant has left; SIGTERM first, so that resource trackers remove semaphores."""
    deadline = time.monotonic() + 0.3
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_again(file):
    file.seek(0)
    return file.read()


# All of them ----------------------------------------------------------------------------------------------------


def run_measure(name, quick, tell):
    """Return the record of a measure. Repeats go round: all participants once, then all again."""
    measure = MEASURES[name]
    size, rounds, repeats, participants = measure.size, measure.rounds, 1, measure.participants
    if quick:
        size, rounds, repeats = measure.quick_size, 1, measure.quick_repeats
        participants = measure.quick_participants or participants
    raw = {participant: [] for participant in participants}
    missing = {}
    for turn in range(rounds):
        for participant in participants:
            if participant in missing:
                continue
            begun = time.monotonic()
            with tell(f"{name} {turn + 1}/{rounds}: {participant}"):
                answers = run_participant(name, participant, size, repeats)
            answers[-1]["seconds"] = time.monotonic() - begun
            raw[participant] += answers
            for answer in answers:
                if "missing" in answer:
                    missing[participant] = answer["missing"]
    return {
        "title": measure.title, "size": size, "rounds": rounds, "repeats": repeats, "missing": missing,
        "left_out": [participant for participant in measure.participants if participant not in participants],
        "results": summarise(measure, raw), "raw": raw,
    }  # fmt: skip


def summarise(measure, raw):
    """Return {participant: {metric: median, spread, ratios}, "note"} of the completed repeats."""
    results = {}
    for participant, answers in raw.items():
        complete = [answer for answer in answers if "metrics" in answer]
        if complete:
            results[participant] = {"note": complete[-1]["note"]}
            for metric in measure.metrics:
                values = [value for answer in complete for value in as_list(answer["metrics"].get(metric, []))]
                if values:
                    results[participant][metric] = {
                        "median": statistics.median(values), "min": min(values), "max": max(values),
                        "repeats": len(values),
                    }  # fmt: skip
    for result in results.values():
        for key, metric in measure.metrics.items():
            for word, other in (("procjobs_is_better_by", measure.ours), ("times_the_floor", measure.floor)):
                reference = results.get(other, {}).get(key)
                if key in result and reference:
                    result[key][word] = compare(metric.better, word, reference["median"], result[key]["median"])
    return results


def compare(better, word, reference, value):
    """Return how many times better the reference is than the value, or the value divided by the floor."""
    if word == "times_the_floor":
        return value / reference if reference else 0.0
    above, below = (reference, value) if better == "more" else (value, reference)
    return above / below if below else float("inf")


def as_list(value):
    return value if isinstance(value, list) else [value]
