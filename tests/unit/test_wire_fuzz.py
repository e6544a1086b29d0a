"""Damaged streams: what came before the damage arrives, and the damage is a WireError or nothing."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.shared import wire
from procjobs.shared.wire import Frame, FrameReader, Outcome, WireError

BODIES = st.lists(st.binary(max_size=200), min_size=1, max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["type", "message", "traceback", "error"])


def read_frames(stream):
    reader, found = FrameReader(), []
    with contextlib.suppress(WireError):
        found.extend(raw[wire.BODY :] for _, raw, _ in reader.feed(stream))
    return found


@given(BODIES, st.data())
def test_frames_before_the_damage_arrive(bodies, data):
    frames = [wire.frame(Frame.SUBMIT, body) for body in bodies]
    harmed = data.draw(st.integers(0, len(frames) - 1))
    before = sum(map(len, frames[:harmed]))
    stream = bytearray(b"".join(frames))
    at = data.draw(st.integers(before, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    assert bodies[:harmed] == read_frames(bytes(stream))[:harmed]


@given(BODIES, st.data())
def test_cut_stream_gives_the_whole_frames_before_the_cut(bodies, data):
    frames = [wire.frame(Frame.SUBMIT, body) for body in bodies]
    cut = data.draw(st.integers(0, sum(map(len, frames))))
    whole = [body for n, body in enumerate(bodies) if sum(map(len, frames[: n + 1])) <= cut]
    assert whole == read_frames(b"".join(frames)[:cut])


@given(st.binary(max_size=100) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_json_is_an_object_or_a_wire_error(body):
    with contextlib.suppress(WireError):
        assert dict is type(wire.parse_json(body))


def test_json_that_is_too_deep_is_a_wire_error():
    with pytest.raises(WireError):
        wire.parse_json(b"[" * 200_000)


@given(st.integers(0, 255), st.floats(), st.dictionaries(NAMES, ANYTHING | st.text(max_size=3)))
def test_finished_frame_that_is_taken_has_what_its_reader_looks_for(outcome, seconds, details):
    raw = wire.finished_frame(bytes(16), Outcome.RETURNED, 0, 1, seconds, details)
    changed = bytearray(raw)
    changed[wire.BODY + 16] = outcome
    try:
        finished = wire.parse_finished(bytes(changed))
    except WireError:
        return
    assert 0 <= finished.seconds < float("inf")
    if finished.outcome != Outcome.RETURNED:
        found = wire.parse_json(finished.details)
        assert str is type(found["message"])


@given(st.binary(max_size=120))
def test_finished_frame_of_noise_is_a_wire_error_or_whole(raw):
    with contextlib.suppress(WireError):
        details = wire.parse_finished(raw).details
        assert raw == raw[: wire.FINISHED_FRAME.size] + details + wire.finished_payload(raw)
