"""When the interruptions of a job are raised: in its own code, once, and not in the middle of a frame."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import pytest

import procjobs
from procjobs.host import process
from procjobs.shared.table.layout import Order
from procjobs.worker import interruption


class NotedWriter:
    """A table that has an order for the job, or none."""

    def __init__(self):
        self.order = Order.NONE
        self.taken = 0

    def read_order(self, slot):
        return self.order

    def mark_taken(self, slot):
        self.taken += 1


@pytest.fixture
def writer():
    return NotedWriter()


@pytest.fixture
def interruptions(writer, monkeypatch):
    """The interruptions of a worker that is in a job, for this process."""
    handler = signal.getsignal(process.SOFT_SIGNAL)
    job = SimpleNamespace(id="1", name="work", attempt=2)
    monkeypatch.setattr(interruption, "current_job", lambda: job)
    made = interruption.Interruptions(writer, 0)
    made.is_open = True
    yield made
    signal.signal(process.SOFT_SIGNAL, handler)


def interrupt():
    signal.raise_signal(process.SOFT_SIGNAL)


def test_signal_without_an_order_does_nothing(interruptions, writer):
    interrupt()
    assert (None, 0) == (interruptions.order, writer.taken)


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (Order.CANCEL, procjobs.JobCancelled),
        (Order.TIMEOUT, procjobs.JobTimeout),
        (Order.STALL, procjobs.JobStalled),
        (Order.STOP, procjobs.JobCancelled),
    ],
)
def test_order_is_raised_once_and_marked_as_taken(interruptions, writer, order, error):
    writer.order = order
    with pytest.raises(error, match=r"job 1 work .* \(attempt 2\)"):
        interrupt()
    interrupt()
    assert (error, 1) == (type(interruptions.order), writer.taken)


def test_signal_that_comes_before_the_jobs_own_code_waits_for_that(interruptions, writer):
    interruptions.is_open, writer.order = False, Order.CANCEL
    interrupt()
    assert (True, 0) == (interruptions.has_word, writer.taken)
    interruptions.is_open = True
    with pytest.raises(procjobs.JobCancelled):
        interruptions.raise_postponed()


def test_interruption_waits_for_the_end_of_a_frame_that_is_being_sent(interruptions, writer):
    writer.order, sent = Order.CANCEL, []

    def send():
        with interruptions.postponed():
            interrupt()
            sent.append("the rest of the frame")
        sent.append("too far")

    with pytest.raises(procjobs.JobCancelled):
        send()
    assert (["the rest of the frame"], True) == (sent, interruptions.is_open)


def test_frame_of_another_thread_does_not_hold_up_the_interruption_of_the_job(interruptions, writer):
    is_inside, may_end = threading.Event(), threading.Event()

    def send():
        with interruptions.postponed():
            is_inside.set()
            may_end.wait(30)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert is_inside.wait(30)
        writer.order = Order.CANCEL
        with pytest.raises(procjobs.JobCancelled):
            interrupt()
    finally:
        may_end.set()
        thread.join()


def test_soft_timeout_is_raised_once_and_not_before_its_time(interruptions):
    interrupt()
    interruptions.soft_at = 0.0
    with pytest.raises(procjobs.JobTimeout, match="soft_timeout"):
        interrupt()
    interrupt()
    assert None is interruptions.order
