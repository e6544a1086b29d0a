"""A pool that is not there: it answers as a pool does, always the same, so that pictures of pages can be compared."""

from __future__ import annotations

import math

import procjobs
from procjobs import (
    Histogram,
    JobStatus,
    KindInfo,
    PoolStats,
    PoolUsage,
    ProcessInfo,
    Progress,
    QueueInfo,
    SettingInfo,
    TrendPoint,
    WorkerInfo,
)
from procjobs.shared.ids import new_id, to_text
from procjobs.web.moments import wall

KINDS = ("films.transcode", "thumbnails.make", "reports.monthly", "mail.send", "search.index")
MESSAGES = ("encoding scene 41 of 96", "resizing", "reading orders of March", "sending", "chapter 7")
STACK = '''Thread 0x00007f3c (most recent call first):
  File "/srv/media/films.py", line 88 in encode_scene
  File "/srv/media/films.py", line 41 in transcode
  File "/srv/media/jobs.py", line 12 in run
'''
LOG = "".join(f"12:04:{second:02} INFO films: scene {second} of 96 is encoded, 24.0 frames/s\n" for second in range(60))
TRACEBACK = '''Traceback (most recent call last):
  File "/srv/media/films.py", line 88, in encode_scene
    raise CodecError(f"scene {scene}: bitstream ends after {position} bytes")
films.CodecError: scene 12: bitstream ends after 40960 bytes
'''
HOSTILE = "<img src=x onerror=document.title='owned'>\x1b[31mred\x1b[0m \u202egnp.exe </script><script>alert(1)</script>"


def make_job(now, state="running", index=0, **changes):
    began = None if state in {"queued", "scheduled"} else now - 40 - 3 * index
    ended = now - 5 * index if state in {"succeeded", "failed", "cancelled", "expired"} else None
    part = (index * 17 + 23) % 90 / 100
    progress = None
    if state in {"running", "failed", "retrying", "succeeded"} and index % 4 != 3:
        progress = Progress(
            round(96 * part), 96, MESSAGES[index % 5], None, now - 0.3, began,
            procjobs.shared.records.Pace(0.0, began, 2.0), state == "running", state == "succeeded",
        )  # fmt: skip
    status = JobStatus(
        to_text(new_id()), KINDS[index % 5], state, {"failed": "raised", "cancelled": "cancelled"}.get(state),
        0 if began is None else 2,
        progress, now - 60 - 3 * index, began, ended, 4711 + index if state == "running" else None,
        "CodecError: scene 12: bitstream ends after 40960 bytes" if state == "failed" else None,
        {"user": 7, "film": "Metropolis"}, None, TRACEBACK if state == "failed" else None,
        ahead=index if state == "queued" else None,
    )  # fmt: skip
    return status._replace(**changes)


def fresh(job):
    """The job as if it had just reported."""
    if job.state != "running" or job.progress is None:
        return job
    return job._replace(progress=job.progress._replace(updated_at=wall() - 0.2))


