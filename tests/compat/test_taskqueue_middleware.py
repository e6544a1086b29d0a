"""The middleware: which headers reach an application, with WSGI and with ASGI, and who may have deferred calls run."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote
from wsgiref.validate import validator

import pytest

from procjobs.compat.taskqueue import signing
from procjobs.compat.taskqueue.errors import NotConfiguredError
from procjobs.compat.taskqueue.web import gate, middleware
from procjobs.compat.taskqueue.web.middleware import wrap_asgi_app, wrap_wsgi_app
from tests.conftest import wait_until

KEY = b"k" * signing.KEY_BYTES
QUEUE = ("X-AppEngine-QueueName", "mail")
TASK = ("X-AppEngine-TaskName", "task-1")


class Request(NamedTuple):
    method: str = "POST"
    target: str = "/work%20er?a=1&b=%C3%A9"
    headers: tuple[tuple[str, str], ...] = (QUEUE, TASK)
    body: bytes = b"name=Ann"
    folder: str = ""

    def signed(self, key=KEY, *, prefix="", at=None):
        """This request as the sender sends it, with the path of the base URL before its own."""
        target = prefix + self.target
        value = signing.sign(key, self.method, target, self.headers, self.body, prefix=prefix, at=at)
        return self._replace(target=target, headers=(*self.headers, (signing.HEADER, value)))


class Seen(NamedTuple):
    """What an application has seen of a request: its status, X-AppEngine-* headers, body, and the mark."""

    status: int
    headers: dict[str, str] | None = None
    body: bytes | None = None
    is_signed: bool | None = None
    text: str = ""


def ask_wsgi(request, *, arrived=None, environ=None, **options):
    """Return what an application behind the middleware sees; both sides of it are held to the rules of WSGI.

    `arrived` is how much of the body comes before the connection ends.
    """
    stream = request.body + b"the next request" if arrived is None else request.body[:arrived]
    path, _, query = request.target.partition("?")
    own = environ or {}
    environ = {
        "REQUEST_METHOD": request.method, "PATH_INFO": unquote(path, "latin-1").removeprefix(request.folder),
        "SCRIPT_NAME": request.folder, "QUERY_STRING": query, "SERVER_NAME": "h", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": str(len(request.body)), "wsgi.version": (1, 0),
        "wsgi.input": io.BytesIO(stream), "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http", "wsgi.multithread": False, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip
    environ |= own
    for name, value in request.headers:
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    seen = []

    def application(environ, start_response):
        headers = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_X_")}
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        seen.append(Seen(200, headers, body, environ[gate.MARK]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"seen"]

    statuses = []
    answer = validator(wrap_wsgi_app(validator(application), **options))(
        environ, lambda status, headers, exc_info=None: statuses.append(int(status[:3]))
    )
    text = b"".join(answer).decode()
    answer.close()
    return seen[0] if seen else Seen(statuses[0], text=text)


def ask_asgi(request, *, arrived=None, **options):
    """The same with ASGI; the body comes in three pieces."""
    path, _, query = request.target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "method": request.method, "path": unquote(path),
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": request.folder,
        "headers": [(name.lower().encode(), value.encode()) for name, value in request.headers],
    }  # fmt: skip
    step = -(-len(request.body) // 3) or 1
    parts = [request.body[start : start + step] for start in range(0, len(request.body), step)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]
    if arrived is not None:
        messages = messages[: arrived // step]
    messages.append({"type": "http.disconnect"})
    seen, sent = [], []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        headers = {
            name.decode().upper().replace("-", "_"): value.decode()
            for name, value in scope["headers"]
            if name.startswith((b"x-", b"x_"))
        }
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        assert {"type": "http.disconnect"} == await receive()
        seen.append(Seen(200, headers, body, scope[gate.MARK]))

    asyncio.run(wrap_asgi_app(application, **options)(scope, receive, send))
    return seen[0] if seen else Seen(sent[0]["status"], text=sent[1]["body"].decode())


@pytest.fixture(params=[ask_wsgi, ask_asgi], ids=["wsgi", "asgi"])
def ask(request):
    return request.param


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Nothing here starts or opens anything that could be left: the search for it would take most of the time."""


