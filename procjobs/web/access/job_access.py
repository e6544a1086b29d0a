"""Which visitor may look at which job: by a signed id, by the application's word, or by the id alone."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from procjobs.errors import ConfigurationError
from procjobs.web.access.signing import Grant

if TYPE_CHECKING:
    from procjobs.web.access.signing import Signer
    from procjobs.web.http import Request

Access: TypeAlias = Literal["signed", "id"]
JobAnswer: TypeAlias = "bool | Collection[str]"
AuthorizeJob: TypeAlias = Callable[[Any, str, Mapping[str, Any]], "JobAnswer | Awaitable[JobAnswer]"]
ALL: Final = frozenset({"look", "cancel"})
NONE: Final[frozenset[str]] = frozenset()
LOOK: Final = frozenset({"look"})


class JobAccess:
    """Decides about each id that a page asks for."""

    def __init__(self, signer: Signer, access: Access, authorize_job: AuthorizeJob | None, *, cancel: bool) -> None:
        """With `cancel`, whoever may look at a job by its plain id may cancel it as well."""
        if access not in {"signed", "id"}:
            raise ConfigurationError(f'access={access!r}: expected "signed" or "id"')
        self.signer = signer
        self._access = access
        self._authorize_job = authorize_job
        self._plain = ALL if cancel else LOOK

    @property
    def asks_application(self) -> bool:
        """Whether code of the application decides, which may block."""
        return self._authorize_job is not None

    def needs_status(self, token: str) -> bool:
        """Whether the job has to be known before it is decided: the application is told its `meta`."""
        return "." not in token and self._authorize_job is not None

    def grant(self, request: Request, token: str, meta: Mapping[str, Any] | None) -> Grant:
        """Return what a visitor may do with the job of a token or an id; `meta` is None if the job is not known."""
        if "." in token:
            return self.signer.check(token)
        if self._authorize_job is not None:
            if meta is None:
                return Grant(token, NONE)
            answer: Any = self._authorize_job(request.theirs, token, meta)
            rights = self._understand(request.wait(answer) if inspect.isawaitable(answer) else answer)
            return Grant(token, rights, None if rights else "you may not look at this job")
        if self._access == "id":
            return Grant(token, self._plain)
        return Grant(token, NONE, "this is not a signed id: make one with procjobs.web.sign(job)")

    def _understand(self, answer: Any) -> frozenset[str]:
        if isinstance(answer, bool) or answer is None:
            return self._plain if answer else NONE
        if isinstance(answer, set | frozenset | list | tuple) and set(answer) <= ALL:
            return frozenset(answer) | (LOOK if answer else NONE)
        raise ConfigurationError(f'authorize_job answered {answer!r}: expected a bool, or a set of "look" and "cancel"')
