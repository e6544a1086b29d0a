"""The question before something ends that cannot be brought back: a page of its own, or a dialog where scripts run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.web.dashboard import words
from procjobs.web.dashboard.jobs import MAX_SEARCH
from procjobs.web.http import Problem, check_next

if TYPE_CHECKING:
    from procjobs.web.dashboard.look import Look
    from procjobs.web.dashboard.rendering import Page

MAX_JOBS: Final = 1_000
"""How many jobs one form may name, as the call of the API takes them."""


def show_question(look: Look) -> Page:
    """Return the question that `what` names: cancel (with `id`), cancel-all, retry-all (with `state` and `q`), drain."""
    what = look.request.one("what")
    asked = {"cancel": _cancel, "cancel-all": _cancel_all, "retry-all": _retry_all, "drain": _drain}.get(what)
    action = what.removesuffix("-all")
    if asked is None:
        raise Problem(404, "No such question", "There is nothing to do under this address.")
    if not look.may(action):
        raise Problem(403, "Not allowed", f"This needs the right to {action}.")
    after = check_next(look.request.one("next")) or f"{look.pool_path()}/"
    values = {"explanation": "", "fields": [], "after": after, **asked(look)}
    return look.page("ask.html", values["question"], ("question",), "jobs" if action != "drain" else "", **values)


def _cancel(look: Look) -> dict[str, Any]:
    job = look.pool.status(look.request.one("id"))
    name = job.name[:100]
    if job.done:
        return {"question": f"{name} has ended already.", "action": "", "yes": "", "no": "Back"}
    runs = "It runs now: its processes are ended, and what it has done so far may be lost." if job.state == "running" else ""
    return {
        "question": f"Cancel {name}?", "explanation": runs, "action": f"jobs/{job.id}/cancel",
        "yes": "Cancel the job", "no": "Let it go on",
    }  # fmt: skip


def _cancel_all(look: Look) -> dict[str, Any]:
    return _all(look, "cancel", words.ACTIVE, "Let them go on")


def _retry_all(look: Look) -> dict[str, Any]:
    return _all(look, "retry", words.REPEATABLE, "Leave them")


def _all(look: Look, action: str, states: tuple[str, ...], no: str) -> dict[str, Any]:
    """Return the question about many jobs. Its form names each of them: what the visitor has read is what is done."""
    state, search = look.request.one("state"), look.request.one("q").strip()[:MAX_SEARCH]
    if state not in states:
        raise Problem(400, "Which jobs?", f"To {action} jobs, the field `state` must be one of: {', '.join(states)}.")
    found = look.pool.jobs(state, MAX_JOBS + 1, search=search or None, data=False)
    ids = [job.id for job in found[:MAX_JOBS]]
    if not ids:
        return {"question": f"No job is {state} any more.", "action": "", "yes": "", "no": "Back"}
    jobs = words.count(len(ids), f"{state} job")
    matching = f" that match “{search}”" if search else ""
    more = f"There are more: these are the newest {MAX_JOBS:,}." if len(found) > MAX_JOBS else ""
    return {
        "question": f"{action.capitalize()} {jobs}{matching}?", "explanation": more, "action": f"jobs/{action}",
        "fields": [("confirm", str(len(ids))), *(("ids", job_id) for job_id in ids)],
        "yes": f"{action.capitalize()} {words.count(len(ids), 'job')}", "no": no,
    }  # fmt: skip


def _drain(look: Look) -> dict[str, Any]:
    return {
        "question": f"Drain {look.name} and end it?",
        "explanation": "It takes no more jobs from anybody. When those there are have ended, the pool ends.",
        "action": "pool/drain", "yes": "Drain the pool", "no": "Let it go on",
    }  # fmt: skip
