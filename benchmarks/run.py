"""Measure procjobs beside other pools, in one run on one machine: `python benchmarks/run.py [--quick] [--json FILE]`.

`--report FILE` measures nothing: it writes charts and tables of a run from the file that `--json` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

import machine
import report
import runner
import tables
from measures import MEASURES
from rich.console import Console

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer peers, smaller sizes, no rounds; under two minutes")
    parser.add_argument("--json", metavar="FILE", help="write machine, versions, raw repeats and medians")
    parser.add_argument("--charts", metavar="DIR", help="draw charts of the results")
    parser.add_argument("--only", metavar="MEASURE", action="append", choices=MEASURES, help=", ".join(MEASURES))
    parser.add_argument("--report", metavar="FILE", help="write charts and tables of a run into the documentation")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        runner.measure_here(*options.child)
    elif options.report:
        record = json.loads(Path(options.report).read_text())
        report.write(record, Path(options.charts or DOCS))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running participant is ended as on Ctrl-C
        run(options)


def run(options):
    console = Console(width=None if sys.stdout.isatty() else 170)
    begun = time.monotonic()
    record = {"machine": machine.describe(), "versions": machine.describe_versions(), "quick": options.quick}
    record |= {"when": time.strftime("%Y-%m-%d"), "measures": {}}
    load = record["machine"]["load"][0]
    cpu, cpus = record["machine"]["cpu"], record["machine"]["cpus"]
    console.print(f"{cpu}, {cpus} CPUs, Python {platform.python_version()}, load {load:.2f}")
    if record["machine"]["cpu_shared_by_session"]:
        console.print(
            "The kernel shares the CPUs by session here (autogroup): pools with sessions of their own have an advantage"
            " where CPUs are short, and niceness has little effect. Run in a container or with systemd-run --scope.",
            style="yellow",
        )
    for name in options.only or MEASURES:
        started = time.monotonic()
        record["measures"][name] = measured = runner.run_measure(name, options.quick, console.status)
        measured["seconds"] = time.monotonic() - started
        tables.show(name, measured, console)
        if options.json:  # after each measure, because a run takes long, and an interrupted run should not lose its results
            Path(options.json).write_text(json.dumps(record, indent=1))
    record["seconds"] = time.monotonic() - begun
    record["load_after"] = os.getloadavg()
    console.print(f"{record['seconds']:.0f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1))
    if options.charts:
        report.draw(record, Path(options.charts))


if __name__ == "__main__":
    main()
