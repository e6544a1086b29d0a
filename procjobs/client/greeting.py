"""What a process does first over a new connection, and what it closes last."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

from procjobs.client import launcher
from procjobs.client.connection.handshake import say_hello
from procjobs.errors import SupervisorLost
from procjobs.host import payload
from procjobs.shared.table.post_mortem import PostMortemTable

if TYPE_CHECKING:
    import socket

    from procjobs.client.code import Code
    from procjobs.client.connection.connection import Connection
    from procjobs.client.connection.handshake import Greeting
    from procjobs.host.rundir import RunDir


def greet(sock: socket.socket, code: Code, directory: RunDir) -> Greeting:
    """Say hello for a process with this code; raise SupervisorRefused or SupervisorLost."""
    spec, files_sent = code.with_files()
    file = payload.memory_file(json.dumps(spec).encode(), directory.base)
    return say_hello(sock, code.key, file.fileno(), launcher.interpreter())._replace(files_sent=files_sent)


def close_reads(connection: Connection) -> None:
    """Close what this process keeps open to read the store of a pool that it lets go of; other pools open it again."""
    engines = sys.modules.get("procjobs.store.engines")
    url = connection.welcome["settings"].get("store")
    if engines is not None and url is not None:
        engines.dispose(url)


def map_table(directory: RunDir, supervisor_pid: int) -> PostMortemTable:
    """Return the table of the supervisor that has just answered; raise SupervisorLost if there is no such table."""
    with contextlib.suppress(FileNotFoundError):
        table = PostMortemTable(directory.table, loads=payload.loads)
        if table.supervisor_pid == supervisor_pid:
            return table
    raise SupervisorLost("the supervisor was replaced in the very moment when it was reached")
