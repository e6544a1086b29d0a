"""Descriptors that arrive over a Unix socket."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest

from procjobs.host import descriptors


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def same_file(one, other):
    return os.path.samestat(os.fstat(one), os.fstat(other))


def test_bytes_without_a_descriptor(pair):
    ours, theirs = pair
    theirs.send(b"text")
    assert (b"text", [], False) == descriptors.receive(ours, 100)


def test_descriptors_arrive_in_order_and_are_closed_on_exec(pair):
    ours, theirs = pair
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        socket.send_fds(theirs, [b"text"], [first.fileno(), second.fileno()])
        data, fds, are_lost = descriptors.receive(ours, 100)
        assert (b"text", False) == (data, are_lost)
        assert [True, True] == [same_file(*two) for two in zip(fds, [first.fileno(), second.fileno()], strict=True)]
        assert [False, False] == [os.get_inheritable(fd) for fd in fds]
        descriptors.close_all(fds)


@pytest.mark.parametrize(("room", "sent"), [(descriptors.ROOM_FOR_ONE, 2), (descriptors.room_for(6), 7)])
def test_descriptors_beyond_the_room_are_lost_and_not_left_open(pair, room, sent):
    ours, theirs = pair
    before = len(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryFile() as file:
        socket.send_fds(theirs, [b"text"], [file.fileno()] * sent)
        _, fds, are_lost = descriptors.receive(ours, 100, room)
        assert (sent - 1, True) == (len(fds), are_lost)
        descriptors.close_all(fds)
    assert before == len(os.listdir("/proc/self/fd"))


def test_most_that_a_message_can_carry_have_room(pair):
    ours, theirs = pair
    with tempfile.TemporaryFile() as file:
        socket.send_fds(theirs, [b"text"], [file.fileno()] * 253)
        _, fds, are_lost = descriptors.receive(ours, 100)
        assert (253, False) == (len(fds), are_lost)
        descriptors.close_all(fds)


def test_nothing_there_raises_where_it_is_not_to_wait(pair):
    with pytest.raises(BlockingIOError):
        descriptors.receive(pair[0], 100, descriptors.ROOM_FOR_ONE, descriptors.NO_WAIT)


def test_only_files_are_regular():
    read, write = os.pipe()
    with tempfile.TemporaryFile() as file, open(os.devnull) as device:
        kinds = [file.fileno(), read, device.fileno()]
        assert [True, False, False] == [descriptors.is_regular(fd) for fd in kinds]
    descriptors.close_all([read, write])