@pytest.fixture(autouse=True)
def key_in_the_store(monkeypatch):
    """The key, as read from the database; how often it was read is counted."""
    reads = []

    def load():
        reads.append(KEY)
        return KEY

    monkeypatch.setattr(middleware, "load_signing_key", load)
    return reads


# Which headers pass -----------------------------------------------------------------------------------------------


def test_request_of_the_queue_passes_with_its_headers_and_its_body(ask):
    seen = ask(Request(headers=(QUEUE, TASK, ("X-Own", "1"))).signed())
    assert {"X_APPENGINE_QUEUENAME": "mail", "X_APPENGINE_TASKNAME": "task-1", "X_OWN": "1"} == seen.headers
    assert (True, b"name=Ann") == (seen.is_signed, seen.body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_request_without_a_body_passes(ask, method):
    seen = ask(Request(method=method, body=b"").signed())
    assert (True, b"", "mail") == (seen.is_signed, seen.body, seen.headers["X_APPENGINE_QUEUENAME"])


@pytest.mark.parametrize(("body", "status"), [(b"name=Ann", 200), (b"name=An", 400), (b"name=Anne", 400)])
def test_body_that_a_proxy_sends_in_chunks_is_verified(body, status):
    environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    seen = ask_wsgi(Request().signed()._replace(body=body), arrived=len(body), environ=environ)
    assert (status, status == 200) == (seen.status, bool(seen.is_signed))


def test_large_body_arrives_whole(ask):
    body = os.urandom(100 * 1024)
    assert body == ask(Request(body=body).signed()).body


@pytest.mark.parametrize(
    "name", ["X-AppEngine-TaskName", "x-appengine-taskname", "X-APPENGINE-TASKNAME", "X_AppEngine_TaskName",
             "X-AppEngine_QueueName", "X-AppEngine-Cron", "X-AppEngine-"]
)  # fmt: skip
def test_header_of_anybody_else_is_taken_off_in_every_spelling(ask, key_in_the_store, name):
    seen = ask(Request(headers=((name, "forged"), ("X-Own", "1"))))
    assert ({"X_OWN": "1"}, False, b"name=Ann") == (seen.headers, seen.is_signed, seen.body)
    assert [] == key_in_the_store


def test_header_that_a_proxy_adds_to_a_request_of_the_queue_is_taken_off(ask):
    request = Request().signed()
    seen = ask(request._replace(headers=(*request.headers, ("X-AppEngine-Cron", "true"))))
    assert {"X_APPENGINE_QUEUENAME", "X_APPENGINE_TASKNAME"} == set(seen.headers)


def test_signature_does_not_reach_the_application(ask):
    assert not any("SIGNATURE" in name for name in ask(Request().signed()).headers)
    assert not any("SIGNATURE" in name for name in ask(Request(headers=((signing.HEADER, "v=1"),))).headers)


# What a signature covers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"target": "/other?a=1&b=%C3%A9"},
        {"target": "/work%20er?a=2&b=%C3%A9"},
        {"target": "/work%20er"},
        {"target": "/work%20er?a=1%26b=%C3%A9"},
    ],
    ids=str,
)
def test_changed_request_is_nobodys(ask, change):
    seen = ask(Request().signed()._replace(**change))
    assert ({}, False, b"name=Ann") == (seen.headers, seen.is_signed, seen.body)


@pytest.mark.parametrize("body", [b"name=Eve", b"name=Ann&", b"name=An", b""])
def test_request_with_another_body_does_not_reach_the_application(ask, caplog, body):
    assert 400 == ask(Request().signed()._replace(body=body)).status
    assert "its body is not whole" in caplog.text


def test_body_is_read_as_far_as_it_was_signed():
    """Whoever has recorded a request cannot make the application read more than that."""
    scope = {
        "type": "http", "method": "POST", "path": "/w", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in Request(target="/w").signed().headers],
    }  # fmt: skip
    received, sent = [], []

    async def receive():
        received.append(b"x" * 1000)
        return {"type": "http.request", "body": received[-1], "more_body": len(received) < 10}

    async def send(message):
        sent.append(message)

    asyncio.run(wrap_asgi_app(None)(scope, receive, send))
    assert (400, 1) == (sent[0]["status"], len(received))


def test_body_that_is_cut_off_does_not_reach_the_application(ask):
    """The pool was killed after it had sent the headers, or a part of the body."""
    for arrived in (0, 4):
        assert 400 == ask(Request().signed(), arrived=arrived).status


