"""Mutants of procjobs: each breaks one promise. store_chaos.py has to notice every one of them.

A mutant changes what the code does and nothing of the chaos: fault points are dense everywhere. `tests/unit/test_mutants.py`
checks that each old text is in the source once. Where one promise is kept twice over, a mutant breaks both.
"""

from __future__ import annotations

from typing import NamedTuple

from faulty_build import Edit

_DURABLE = "supervisor/durable"


class Mutant(NamedTuple):
    """What it breaks, and how; `store` is the kind of store in which it shows, None for any.

    Only one that is `about_claim` gets second supervisors: what those bring to light by themselves is not its merit.
    """

    breaks: str
    edits: tuple[Edit, ...]
    store: str | None = None
    about_claim: bool = False


MUTANTS = {
    # The four of the beginning, and a fifth.
    "committed-said-before": Mutant(
        "COMMITTED is sent before the commit",
        (Edit("store/recorder.py", """\
                if not self._record(events):
                    return
                self._link.send(RecorderFrame.COMMITTED, U64.pack(batches[-1].last))
""", """\
                self._link.send(RecorderFrame.COMMITTED, U64.pack(batches[-1].last))
                if not self._record(events):
                    return
"""),),
    ),
    "resent-blindly": Mutant(
        "a client sends again what may have begun (in a pool without a store)",
        (Edit("client/connection/failover.py", """\
        waiting.keep(find_unbegun(waiting.job_ids(), self._table))
""", ""),
         Edit("client/connection/failover.py", """\
        waiting.keep({job_id for job_id in waiting.resendable(oldest) if self._is_wanted(job_id)})
        self._abandon_others(None)
""", """\
        waiting.keep({job_id for job_id in waiting.resendable(oldest) if self._is_wanted(job_id)})
        waiting.keep(find_unbegun(waiting.job_ids(), self._table)) if False else None
""")),
        store="none",
    ),
    "orphans-not-ended": Mutant(
        "workers of a killed supervisor run on",
        (Edit("template/template.py", "        process.die_with_parent(self._supervisor_pid)\n", ""),
         Edit("template/template.py", "            process.kill_group(pid, signal.SIGKILL)\n", "            pass\n"),
         Edit("host/process.py", "    for pid in observe.marked_processes(mark):\n", "    for pid in ():\n")),
    ),
    "begun-not-counted": Mutant(
        "runs that the table of a killed supervisor shows are not counted",
        (Edit("store/started_attempts.py", "attempts = table.begun_attempts()", "attempts = {}"),),
    ),
    "answered-before-commit": Mutant(
        "an answer goes out before its commit",
        (Edit(f"{_DURABLE}/durable_jobs.py",
              "self._events.append(Entry(end, kept_fd, wait=Wait.ANSWER, subject=ended, size=len(frame) + size))",
              "self._events.append(Entry(end, kept_fd)); self._registry.finish(*ended, self._loop.now)"),),
    ),
    # Submissions.
    "acknowledged-before-commit": Mutant(
        "a submission is acknowledged before its commit",
        (Edit(f"{_DURABLE}/durable_jobs.py", "self._acknowledgements.append((self._events.last_number, client))",
              "client.accepted += 1"),),
    ),
    "acknowledged-one-early": Mutant(
        "the commit of an event acknowledges the submission after it",
        (Edit(f"{_DURABLE}/durable_jobs.py", "while waiting and waiting[0][0] <= number:",
              "while waiting and waiting[0][0] <= number + 1:"),),
    ),
    "client-drops-one-more": Mutant(
        "a client forgets one submission more than was acknowledged",
        (Edit("client/connection/entries.py", "self.unacknowledged.drop_until(accepted)",
              "self.unacknowledged.drop_until(accepted + 1)"),),
    ),
    "held-not-taken-over": Mutant(
        "a job that is sent again begins with its first attempt, whatever the store knows",
        (Edit(f"{_DURABLE}/stored_jobs.py",
              '        _take_over(job, int(told["attempt"]), int(told["cut_off"]), int(told["crashes"]))\n', ""),
         Edit(f"{_DURABLE}/stored_jobs.py", "            _take_over(known, attempt, interrupted, crashes)\n", "")),
    ),
    "kinds-mixed-up": Mutant(
        "a submission is stored under another kind",
        (Edit("store/journal.py", "changes.submit(event, self._kinds[event.kind],",
              "changes.submit(event, self._kinds[min(self._kinds)],"),),
    ),
    "kinds-forgotten-early": Mutant(
        "FORGET takes effect before the events that came before it",
        (Edit("store/recorder.py", "forgotten = self._journal.known_kinds",
              "self._journal.forget_kinds(self._journal.known_kinds)"),
         Edit(f"{_DURABLE}/uncommitted.py", "_MAX_KINDS: Final = 1000", "_MAX_KINDS: Final = 3")),
    ),
    "outbox-deleted-first": Mutant(
        "the rows of the outbox are deleted in a transaction before that of their jobs",
        (Edit("store/journal.py", """\
            changes = self._no_changes()
            for row, kind in self._new_jobs(""", """\
            if len(rows):
                connection.execute(delete(outbox).where(outbox.c.id.in_([row["id"] for row in rows])))
                connection.connection.commit()
            changes = self._no_changes()
            for row, kind in self._new_jobs("""),),
    ),
    # The recorder.
    "events-dropped": Mutant(
        "events that a killed recorder had not committed are not sent again",
        (Edit(f"{_DURABLE}/uncommitted.py", "        self._sent = 0\n        self._kinds_sent.clear()\n",
              "        self._kinds_sent.clear()\n"),),
    ),
    "kinds-not-told-again": Mutant(
        "a new recorder is not told the kinds that the one before it knew",
        (Edit(f"{_DURABLE}/uncommitted.py", "        self._sent = 0\n        self._kinds_sent.clear()\n",
              "        self._sent = 0\n"),),
    ),
    "loaded-and-forgotten": Mutant(
        "jobs that a killed recorder had loaded, and had not told, are left",
        (Edit("store/recorder.py",
              "rescue.requeue_unknown(connection, claim, self._settings.known_jobs)", "pass"),),
    ),
    "loaded-without-claim": Mutant(
        "a job that is loaded is not claimed",
        (Edit("store/rescue.py",
              "connection.execute(update(jobs).where(jobs.c.id.in_(part)).values(owner=claim.owner, epoch=claim.epoch))",
              "pass"),),
    ),
    "loaded-as-new": Mutant(
        "a job that is loaded begins with its first attempt",
        (Edit("store/questions.py", 'from_text(row["id"]), row["attempt"], row["cut_off"],',
              'from_text(row["id"]), 0, 0,'),),
    ),
    "failed-write-ignored": Mutant(
        "events are taken as written although the database was away",
        (Edit("store/recorder.py", "                if self._is_to_give_up(pause):\n                    return False\n", """\
                if self._phase is Phase.SERVING:
                    return True
                if self._is_to_give_up(pause):
                    return False
"""),),
    ),
    # Rescue.
    "interruptions-not-counted": Mutant(
        "an interrupted run counts as one of the retries",
        (Edit("store/rescue.py", '"attempt": attempt, "cut_off": row.cut_off + 1\n',
              '"attempt": attempt, "cut_off": row.cut_off\n'),),
    ),
    "running-not-interrupted": Mutant(
        "a run that is recorded as running is not counted as interrupted",
        (Edit("store/rescue.py", 'if row.state == "running" or started_attempts.get(row.id, 0) > row.attempt]',
              "if started_attempts.get(row.id, 0) > row.attempt]"),),
    ),
    "delay-forgotten": Mutant(
        "a delayed job that is loaded starts at once",
        (Edit("supervisor/clients/admission.py",
              "delay = max(loaded.not_before - moment, 0.0) if loaded.not_before else 0.0", "delay = 0.0"),
         Edit("store/rescue.py", "may_run = jobs.c.not_before.is_(None) | (jobs.c.not_before <= now)",
              "may_run = jobs.c.not_before.is_(None) | (jobs.c.not_before <= now + 60)")),
    ),
    "back-off-forgotten": Mutant(
        "the pause before a retry is not stored",
        (Edit(f"{_DURABLE}/durable_jobs.py", "account, wall() + due_at - self._loop.now))", "account, wall()))"),),
    ),
    "key-forgotten": Mutant(
        "a job that is loaded does not keep the limit of its key",
        (Edit("supervisor/clients/admission.py",
              "loaded.attempt, loaded.interrupted, loaded.crashes, loaded.key\n",
              'loaded.attempt, loaded.interrupted, loaded.crashes, b""\n'),),
    ),
    # Ends.
    "retry-counted-twice": Mutant(
        "a retry takes two attempts",
        (Edit("dispatch/completion.py", "        job.advance(Event.RETRY)\n",
              "        job.advance(Event.RETRY)\n        job.attempt += 1\n"),),
    ),
    "crash-taken-as-unbegun": Mutant(
        "a job whose worker was killed is given out again, as if it had not begun",
        (Edit("supervisor/registry.py", "return self.table.has_begun(job.row, job.id, job.attempt)", "return False"),),
    ),
    "stop-not-counted": Mutant(
        "a run that a stop interrupts is not counted",
        (Edit(f"{_DURABLE}/durable_jobs.py", "account = self._account(job) if _was_interrupted(job) else None",
              "account = None"),),
    ),
    "answers-not-asked-for": Mutant(
        "a client does not ask a successor for the answers of acknowledged jobs",
        (Edit("client/connection/connection.py",
              "self.sender.send(wire.frame(Frame.WATCH, handle.raw_id))", "pass"),),
    ),
    # Cancelling.
    "cancel-told-early": Mutant(
        "cancel(id) returns before it is recorded",
        (Edit("supervisor/clients/calls.py", """\
        if len(job_id) != ID_BYTES or not self._durability.cancel(job_id, reply):
""", """\
        if was_cancelled:
            return {"known": True, "cancelled": True}
        if len(job_id) != ID_BYTES or not self._durability.cancel(job_id, reply):
"""),),
    ),
    "cancel-not-noted": Mutant(
        "the note that a job was cancelled is not written",
        (Edit("store/questions.py",
              "    connection.execute(update(jobs).where(unfinished, mine).values(reason=rescue.CANCELLED))\n", ""),),
    ),
    "cancel-of-waiting-lost": Mutant(
        "a job that is cancelled before its commit runs",
        (Edit("supervisor/clients/admission.py", "            durable.is_cancelled = True\n", ""),),
    ),
    # The claim.
    "claim-taken-from-the-living": Mutant(
        "a supervisor takes the claim although the one before it runs, which hears of it in time",
        (Edit("store/claim.py", "            self._check_that_it_is_free(row)\n", "            pass\n"),
         Edit("store/sqlite_file.py", "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "            pass\n")),
        about_claim=True,
    ),
    "claim-not-fenced": Mutant(
        "a supervisor that has lost its claim goes on to write",
        (Edit("store/claim.py", "            self._check_that_it_is_free(row)\n", "            pass\n"),
         Edit("store/sqlite_file.py", "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "            pass\n"),
         Edit("store/claim.py",
              "            if row is None or (row.owner, row.epoch) != (self.owner, self.epoch):\n                raise",
              "            if False:\n                raise"),
         Edit("store/claim.py",
              "        if row is None or (row.owner, row.epoch) != (self.owner, self.epoch):\n            raise",
              "        if False:\n            raise"),
         Edit("store/statements.py", "change = update(jobs).where(jobs.c.id == bindparam(\"b_id\"), is_mine)",
              "change = update(jobs).where(jobs.c.id == bindparam(\"b_id\"), is_mine | "
              "(bindparam(\"b_owner\") != ''))")),
        about_claim=True,
    ),
}  # fmt: skip
