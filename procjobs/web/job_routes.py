"""The end user's half: the state of jobs for pages that poll, and cancelling. Events are in streams.py."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from procjobs.web.documents import job_document, mark, poll_after
from procjobs.web.http import Problem, Request, Response, json_response, see_other
from procjobs.web.moments import wall
from procjobs.web.seeing import asked_tokens, see, see_one
from procjobs.web.site import Route

if TYPE_CHECKING:
    from procjobs.web.access.permission import Visitor
    from procjobs.web.site import Site

NOT_KEPT: Final = ("Cache-Control", "no-store, no-transform")


def show_status(site: Site, request: Request, who: Visitor) -> Response:
    """Answer with the documents of up to 100 jobs, or 304 if all are as the page knows them.

    A job that cannot be looked for just now is left out; if none can be told of, what is wrong is raised.
    """
    seen = see(site, request, asked_tokens(request))
    told = [one for one in seen if one.trouble is None]
    if not told:
        raise next(one.trouble for one in seen if one.trouble is not None)
    marks = ",".join(f"{one.grant.key}={mark(one.status)}" for one in told)
    etag = f'"{blake2b(marks.encode(), digest_size=12).hexdigest()}"'
    if etag in request.headers.get("if-none-match", ""):
        return Response(b"", 304, (("ETag", etag), NOT_KEPT))
    documents = [job_document(one.grant.key, one.status, one.grant.refusal) for one in told]
    after = poll_after((one.status for one in told), wall())
    return json_response({"jobs": documents, "poll_after": after}, 200, ("ETag", etag), NOT_KEPT)


def cancel(site: Site, request: Request, who: Visitor) -> Response:
    """Cancel one job, for whoever has a token for that; go to the page that `next` names, if it is given."""
    [token, *others] = asked_tokens(request)
    if others:
        raise Problem(400, "Too many jobs", "One job is cancelled at a time.")
    if site.options.read_only:
        raise Problem(403, "Read only", "These pages only show jobs.")
    seen = see_one(site, request, token)
    if "cancel" not in seen.grant.rights:
        raise Problem(403, "Not allowed", "This link lets you look at the job, not cancel it.")
    if seen.found is None:
        raise Problem(404, "No such job", "There is no such job, or it ended long ago.")
    has_cancelled = seen.found.pool.cancel(seen.found.status.id)
    next_page = request.one("next")
    if next_page:
        return see_other(request, next_page)
    return json_response({"id": seen.grant.key, "cancelled": has_cancelled})


ROUTES: Final = [
    Route("GET", "api/1/status", "public", show_status, fast=True),
    Route("POST", "api/1/cancel", "public", cancel),
]
