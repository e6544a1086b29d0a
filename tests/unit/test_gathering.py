"""Questions about single jobs that are put together."""

from __future__ import annotations

import threading

import pytest

from procjobs.client import gathering
from procjobs.client.gathering import Gathering
from procjobs.clock import monotonic

from ..waiting import wait_until


class _Asking(Gathering):
    """Asks always in the same way."""

    def __init__(self, ask_for):
        super().__init__(per_second=1000)
        self._same = ask_for

    def ask(self, job_id):
        return super().ask(job_id, self._same)


def test_what_threads_want_meanwhile_is_asked_for_together():
    asked, gate = [], threading.Event()

    def ask_for(ids):
        asked.append(sorted(ids))
        gate.wait(30)
        return {one: one.decode() for one in ids if one != b"x"}

    together = _Asking(ask_for)
    answers = {}

    def ask(one):
        answers[one] = together.ask(one)

    threads = [threading.Thread(target=ask, args=(b"0",))]
    threads[0].start()
    wait_until(lambda: asked)
    threads += [threading.Thread(target=ask, args=(one,)) for one in (b"1", b"2", b"x")]
    for thread in threads[1:]:
        thread.start()
    together._busy_until = monotonic() + 60  # however slow this host is
    wait_until(lambda: 3 == len(together._waiting))
    gate.set()
    for thread in threads:
        thread.join(30)
    assert [[b"0"], [b"1", b"2", b"x"]] == asked
    assert {b"0": "0", b"1": "1", b"2": "2", b"x": None} == answers


def test_missing_job_is_not_asked_for_again_at_once(monkeypatch):
    now, asked = [100.0], []
    monkeypatch.setattr(gathering, "monotonic", lambda: now[0])
    together = _Asking(lambda ids: asked.append(ids) or {})
    assert (None, None) == (together.ask(b"x"), together.ask(b"x"))
    assert [[b"x"]] == asked
    now[0] += 1.1
    together.ask(b"x")
    assert [[b"x"], [b"x"]] == asked


def test_what_is_missing_is_remembered_of_a_bounded_number(monkeypatch):
    monkeypatch.setattr(gathering, "_MAX_MISSING", 10)
    monkeypatch.setattr(gathering, "_BURST", 1000.0)
    together = _Asking(lambda _ids: {})
    together._allowance = 1000.0
    for number in range(100):
        together.ask(bytes([number]))
        assert len(together._missing) <= 10


def test_questions_in_vain_are_paced_and_others_are_not(monkeypatch):
    now, waits = [0.0], []
    monkeypatch.setattr(gathering, "monotonic", lambda: now[0])

    class Clock:
        def wait_for(self, _has_come, timeout):
            waits.append(timeout)
            now[0] += timeout

        def spread(self):
            pass

    known = _Asking(lambda ids: dict.fromkeys(ids, True))
    unknown = _Asking(lambda _ids: {})
    known._news = unknown._news = Clock()
    for number in range(3000):
        known.ask(number.to_bytes(4))
    assert [] == waits
    for number in range(1100):
        unknown.ask(number.to_bytes(4))
    assert 1.0 == pytest.approx(now[0], abs=0.01)


def test_everybody_who_asked_along_gets_the_error():
    together = _Asking(lambda _ids: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        together.ask(b"x")
    assert not together.is_missing(b"x")


def test_thread_that_was_interrupted_keeps_nobody_waiting():
    def ask_for(_ids):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return {b"y": "y", b"x": "x"}

    together = _Asking(ask_for)
    with pytest.raises(KeyboardInterrupt):
        together.ask(b"x")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(together.ask(b"y")))
    thread.start()
    thread.join(30)
    assert ["y"] == answers
