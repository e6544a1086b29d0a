"""The jobs that a page asks for, as far as it may see them: ids are checked first, then looked for in the site's pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.errors import ProcjobsError
from procjobs.web.access.signing import Grant
from procjobs.web.http import Problem, WouldBlock

if TYPE_CHECKING:
    from procjobs import JobStatus
    from procjobs.web.http import Request
    from procjobs.web.pools import AnyPool, Pools
    from procjobs.web.site import Site

MAX_IDS: Final = 100
MAX_TOKEN: Final = 200


class Found(NamedTuple):
    """A job and the pool that has it."""

    pool: AnyPool
    status: JobStatus


class Seen(NamedTuple):
    """A job as a visitor may see it: `found` is None if nobody knows it, or it is not for this visitor.

    `trouble` is why it cannot be told now whether there is such a job.
    """

    grant: Grant
    found: Found | None
    trouble: ProcjobsError | None = None

    @property
    def status(self) -> JobStatus | None:
        """The job as it is now."""
        return None if self.found is None else self.found.status


def asked_tokens(request: Request) -> list[str]:
    """Return the ids or tokens of a request, each once; raise Problem 400 for none, and for more than 100."""
    tokens = list(dict.fromkeys(request.all("id")))
    if not tokens:
        raise Problem(400, "Which job?", "Say which job with id=...")
    if len(tokens) > MAX_IDS:
        raise Problem(400, "Too many jobs", f"{len(tokens)} ids at once: at most {MAX_IDS} are answered.")
    if any(len(token) > MAX_TOKEN for token in tokens):
        raise Problem(400, "Bad id", f"An id has at most {MAX_TOKEN} characters.")
    return tokens


def see(site: Site, request: Request, tokens: list[str]) -> list[Seen]:
    """Return the jobs of these tokens, in their order; raise Problem 403 if none of them is for this visitor.

    Blocks if a job is not in shared memory; raise WouldBlock instead if the request may not block.
    """
    early = {token: site.jobs.grant(request, token, None) for token in tokens if not site.jobs.needs_status(token)}
    keys = {token: token.partition(".")[0] for token in tokens if token not in early or early[token].rights}
    found, trouble = find(site.pools, set(keys.values()), may_block=request.may_block)
    seen = []
    for token in tokens:
        known = found.get(keys.get(token, ""))
        grant = early.get(token) or site.jobs.grant(request, token, None if known is None else known.status.meta)
        is_lost = token in keys and known is None
        seen.append(Seen(grant, known if grant.rights else None, trouble if is_lost else None))
    refusals = [one.grant.refusal for one in seen if not one.grant.rights and one.grant.refusal is not None]
    if len(refusals) == len(seen):
        raise Problem(403, "Not allowed", f"You may not look at this: {refusals[0]}.")
    return seen


def see_one(site: Site, request: Request, token: str) -> Seen:
    """Return one job; raise as `see`, and what keeps it from being found."""
    [seen] = see(site, request, [token])
    if seen.trouble is not None:
        raise seen.trouble
    return seen


def find(
    pools: Pools, keys: set[str], *, may_block: bool
) -> tuple[dict[str, Found], ProcjobsError | None]:
    """Return the jobs of these ids by id, and what has kept others from being found, None if nothing has.

    All pools are looked at in shared memory before any of them is asked for ids that none of them has there.
    """
    found: dict[str, Found] = {}
    trouble: ProcjobsError | None = None
    there = list(pools.all().values())
    for is_asked in (False, True):
        for pool in there:
            missing = [key for key in keys if key not in found]
            if not missing:
                return found, None
            if not may_block and (is_asked or not pools.is_open(pool)):
                raise WouldBlock
            try:
                statuses = pool.look_up(missing) if is_asked else pool.glance(missing)
            except ProcjobsError as error:
                trouble = error
                continue
            pools.note_open(pool)
            found |= {key: Found(pool, status) for key, status in statuses.items() if status is not None}
    return found, trouble
