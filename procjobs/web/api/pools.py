"""The API of pools: which there are, how they fare, and what their operators do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError
from procjobs.web.api import parameters, shapes
from procjobs.web.api.endpoint import Call, Endpoint
from procjobs.web.api.pool_state import STATES, pool_document

if TYPE_CHECKING:
    from procjobs.web.api.records import Shape

_HAND_OVER: Final = parameters.switch("hand_over", "Keep the jobs that wait, and new ones, for the next start of the pool.")
_WORKERS: Final = parameters.workers("workers", "4, or 2-8 for a range to scale in, or auto.")._replace(is_required=True)


def _pools(call: Call) -> dict[str, Any]:
    return {"pools": [pool_document(name, pool) for name, pool in call.site.pools.all().items()]}


def _stats(call: Call) -> dict[str, Any]:
    pool = call.pool
    try:
        usage: dict[str, Any] | None = shapes.USAGE.document(pool.usage(pss=False))
    except ProcjobsError:
        usage = None
    return {**pool_document(call.pool_name, pool), "usage": usage}


def _several(name: str, shape: Shape, found: list[Any]) -> dict[str, Any]:
    return {name: [shape.document(one) for one in found]}


def _trend(call: Call) -> dict[str, Any]:
    return _several("points", shapes.TREND, call.pool.trend())


def _workers(call: Call) -> dict[str, Any]:
    return _several("workers", shapes.WORKER, call.pool.workers())


def _queues(call: Call) -> dict[str, Any]:
    return _several("queues", shapes.QUEUE, call.pool.queues())


def _kinds(call: Call) -> dict[str, Any]:
    return _several("kinds", shapes.KIND, call.pool.kinds())


def _settings(call: Call) -> dict[str, Any]:
    return _several("settings", shapes.SETTING, call.pool.settings())


def _done(call: Call, action: str) -> dict[str, Any]:
    return {"action": action, **pool_document(call.pool_name, call.pool)}


def _pause(call: Call) -> dict[str, Any]:
    call.pool.pause()
    return _done(call, "pause")


def _resume(call: Call) -> dict[str, Any]:
    call.pool.resume()
    return _done(call, "resume")


def _resize(call: Call) -> dict[str, Any]:
    call.pool.resize(call.values["workers"])
    return _done(call, "resize")


def _reload(call: Call) -> dict[str, Any]:
    call.pool.reload()
    return _done(call, "reload")


def _drain(call: Call) -> dict[str, Any]:
    call.pool.drain(hand_over=call.values["hand_over"])
    return _done(call, "drain")


ENDPOINTS: Final = (
    Endpoint("GET", "api/1/pools", "read", _pools, "All pools of this site", "Pools", is_of_pool=False),
    Endpoint("GET", "api/1/stats", "read", _stats, "The counters of a pool, and what it uses of the host", "PoolDetails"),
    Endpoint("GET", "api/1/trend", "read", _trend, "The last hour of a pool", "Trend"),
    Endpoint("GET", "api/1/workers", "read", _workers, "The workers of a pool", "Workers"),
    Endpoint("GET", "api/1/queues", "read", _queues, "The queues of a pool", "Queues"),
    Endpoint("GET", "api/1/kinds", "read", _kinds, "How the jobs of each name have fared", "Kinds"),
    Endpoint("GET", "api/1/settings", "read", _settings, "The settings that a pool runs with", "Settings"),
    Endpoint("POST", "api/1/pool/pause", "operate", _pause, "Start no more jobs; running ones go on", "PoolAction"),
    Endpoint("POST", "api/1/pool/resume", "operate", _resume, "Start jobs again", "PoolAction"),
    Endpoint("POST", "api/1/pool/resize", "admin", _resize, "Change the number of workers", "PoolAction", (_WORKERS,)),
    Endpoint("POST", "api/1/pool/reload", "admin", _reload, "Load the code anew; answers when it is loaded", "PoolAction"),
    Endpoint("POST", "api/1/pool/drain", "admin", _drain, "Take no more jobs, then end", "PoolAction", (_HAND_OVER,)),
)

_POOL: Final[dict[str, dict[str, Any]]] = {
    "name": {"type": "string"},
    "state": {"type": "string", "enum": list(STATES)},
    "stats": shapes.or_null_reference("Stats"),
    "error": {"type": ["string", "null"]},
}
SCHEMAS: Final = {
    "Stats": shapes.STATS.schema,
    "Usage": shapes.USAGE.schema,
    "TrendPoint": shapes.TREND.schema,
    "Worker": shapes.WORKER.schema,
    "Queue": shapes.QUEUE.schema,
    "Kind": shapes.KIND.schema,
    "Setting": shapes.SETTING.schema,
    "Pool": lambda: shapes.object_of(
        "A pool. killed: its supervisor has gone and left what it knew; not answering: the supervisor is stopped; "
        "unreadable: there is nothing to read, and `error` says why.", **_POOL,
    ),
    "Pools": lambda: shapes.object_of("All pools.", pools=shapes.list_of("Pool")),
    "PoolDetails": lambda: shapes.object_of(
        "A pool, and what it uses.", **_POOL, usage=shapes.or_null_reference("Usage")
    ),
    "PoolAction": lambda: shapes.object_of(
        "The pool after the action.", action={"type": "string"}, **_POOL
    ),
    "Trend": lambda: shapes.object_of("A point in about 5 seconds, the oldest first.", points=shapes.list_of("TrendPoint")),
    "Workers": lambda: shapes.object_of("The workers.", workers=shapes.list_of("Worker")),
    "Queues": lambda: shapes.object_of("The queues.", queues=shapes.list_of("Queue")),
    "Settings": lambda: shapes.object_of("The settings.", settings=shapes.list_of("Setting")),
    "Kinds": lambda: shapes.object_of("The 200 most used names, and `others`.", kinds=shapes.list_of("Kind")),
}  # fmt: skip
