"""A client of chaos.py, a program of its own: `chaos_client.py ROLE LABEL POOL WORKERS SEED UNTIL PATIENCE PARENT`.

It submits jobs until the monotonic time UNTIL, and then has PATIENCE seconds for all answers. It writes into the file
`events`: submitted and refused jobs, answers, jobs that hang, the number of descriptors.
"""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import random
import signal
import sys
import time
from contextlib import suppress

import chaos_jobs
from chaos_jobs import append, make_plan, open_pool

import procjobs
from procjobs.host import process

MAX_PENDING = 60
STATES = {"JobCancelled": "cancelled", "JobExpired": "expired", "": "succeeded"}


class Pending:
    """A submitted job without an answer so far."""

    def __init__(self, plan, job=None):
        self.plan = plan
        self.job = job
        self.task = None
        self.was_cancelled = False


class Submissions:
    """Submits jobs, and records the outcome of each under a token of its own."""

    def __init__(self, pool, label):
        self._pool = pool
        self.label = label
        self._count = 0
        self._done = queue.SimpleQueue()
        self.pending = {}

    def submit(self, plan):
        """Submit a job, and return whether the pool accepted it."""
        token = self._new_token()
        try:
            job = self._pool.options(**plan.options).submit(plan.function, token, *plan.args)
        except procjobs.ProcjobsError as error:
            append("events", "refused", token, type(error).__name__, time.monotonic(), str(error)[:500])
            return not isinstance(error, procjobs.QueueFull)
        self._record_submitted(token, plan, job.id)
        self.pending[token] = Pending(plan, job)
        job.add_done_callback(lambda _: self._done.put(token))
        return True

    async def run(self, plan):
        """Submit and await a job as asyncio programs do; the job's id is not known here."""
        token = self._new_token()
        self._record_submitted(token, plan, None)
        self.pending[token] = pending = Pending(plan)
        pending.task = asyncio.current_task()
        try:
            outcome = await self._pool.options(**plan.options).run(plan.function, token, *plan.args)
        except asyncio.CancelledError:
            outcome = procjobs.JobCancelled("", job_id=None)
        except Exception as error:  # noqa: BLE001 - the edge around a job
            outcome = error
        if self.pending.pop(token, None) is not None:  # otherwise the job has been given up
            self._record_answer(token, pending, outcome)

    def _new_token(self):
        self._count += 1
        return f"{self.label}.{self._count}"

    @staticmethod
    def _record_submitted(token, plan, job_id):
        starts = 1 + plan.options.get("retries", 0)
        append("events", "submitted", token, plan.function.__name__, starts, job_id, time.monotonic())

    def take_answers(self, timeout):
        """Wait for an answer, and check all answers that are there."""
        with suppress(queue.Empty):
            token = self._done.get(timeout=timeout)
            while True:
                self._check_answer(token)
                token = self._done.get_nowait()

    def _check_answer(self, token):
        pending = self.pending.pop(token, None)
        if pending is None:
            append("events", "again", token)
            return
        try:
            outcome = pending.job.exception(0) or pending.job.result(0)
        except procjobs.JobCancelled as error:
            outcome = error
        self._record_answer(token, pending, outcome)

    def _record_answer(self, token, pending, outcome):
        error = outcome if isinstance(outcome, Exception) else None
        name = type(error).__name__ if error else ""
        verdict = "right" if pending.plan.is_right(outcome) else f"{outcome!r}"[:1000]
        if verdict == "right" and pending.job is not None and name != "PayloadError":  # the pool may not have such a job
            verdict = self._compare_status(pending.job, STATES.get(name, "failed")) or verdict
        if name == "JobCancelled" and pending.was_cancelled:
            verdict = "right"
        details = getattr(error, "signal", None), getattr(error, "attempt", None)
        append("events", "answered", token, STATES.get(name, "failed"), name, verdict, *details, time.monotonic())

    def _compare_status(self, job, state):
        """Return a description of the error if the shared table and the handle have different states."""
        with suppress(procjobs.UnknownJob):
            shown = self._pool.status(job.id)
            if shown.state != state:
                return f"the answer says {state}, the table {shown}"
        return None

    def cancel_one(self, rng):
        """Cancel a job by its handle, by its id, or by the task that awaits it."""
        pending = self.pending[rng.choice(list(self.pending))]
        pending.was_cancelled = True
        if pending.task is not None:
            pending.task.cancel()
        elif rng.random() < 0.5:
            pending.job.cancel()
        else:
            self._cancel_by_id(pending.job.id)

    def _cancel_by_id(self, job_id):
        with suppress(procjobs.UnknownJob, procjobs.SupervisorError):
            self._pool.cancel(job_id)

    def wait_all(self, deadline):
        """Take all answers; jobs without an answer at the deadline hang."""
        while self.pending and time.monotonic() < deadline:
            self.take_answers(0.2)
        for token, pending in self.pending.items():
            append("events", "hung", token, f"{pending.job and pending.job.status()}")
        self.pending.clear()


# Roles ----------------------------------------------------------------------------------------------------------


def submit_jobs(submissions, rng, until, *, cancels=False):
    while time.monotonic() < until:
        if len(submissions.pending) < MAX_PENDING:
            for _ in range(rng.choice((1, 1, 2, 5, 30))):
                submissions.submit(make_plan(rng))
        if cancels and submissions.pending and rng.random() < 0.6:
            submissions.cancel_one(rng)
        submissions.take_answers(rng.uniform(0.001, 0.08))


def submit_and_wait(submissions, rng, until, patience):
    submit_jobs(submissions, rng, until)
    submissions.wait_all(until + patience)


def submit_and_cancel(submissions, rng, until, patience):
    submit_jobs(submissions, rng, until, cancels=True)
    submissions.wait_all(until + patience)


def submit_and_leave(submissions, rng, until, _patience):
    """Exit or be killed without waiting for answers."""
    submit_jobs(submissions, rng, min(until, time.monotonic() + rng.uniform(0.1, 2.0)))
    if rng.random() < 0.5:
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


async def await_runs(submissions, rng, until, patience):
    tasks = set()
    while time.monotonic() < until:
        if len(tasks) < MAX_PENDING:
            task = asyncio.create_task(submissions.run(make_plan(rng)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if submissions.pending and rng.random() < 0.03:
            submissions.cancel_one(rng)
        await asyncio.sleep(rng.uniform(0.0, 0.03))
    if tasks:
        await asyncio.wait(tasks, timeout=until + patience - time.monotonic())
    submissions.wait_all(0)


def submit_and_await(submissions, rng, until, patience):
    asyncio.run(await_runs(submissions, rng, until, patience))


ROLES = {"waits": submit_and_wait, "awaits": submit_and_await, "cancels": submit_and_cancel, "leaves": submit_and_leave}


def count_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def count_while_connected(pool):
    """Count the descriptors of this process while it is connected: without a connection its socket would be missing."""
    while True:
        with suppress(procjobs.ProcjobsError):
            pool.submit(chaos_jobs.probe).result(20)
            supervisor, count = pool.stats().supervisor_pid, count_descriptors()
            pool.submit(chaos_jobs.probe).result(20)
            if pool.stats().supervisor_pid == supervisor:
                return count


def main(role, label, name, workers, seed, until, patience, parent):
    process.die_with_parent(int(parent))
    pool = open_pool(name, int(workers), version="b" if role == "awaits" else "a")
    before = count_while_connected(pool)
    submissions = Submissions(pool, label)
    ROLES[role](submissions, random.Random(f"{seed}/{label}"), float(until), float(patience))
    append("events", "left", label, before, count_descriptors())
    pool.shutdown(wait=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
