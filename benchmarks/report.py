"""Writes a run into the documentation: charts, the table of goals, and all tables. Nobody copies numbers by hand."""

from __future__ import annotations

import re
from pathlib import Path

import tables
from measures import MEASURES

HERE = Path(__file__).parent
GOALS_FILE = HERE / "README.md"
BEGIN, END = "<!-- goals: written by run.py --report -->", "<!-- end of goals -->"
PREFACE = """\
`benchmarks/run.py --report` writes this file. [benchmarks/README.md](../../benchmarks/README.md) explains the measures.
Values are medians. *Better by*: twice the rate or half the time is 2 x; below 1 procjobs is worse. *Of the floor*: the
value divided by the value of the floor."""
EXECUTOR, POOL = "ProcessPoolExecutor(fork)", "multiprocessing.Pool"


def draw(record, directory):
    try:
        import charts
    except ModuleNotFoundError as error:
        print(f"no charts: {error.name} is not installed")
        return []
    drawn = charts.draw_all(record, directory)
    for path in drawn:
        print(path)
    return drawn


def write(record, directory):
    """Write charts and tables into `directory`, and the table of goals into the README of the benchmarks."""
    drawn = draw(record, directory)
    path = Path(directory, "README.md")
    path.write_text(all_tables(record, drawn))
    print(path)
    text = GOALS_FILE.read_text()
    block = f"{BEGIN}\n\n{goals_table(record)}\n{END}"
    GOALS_FILE.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, text, flags=re.DOTALL))
    print(GOALS_FILE)


def describe(record):
    machine, versions = record["machine"], record["versions"]
    load = f"load {machine['load'][0]:.2f} before and {record.get('load_after', [float('nan')])[0]:.2f} after"
    gigabytes = machine["memory_bytes"] / 2**30
    words = [machine["cpu"], f"{machine['cpus']} CPUs", f"{gigabytes:.0f} GB", f"Linux {machine['kernel']}"]
    words += [f"Python {versions['python'].split()[0]}", record["when"], load]
    if record["quick"]:
        words.append("--quick")
    if machine["cpu_shared_by_session"]:
        words.append("CPU shared by session (autogroup)")
    return ", ".join(words)


# The goals ------------------------------------------------------------------------------------------------------


class Numbers:
    """The medians of a run. A KeyError means that a value was not measured."""

    def __init__(self, record):
        self.measures = record["measures"]

    def median(self, measure, metric, participant="procjobs"):
        return self.measures[measure]["results"][participant][metric]["median"]

    def ratio(self, measure, metric, participant):
        return self.measures[measure]["results"][participant][metric]["procjobs_is_better_by"]

    def floor(self, measure, metric):
        return self.measures[measure]["results"]["procjobs"][metric]["times_the_floor"]


def below(measure, metric, unit, bound):
    def judge(numbers):
        value = numbers.median(measure, metric)
        return f"{tables.number(value)} {unit}", value <= bound

    return judge


def judge_throughput(numbers):
    pool, executor = numbers.ratio("throughput", "rate", POOL), numbers.ratio("throughput", "rate", EXECUTOR)
    rate = tables.number(numbers.median("throughput", "rate"))
    return f"{pool:.2g} x and {executor:.2g} x ({rate} jobs/s)", pool >= 2 and executor >= 5


def judge_round_trip(numbers):
    ours, theirs = numbers.median("roundtrip", "p50"), numbers.median("roundtrip", "p50", EXECUTOR)
    return f"{ours / theirs:.2g} x ({ours:.0f} us; {theirs:.0f} us)", ours <= theirs


def judge_array(numbers):
    argument, echo = numbers.floor("array", "argument"), numbers.floor("array", "echo")
    return f"{argument:.2g} x and {echo:.2g} x", max(argument, echo) <= 1.3


GOALS = [
    ("no-op jobs per second", "2 x multiprocessing.Pool and 5 x ProcessPoolExecutor", judge_throughput),
    ("submit to result, p50", "not above ProcessPoolExecutor", judge_round_trip),
    ("submit() in the caller", "10 us", below("submit", "mean", "us", 10)),
    ("progress() in a job", "1.5 us", below("progress", "write", "us", 1.5)),
    ("status by id from another process", "5 us", below("status", "read", "us", 5)),
    ("100 MB array as argument, echoed back", "1.3 x the floor", judge_array),
    ("worker killed, next job done by its successor", "20 ms", below("kill", "next", "ms", 20)),
    ("a timeout's lateness", "10 ms", below("timeout", "late", "ms", 10)),
]


def goals_table(record):
    lines = [f"{describe(record)}.", "", "| measure | goal | this run | met |", "|---|---|---:|---|"]
    for title, goal, judge in GOALS:
        try:
            text, met = judge(Numbers(record))
        except KeyError:
            lines.append(f"| {title} | {goal} | not measured | |")
        else:
            lines.append(f"| {title} | {goal} | {text} | {'yes' if met else 'no'} |")
    return "\n".join(lines) + "\n"


# All tables -----------------------------------------------------------------------------------------------------


def all_tables(record, drawn):
    versions = ", ".join(f"{name} {text.split()[0]}" for name, text in record["versions"].items() if " v=" not in text)
    parts = [
        "# A run of the benchmarks",
        PREFACE,
        f"{describe(record)}. {versions}.",
        *(f"![{path.stem}]({path.name})" for path in drawn),
        *(tables.markdown(name, record["measures"][name]) for name in MEASURES if name in record["measures"]),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"
