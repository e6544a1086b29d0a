"""Limits and the ladder of signals, with made-up samples and times."""

from __future__ import annotations

import pytest

from procjobs.clock import NEVER
from procjobs.dispatch.limits import MIN_SECONDS_LEFT, Limits, Sample, Stop
from procjobs.dispatch.model import Generation, Job, Kind, Rung, Slot, SlotState
from procjobs.dispatch.watchdog import CHILDREN_TIMEOUT, STACK_TIMEOUT, Watchdog, keeps_too_much, may_answer
from procjobs.shared.config import JobOptions

MIB = 2**20


class NotedWorkers:
    """Takes notes of commands; `samples` are the measurements that it returns."""

    def __init__(self):
        self.done = []
        self.samples = []

    def dump_stack(self, slot):
        self.done.append("dump stack")

    def interrupt(self, slot):
        self.done.append("interrupt")

    def terminate(self, slot):
        self.done.append("terminate")

    def terminate_children(self, slot):
        self.done.append("terminate children")

    def kill(self, slot):
        self.done.append("kill")

    def measure(self, slot):
        self.done.append("measure")
        return self.samples.pop(0)


def started(now=0.0, **options):
    """Return (workers, watchdog, slot) of a job that has just been started."""
    workers, slot = NotedWorkers(), Slot(0)
    kind = Kind(1, b"kind", JobOptions(**options).validated())
    slot.jobs.append(Job(bytes(16), kind, Generation(1, "key")))
    slot.state = SlotState.BUSY
    slot.watch(slot.jobs[0], now)
    return workers, Watchdog(workers, 5.0), slot


def idle(progress=0, cpu=1.0, processes=1, rss=0):
    return Sample(progress, cpu, processes, rss)


def samples_until(limits, end, sample=idle, used=0):
    """Let a job be sampled whenever it is due, up to a time; return (why it is stopped, when)."""
    while limits.sample_at <= end:
        now = limits.sample_at
        why = limits.observe(sample(now) if sample is not idle else idle(), used, now)
        if why is not Stop.NONE:
            return why, now
    return Stop.NONE, end


def next_time(slot):
    """Return when something is to be done about a slot."""
    return min(slot.climb_at, NEVER if slot.limits is None else slot.limits.next_time())


def test_job_without_limits_is_not_watched():
    _, _, slot = started()
    assert (None, NEVER) == (slot.limits, next_time(slot))


def test_limits_begin_with_the_job():
    limits = Limits(JobOptions(timeout=3, soft_timeout=2, slow_after=1), 10.0)
    assert (13.0, 12.0, 11.0, NEVER, 11.0) == (
        limits.deadline,
        limits.soft_at,
        limits.slow_at,
        limits.sample_at,
        limits.next_time(),
    )


def test_silent_job_is_stalled_after_its_stall_timeout_and_soon_after():
    why, now = samples_until(Limits(JobOptions(stall_timeout=2.0), 100.0), 200.0)
    assert (Stop.STALL, True) == (why, 102.0 <= now <= 102.3)