class InventedPool:
    """Six workers, 60 jobs, two queues, three schedules."""

    def __init__(self, name="media", hostile=False):
        self.name = name
        self.now = wall()
        amounts = {"running": 6, "queued": 14, "scheduled": 3, "retrying": 1, "succeeded": 26, "failed": 6, "cancelled": 2}
        states = [state for state, amount in amounts.items() for _ in range(amount)]
        self.all = [make_job(self.now, state, index) for index, state in enumerate(states)]
        if hostile:
            told = Progress(3, 9, HOSTILE, None, self.now, self.now - 9)
            self.all[0] = make_job(
                self.now, "failed", 0, name=HOSTILE, error=HOSTILE + "E" * 1_000_000, meta={HOSTILE: HOSTILE},
                progress=told, error_details=HOSTILE,
            )  # fmt: skip
            self.all[1] = make_job(self.now, "running", 1, name=HOSTILE, progress=told)
        self.log = HOSTILE + "\n" + LOG if hostile else LOG
        self.all.sort(key=lambda job: job.id, reverse=True)

    def stats(self):
        finished = 48_211 + round(2.9 * (wall() - self.now))
        return PoolStats(
            supervisor_pid=1, workers=6, busy=6, idle=0, queued=14, scheduled=3, finished=finished, failed=37, crashed=2,
            restarts=3, rss=2 << 30, uptime=187_000.0, store="available", problem=None, estimated_wait=12.0, paused=False,
            draining=False, least=2, most=8, scaling="4 -> 6 workers: 14 jobs wait 2.3 s, CPUs 61 % used",
            scaled_at=self.now - 190, oldest_waiting=2.3, waits={"mail": 4.0},
        )  # fmt: skip

    def trend(self):
        found, finished, failed = [], 0, 0
        for step in range(720):
            load = 3 + 2.2 * math.sin(step / 60) + 0.9 * math.sin(step / 7) + (step % 13) / 13
            finished, failed = finished + round(5 * load), failed + (step % 31 == 0)
            queued = max(0, round(14 * math.sin(step / 50) + 6 * math.sin(step / 9)))
            found.append(TrendPoint(
                at=self.now - 3600 + 5 * step, finished=finished, failed=failed, queued=queued, busy=6, workers=6,
                oldest_waiting=queued / 6,
            ))  # fmt: skip
        return found

    def usage(self, *, pss=True):
        moment = wall()
        age = moment - self.now
        rss = (2_300 << 20) + round(2e8 * math.sin(age / 20))
        return PoolUsage(800 + 3.4 * age + 9 * math.sin(age / 9), rss, None, 19, 8.0, 8 << 30, moment)

    def jobs(self, state=None, limit=100, *, search=None, before=None, data=True):
        found = [job for job in self.all if state in {None, job.state} and (search or "") in job.name + job.id]
        return [job for job in found if before is None or job.id < before][:limit]

    def glance(self, job_ids, known=None):
        by_id = {job.id: fresh(job) for job in self.all}
        return {job_id: by_id.get(job_id) for job_id in job_ids}

    def status(self, job_id):
        found = self.glance([job_id])[job_id]
        if found is None:
            raise procjobs.UnknownJob(f"job {job_id} is not known to this pool")
        return found

    def attempts(self, job_id):
        job = self.status(job_id)
        if job.started_at is None:
            return ()
        first = procjobs.Attempt(
            1, "timeout", "JobTimeout: it ran longer than 8 s", job.started_at - 9, job.started_at - 1, 9, None, "scene 3",
            "", 2, 4700, TRACEBACK,
        )  # fmt: skip
        reason = job.reason if job.state in {"failed", "cancelled"} else None
        last = procjobs.Attempt(
            2, reason, job.error or "", job.started_at, job.finished_at, None, None, None, "", 3, 4711, None
        )
        return first, last

    def logs(self, job_id):
        return self.log

    def stack(self, job_id):
        return STACK

    def arguments(self, job_id):
        return "'metropolis.mov', width=1920, codec='av1'"

    def processes(self, job_id):
        used = wall() - self.now
        return [
            ProcessInfo(4711, 4000, "python", "python -c worker", "running", 31.2 + used / 9, 240 << 20, 5, self.now - 900),
            ProcessInfo(4980, 4711, "ffmpeg", "ffmpeg -i a.mov", "running", 88.0 + 2.6 * used, 610 << 20, 17, self.now - 40),
        ]

    def workers(self):
        running = [job for job in self.all if job.state == "running"]
        return [
            WorkerInfo(
                slot, 4711 + slot, 1, "busy", job.id, 812 + 7 * slot, (180 + 20 * slot) << 20, 71.0 - 3 * slot,
                self.now - 4000,
            )
            for slot, job in enumerate(running)
        ]

    def kinds(self):
        times = Histogram((0.1, 1.0), (10, 40, 3), 88.0)
        waits = Histogram((0.1,), (50, 3), 2.0)
        return [KindInfo(name, 9000 - 800 * i, 12 * i, i, 0, 2 * i, times, waits) for i, name in enumerate(KINDS)]

    def queues(self):
        return [QueueInfo("mail", 2, "100/m", None, None, 2, 11), QueueInfo("films", 4, None, 1, None, 3, 0)]

    def schedules(self, *, upcoming=1):
        common = {
            "tz": "Europe/Berlin", "catch_up": "last", "overlap": "skip", "jitter": 0.0, "expires": None,
            "is_declared": True, "last_late": 0.2,
            "last_job_id": self.all[-1].id, "last_error": None, "running": (), "skipped": 0, "missed": 1,
        }  # fmt: skip
        return [
            procjobs.ScheduleInfo(
                name="nightly report", call="reports.monthly", rule="cron", expression="30 2 * * *",
                text="at 02:30 every day", is_paused=False,
                next_at=tuple(self.now + 3600 * (5 + 24 * day) for day in range(upcoming)),
                last_at=self.now - 70_000, last_state="succeeded", **common,
            ),
            procjobs.ScheduleInfo(
                name="index", call="search.index", rule="every", expression="5m", text="every 5 minutes", is_paused=True,
                next_at=(), last_at=self.now - 8000, last_state="failed", **{**common, "last_error": "no index"},
            ),
        ]  # fmt: skip

    def history(self, **_):
        run = procjobs.Run(
            1, "succeeded", None, self.now - 90, self.now - 50, 2, 4711, None, 0, 31.0, 300 << 20, None, None, None
        )
        return [
            procjobs.JobRecord(
                job.id, job.name, job.state, job.reason, job.error, "films", 0, job.attempt, 0, job.submitted_at,
                job.started_at, job.finished_at, (run,), job.meta, None,
            )
            for job in self.all if job.done
        ]  # fmt: skip

    def settings(self):
        return [
            SettingInfo("workers", "2-8", "PROCJOBS_WORKERS"),
            SettingInfo("timeout", "2h", "/srv/media/procjobs.toml"),
            SettingInfo("nice", "10", "default"),
            SettingInfo("store", "postgresql+psycopg://media:***@db/media", "argument of the process that started the pool"),
        ]
