"""Frames: whatever way the bytes are cut, and whatever they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs import version
from procjobs.shared import hello, wire
from procjobs.shared.config import JOB_OPTION_NAMES
from procjobs.shared.states import JobState, Reason
from procjobs.shared.table import annex, layout
from procjobs.shared.wire import Frame, FrameReader, WireError
from tests.unit.imports import ROOT

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


def test_frames_that_change_get_a_new_version():
    """Whoever changes one of these gives `WIRE_VERSION` a new number, and this test the new digest."""
    structs = [wire.HEADER, wire.SUBMIT, wire.FINISHED, wire.JOB, wire.KIND]
    calls = sorted(re.findall(r"def (_call_\w+)", (ROOT / "supervisor/clients/calls.py").read_text()))
    facts = [
        [one.format for one in structs],
        [(member.name, int(member)) for kind in (wire.Frame, wire.Outcome, Reason, JobState) for member in kind],
        sorted(JOB_OPTION_NAMES),
        calls,
        [
            (name, value.format) for part in (layout, annex) for name, value in sorted(vars(part).items())
            if isinstance(value, struct.Struct)
        ],
        str(layout.MAGIC),
    ]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    assert (5, "03964bd2e358") == (wire.WIRE_VERSION, digest)


def test_first_words_of_a_connection_never_change():
    """A process of any release must read these; no number of a version helps where they differ."""
    raw = hello.hello_frame({"pid": 1, "ask": hello.HAND_OVER}, wire_version=2)
    head = len(raw).to_bytes(4, "little") + b"\x01\x00\x00\x00" + b"procjobs" + b"\x02\x00"
    assert raw.startswith(head + b'{"pid": 1, "ask": "hand_over", "version": "')
    assert (1, 3, 100) == (wire.Frame.HELLO, wire.Frame.REFUSED, wire.Frame.CONTROL)
    assert (2, {"pid": 1, "ask": "hand_over", "version": version.__version__}) == hello.parse_hello(raw)
    assert ("stop", "hand_over", "busy", "over") == (hello.STOP, hello.HAND_OVER, hello.BUSY, hello.OVER)
