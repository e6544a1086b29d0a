"""The connections of clients: accepted, read, flushed, dropped. One client's bytes never end the connection of another."""

from __future__ import annotations

import os
import socket
import traceback
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.host.ownership import peer_uid
from procjobs.shared.ids import to_text
from procjobs.shared.wire import Frame, WireError, failure_frame, frame, json_frame
from procjobs.supervisor.clients.client_link import ClientLink

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.dispatch.waits import RefusedWait
    from procjobs.supervisor.clients.deferred import DeferredCalls
    from procjobs.supervisor.clients.requests import RequestHandler
    from procjobs.supervisor.log import Log

_ACCEPT_PAUSE: Final = 0.25
_ACK_TIMEOUT: Final = 0.005
"""How long an acknowledgement waits for an answer that it can go with."""
_MAX_BACKLOG: Final = 50_000
"""The most answers that wait for a client before it is not read any further."""


class Connections:
    """All clients that are connected."""

    def __init__(
        self, loop: Loop, listener: socket.socket, requests: RequestHandler, deferred: DeferredCalls, log: Log
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._requests = requests
        self._deferred = deferred
        self._log = log
        self._clients: set[ClientLink] = set()
        self._told: set[ClientLink] = set()  # that a successor takes over
        self._accepts_again_at = self._next_ack_at = self._looks_again_at = NEVER

    @property
    def have_outsiders(self) -> bool:
        """Whether somebody is connected who is no process of this pool."""
        return len(self._clients) > self._requests.insiders

    @property
    def have_all_read(self) -> bool:
        """Whether every client has taken everything that was sent to it."""
        return not any(client.waits_to_write for client in self._clients)

    def next_deadline(self) -> float:
        """Return when something is to be done."""
        return min(self._accepts_again_at, self._next_ack_at, self._looks_again_at, self._deferred.next_deadline())

    def listen(self) -> None:
        """Begin to accept clients."""
        self._loop.add(self._listener.fileno(), self)

    def advance(self, now: float) -> None:
        """Answer the calls that have waited for submissions; accept clients again after a pause."""
        self._deferred.advance(self._clients, now)
        self._looks_again_at = NEVER
        if self._accepts_again_at <= now:
            self._accepts_again_at = NEVER
            self.listen()

    def accept(self) -> None:
        """Take a client that is about to connect; processes of other users are refused."""
        try:
            sock, _ = self._listener.accept()
        except (ConnectionAbortedError, BlockingIOError):  # the client has given up already
            return
        except OSError as error:  # out of descriptors or memory: the others go on, this one waits until there are some
            self._log.write_warning(f"a connection could not be accepted, this is tried again in {_ACCEPT_PAUSE} s: {error}")
            self._loop.remove(self._listener.fileno())
            self._accepts_again_at = self._loop.now + _ACCEPT_PAUSE
            return
        uid = peer_uid(sock)
        if uid != os.geteuid():
            self._log.write_warning(f"a process of user {uid} was refused")
            sock.close()
            return
        client = ClientLink(sock)
        self._clients.add(client)
        self._loop.add(sock.fileno(), client)

    def read(self, client: ClientLink, events: int) -> None:
        """Act on everything that a client has sent."""
        if client.closed or not events & READ:
            return
        try:
            self._requests.read(client)
        except WireError as error:
            self._log.write_warning(f"the connection of process {client.pid or 'unknown'} is closed: {error}")
            self._drop(client)
            return
        except Exception:  # noqa: BLE001 - the edge around one client's turn: a bug met there must not end the others' pool
            self._log.write_warning(f"a bug in procjobs closed the connection of {client.pid}:\n{traceback.format_exc()}")
            self._drop(client)
            return
        if client.stream.ended:
            self._try_flush(client)
            self._drop(client)

    def flush(self, now: float) -> None:
        """Send everything that waits. An acknowledgement alone can wait a moment for an answer that goes with it.

        To wake a client costs 30 us here and as much there. A client that waits for the acknowledgement asks for it.
        """
        self._next_ack_at = NEVER
        for client in list(self._clients):
            has_more = client.has_more
            if client.accepted != client.acknowledged:
                if client.ack_due_at == NEVER:
                    client.ack_due_at = now + _ACK_TIMEOUT
                if has_more or client.ack_due_at <= now:
                    client.queue_acknowledgement()
                    has_more = True
                elif client.ack_due_at < self._next_ack_at:
                    self._next_ack_at = client.ack_due_at
            if has_more:
                self._try_flush(client)

    def _try_flush(self, client: ClientLink) -> None:
        try:
            done = client.flush()
        except OSError:
            self._drop(client)
            self._looks_again_at = self._loop.now  # generations that nobody uses were looked for already in this turn
            return
        client.waits_to_write = not done
        # A client that asks and asks and does not read the answers is not heard until it does.
        events = READ if done else WRITE if client.backlog > _MAX_BACKLOG else READ | WRITE
        if events != client.events:
            client.events = events
            self._loop.change(client.socket.fileno(), client, events)

    def tell_problems(self) -> None:
        """Tell each client why its code cannot be run at the moment, or that it can again, and what there is to notice."""
        for client in self._clients:
            if client.generation is not None:
                client.generation = client.generation.newest()
                news = {"problem": client.generation.problem, "notice": client.generation.notice}
                client.queue_frame(json_frame(Frame.NOTICE, news))

    def tell_handed_over(self, now: float) -> None:
        """Tell every client that what it waits for is the successor's."""
        for client in self._clients:
            if client.generation is not None and client not in self._told:
                self._told.add(client)
                client.queue_frame(frame(Frame.HANDED_OVER, b""))
        self.flush(now)

    def warn(self, generation: Generation, text: str) -> None:
        """Tell the clients of a generation in what it differs from what they have."""
        for client in self._clients:
            if client.generation is not None and client.generation.newest() is generation:
                client.queue_frame(json_frame(Frame.NOTICE, {"problem": generation.problem, "warning": text}))

    def refuse(self, wait: RefusedWait) -> None:
        """Tell a worker that its job is not to wait for some others: their handles there end with the reason."""
        client = wait.owner
        for job in () if client.closed else wait.awaited:
            details = {"job_id": to_text(wait.waiter.id), "awaited_id": to_text(job.id)}
            client.queue_frame(failure_frame(job.id, "WaitRefused", wait.why, details=details))

    def _drop(self, client: ClientLink) -> None:
        if client in self._clients:
            self._loop.remove(client.socket.fileno())
            self._clients.discard(client)
            client.close()
            self._requests.forget_client(client)

    def close(self) -> None:
        """Drop all clients, and accept no more."""
        for client in list(self._clients):
            self._drop(client)
        self._listener.close()
