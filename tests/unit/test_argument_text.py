"""The arguments of a call as text: bounded, and never an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.shared.table import arguments
from procjobs.worker.argument_text import describe_call


class Bad:
    def __init__(self, error):
        self.error = error

    def __repr__(self):
        raise self.error


class NoText(Exception):
    def __str__(self):
        raise ValueError


class Counted(dict):
    """Says how many of its items were looked at."""

    looked_at = 0

    def __getitem__(self, key):
        type(self).looked_at += 1
        return super().__getitem__(key)


Counted.__name__ = "dict"


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, ""),
        ((1, "a", None), {"codec": 2.5}, "1, 'a', None, codec=2.5"),
        (({"b": (1,)}, {2}, frozenset({3}), set(), frozenset(), b"x"), {},
         "{'b': (1,)}, {2}, frozenset({3}), set(), frozenset(), b'x'"),
        ((list(range(100)),), {}, f"[{', '.join(map(str, range(20)))}, ...]"),
        (([[[[["deep"]]]]], {1: {2: {3: {4: {5: 6}}}}}), {}, "[[[[[...]]]]], {1: {2: {3: {4: {...}}}}}"),
        ((b"x" * 10_000,), {}, f"{b'x' * 300!r}... (10000 bytes)"),
    ],
)  # fmt: skip
def test_arguments_stand_as_in_their_call(args, kwargs, text):
    assert text == describe_call(args, kwargs)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), RecursionError(), NoText(), KeyboardInterrupt()])
def test_error_of_a_repr_is_shown_in_its_place(error):
    text = describe_call((1, [Bad(error)]), {"last": 2})
    assert text.startswith("1, [<Bad, whose repr raised ")
    assert type(error).__name__ in text
    assert text.endswith(">], last=2")


def test_number_that_python_writes_as_no_text_is_no_error():
    assert describe_call((10**5000, 1), {}).endswith(", 1")


def test_large_values_are_not_looked_at_as_a_whole():
    Counted.looked_at = 0
    text = describe_call((Counted((n, n) for n in range(100_000)),) * 2, {"x": "y" * 10**7})
    assert 40 == Counted.looked_at
    assert len(text) < 1000
    assert describe_call(tuple(range(1000)), {}).endswith("49, ...")


@given(st.recursive(st.text() | st.binary() | st.integers() | st.floats(), lambda inner: st.lists(inner) | st.frozensets(
    st.text()) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_value_has_a_text(value):
    assert describe_call((value,), {"value": value})


def test_text_is_cut_to_its_slot_and_found_for_its_job_alone(tmp_path):
    arguments.create(str(tmp_path))
    for row in (1, 2, 3):
        arguments.write(str(tmp_path), row, bytes([row]) * 16, "ü" * 3000)
    text = arguments.read(str(tmp_path), 2, bytes([2]) * 16)
    assert arguments.MAX_BYTES - 2 <= len(text.encode()) <= arguments.MAX_BYTES
    assert ("ü" * 1000, "…") == (text[:1000], text[-1])
    assert None is arguments.read(str(tmp_path), 2, bytes([3]) * 16)
    assert None is arguments.read(str(tmp_path), 4, bytes([4]) * 16)
    with open(tmp_path / arguments.NAME, "r+b") as file:
        file.seek(2080 + 40)
        file.write(b"torn")
    assert None is arguments.read(str(tmp_path), 2, bytes([2]) * 16)


def test_without_the_file_nothing_is_written_and_nothing_read(tmp_path):
    arguments.write(str(tmp_path), 1, bytes(16), "1")
    assert None is arguments.read(str(tmp_path), 1, bytes(16))
