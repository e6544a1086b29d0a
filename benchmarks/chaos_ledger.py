"""The outcome of a run of chaos.py, counted from the lines that its jobs and clients have appended."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from typing import NamedTuple

REASONS = {
    "JobTimeout": "timeout", "WorkerCrashed": "crashed", "PayloadError": "payload", "QueueFull": "rejected",
    "JobCancelled": "cancelled", "JobExpired": "expired", "SupervisorLost": "supervisor lost",
    "PoolClosed": "stopped", "": "",
}  # fmt: skip
KILLS_CHILDREN = {"WorkerCrashed", "JobTimeout", "JobCancelled", "SupervisorLost"}
BLAMES_SUPERVISOR = {"SupervisorLost", "SupervisorError"}
MUST_BE_ZERO = (
    "lost", "run too often", "answered twice", "hung", "wrong results", "wrong refusals", "clients broken",
    "floods without QueueFull", "never recovered", "complaints in the log", "children of dead jobs", "processes left",
    "files left", "descriptors left",
)  # fmt: skip


class Kill(NamedTuple):
    """A signal that the killer has sent; `kind` is the kind of process that got it."""

    kind: str
    pid: int
    at: float


def read_lines(path):
    try:
        with open(path) as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


class Ledger:
    """Compares submissions, starts, answers and kills."""

    def __init__(self, directory, kills):
        self._kills = kills
        self._unused_kills = set(kills)
        self._killed = {kill.pid for kill in kills}
        self._starts = {}
        for token, job_id, attempt, pid in read_lines(f"{directory}/starts"):
            self._starts.setdefault(token, []).append((attempt, pid, job_id))
        self._events = {}
        for kind, *fields in read_lines(f"{directory}/events"):
            self._events.setdefault(kind, []).append(fields)
        self._submitted = {fields[0]: fields for fields in self._of("submitted")}
        self._answered = {fields[0]: fields for fields in self._of("answered")}

    def _of(self, kind):
        return self._events.get(kind, [])

    def counts(self):
        """Return all counts that need no judgement about faults."""
        ends = Counter((state, REASONS.get(error, "raised"), error) for _, state, error, *_ in self._answered.values())
        return {
            "submitted": len(self._submitted),
            "started": sum(map(len, self._starts.values())),
            "refused": dict(Counter(fields[1] for fields in self._of("refused"))),
            "ended": {" / ".join(filter(None, end)): count for end, count in ends.most_common()},
            "left by their clients": len(self._submitted) - len(self._answered) - len(self._of("hung")),
            "signals": dict(Counter(kill.kind for kill in self._kills)),
        }

    def faults(self):
        """Return {kind of fault: [each case]}."""
        return {
            "lost": [*self._unanswered(), *self._lost_for_no_reason()],
            "run too often": self._run_too_often(),
            "answered twice": [fields[0] for fields in self._of("again")] + self._doubled(),
            "hung": [self._describe(token, shown) for token, shown in self._of("hung")],
            "wrong results": [self._describe(a[0], *a[2:]) for a in self._answered.values() if not self._is_right(a)],
            "wrong refusals": [fields for fields in self._of("refused") if not self._is_rightly_refused(*fields)],
            "descriptors left": [fields for fields in self._of("left") if fields[2] > fields[1]],
        }

    def children_of_dead_jobs(self, children):
        """Return the processes of {pid: token} whose jobs ended in a way that should have killed their children."""
        dead = {token for token, answer in self._answered.items() if answer[2] in KILLS_CHILDREN}
        return [f"process {pid} of {self._describe(token)}" for pid, token in children.items() if token in dead]

    def _describe(self, token, *more):
        _, name, max_starts, job_id, at = self._submitted.get(token, (token, "?", 0, None, 0.0))
        starts = self._starts.get(token, [])
        job_id = job_id or (starts[0][2] if starts else None)
        runs = [f"attempt {attempt} in {pid}" for attempt, pid, _ in starts]
        return f"{token} {name} job {job_id} submitted at {at:.3f}, at most {max_starts} starts, had {runs}: {more}"

    def _unanswered(self):
        stayed = {fields[0] for fields in self._of("left")}
        hung = {fields[0] for fields in self._of("hung")}
        open_tokens = self._submitted.keys() - self._answered.keys() - hung
        return [self._describe(token) for token in open_tokens if token.rpartition(".")[0] in stayed]

    def _lost_for_no_reason(self):
        lost = [a for a in self._answered.values() if a[2] in BLAMES_SUPERVISOR]
        return [self._describe(a[0], *a[2:]) for a in lost if not self._was_killed("supervisor", *self._span(a))]

    def _span(self, answer):
        return self._submitted[answer[0]][4], answer[-1]

    def _was_killed(self, kind, since, until):
        return any(kill.kind == kind and since - 5.0 <= kill.at <= until for kill in self._kills)

    def _run_too_often(self):
        found = []
        for token, starts in self._starts.items():
            max_starts = self._submitted[token][2] if token in self._submitted else 3
            if len(starts) > max_starts or len({attempt for attempt, *_ in starts}) < len(starts):
                found.append(self._describe(token))
        return found

    def _doubled(self):
        counts = Counter(fields[0] for fields in self._of("answered"))
        return [self._describe(token) for token, count in counts.items() if count > 1]

    def _is_right(self, answer):
        """Return whether an answer is the expected outcome of the job, or the effect of a kill."""
        token, _, error, verdict, number, attempt, _ = answer
        if error in {"WorkerCrashed", "JobTimeout"} and attempt != self._submitted[token][2]:
            return False  # the job should have been retried
        if verdict == "right" or error == "QueueFull" or error in BLAMES_SUPERVISOR:  # `lost` checks these errors
            return True
        return error == "WorkerCrashed" and number == 9 and self._was_worker_killed(token, attempt, *self._span(answer))

    def _was_worker_killed(self, token, attempt, since, until):
        pids = [pid for started, pid, _ in self._starts.get(token, []) if started == attempt]
        if not pids:  # the worker died between its mark in the table and its line in the file: one job for each kill
            kill = next((k for k in self._unused_kills if k.kind == "worker" and since - 1.0 <= k.at <= until), None)
            self._unused_kills.discard(kill)
            return kill is not None
        return pids[-1] in self._killed

    def _is_rightly_refused(self, _token, error, at, _text):
        return error == "QueueFull" or (error in BLAMES_SUPERVISOR and self._was_killed("supervisor", at - 10.0, at))


def summarise_recoveries(recoveries):
    """Return {kind: median and maximum of the seconds}."""
    return {
        kind: {"count": len(times), "median": statistics.median(times), "max": max(times)}
        for kind, times in recoveries.items()
        if times
    }
