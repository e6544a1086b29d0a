"""Measure procjobs beside other pools, in one run on one machine: `python benchmarks/run.py [--quick] [--json FILE]`.

Every participant of a measure runs in a process of its own with a timeout, and in a session of its own, so that a peer
that hangs ends with all its workers. Repeats go round: all participants once, then all again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

from measures import MEASURES
from peers import PEERS, WORKERS
from rich.console import Console
from rich.table import Table

OURS = "procjobs"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, 3 repeats in one process; about two minutes"
    )
    parser.add_argument("--json", metavar="FILE", help="write machine, versions, raw repeats and medians")
    parser.add_argument("--only", metavar="MEASURE", action="append", choices=MEASURES, help=", ".join(MEASURES))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure_here(*options.child)
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    begun = time.monotonic()
    record = {"machine": describe_machine(), "versions": describe_versions(), "quick": options.quick, "measures": {}}
    machine, python = record["machine"], platform.python_version()
    console.print(f"{machine['cpu']}, {machine['cpus']} CPUs, Python {python}, load {machine['load'][0]:.2f}")
    for name in options.only or MEASURES:
        record["measures"][name] = measured = run_measure(name, options.quick, console)
        show(name, measured, console)
    record["seconds"] = time.monotonic() - begun
    record["load_after"] = os.getloadavg()
    console.print(f"{record['seconds']:.0f} s")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(record, file, indent=1)


# One participant, in its own process ----------------------------------------------------------------------------


def measure_here(measure, participant, size, repeats):
    """Print one line of JSON per repeat and end without waiting for a pool that may hang."""
    for _ in range(int(repeats)):
        try:
            metrics, note = MEASURES[measure].run(participant, int(size))
            answer = {"metrics": metrics, "note": note}
        except Exception as error:  # noqa: BLE001 - the edge around a peer
            traceback.print_exc()
            answer = {"missing": str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
        if "missing" in answer:
            break
    sys.stderr.flush()
    os._exit(0)


def run_participant(measure, participant, size, repeats):
    """Return what the repeats gave, the last one with the reason if there are fewer."""
    command = [sys.executable, os.path.abspath(__file__), "--child", measure, participant, str(size), str(repeats)]
    timeout = MEASURES[measure].timeout * repeats
    reason = ""
    with (
        tempfile.TemporaryFile("w+") as stdout,
        tempfile.TemporaryFile("w+") as stderr,
    ):  # not pipes: orphans hold those
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            reason = f"hangs: not done after {timeout:g} s"
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
    """End what a participant has left; SIGTERM first, for that resource trackers remove the peers' semaphores."""
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


def run_measure(name, quick, console):
    measure = MEASURES[name]
    size = measure.quick_size if quick else measure.size
    rounds, repeats = (1, measure.quick_repeats) if quick else (5, 1)
    raw = {participant: [] for participant in measure.participants}
    missing = {}
    for turn in range(rounds):
        for participant in measure.participants:
            if participant in missing:
                continue
            begun = time.monotonic()
            with console.status(f"{name} {turn + 1}/{rounds}: {participant}"):
                answers = run_participant(name, participant, size, repeats)
            answers[-1]["seconds"] = time.monotonic() - begun
            raw[participant] += answers
            for answer in answers:
                if "missing" in answer:
                    missing[participant] = answer["missing"]
    return {"title": measure.title, "size": size, "raw": raw, "missing": missing, "results": summarise(measure, raw)}


def summarise(measure, raw):
    results = {}
    for participant, answers in raw.items():
        complete = [answer for answer in answers if "metrics" in answer]
        if complete:
            results[participant] = {"note": complete[-1]["note"]}
            for metric in measure.metrics:
                values = [value for answer in complete for value in as_list(answer["metrics"][metric])]
                results[participant][metric] = {
                    "median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values),
                }  # fmt: skip
    for participant in results:
        for key, metric in measure.metrics.items():
            if OURS in results:
                ours, theirs = results[OURS][key]["median"], results[participant][key]["median"]
                ratio = ours / theirs if metric.better == "more" else theirs / ours
                results[participant][key]["procjobs_is_better_by"] = ratio
    return results


def as_list(value):
    return value if isinstance(value, list) else [value]


def show(name, measured, console):
    measure = MEASURES[name]
    table = Table(title=f"{name}: {measured['title']} ({measured['size']})", title_justify="left", title_style="bold")
    table.add_column("")
    for metric in measure.metrics.values():
        table.add_column(f"{metric.label}, {metric.unit}", justify="right")
        table.add_column("min - max", justify="right", style="dim")
        table.add_column("procjobs is\nbetter by", justify="right")
    table.add_column("")
    for participant in measure.participants:
        result, reason = measured["results"].get(participant), measured["missing"].get(participant, "")
        cells = []
        for key in measure.metrics:
            if result is None:
                cells += ["missing", "", ""]
                continue
            value, ratio = result[key], result[key].get("procjobs_is_better_by")
            style = "" if ratio is None or participant == OURS else ("green" if ratio >= 1 else "red")
            shown = "" if ratio is None or participant == OURS else f"[{style}]{ratio:.3g} x[/]"
            cells += [number(value["median"]), f"{number(value['min'])} - {number(value['max'])}", shown]
        note = result["note"] if result else ""
        if reason:
            note = f"{note} {reason}".strip()
        table.add_row(participant, *cells, note, style="bold" if participant == OURS else "")
    console.print(table)


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def describe_machine():
    cpu = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), cpu)
    return {
        "cpu": cpu or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load": os.getloadavg(),
        "workers": WORKERS,
    }


def describe_versions():
    versions = {"python": sys.version}
    for peer in PEERS.values():
        if peer.distribution:
            try:
                versions[peer.distribution] = importlib.metadata.version(peer.distribution)
            except importlib.metadata.PackageNotFoundError:
                versions[peer.distribution] = "not installed"
    return versions


if __name__ == "__main__":
    main()
