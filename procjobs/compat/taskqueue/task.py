"""Tasks, as programs make them and have them back."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from procjobs.compat.taskqueue import adding, app_engine
from procjobs.compat.taskqueue.constants import (
    DEFAULT_APP_VERSION,
    MAX_COUNTDOWN_SECONDS,
    MAX_PULL_TASK_SIZE_BYTES,
    MAX_PUSH_TASK_SIZE_BYTES,
    MAX_TAG_LENGTH,
    QUEUE_URL,
    Version,
)
from procjobs.compat.taskqueue.errors import InvalidEtaError, InvalidTagError, InvalidTaskError, TaskTooLargeError
from procjobs.compat.taskqueue.headers import Headers
from procjobs.compat.taskqueue.retry_options import TaskRetryOptions
from procjobs.compat.taskqueue.settings.queues import DEFAULT_QUEUE
from procjobs.compat.taskqueue.store.records import NewTask
from procjobs.compat.taskqueue.task_checks import (
    check_dispatch_deadline,
    check_headers,
    check_task_name,
    convert_payload,
    determine_eta_posix,
    encode_params,
    flatten_params,
    split_url,
    tag_text,
)

if TYPE_CHECKING:
    from procjobs.compat.taskqueue.results import Result
    from procjobs.compat.taskqueue.store.records import LeasedTask

_BODY_METHODS: Final = ("POST", "PUT", "PULL")
_QUERY_METHODS: Final = ("GET", "HEAD", "PUT", "DELETE")
_SHOWN: Final = ("eta", "method", "name", "payload", "queue_name", "retry_options", "size", "was_deleted", "was_enqueued")
_SHOWN_OF_PULL: Final = ("tag",)
_SHOWN_OF_PUSH: Final = ("headers", "target", "url")


class Task:
    """A request to a handler of the application, or an item of a pull queue (method="PULL").

    payload: the body, as text or bytes; for POST, PUT and PULL.
    countdown: seconds from now until the task may run. eta: the same as a datetime; one without a time zone is local time.
        Not more than 30 days from now; the past is now.
    headers: a mapping, of a text or of several to each name. X-AppEngine-* are not sent: they are the queue's.
    method: POST, GET, HEAD, PUT, DELETE or PULL, in any case.
    name: at most one task of a queue has it, and until 9 days after its end no other one. Without it a name is chosen.
    params: a mapping: the body of a POST, as a form, and of a PULL; the query of the others.
    retry_options: TaskRetryOptions, in place of all of those of the queue.
    tag: a text by which `lease_tasks_by_tag` finds the task; PULL alone.
    target: a key of `configure(targets=)`, or DEFAULT_APP_VERSION for the application at its `base_url`.
    url: the path of the handler; without one it is /_ah/queue/ and the name of the queue. It has a query only for methods
        whose parameters are in the query.
    dispatch_deadline_usec: after how many microseconds a request is given up, and counts as failed; 15 s to 24 h.

    Everything is checked here, before any connection is made. Raise InvalidTaskError, or one of those under it, for what
    breaks a rule of tasks; InvalidTagError and InvalidDispatchDeadlineError for these two.
    """

    # Programs' tests put a clock of theirs in the place of the first one, under the name that it has in the original.
    __determine_eta_posix = staticmethod(determine_eta_posix)
    __convert_payload = staticmethod(convert_payload)

    def __init__(
        self,
        payload: str | bytes | None = None,
        *,
        countdown: float | None = None,
        eta: dt.datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        method: str = "POST",
        name: str | None = None,
        params: Mapping[Any, Any] | None = None,
        retry_options: TaskRetryOptions | None = None,
        tag: str | bytes | None = None,
        target: str | Version | None = None,
        url: str = "",
        dispatch_deadline_usec: int | None = None,
    ) -> None:
        if name:
            check_task_name(name)
        if retry_options is not None and not isinstance(retry_options, TaskRetryOptions):
            raise TypeError(f"retry_options={retry_options!r}: expected TaskRetryOptions")
        self.__name = name
        self.__relative_url, query = split_url(url)
        self.__default_url = not url
        self.__headers = Headers(headers)
        check_headers(self.__headers)
        app_engine.add_namespaces(self.__headers)
        self.__method = str(method).upper()
        self.__tag = tag
        self.__payload: str | bytes | None = None
        self.__begin()
        self.__check_parts(query, params, bool(headers), bool(target))
        self.__set_content(payload, query, params)
        self.__given_target = target
        self.__target = app_engine.resolve_target(target, self.__headers)
        self.__eta_posix = Task.__determine_eta_posix(eta, countdown)
        self.__retry_options = retry_options
        self.__dispatch_deadline_usec = dispatch_deadline_usec
        self.__check_limits()

    def __begin(self) -> None:
        self.__retry_count = 0
        self.__queue_name: str | None = None
        self.__enqueued = False
        self.__deleted = False

    def __check_parts(self, query: str, params: Mapping[Any, Any] | None, has_headers: bool, has_target: bool) -> None:
        if query and params:
            raise InvalidTaskError("a task has parameters or a query in its url, and not both")
        if self.__method != "PULL" and self.__tag is not None:
            raise InvalidTaskError("only a pull task has a tag")
        if self.__method != "PULL":
            return
        for is_given, name in ((not self.__default_url, "url"), (has_headers, "headers"), (has_target, "target")):
            if is_given:
                raise InvalidTaskError(f"a pull task has no {name}: it is not sent anywhere")

    def __set_content(self, payload: Any, query: str, params: Mapping[Any, Any] | None) -> None:
        """Set the payload, and the query behind the url."""
        method = self.__method
        if method not in _BODY_METHODS and method not in _QUERY_METHODS:
            raise InvalidTaskError(f"method={method!r}: expected POST, GET, HEAD, PUT, DELETE or PULL")
        if payload and method not in _BODY_METHODS:
            raise InvalidTaskError(f"a {method} task has no payload; those of {', '.join(_BODY_METHODS)} may have one")
        if method in _QUERY_METHODS:
            if payload:
                self.__payload = Task.__convert_payload(payload, self.__headers)
            query = encode_params(params) if params else query
            self.__relative_url += f"?{query}" if query else ""
            return
        if payload and params:
            raise InvalidTaskError(f"a {method} task has a payload or parameters, and not both")
        if query:
            raise InvalidTaskError("the url of a POST task has no query: give params=, which are its body")
        if method == "POST" and params:
            self.__payload = encode_params(params)
            self.__headers.setdefault("content-type", "application/x-www-form-urlencoded")
            return
        content = encode_params(params) if params else payload
        if content is None and method == "PULL":
            raise InvalidTaskError("a pull task needs a payload or parameters")
        self.__payload = Task.__convert_payload(content, self.__headers)

    def __check_limits(self) -> None:
        if self.__eta_posix - time.time() > MAX_COUNTDOWN_SECONDS:
            raise InvalidEtaError("the task is due more than 30 days from now")
        limit = MAX_PULL_TASK_SIZE_BYTES if self.__method == "PULL" else MAX_PUSH_TASK_SIZE_BYTES
        if self.size > limit:
            raise TaskTooLargeError(f"a {self.__method} task takes at most {limit} bytes, and this one takes {self.size}")
        tag_text(self.__tag)
        if self.__tag and len(self.__tag) > MAX_TAG_LENGTH:
            raise InvalidTagError(f"a tag has at most {MAX_TAG_LENGTH} characters, and this one {len(self.__tag)}")
        if self.__dispatch_deadline_usec is not None:
            check_dispatch_deadline(self.__dispatch_deadline_usec)

    @classmethod
    def from_lease(cls, queue_name: str, leased: LeasedTask) -> Self:
        """Return the task that a pull queue has leased."""
        task = cls(b"", method="PULL", name=leased.name, tag=leased.tag)
        task.__payload = leased.payload
        task.__retry_count = leased.retry_count
        task.__eta_posix = leased.eta_usec * 1e-6
        task.__queue_name = queue_name
        task.__enqueued = True
        return task

    # What the task is -------------------------------------------------------------------------------------------

    @property
    def dispatch_deadline_usec(self) -> int | None:
        """After how many microseconds a request is given up."""
        return self.__dispatch_deadline_usec

    @property
    def eta_posix(self) -> float:
        """When the task may run, or its lease ends, in seconds since 1970 in UTC."""
        return self.__eta_posix

    @property
    def eta(self) -> dt.datetime:
        """The same as a datetime, aware and in UTC."""
        return dt.datetime.fromtimestamp(self.__eta_posix, dt.UTC)

    @property
    def _eta_usec(self) -> int:
        return round(self.__eta_posix * 1e6)

    @property
    def headers(self) -> Headers:
        """A copy of the headers, whose names may be asked for in any case."""
        return self.__headers.copy()

    @property
    def method(self) -> str:
        """The method of the request, or PULL."""
        return self.__method

    @property
    def name(self) -> str | None:
        """The name; of a task without one, the chosen one as soon as it is added."""
        return self.__name

    @property
    def on_queue_url(self) -> bool:
        """Whether the task has no url of its own."""
        return self.__default_url

    @property
    def payload(self) -> str | bytes | None:
        """The body: text if it was made of `params` for a POST, else bytes; None if there is none."""
        return self.__payload

    @property
    def queue_name(self) -> str | None:
        """The name of the queue that the task was added to; None before that."""
        return self.__queue_name

    @property
    def retry_count(self) -> int:
        """How often the task was leased, if it comes from a lease; else 0."""
        return self.__retry_count

    @property
    def retry_options(self) -> TaskRetryOptions | None:
        """The options that replace those of the queue."""
        return self.__retry_options

    @property
    def size(self) -> int:
        """Bytes of the task as the limits count them: of its method, url, headers and payload."""
        headers = sum(len(key) + len(value) + len(": \r\n") for key, value in flatten_params(self.__headers))
        return len(self.__method) + len(self.__payload or "") + len(self.__relative_url) + headers

    @property
    def tag(self) -> str | bytes | None:
        """The tag of a pull task."""
        return self.__tag

    @property
    def target(self) -> str | Version:
        """The target that was given or that follows from a Host header; UNKNOWN_APP_VERSION if there is none."""
        return self.__target

    @property
    def url(self) -> str:
        """The path with its query; without a path of its own '' or '?' and the query."""
        return self.__relative_url

    @property
    def was_enqueued(self) -> bool:
        """Whether the task was added to a queue, or comes from one."""
        return self.__enqueued

    @property
    def was_deleted(self) -> bool:
        """Whether a call with this task has deleted it."""
        return self.__deleted

    def extract_params(self) -> dict[str, bytes | list[bytes]]:
        """Return the parameters: of a POST or PULL task from its payload, else from its url; values are bytes.

        A name that is there more than once has a list of its values. Raise ValueError for what is no form.
        """
        query = self.__payload if self.__method in {"PULL", "POST"} else urlsplit(self.__relative_url).query
        found: dict[str, list[bytes]] = {}
        if query:
            text = query.decode() if isinstance(query, bytes) else query
            for key, value in parse_qsl(text, keep_blank_values=True, strict_parsing=True):
                found.setdefault(key, []).append(value.encode())
        return {key: values[0] if len(values) == 1 else values for key, values in found.items()}

    # What becomes of it -----------------------------------------------------------------------------------------

    def add_async(
        self, queue_name: str = DEFAULT_QUEUE, transactional: bool = False, rpc: None = None
    ) -> Result[Any]:
        """Add this task; see `Queue.add_async`."""
        return adding.add_async(queue_name, self, transactional, rpc)

    def add(self, queue_name: str = DEFAULT_QUEUE, transactional: bool = False) -> Any:
        """Add this task and return it; see `Queue.add`."""
        return self.add_async(queue_name, transactional).get_result()

    def to_record(self, queue_name: str) -> NewTask:
        """Return the task as the modules that write rows take it."""
        is_pull = self.__method == "PULL"
        payload = self.__payload.encode() if isinstance(self.__payload, str) else self.__payload
        return NewTask(
            name=self.__name or None,
            mode="pull" if is_pull else "push",
            method=self.__method,
            url="" if is_pull else f"{QUEUE_URL}/{queue_name}" * self.__default_url + self.__relative_url,
            target=self.__target_record(),
            headers=() if is_pull else app_engine.sendable(self.__headers),
            payload=payload,
            tag=tag_text(self.__tag),
            eta_usec=max(self._eta_usec, 0),  # the past is now, however long ago
            retry=None if self.__retry_options is None else self.__retry_options.parameters(),
            deadline_usec=self.__dispatch_deadline_usec,
            size=self.size,
        )

    def __target_record(self) -> str | None:
        if self.__given_target is DEFAULT_APP_VERSION:
            return ""
        return self.__target if isinstance(self.__target, str) else None

    def mark_added(self, queue_name: str, name: str) -> None:
        """Note that the task is in a queue, under this name."""
        self.__name, self.__queue_name, self.__enqueued = name, queue_name, True

    def mark_deleted(self, was_deleted: bool) -> None:
        """Note whether a call has deleted the task."""
        self.__deleted = was_deleted

    def mark_leased(self, eta_usec: int) -> None:
        """Note when the lease ends."""
        self.__eta_posix = eta_usec * 1e-6

    def __repr__(self) -> str:
        shown = sorted(_SHOWN + (_SHOWN_OF_PULL if self.__method == "PULL" else _SHOWN_OF_PUSH))
        return f"Task<{', '.join(f'{name}={getattr(self, name)!r}' for name in shown)}>"
