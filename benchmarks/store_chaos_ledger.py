"""The ledger of store_chaos.py: what jobs did and clients were promised, compared with each other and with the store.

A line has an event, its fields, and the time (CLOCK_MONOTONIC): jobs write `began`, `raised` and `ended`, clients what they
submit and hear, fault points where they act, the chaos which processes it kills.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

from store_chaos_plan import BACKOFF, KINDS, UNTAKEN

CANCEL_GRACE = 3.0
"""How long after a confirmed cancel() a run may begin: as long as a supervisor is stopped, or a successor starts."""
CANCEL_BY_ID_GRACE = 0.3
LATENESS = 0.02
OUTCOMES = {
    "succeeded": ("succeeded", None),
    "PlannedFailure": ("failed", "raised"),
    "WorkerCrashed": ("failed", "crashed"),
    "JobQuarantined": ("failed", "quarantined"),
}
FINAL = {*OUTCOMES, "JobCancelled"}
MAX_INTERRUPTED = 10


class Run(NamedTuple):
    """One attempt as its process has written it; `raised` and `ended` are None if it did not come to that."""

    job: str
    attempt: int
    pid: str
    token: str
    name: str
    began: float
    raised: float | None
    ended: float | None


class Fault(NamedTuple):
    """A broken promise."""

    what: str
    about: str

    def __str__(self):
        return f"{self.what}: {self.about}"


class Ledger:
    """Everything that was written down in a chapter; `seen` is what was seen besides.

    `rows` and `attempts` are the store's; `rows` is None for a pool without one, where other promises hold: a job may be
    lost, and its handle says so, but no attempt is begun twice.
    """

    def __init__(self, path, rows, attempts, seen=()):
        self.events = defaultdict(list)
        for line in open(path) if os.path.exists(path) else ():  # noqa: SIM115 - read to its end at once
            if line.endswith(" .\n"):
                event, *fields, at, _ = line.split()
                self.events[event].append((*fields, float(at)))
        self.has_store = rows is not None
        self.rows = {row.id: row for row in rows or ()}
        self.attempts = attempts
        self.seen = [*seen]
        self.runs = self._read_runs()
        self.killed = {pid for pid, _ in self.events["killed"]} | {f[2] for f in self.events["fault"] if f[1] == "KILL"}
        self.answers = {fields[0]: fields for fields in self.events["answered"]}

    def _read_runs(self):
        ends = {event: {fields[:3]: fields[-1] for fields in self.events[event]} for event in ("raised", "ended")}
        runs = defaultdict(list)
        for job, attempt, pid, token, name, began in sorted(self.events["began"], key=lambda fields: fields[-1]):
            key = job, attempt, pid
            raised, ended = (ends[event].get(key) for event in ("raised", "ended"))
            runs[job].append(Run(job, int(attempt), pid, token, name, began, raised, ended))
        return runs

    def count(self):
        """Return how much has happened."""
        runs = [run for runs in self.runs.values() for run in runs]
        states = Counter(row.state for row in self.rows.values())
        return Counter({
            "jobs": len(self.rows), **states, "runs": len(runs), "interrupted": sum(r.cut_off for r in self.rows.values()),
            "acknowledged": len(self._promised()), "answered": len(self.answers), "faults acted": len(self.events["fault"]),
            "killed": len(self.events["killed"]), "lost": sum(a[1] == "SupervisorLost" for a in self.answers.values()),
        })  # fmt: skip

    def _promised(self):
        return {fields[0] for event in ("acknowledged", "committed") for fields in self.events[event]}

    def examine(self):
        """Return all broken promises."""
        found = [Fault(*pair) for pair in self.seen]
        checks = (
            self._find_lost, self._find_hung, self._find_wrong_answers, self._find_late_runs, self._find_uncancelled,
            self._find_doubled, self._find_overlaps,
            self._find_not_unique, self._find_rolled_back, self._find_wrong_accounts, self._find_too_early,
            self._find_without_cause, self._find_mixed, self._find_begun_twice,
        )  # fmt: skip
        without = self._find_hung, self._find_late_runs, self._find_doubled, self._find_overlaps, self._find_begun_twice
        for check in checks if self.has_store else without:
            found += [Fault(what, f"{about}; {self._describe(job)}") for what, job, about in check()]
        return found

    def _describe(self, job):
        row = self.rows.get(job)
        story = [(at, f"{event} {' '.join(fields[1:])}") for event, every in self.events.items()
                 for *fields, at in every if fields and fields[0] == job]  # fmt: skip
        text = ", ".join(f"{event} {at:.3f}" for at, event in sorted(story))
        shown = None if row is None else (row.name, row.state, row.reason, row.attempt, row.cut_off)
        return f"job {job}: row {shown}, {text}"

    # Checks ---------------------------------------------------------------------------------------------------

    def _find_lost(self):
        for job in self._promised() - self.rows.keys():
            yield "acknowledged and lost", job, "the store does not have it"
        for job, row in self.rows.items():
            if row.finished_at is None:
                yield "never ended", job, "acknowledged" if job in self._promised() else "not acknowledged"
            elif row.state not in {"succeeded", "failed", "cancelled"}:
                yield "a wrong end", job, row.state
            elif row.state == "succeeded" and not any(run.ended for run in self.runs[job]):
                yield "succeeded without a run", job, "no run has come to its end"
        for job in self.runs.keys() - self.rows.keys():
            yield "ran, and is not in the store", job, ""

    def _find_hung(self):
        for job, _ in self.events["hung"]:
            yield "a handle hangs", job, "no answer at the end"

    def _find_wrong_answers(self):
        cancelled = {fields[0] for fields in self.events["cancelled"]} | {f[0] for f in self.events["cancelling"]}
        for job, outcome, value, _ in self.events["answered"]:
            row = self.rows.get(job)
            if outcome == "JobCancelled":
                if job not in cancelled and (row is None or row.state != "cancelled"):
                    yield "an answer contradicts the store", job, outcome
            elif outcome in OUTCOMES:
                if row is None or (row.state, row.reason) != OUTCOMES[outcome]:
                    yield "an answer contradicts the store", job, outcome
                elif outcome == "succeeded" and value not in {run.token for run in self.runs[job]}:
                    yield "a wrong result", job, value
            elif outcome not in UNTAKEN or outcome in {"StoreUnavailable", "UnknownJob"}:
                yield "an unexpected answer", job, outcome

    def _find_late_runs(self):
        for job, outcome, _, at in self.events["answered"]:
            if outcome in OUTCOMES:
                for run in self.runs[job]:
                    if run.began > at:
                        yield "run after its answer", job, f"attempt {run.attempt}"

    def _find_uncancelled(self):
        troubles = ("killed", "fault", "stopped", "left")
        troubled = [(fields[-2], fields[-1]) for event in troubles for fields in self.events[event]]
        for job, pid, at in self.events["cancelled"]:
            for run in self.runs[job]:
                if max(run.began, run.ended or 0.0) <= at + CANCEL_GRACE:
                    continue
                # Until the store has it, its client alone knows of it, and tells one supervisor after the other. One that it
                # has not started itself after a stop may give the job out before.
                is_alone = any(other == pid and at - 0.1 <= then <= run.began for other, then in troubled)
                is_stopped = any(at - CANCEL_GRACE <= then <= run.began for _, then in self.events["stops"])
                if not (is_alone or is_stopped or self._had_second(at, run.began)):
                    yield "run after cancel()", job, f"attempt {run.attempt}"
        for job, at in self.events["cancelled-by-id"]:
            for run in self.runs[job]:
                if run.began > at + CANCEL_BY_ID_GRACE:
                    yield "run after cancel(id)", job, f"attempt {run.attempt}"
            if job in self.rows and self.rows[job].state != "cancelled":
                yield "cancelled and not cancelled", job, self.rows[job].state

    def _had_second(self, begin, end):
        """Return whether there was a second supervisor, which a client of the first cannot reach, at some time."""
        before = [event for event, at in self.events["second"] if at <= begin]
        between = [event for event, at in self.events["second"] if begin < at <= end]
        return before[-1:] == ["begins"] or "begins" in between

    def _find_doubled(self):
        for job, runs in self.runs.items():
            for first, second in pairwise(runs):
                if max(first.ended or 0.0, first.raised or 0.0) > second.began:
                    yield "two runs at one time", job, f"attempts {first.attempt} and {second.attempt}"

    def _find_overlaps(self):
        by_key = defaultdict(list)
        for runs in self.runs.values():
            if runs and "-" in runs[0].name:
                by_key[runs[0].name] += runs
        for name, runs in by_key.items():
            runs.sort(key=lambda run: run.began)
            for first, second in pairwise(runs):
                if first.job != second.job and (first.ended or 0.0) > second.began:
                    yield "two jobs of one key run at one time", second.job, f"{name}, with {first.job}"

    def _find_not_unique(self):
        lifetimes = defaultdict(list)
        for job, runs in self.runs.items():
            name = runs[0].name if runs else ""
            if name.startswith("unique") and any(run.ended for run in runs):
                lifetimes[name].append((runs[0].began, max(run.ended or 0.0 for run in runs), job))
        for name, lives in lifetimes.items():
            for (_, ended, first), (began, _, second) in pairwise(sorted(lives)):
                if began < ended:
                    yield "two unfinished jobs of a unique key", second, f"{name}, with {first}"

    def _find_rolled_back(self):
        for job, _ in self.events["rolls-back"]:
            if self.runs[job] or job in self.rows:
                yield "rolled back and taken", job, f"{len(self.runs[job])} runs"

    def _find_wrong_accounts(self):
        for job, row in self.rows.items():
            runs, retries = self.runs[job], KINDS[row.name.partition("-")[0]].get("retries", 0)
            numbers = Counter(run.attempt for run in runs)
            spent = row.attempt - row.cut_off
            killed = sum(run.pid in self.killed for run in runs)
            if max(numbers, default=0) > row.attempt:
                yield "a run that the store does not count", job, str(dict(numbers))
            if spent > 1 + retries:
                yield "more attempts than retries", job, f"{spent} that were not interrupted"
            if row.reason == "raised" and spent < 1 + retries:
                yield "given up too early", job, f"after {spent} attempts that were not interrupted"
            if sum(run.ended is not None for run in runs) > 1 + row.cut_off + killed:
                yield "ended twice", job, ""
        open_accounts = {r.job_id for r in self.attempts if r.ended_at is None and r.job_id in self.rows}
        for job in open_accounts:
            if self.rows[job].finished_at is not None:
                yield "an attempt without an end", job, ""
        unseen = sum(max(row.attempt - len(self.runs[job]), 0) for job, row in self.rows.items())
        explained = sum(row.cut_off for row in self.rows.values()) + len(self.killed)
        if unseen > explained:
            yield "attempts of nobody", "", f"{unseen} attempts never began, {explained} of them have a reason"

    def _find_begun_twice(self):
        for job, runs in self.runs.items():
            numbers = Counter(run.attempt for run in runs)
            if max(numbers.values(), default=0) > 1:
                yield "an attempt begun twice", job, str(dict(numbers))

    def _find_too_early(self):
        delays = {token: (at + float(delay)) for token, _, delay, at in self.events["submits"]}
        for job, runs in self.runs.items():
            if runs and runs[0].began < delays.get(runs[0].token, 0.0) - LATENESS:
                yield "started before its delay", job, f"{delays[runs[0].token] - runs[0].began:.2f} s early"
            row = self.rows.get(job)
            if row is None or row.cut_off or row.name != "retried":
                continue
            for first, second in pairwise(runs):
                pause = BACKOFF / 2 * 2.0 ** (first.attempt - 1)
                if first.raised and second.attempt == first.attempt + 1 and second.began - first.raised < pause - LATENESS:
                    yield "a retry too early", job, f"after {second.began - first.raised:.2f} s of {pause:.2f} s"

    def _find_without_cause(self):
        asked = {fields[0] for event in ("cancelling", "cancelled-by-id") for fields in self.events[event]}
        for job, row in self.rows.items():
            runs = self.runs[job]
            last = [run.pid for run in runs if run.attempt == row.attempt]
            if row.reason == "crashed" and (last[-1:] and last[-1] not in self.killed):
                yield "crashed without a cause", job, f"process {last[-1]} was not killed"
            if row.reason == "quarantined" and row.cut_off < MAX_INTERRUPTED:
                crashes = sum(run.pid in self.killed for run in runs)
                if crashes < 2:
                    yield "quarantined without a cause", job, f"{crashes} crashes"
            if row.state == "cancelled" and job not in asked:
                yield "cancelled without a cause", job, ""
            if row.reason == "raised" and row.name != "failing":
                yield "failed without a cause", job, ""

    def _find_mixed(self):
        submitted = {job: (token, name) for job, token, name, _ in self.events["submitted"] if not name.startswith("unique")}
        for job, runs in self.runs.items():
            for run in runs:
                if submitted.get(job, (run.token, run.name)) != (run.token, run.name):
                    yield "another call was run", job, run.token
                elif job in self.rows and self.rows[job].name != run.name:
                    yield "a call with options of another one", job, run.name
