"""Frames: whatever way the bytes are cut, and whatever they are."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.shared import wire
from procjobs.shared.wire import Frame, FrameReader, WireError

FRAMES = st.lists(st.tuples(st.sampled_from(Frame), st.binary(max_size=300)), max_size=20)


@given(FRAMES, st.lists(st.integers(0, 500), max_size=40))
def test_frames_arrive_whole_however_they_are_cut(frames, cuts):
    stream = b"".join(wire.frame(kind, body) for kind, body in frames)
    reader, found, position = FrameReader(), [], 0
    for cut in [*cuts, len(stream)]:
        found += [(kind, raw[wire.BODY :]) for kind, raw, _ in reader.feed(stream[position : position + cut])]
        position += cut
    found += [(kind, raw[wire.BODY :]) for kind, raw, _ in reader.feed(stream[position:])]
    assert [(int(kind), body) for kind, body in frames] == found


@given(st.lists(st.binary(max_size=400), max_size=10))
def test_nonsense_is_a_wire_error_and_nothing_else(chunks):
    reader = FrameReader()
    with contextlib.suppress(WireError):
        for chunk in chunks:
            for _, raw, _ in reader.feed(chunk):
                with contextlib.suppress(WireError):
                    wire.parse_finished(raw)


@pytest.mark.parametrize("length", [0, 7, wire.MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_frame_of_impossible_length_is_refused(length):
    with pytest.raises(WireError, match=f"claims {length} bytes"):
        list(FrameReader().feed(wire.HEADER.pack(length, 1, 0, 0)))


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_finished_frame_gives_back_what_went_in(job_id, payload):
    job_id = job_id.ljust(16, b"x")[:16]
    details = {"type": "E", "message": "no", "traceback": ""}
    raw = wire.finished_frame(job_id, wire.Outcome.RAISED, 1, 3, 0.5, details, payload)
    ((_, arrived, _),) = FrameReader().feed(raw)
    assert (job_id, 2, 1, 3, 0.5, 0, json.dumps(details).encode()) == wire.parse_finished(arrived)
    assert payload == wire.finished_payload(arrived)


@given(st.text(max_size=2000), st.integers(100, 500))
def test_limited_text_fits(text, most):
    assert len(wire.limit_text(text, most).encode()) <= most + 40