@pytest.mark.parametrize("name", ["X-AppEngine-QueueName", "X-AppEngine-TaskName"])
def test_request_of_another_queue_or_task_is_nobodys(ask, name):
    request = Request().signed()
    headers = tuple((own, "other" if own == name else value) for own, value in request.headers)
    assert ({}, False) == ask(request._replace(headers=headers))[1:4:2]


def test_signature_of_another_key_is_nobodys(ask):
    assert ({}, False) == ask(Request().signed(b"x" * signing.KEY_BYTES))[1:4:2]


@pytest.mark.parametrize(("seconds", "is_signed"), [(-880, True), (-920, False), (280, True), (320, False)])
def test_signature_ends_with_time(ask, key_in_the_store, seconds, is_signed):
    assert is_signed == ask(Request().signed(at=time.time() + seconds)).is_signed
    assert is_signed == bool(key_in_the_store), "the time costs no look at the database"


def test_every_character_of_a_signature_counts(ask):
    request = Request().signed()
    value = request.headers[-1][1]
    for position in range(0, len(value), 7):
        forged = value[:position] + chr(ord(value[position]) ^ 1) + value[position + 1 :]
        headers = (*request.headers[:-1], (signing.HEADER, forged))
        assert ask(request._replace(headers=headers)).is_signed is False, forged


@pytest.mark.parametrize("value", ["", "v", "v=1", "v=1;t=;l=;b=;p=;h=;s=", "v=1;t=1;l=1;b=\xe9;p=;h=;s=\xe9", ";" * 10_000])
def test_garbage_in_place_of_a_signature_is_nobodys(value, key_in_the_store):
    headers = (QUEUE, (signing.HEADER, value))
    assert ({}, False) == ask_wsgi(Request(headers=headers))[1:4:2]
    assert [] == key_in_the_store


def test_folder_of_the_application_does_not_matter(ask):
    """A base URL with a path: the server mounts the application there, or a proxy takes it off, or nobody does."""
    request = Request().signed(prefix="/shop")
    assert ask(request._replace(folder="/shop")).is_signed
    assert ask(request._replace(target=request.target.removeprefix("/shop"))).is_signed
    assert ask(request).is_signed
    assert not ask(request._replace(target="/other" + request.target)).is_signed


@pytest.mark.parametrize("signed", ["/w", "/shop/w"])
@pytest.mark.parametrize("received", ["/w", "/shop/w"])
def test_folder_that_the_server_alone_knows_does_not_matter(ask, signed, received):
    request = Request(target=signed).signed()
    assert ask(request._replace(folder="/shop", target=received)).is_signed


# The key ----------------------------------------------------------------------------------------------------------


def test_key_is_read_once(key_in_the_store, monkeypatch):
    gates = gate.Gate(middleware.load_signing_key)
    for _ in range(3):
        request = Request(target="/w").signed()
        received = signing.Received("POST", (b"/w",), b"", signing.family(request.headers))
        assert gates.signature_of(request.headers[-1][1], received)
    assert [KEY] == key_in_the_store
    assert gates.signature_of(Request().signed(b"x" * 32).headers[-1][1], received) is None
    assert [KEY] == key_in_the_store, "a bad signature that comes soon costs no look at the database"
    monkeypatch.setattr(gate, "RELOAD_SECONDS", 0.0)
    assert gates.signature_of(Request().signed(b"x" * 32).headers[-1][1], received) is None
    assert [KEY] * 2 == key_in_the_store


def test_requests_that_come_while_the_key_is_read_wait_for_it(monkeypatch):
    """The first requests of a busy queue come at once: none of them may lose its headers."""
    reads, may_end = [], threading.Event()

    def load():
        reads.append(KEY)
        may_end.wait(30)
        return KEY

    monkeypatch.setattr(middleware, "load_signing_key", load)
    gates = gate.Gate(middleware.load_signing_key)
    request = Request(target="/w").signed()
    received = signing.Received("POST", (b"/w",), b"", signing.family(request.headers))
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(gates.signature_of, request.headers[-1][1], received) for _ in range(4)]
        wait_until(lambda: reads)
        may_end.set()
        assert all(one.result(30) for one in found)
    assert [KEY] == reads


