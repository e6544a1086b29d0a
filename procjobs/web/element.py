"""The progress element as HTML, for templates."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from procjobs.errors import ConfigurationError
from procjobs.web.access.signing import WEEK, sign

if TYPE_CHECKING:
    from typing import Self

_ATTRIBUTE: Final = re.compile(r"[a-z][a-z0-9-]*\Z")


class Html(str):
    """HTML that is complete: Jinja2, Django, Mako, Chameleon and others put it into a page as it is."""

    __slots__ = ()

    def __html__(self) -> Self:
        """Return it as it is: the sign by which template engines know that it needs no escaping."""
        return self


def tag(
    job: Any,
    label: str,
    *,
    src: str = "/jobs/",
    cancel: bool = False,
    eta: bool = True,
    then: str | None = None,
    max_age: float | None = WEEK,
    secret: bytes | str | None = None,
    **attributes: str | bool,
) -> Html:
    """Return the HTML of a bar that follows a job; `label` is what the user calls it, and what screen readers say.

    `src` is where `procjobs.web.progress` or `procjobs.web.app` is mounted. With `cancel`, there is a button, and the token
    in the page lets its visitor cancel the job. With `eta`, the remaining time is shown where it can be told. When the job
    has succeeded, the browser goes to the page `then`, or loads this one again for "reload". The token ends after `max_age`
    seconds; None puts the bare id into the page, for `access="id"` and `authorize_job`. `secret` is that of the mounted
    pages. Other arguments are attributes: `lang="de"`, `for_="films"`, `data_succeeded="ready"`, `poll=True`.

    The first use of it in a page brings the script; further ones cost nothing, so each may be used alone. Where there is no
    JavaScript, a link to a page that loads itself again is shown. Does not ask the pool, and does not block. Raise
    UnknownJob for what is no id, ConfigurationError for an empty label or an attribute whose name is none.

    >>> print(tag("0192f0c1-2345-7abc-8def-0123456789ab", "Film 7", eta=False, max_age=None))
    <script type="module" src="/jobs/procjobs.js"></script><procjobs-progress job="0192f0c1-2345-7abc-8def-0123456789ab" \
label="Film 7" src="/jobs/"><a href="/jobs/job?id=0192f0c1-2345-7abc-8def-0123456789ab&amp;label=Film+7">Film \
7</a></procjobs-progress>
    """
    if not label:
        raise ConfigurationError("a bar needs a label: without one, a screen reader cannot say what it is of")
    token = getattr(job, "id", str(job)) if max_age is None else sign(job, cancel=cancel, max_age=max_age, secret=secret)
    base = src if src.endswith("/") else f"{src}/"
    known: dict[str, str | bool | None] = {
        "job": token, "label": label, "src": base, "cancel": cancel, "eta": eta, "then": then,
        **{_attribute_name(name): value for name, value in attributes.items()},
    }  # fmt: skip
    page = {"id": token, "label": label, **({"lang": known["lang"]} if "lang" in known else {})}
    shown = "".join(_attribute(name, value) for name, value in known.items())
    link = f'<a href="{escape(f"{base}job?{urlencode(page)}")}">{escape(label)}</a>'
    script = f'<script type="module" src="{escape(base)}procjobs.js"></script>'
    return Html(f"{script}<procjobs-progress{shown}>{link}</procjobs-progress>")


def _attribute_name(argument: str) -> str:
    name = argument.rstrip("_").replace("_", "-")
    if not _ATTRIBUTE.match(name):
        raise ConfigurationError(f"tag() got the argument {argument!r}, which is no name of an attribute")
    return name


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
