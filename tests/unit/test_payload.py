"""Pickling and the way payloads travel, without a second process."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import procjobs
from procjobs.client.connection.caller import Caller, real
from procjobs.client.connection.kinds import KindRegistry
from procjobs.host import payload, process
from procjobs.shared.config import JobOptions


def there_and_back(value, directory, parts=()):
    inline, file = payload.dump(value, directory, parts)
    return payload.Received(inline, None if file is None else os.dup(file.fileno())).load()


@pytest.mark.parametrize("memfd", [True, False], ids=["memfd", "unlinked file"])
def test_large_buffers_go_through_a_file_without_a_name(tmp_path, monkeypatch, memfd):
    if not memfd:
        monkeypatch.delattr(os, "memfd_create")
    arrays = [np.arange(n, dtype="f4") for n in (10, 5_000, 100_000, 70_001)]
    received = there_and_back(arrays, str(tmp_path))
    assert [array.tolist() for array in arrays] == [array.tolist() for array in received]
    received[2][0] = 7.0
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("call", ["memfd_create", "write"])
def test_soft_timeout_of_the_job_that_pickles_is_no_error_of_the_file(tmp_path, monkeypatch, call):
    def interrupted(*_):
        raise procjobs.JobTimeout("ran longer than its soft_timeout", job_id="", attempt=1)

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(procjobs.JobTimeout):
        payload.dump(b"x" * 100_000, str(tmp_path))


def test_memfd_that_is_forbidden_is_replaced(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(1, "seccomp")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    assert b"x" * 100_000 == there_and_back(b"x" * 100_000, str(tmp_path))


def test_very_large_bytes_and_text_are_streamed(tmp_path):
    for value in (b"x" * 2_000_000, "ü" * 2_000_000):
        assert ((value, 1), {"k": value}) == there_and_back(((value, 1), {"k": value}), str(tmp_path), (value,))


def test_streamed_value_that_the_c_pickler_cannot_do(tmp_path):
    value = (b"x" * 2_000_000, lambda: 5)
    assert 5 == there_and_back(value, str(tmp_path), value)[1]()


def test_non_contiguous_and_empty_arrays(tmp_path):
    array = np.arange(1_000_000).reshape(1000, 1000)[::2, ::3]
    assert (array == there_and_back(array, str(tmp_path))).all()
    assert 0 == len(there_and_back(np.zeros(0), str(tmp_path)))


def test_failed_pickling_leaves_no_descriptor(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    value = (b"x" * 2_000_000, (i for i in range(3)))
    with pytest.raises(TypeError):
        payload.dump(value, str(tmp_path), value)
    assert before == len(os.listdir("/proc/self/fd"))


def frames_of(registry, function, options=JobOptions()):  # noqa: B008 - frozen
    registry.begin()
    described = registry.look_up(function, options)
    registry.end()
    return described


def test_function_is_described_once_and_a_changed_one_again():
    registry = KindRegistry(Caller(real(sys.path)))
    assert frames_of(registry, os.getpid)[1]
    assert not frames_of(registry, os.getpid)[1]
    functions = [lambda x, n=n: x + n for n in (1, 1, 2)]
    assert [True, False, True] == [bool(frames_of(registry, function)[1]) for function in functions]


def test_function_over_what_may_change_brings_itself_along():
    state = []
    registered, _ = frames_of(KindRegistry(Caller(real(sys.path))), lambda: state)
    assert registered.carries_function


def test_other_options_make_another_kind():
    registry = KindRegistry(Caller(real(sys.path)))
    one, two = (frames_of(registry, os.getpid, JobOptions(timeout=n))[0] for n in (1.0, 2.0))
    assert one.number != two.number


def test_registry_is_bounded():
    registry = KindRegistry(Caller(real(sys.path)))
    first, _ = frames_of(registry, os.getpid)
    for n in range(5000):
        frames_of(registry, os.getpid, JobOptions(priority=n + 1))
    assert first.number < registry.first_valid
    assert frames_of(registry, os.getpid)[0].number >= registry.first_valid


def test_registry_is_bounded_in_bytes():
    """The supervisor keeps the same, and each worker a part of it."""
    registry = KindRegistry(Caller(real(sys.path)))
    sizes = []
    for n in range(1000):
        text = f"{n}" * 10_000
        frames_of(registry, lambda text=text: text)
        sizes.append(sum(len(kind.description) for kind in registry._by_value.values()))
    assert 7 * 2**20 < max(sizes) < 9 * 2**20


def test_other_platforms_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(procjobs.UnsupportedPlatform, match="needs Linux, and this is win32"):
        process.check_platform()
    with pytest.raises(procjobs.UnsupportedPlatform):
        procjobs.Pool()
