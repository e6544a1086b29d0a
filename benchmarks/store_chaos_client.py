"""A client of store_chaos.py: it submits jobs of all kinds, and writes into the ledger what it was promised.

    python store_chaos_client.py JSON      {"pool", "store", "base", "seed", "actions"}

It submits until the file `settle` is there, waits for all answers that it is owed, and ends. With "finish" it submits
nothing: it waits until nothing of the pool is unfinished in the store, and stops the pool.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
import warnings

import psutil
import store_chaos_jobs
from procjobs._faults import DIRECTORY, note, show_stacks
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from store_chaos_plan import FAILURES, KINDS, SECONDS, UNFINISHED, UNTAKEN, WEIGHTS

import procjobs

SETTLE_TIMEOUT = 30.0
MAX_OUTSTANDING = 60

class Client:
    def __init__(self, pool, store, base, seed, actions):
        self._name, self._store, self._base = pool, store, base
        self._chance = random.Random(seed)
        self._engine = create_engine(store, poolclass=NullPool, **_waits(store)) if store else None
        self._actions = actions
        self._outstanding = {}
        self._known = []
        self._count = 0
        self._has_shown = False
        self._pool = self._open()

    def _open(self):
        return procjobs.Pool(
            self._name, directory=self._base, store=self._store, workers=3, preload=["store_chaos_jobs"], linger=60.0,
            grace_period=1.0,
        )  # fmt: skip

    def run(self):
        """Do one thing after the other until the chaos is over, and wait for the rest."""
        own = {"submit": self._burst, "cancel": self._cancel, "cancel_id": self._cancel_by_id, "commit": self._commit,
               "restart": self._restart, "leave": self._leave}  # fmt: skip
        actions = [own[name] for name in self._actions if name in own]
        weights = [{"submit": 12, "cancel": 3, "cancel_id": 3, "commit": 2, "restart": 0.3, "leave": 0.3}[name]
                   for name in self._actions if name in own]  # fmt: skip
        while not os.path.exists(f"{os.environ[DIRECTORY]}/settle"):
            try:
                self._chance.choices(actions, weights)[0]()
            except (procjobs.ProcjobsError, SQLAlchemyError, TimeoutError) as error:
                note("error", type(error).__name__)
                time.sleep(0.02)
            self._wait_for_room()
        self._settle()

    def _wait_for_room(self):
        for job in list(self._outstanding.values())[: self._chance.randrange(4)]:
            with contextlib.suppress(Exception):
                job.exception(0.05)
        self._drop_done()
        while len(self._outstanding) > MAX_OUTSTANDING and not os.path.exists(f"{os.environ[DIRECTORY]}/settle"):
            time.sleep(0.01)
            self._drop_done()

    def _drop_done(self):
        self._outstanding = {job_id: job for job_id, job in self._outstanding.items() if not job.done()}

    # Actions --------------------------------------------------------------------------------------------------

    def _burst(self):
        burst = [job for _ in range(self._chance.randint(1, 8)) if (job := self._submit()) is not None]
        if self._chance.random() < 0.5:
            for job in burst:
                self._wait_accepted(job)

    def _wait_accepted(self, job):
        job.wait_accepted(3.0)
        if not (job.done() and (job.cancelled() or type(job.exception(0)).__name__ in UNTAKEN)):
            note("acknowledged", job.id)

    def _plan(self):
        """Return (token, name, seconds, failures) and the options of a job."""
        kinds = [kind for kind in KINDS if kind != "unique" or "unique" in self._actions]
        kind = self._chance.choices(kinds, WEIGHTS[: len(kinds)])[0]
        self._count += 1
        token, name, options = f"{os.getpid()}-{self._count}", kind, dict(KINDS[kind])
        failures = FAILURES.get(kind, 0)
        if kind == "retried":
            failures = self._chance.randint(1, 2)
        if kind == "delayed":
            options["delay"] = self._chance.uniform(0.3, 2.0)
        if kind in {"keyed", "unique"}:
            name = options["key"] = f"{kind}-{self._chance.randrange(3)}"
        seconds = self._chance.uniform(*SECONDS.get(kind, (0.01, 0.15)))
        return (token, name, round(seconds, 4), failures), {"name": name, **options}

    def _submit(self):
        arguments, options = self._plan()
        note("submits", arguments[0], arguments[1], options.get("delay", 0.0))
        job = self._pool.options(**options).submit(store_chaos_jobs.work, *arguments)
        note("submitted", job.id, arguments[0], arguments[1])
        self._watch(job)
        return job

    def _watch(self, job):
        if job.id not in self._outstanding:
            self._outstanding[job.id] = job
            self._known.append(job.id)
            job.add_done_callback(_note_answer)

    def _cancel(self):
        jobs = [job for job in self._outstanding.values() if not job.done()]
        if jobs:
            job = self._chance.choice(jobs)
            note("cancelling", job.id)
            if job.cancel():
                note("cancelled", job.id, os.getpid())

    def _cancel_by_id(self):
        if self._known:
            running = [job.id for job in self._outstanding.values() if job.running()]
            job_id = self._chance.choice(running if running and self._chance.random() < 0.7 else self._known[-20:])
            note("cancelling", job_id)
            if self._pool.cancel(job_id):
                note("cancelled-by-id", job_id)

    def _commit(self):
        arguments, options = self._plan()
        options.pop("unique", None)
        if arguments[1].startswith("unique"):
            return
        with Session(self._engine) as session:
            note("submits", arguments[0], arguments[1], options.get("delay", 0.0))
            job = self._pool.options(**options).submit_on_commit(session, store_chaos_jobs.work, *arguments)
            if self._chance.random() < 0.4:
                note("rolls-back", job.id)
                session.rollback()
                return
            session.commit()
        note("committed", job.id)
        self._watch(job)

    def _restart(self):
        note("stops", os.getpid())
        self._pool.stop()
        note("stopped", os.getpid())
        self._pool = self._open()

    def _leave(self):
        self._pool.shutdown(wait=False)
        self._pool = self._open()

    # The end --------------------------------------------------------------------------------------------------

    def _settle(self):
        """Wait for every answer that is owed, and say which ones do not come."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        for job_id, job in list(self._outstanding.items()):
            while not job.done():
                if time.monotonic() > deadline:
                    note("hung", job_id)
                    self._show_stacks()
                    break
                time.sleep(0.005)
        note("left", os.getpid())
        os._exit(0)

    def _show_stacks(self):
        if not self._has_shown:
            self._has_shown = True
            supervisor = self._pool.stats().supervisor_pid
            show_stacks([os.getpid(), supervisor, *(child.pid for child in psutil.Process(supervisor).children())])
            time.sleep(0.5)

    def finish(self):
        """Let the pool run everything that is left in the store, and stop it."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while self._engine is not None and time.monotonic() < deadline:
            with contextlib.suppress(SQLAlchemyError), self._engine.connect() as connection:
                query = text(f"SELECT count(*) FROM procjobs_jobs WHERE {UNFINISHED}")
                if not connection.scalar(query, {"pool": self._name}):
                    break
            self._pool.stats()
            time.sleep(0.02)
        self._pool.stop()


def _waits(store):
    return {"connect_args": {"timeout": 5.0}} if store.startswith("sqlite") else {}


def _note_answer(job):
    if job.cancelled():
        note("answered", job.id, "JobCancelled", "-")
        return
    error = job.exception(0)
    note("answered", job.id, *((type(error).__name__, "-") if error is not None else ("succeeded", job.result(0))))


def main():
    warnings.simplefilter("ignore")
    settings = json.loads(sys.argv[1])
    note("client", os.getpid())
    client = Client(**settings)
    if settings["actions"] == ["finish"]:
        client.finish()
    else:
        client.run()


if __name__ == "__main__":
    main()