@pytest.mark.parametrize(
    "sample",
    [
        lambda now: idle(cpu=now // 1.5),
        lambda now: idle(progress=now // 1.5),
        lambda now: idle(processes=1 + now // 1.5 % 2),
    ],
    ids=["CPU", "progress", "processes"],
)
def test_any_sign_of_life_within_the_stall_timeout_is_enough(sample):
    assert Stop.NONE is samples_until(Limits(JobOptions(stall_timeout=2.0), 0.0), 60.0, sample)[0]


def test_growing_memory_is_no_sign_of_life():
    limits = Limits(JobOptions(stall_timeout=1.0), 0.0)
    assert Stop.STALL is samples_until(limits, 5.0, lambda now: idle(rss=int(now * MIB)))[0]


def test_long_stall_timeouts_are_sampled_seldom_and_short_ones_not_too_often():
    for timeout, pause in ((0.1, 0.05), (2.0, 0.2), (3600.0, 5.0)):
        limits = Limits(JobOptions(stall_timeout=timeout), 0.0)
        first = limits.sample_at
        limits.observe(idle(), 0, first)
        assert pause == pytest.approx(limits.sample_at - first)


def test_memory_over_the_limit_stops_and_at_the_limit_does_not():
    limits = Limits(JobOptions(max_rss=10 * MIB), 0.0)
    assert Stop.NONE is limits.observe(idle(), 10 * MIB, 1.0)
    assert Stop.MEMORY is limits.observe(idle(), 10 * MIB + 1, 2.0)


def test_memory_that_grows_is_sampled_before_it_can_reach_the_limit():
    limits = Limits(JobOptions(max_rss=1000 * MIB), 0.0)
    limits.observe(idle(), 100 * MIB, 1.0)
    limits.observe(idle(), 200 * MIB, 2.0)  # 100 MiB a second: at the limit in 8 s, looked at twice a second at least
    assert 2.4 == pytest.approx(limits.sample_at)
    limits.observe(idle(), 900 * MIB, 2.4)  # 1750 MiB a second: at the limit in 57 ms
    assert 2.4 + 100 / 1750 / 2 == pytest.approx(limits.sample_at)
    limits.observe(idle(), 999 * MIB, 2.45)
    assert 2.45 + 0.02 == pytest.approx(limits.sample_at)


def test_absence_pushes_everything_back_and_leaves_at_least_a_second():
    limits = Limits(JobOptions(timeout=3, soft_timeout=2, slow_after=1, stall_timeout=1), 0.0)
    limits.observe(idle(), 0, 0.5)
    limits.extend(10.0, 10.6)
    assert (13.0, 12.0, 11.0) == (limits.deadline, limits.soft_at, limits.slow_at)
    assert Stop.NONE is limits.observe(idle(), 0, 10.6)
    assert Stop.STALL is limits.observe(idle(), 0, 11.5)
    limits = Limits(JobOptions(timeout=3, soft_timeout=2), 0.0)
    limits.extend(0.3, 3.2)
    assert (3.2 + MIN_SECONDS_LEFT, 3.2 + MIN_SECONDS_LEFT) == (limits.deadline, limits.soft_at)


def test_absence_does_not_give_limits_to_a_job_without():
    limits = Limits(JobOptions(max_rss=MIB), 0.0)
    limits.extend(10.0, 10.0)
    assert (NEVER, NEVER, NEVER) == (limits.deadline, limits.soft_at, limits.slow_at)


# The ladder -----------------------------------------------------------------------------------------------------


def test_overdue_job_is_asked_for_its_stack_then_interrupted_then_killed_every_second():
    workers, watchdog, slot = started(timeout=1.0, grace_period=3.0)
    watchdog.enforce(slot, 0.9)
    assert ([], 1.0) == (workers.done, next_time(slot))
    watchdog.enforce(slot, 1.0)
    assert (["dump stack"], Stop.TIMEOUT, SlotState.STOPPING) == (workers.done, slot.stop, slot.state)
    watchdog.on_stack_dumped(slot, 1.01)
    assert (["dump stack", "interrupt"], 1.01 + CHILDREN_TIMEOUT) == (workers.done, next_time(slot))
    watchdog.on_stack_dumped(slot, 1.02)  # another one, which a client has asked for
    assert ["dump stack", "interrupt"] == workers.done
    for when in (1.01 + CHILDREN_TIMEOUT, 4.01, 5.01):
        assert when == pytest.approx(next_time(slot))
        watchdog.climb(slot, next_time(slot))
    assert ["dump stack", "interrupt", "terminate children", "kill", "kill"] == workers.done


def test_worker_that_does_not_tell_its_stack_is_interrupted_all_the_same():
    workers, watchdog, slot = started(timeout=1.0)
    watchdog.enforce(slot, 1.0)
    assert 1.0 + STACK_TIMEOUT == next_time(slot)
    watchdog.climb(slot, 1.0 + STACK_TIMEOUT)
    assert ["dump stack", "interrupt"] == workers.done


def test_soft_timeout_interrupts_once_and_the_job_goes_on():
    workers, watchdog, slot = started(soft_timeout=1.0, timeout=3.0)
    watchdog.enforce(slot, 1.0)
    assert (["interrupt"], Stop.NONE, 3.0) == (workers.done, slot.stop, next_time(slot))
    watchdog.enforce(slot, 3.0)
    assert (["interrupt", "dump stack"], Stop.TIMEOUT) == (workers.done, slot.stop)


def test_slow_job_is_asked_for_its_stack_once_and_goes_on():
    workers, watchdog, slot = started(slow_after=1.0)
    watchdog.enforce(slot, 1.0)
    watchdog.on_stack_dumped(slot, 1.01)
    assert (["dump stack"], Stop.NONE, NEVER) == (workers.done, slot.stop, next_time(slot))


def test_job_over_its_memory_limit_is_killed_at_once_and_its_use_kept():
    workers, watchdog, slot = started(max_rss=10 * MIB)
    slot.baseline_bytes = 300 * MIB
    workers.samples = [idle(rss=305 * MIB), idle(rss=311 * MIB)]
    watchdog.enforce(slot, next_time(slot))
    assert (Stop.NONE, 5 * MIB) == (slot.stop, slot.used_bytes)
    watchdog.enforce(slot, next_time(slot))
    assert (["measure", "measure", "kill"], Stop.MEMORY, 11 * MIB) == (workers.done, slot.stop, slot.used_bytes)


def test_cancelled_job_is_interrupted_without_being_asked_for_its_stack():
    workers, watchdog, slot = started(grace_period=2.0)
    watchdog.stop(slot, Stop.CANCEL, 7.0)
    assert (["interrupt"], 7.0 + CHILDREN_TIMEOUT) == (workers.done, next_time(slot))
    watchdog.climb(slot, next_time(slot))
    assert (["interrupt", "terminate children"], 9.0) == (workers.done, next_time(slot))


def test_short_grace_period_is_not_made_longer_by_the_wait_for_the_interruption():
    workers, watchdog, slot = started(grace_period=0.05)
    watchdog.stop(slot, Stop.CANCEL, 7.0)
    for _ in range(2):
        assert 7.05 == next_time(slot)
        watchdog.climb(slot, 7.05)
    assert ["interrupt", "terminate children", "kill"] == workers.done


def test_worker_without_a_job_gets_sigterm():
    workers, watchdog, slot = started()
    slot.jobs.clear()
    watchdog.stop(slot, Stop.SHUTDOWN, 7.0)
    assert (["terminate"], 12.0) == (workers.done, next_time(slot))


def test_worker_that_answers_may_go_on_until_it_is_killed():
    _, watchdog, slot = started(grace_period=2.0)
    watchdog.stop(slot, Stop.CANCEL, 0.0)
    assert may_answer(slot)
    watchdog.kill(slot, 1.0)
    assert not may_answer(slot)
    watchdog.release(slot, is_ending=False)
    assert (Stop.NONE, Rung.NONE, NEVER) == (slot.stop, slot.rung, next_time(slot))


def test_worker_that_has_answered_meanwhile_is_left_alone():
    workers, watchdog, slot = started(timeout=1.0)
    slot.jobs.clear()
    watchdog.enforce(slot, 1.0)
    assert ([], Stop.NONE) == (workers.done, slot.stop)


def test_job_whose_limits_are_off_is_left_alone():
    workers, watchdog, slot = started(timeout=1.0)
    slot.limits = None
    watchdog.enforce(slot, 1.0)
    assert ([], Stop.NONE) == (workers.done, slot.stop)


def test_absence_pushes_back_the_grace_period():
    _, watchdog, slot = started(grace_period=2.0)
    watchdog.stop(slot, Stop.CANCEL, 0.0)
    watchdog.climb(slot, next_time(slot))
    watchdog.extend_deadlines(slot, 10.0, 11.0)
    assert 12.0 == next_time(slot)


def test_worker_keeps_too_much_from_half_of_the_limit_on():
    slot = Slot(0)
    slot.baseline_bytes = 100
    assert [False, False, True] == [keeps_too_much(slot, rss, most) for rss, most in ((10**9, None), (150, 100), (151, 100))]
