"""The fault points: between any two steps that matter, in each kind of process. A name begins with the kind.

`tests/unit/test_mutants.py` checks that each anchor is in the source once.
"""

from __future__ import annotations

from faulty_build import Point

_CLIENTS = "supervisor/clients"
_DURABLE = "supervisor/durable"

SUPERVISOR = (
    Point("supervisor.starts", "supervisor/boot.py", "_tell_started(boot)\n"),
    Point("supervisor.has-looked-back", "store/started_attempts.py", "if attempts:\n        _write("),
    Point("supervisor.forgets-started", "store/started_attempts.py", "self.attempts = {}"),
    Point("supervisor.submission-read", f"{_CLIENTS}/requests.py", "job = SupervisedJob(job_id, kind,"),
    Point("supervisor.submission-entered", f"{_CLIENTS}/admission.py", "if self._durability.submitted(job, client,"),
    Point("supervisor.sends-events", f"{_DURABLE}/recorder_process.py", "link.send(*batch)"),
    Point("supervisor.has-sent-events", f"{_DURABLE}/recorder_process.py", "link.send(*batch)", is_after=True),
    Point("supervisor.claimed-read", f"{_DURABLE}/held_claim.py", "self.epoch = epoch"),
    Point("supervisor.committed-read", f"{_DURABLE}/durable_jobs.py", "for wait, subject in self._events.take_committed("),
    Point("supervisor.committed-acted-on", f"{_DURABLE}/durable_jobs.py", "waiting = self._acknowledgements\n"),
    Point("supervisor.gives-job", "dispatch/assigner.py", "if not self._workers.send(slot, job):"),
    Point("supervisor.has-given-job", "dispatch/assigner.py", "self._outcomes.started(job, slot)"),
    Point("supervisor.records-start", f"{_DURABLE}/start_events.py", "yield start"),
    Point("supervisor.finished-read", "dispatch/dispatcher.py", "unwanted = self._completion.complete("),
    Point("supervisor.records-end", f"{_DURABLE}/durable_jobs.py", "self._events.append(Entry(end, kept_fd"),
    Point("supervisor.answer-committed", "supervisor/registry.py", "self._results.keep(job, frame, fd, now)"),
    Point("supervisor.answer-queued", "supervisor/registry.py",
          "if watchers is not None:\n            job.watchers = None"),
    Point("supervisor.flushes", f"{_CLIENTS}/connections.py", "done = client.flush()"),
    Point("supervisor.has-flushed", f"{_CLIENTS}/connections.py", "client.waits_to_write = not done"),
    Point("supervisor.acknowledges", f"{_CLIENTS}/client_link.py", "self.acknowledged = self.accepted"),
    Point("supervisor.cancel-read", f"{_CLIENTS}/calls.py", "was_cancelled = job is not None and self._admission"),
    Point("supervisor.cancel-recorded", f"{_CLIENTS}/calls.py", "loaded = self._registry.jobs.get(job_id)"),
    Point("supervisor.unique-decided", f"{_CLIENTS}/admission.py", "submitter = job.client"),
    Point("supervisor.decides-retry", "dispatch/completion.py",
          "self._outcomes.retrying(job, reason, error, details, due_at)"),
    Point("supervisor.has-decided-retry", "dispatch/completion.py", "self._pending.add_delayed(due_at, job)"),
    Point("supervisor.asks-for-jobs", f"{_DURABLE}/stored_jobs.py", "self._is_loading = True"),
    Point("supervisor.job-loaded", f"{_DURABLE}/stored_jobs.py",
          "known = self._registry.jobs.get(job_id)\n        if known"),
    Point("supervisor.worker-died", "supervisor/workers/processes.py", "slot.pid = 0  # it has been reaped"),
    Point("supervisor.recorder-died", f"{_DURABLE}/recorder_process.py", "self._starts_at = self._loop.now\n"),
    Point("supervisor.job-fenced", f"{_DURABLE}/durable_jobs.py", "job.durable.is_fenced = True"),
    Point("supervisor.stops", "supervisor/lifecycle.py", 'self._log.write(f"stopping: {reason}")'),
    Point("supervisor.has-stopped", "supervisor/lifecycle.py", "self._dispatcher.stop_running(now)", is_after=True),
    Point("supervisor.says-farewell", "supervisor/lifecycle.py", "self.phase = Phase.FAREWELL\n"),
    Point("supervisor.closes-store", "supervisor/supervisor.py", "self._durability.close()"),
    Point("supervisor.has-closed-store", "supervisor/supervisor.py", "self._durability.close()", is_after=True),
    Point("supervisor.ends", "supervisor/boot.py", "rundir.remove_own(directory, LOCK_FD)"),
)  # fmt: skip
RECORDER = (
    Point("recorder.starts", "store/recorder.py", "recorder = Recorder(link, opening, file)"),
    Point("recorder.takes-over", "store/recorder.py", "count = rescue.take_over("),
    Point("recorder.counts-interruptions", "store/rescue.py", "connection.execute(update(jobs).where(unfinished).values("),
    Point("recorder.has-claimed", "store/recorder.py", "if is_new:\n            self._link.send("),
    Point("recorder.has-told-claim", "store/recorder.py", "self._journal.forget_stored_kinds()\n        return connection"),
    Point("recorder.requeues-unknown", "store/rescue.py", "if lost:\n        connection.execute("),
    Point("recorder.events-read", "store/recorder.py", "events = [pair for batch in batches for pair in batch.events]"),
    Point("recorder.writes", "store/recorder.py", "return self._write(connection, self._journal.collect(events), events)"),
    Point("recorder.has-stored-jobs", "store/journal.py", "statements.record_attempts.execute("),
    Point("recorder.has-written", "store/journal.py", "return fenced\n"),
    Point("recorder.answers", "store/recorder.py", "for event, fd in events:\n            if type(event) in QUESTIONS:"),
    Point("recorder.has-committed", "store/recorder.py", 'self._report("")\n                self._send(answers)'),
    Point("recorder.has-answered", "store/recorder.py", "self._link.send(RecorderFrame.COMMITTED"),
    Point("recorder.has-told-commit", "store/recorder.py", "self._link.send(RecorderFrame.COMMITTED", is_after=True),
    Point("recorder.empties-outbox", "store/journal.py", "if rows:\n                connection.execute(delete(outbox)"),
    Point("recorder.has-swept", "store/recorder.py", "self._check_file()\n            self._send_lease(lease)"),
    Point("recorder.loads", "store/rescue.py", "query = select(jobs, kinds.c.description"),
    Point("recorder.notes-cancel", "store/questions.py", "mine = (jobs.c.owner == claim.owner) & (jobs.c.epoch"),
    Point("recorder.releases", "store/recorder.py", "self._claim.release(connection)"),
    Point("recorder.ends", "store/recorder.py", "recorder.close()"),
)
WORKER = (
    Point("worker.job-read", "worker/worker.py", "self._writer.begin(row, job_id, attempt)"),
    Point("worker.has-begun", "worker/worker.py", "self._writer.begin(row, job_id, attempt)", is_after=True),
    Point("worker.answers", "worker/worker.py", "self._send(job_id, attempt, kind, answer, lost)"),
    Point("worker.has-answered", "worker/worker.py", "self._send(job_id, attempt, kind, answer, lost)", is_after=True),
)
TEMPLATE = (
    Point("template.forks", "template/template.py", "pid = process.fork_to_subreaper("),
    Point("template.has-forked", "template/template.py", "self._workers.add(pid)"),
)
CLIENT = (
    Point("client.starts-supervisor", "client/launcher.py", "pid = process.spawn("),
    Point("client.cancels", "client/job.py", "route[0].cancel_job(self.raw_id)"),
    Point("client.answer-read", "client/connection/connection.py",
          "handle = self._entries.handles.get(job_id)\n        if handle is None"),
    Point("client.acknowledged", "client/connection/entries.py", "self.unacknowledged.drop_until("),
    Point("client.submits", "client/connection/sender.py", "self._entries.enter(submission, route)"),
    Point("client.has-submitted", "client/connection/sender.py", "self._entries.note_sent(submission)"),
    Point("client.has-cancelled", "client/job.py", "route[0].cancel_job(self.raw_id)", is_after=True),
    Point("client.asks-again", "client/connection/connection.py", "self._entries.handles[handle.raw_id] = handle"),
    Point("client.moves", "client/connection/connection.py", "problem = self._failover(failure).move_to_successor("),
    Point("client.sends-again", "client/connection/connection.py", "kind = self._adopt(submission.kind)"),
)  # fmt: skip
POINTS = (*SUPERVISOR, *RECORDER, *WORKER, *TEMPLATE, *CLIENT)
