"""Batches of events between a supervisor and its recorder."""

from __future__ import annotations

import marshal

import pytest

from procjobs.shared import recorder_wire
from procjobs.shared.recorder_wire import (
    BATCH,
    BatchReader,
    Cancel,
    Checkpoint,
    DropSchedule,
    End,
    Find,
    Fire,
    Forget,
    Free,
    Hooked,
    Hooks,
    Kind,
    Load,
    NoteSchedule,
    Op,
    Open,
    PutSchedule,
    Release,
    Repeat,
    Retry,
    Schedules,
    Start,
    Submit,
    Sweep,
    pack_batch,
)

EVENTS = {
    Op.OPEN: Open("sqlite:////tmp/x.db", "pool", "owner", 3600.0, 86_400.0, 1000, "{}", 3, [b"known"], {"id": 2}),
    Op.KIND: Kind(7, b"{}", b"function"),
    Op.SUBMIT: Submit(b"id", 7, b"call", True, 1.0, 2.0, 3.0, b"key", None),
    Op.START: Start(b"id", 1, 3, 4711, 4.0),
    Op.RETRY: Retry(b"id", 1, {"outcome": "raised"}, 5.0),
    Op.END: End(b"id", 2, 5, 0, b"frame", False, 6.0, "no", None),
    Op.FREE: Free(b"id", 2, None),
    Op.FIND: Find(b"id"),
    Op.CANCEL: Cancel(b"id", 8),
    Op.REPEAT: Repeat(b"id", b"new", 9),
    Op.CHECKPOINT: Checkpoint(b"id", 1.0, b"data"),
    Op.LOAD: Load(10, 20, ["crowded", None]),
    Op.SWEEP: Sweep(),
    Op.FORGET: Forget(),
    Op.RELEASE: Release(),
    Op.HOOKS: Hooks(50, 10),
    Op.HOOKED: Hooked(b"id"),
    Op.PUTSCHEDULE: PutSchedule("nightly", "{}", True, 7, b"call", False, b"", b"", 1_700_000_000_000_000, 11),
    Op.DROPSCHEDULE: DropSchedule("nightly", 12),
    Op.NOTESCHEDULE: NoteSchedule("nightly", 1_700_000_000_000_001, -1, 2, 3),
    Op.FIRE: Fire("nightly", 1_700_000_000_000_000, 1_700_000_000_000_000, b"id", 1_700_000_000_000_000, 13),
    Op.SCHEDULES: Schedules("", 14),
}


def test_every_event_arrives_as_it_was_sent():
    reader = BatchReader()
    reader.feed(pack_batch(list(EVENTS.values()), 12, descriptors=1))
    events, last, has_descriptor, is_open = reader.next()
    assert (list(EVENTS.values()), 12, True, False) == (events, last, has_descriptor, is_open)
    assert list(map(type, EVENTS.values())) == list(map(type, events))
    assert None is reader.next()


@pytest.mark.parametrize("op", Op)
def test_event_is_its_op_and_its_fields(op):
    body = pack_batch([EVENTS[op]], 1)[BATCH.size :]
    assert [(int(op), *EVENTS[op])] == marshal.loads(body)
    assert op.name in recorder_wire.__doc__


def test_table_of_the_module_lists_the_fields():
    text = recorder_wire.__doc__.replace(",\n" + " " * 24, ", ")
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()[:1]}
    for op, event in EVENTS.items():
        assert [op.name, type(event).__name__, *event._fields] == rows[op.name].replace(",", "").split()


def test_batches_are_read_however_their_bytes_arrive():
    data = pack_batch([EVENTS[Op.START]], 1, is_open=True) + pack_batch([EVENTS[Op.FIND], EVENTS[Op.END]], 3)
    reader, found = BatchReader(), []
    for position in range(len(data)):
        reader.feed(data[position : position + 1])
        while (batch := reader.next()) is not None:
            found.append(batch)
    assert [([EVENTS[Op.START]], 1, False, True), ([EVENTS[Op.FIND], EVENTS[Op.END]], 3, False, False)] == found
