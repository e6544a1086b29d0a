"""Telling the service manager how this service is doing; all that is needed of sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket


def notify_manager(address: str, state: str) -> None:
    """Send a state such as `READY=1` to the manager at $NOTIFY_SOCKET, if there is one; never fails.

    A name that begins with @ is in the abstract namespace of unix(7). A datagram that would have to wait is dropped.
    """
    if address[:1] not in {"/", "@"}:
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), socket.MSG_DONTWAIT, address)