def test_key_that_was_replaced_is_read_again(monkeypatch):
    """The database was made anew while the application went on."""
    monkeypatch.setattr(gate, "RELOAD_SECONDS", 0.0)
    gates = gate.Gate(middleware.load_signing_key)
    for key in (KEY, b"n" * signing.KEY_BYTES):
        monkeypatch.setattr(gates, "_load_key", lambda key=key: key)
        request = Request(target="/w").signed(key)
        received = signing.Received("POST", (b"/w",), b"", signing.family(request.headers))
        assert gates.signature_of(request.headers[-1][1], received)


def test_database_that_is_away_is_answered_with_503(ask, monkeypatch, caplog):
    def fail():
        raise ConnectionError("no route to the database")

    monkeypatch.setattr(middleware, "load_signing_key", fail)
    assert 503 == ask(Request().signed()).status
    assert "no route to the database" in caplog.text
    assert 200 == ask(Request()).status


def test_database_that_is_back_has_the_key_at_once(monkeypatch):
    answers = [ConnectionError("away"), KEY, ConnectionError("away"), KEY]

    def load():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    gates = gate.Gate(load)
    request, forged = Request(target="/w").signed(), Request(target="/w").signed(b"x" * 32)
    received = signing.Received("POST", (b"/w",), b"", signing.family(request.headers))
    with pytest.raises(ConnectionError):
        gates.signature_of(request.headers[-1][1], received)
    assert gates.signature_of(request.headers[-1][1], received)
    monkeypatch.setattr(gates, "_read_at", -gate.RELOAD_SECONDS)
    with pytest.raises(ConnectionError):
        gates.signature_of(forged.headers[-1][1], received)
    assert gates.signature_of(request.headers[-1][1], received), "a key that is known needs no database"
    assert gates.signature_of(forged.headers[-1][1], received) is None
    assert [KEY] == answers, "forged requests do not wait for a database that is away one after the other"


def test_application_that_is_not_configured_takes_the_headers_off_and_says_why(ask, monkeypatch, caplog):
    def fail():
        raise NotConfiguredError("call configure() first")

    monkeypatch.setattr(middleware, "load_signing_key", fail)
    assert ({}, False) == ask(Request().signed())[1:4:2]
    assert "call configure() first" in caplog.text


# Deferred calls ---------------------------------------------------------------------------------------------------

ran = []


def deferred_request(function=ran.append, args=("done",), **fields):
    return Request(target=gate.DEFERRED_URL, body=pickle.dumps((function, args, {})), **fields)


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def note(text):
    ran.append(text)


def test_deferred_call_of_the_queue_runs(ask):
    assert (200, "Success") == ask(deferred_request(note).signed(), use_deferred=True)[0:5:4]
    assert ["done"] == ran


def test_deferred_call_below_the_path_of_a_base_url_runs(ask):
    assert 200 == ask(deferred_request(note).signed(prefix="/shop"), use_deferred=True).status
    assert ["done"] == ran


def test_deferred_call_of_anybody_else_is_refused_unread(ask, caplog):
    request = deferred_request(note)
    for forged in (request, request.signed(b"x" * 32)):
        assert 403 == ask(forged, use_deferred=True).status
    assert 400 == ask(request.signed()._replace(body=pickle.dumps((note, ("x",), {}))), use_deferred=True).status
    assert [] == ran
    assert "the queue has not signed it" in caplog.text


def test_path_of_deferred_calls_is_the_applications_without_use_deferred(ask):
    seen = ask(deferred_request(note).signed())
    assert (200, True) == (seen.status, seen.is_signed)
    assert [] == ran


def test_get_is_no_deferred_call(ask):
    assert 405 == ask(deferred_request(note, method="GET").signed(), use_deferred=True).status


def test_websockets_and_lifespan_pass():
    scopes = []

    async def application(scope, receive, send):
        scopes.append(scope)

    wrapped = wrap_asgi_app(application, use_deferred=True)
    headers = [(b"x-appengine-taskname", b"forged"), (b"host", b"h")]
    asyncio.run(wrapped({"type": "websocket", "path": gate.DEFERRED_URL, "headers": headers}, None, None))
    asyncio.run(wrapped({"type": "lifespan"}, None, None))
    assert [(b"host", b"h")] == scopes[0]["headers"]
    assert {"type": "lifespan"} == scopes[1]
