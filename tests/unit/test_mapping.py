"""Files in the memory of a process."""

from __future__ import annotations

import gc
import os
import resource

import pytest

from procjobs.host import mapping

SIZES = [0, 1, 4096, 100_000, 200_000, 5_000_001]


def make_file(content):
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


@pytest.mark.parametrize("size", SIZES)
def test_content_is_there_after_the_descriptor_was_closed(size):
    content = os.urandom(size)
    fd = make_file(content)
    mapped = mapping.map_privately(fd)
    os.close(fd)
    assert content == mapped.tobytes()


@pytest.mark.parametrize("size", SIZES[1:])
def test_writes_stay_in_the_process(size):
    fd = make_file(bytes(size))
    one, other = mapping.map_privately(fd), mapping.map_privately(fd)
    one[size - 1] = 7
    assert (7, 0) == (one[size - 1], other[size - 1])
    assert bytes(size) == os.pread(fd, size, 0)
    os.close(fd)


def test_no_descriptor_is_kept():
    fd = make_file(bytes(300_000))
    before = len(os.listdir("/proc/self/fd"))
    kept = [mapping.map_privately(fd) for _ in range(50)]
    assert before == len(os.listdir("/proc/self/fd"))
    assert 50 == len(kept)
    os.close(fd)


def test_last_reference_gives_the_memory_back():
    def mappings():
        with open("/proc/self/maps") as file:
            return sum("memfd:test" in line for line in file)

    fd = make_file(bytes(300_000))
    part = mapping.map_privately(fd)[1000:2000]
    assert 1 == mappings()
    del part
    gc.collect()
    assert 0 == mappings()
    os.close(fd)


def test_file_for_which_there_is_no_room_is_an_oserror():
    fd = os.memfd_create("test")
    os.ftruncate(fd, 2**40)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**36, hard))
    try:
        with pytest.raises(OSError, match="allocate memory"):
            mapping.map_privately(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    os.close(fd)


def test_where_the_kernel_maps_no_more_files_are_copied(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(12, "Cannot allocate memory")  # as beyond vm.max_map_count

    monkeypatch.setattr(mapping.mmap, "mmap", refuse)
    content = os.urandom(300_000)
    fd = make_file(content)
    assert content == mapping.map_privately(fd).tobytes()
    os.close(fd)
