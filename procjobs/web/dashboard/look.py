"""One look of a visitor at a pool: what every page of it needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from procjobs.errors import ProcjobsError
from procjobs.web.api.pool_state import pool_state
from procjobs.web.dashboard import words
from procjobs.web.dashboard.rendering import Page, query
from procjobs.web.moments import wall

if TYPE_CHECKING:
    from procjobs.web.access.permission import Visitor
    from procjobs.web.dashboard.memory import Memory, PoolMemory
    from procjobs.web.http import Request
    from procjobs.web.site import Right, Site

TABS: Final = (
    ("", "Overview"), ("jobs", "Jobs"), ("workers", "Workers"), ("queues", "Queues"), ("schedules", "Schedules"),
    ("history", "History"), ("settings", "Settings"),
)  # fmt: skip
ACTIONS: Final[dict[str, Right]] = {
    "cancel": "operate", "retry": "operate", "run": "operate", "pause": "operate", "resume": "operate",
    "resize": "admin", "reload": "admin", "drain": "admin",
}  # fmt: skip
"""The right that each action needs, as its call of the API asks for it."""


class Look:
    """A visitor, what they ask for, and the pool that they look at; "" and None on the page of all pools."""

    def __init__(self, site: Site, request: Request, who: Visitor, memory: Memory, name: str = "") -> None:
        self.site: Final = site
        self.request: Final = request
        self.name: Final = name
        self.now: Final = wall()
        self._who = who
        self._memory = memory
        self.pools: Final = site.pools.all()

    @property
    def pool(self) -> Any:
        """The pool; raise Problem 404 if there is none of this name now."""
        return self.site.pools.pick(self.name)[1]

    @property
    def memory(self) -> PoolMemory:
        """What is remembered of the pool."""
        return self.memory_of(self.name)

    def memory_of(self, name: str) -> PoolMemory:
        """Return what is remembered of the pool of this name."""
        return self._memory.of(name)

    def scan(self, question: Hashable, read: Callable[[], Any]) -> Any:
        """Return what `read` reads of all jobs of the pool, at times a little old; raise Problem 503 if that is too much."""
        return self.site.scans.read((self.name, "page", question), read)

    def keep(self, question: Hashable, seconds: float, ask: Callable[[], Any]) -> Any:
        """Return what `ask` answers; a page that renews itself may get an answer that is so many seconds old."""
        return self.memory.keep(question, seconds if self.request.one("fragment") else 0.0, ask)

    def may(self, action: str) -> bool:
        """Whether the visitor may do one of ACTIONS."""
        return self._who.may(ACTIONS[action], action)

    @property
    def here(self) -> str:
        """The address of this page below the mount, without what only scripts add: where a form leads back to."""
        fields = {name: values[0] for name, values in self.request.query.items() if values and name != "fragment"}
        return quote(self.request.path) + query(**fields)

    def pool_path(self, name: str = "") -> str:
        """Return the path of a pool's pages below the mount, without a slash at its end."""
        return f"pools/{quote(name or self.name, safe='')}"

    def page(self, template: str, heading: str, parts: tuple[str, ...], tab: str | None = None, **values: Any) -> Page:
        """Return a page of this look, with the values that the frame of all pages needs."""
        link = self.request.link
        common = {
            "site_title": self.site.options.title, "pool_names": list(self.pools), "pool_name": self.name, "now": self.now,
            "pool_url": lambda name: link(self.pool_path(name)), "base": link(self.pool_path()) if self.name else "",
            "tabs": TABS, "tab": tab, "here": self.here, "may": self.may, "may_change": any(map(self.may, ACTIONS)),
            "run_time": words.run_time, "alert": "",
        }  # fmt: skip
        if self.name and "alert" not in values and template != "pool.html":
            common["alert"] = self._find_alert()
        return Page(template, heading, ("alert", *parts), {**common, **values})

    def _find_alert(self) -> str:
        """Return what everybody who looks at the pool has to know, "" if nothing."""
        try:
            stats = self.pool.stats()
            sign, _, lines = words.health(stats, pool_state(self.pool, stats))
        except ProcjobsError as error:
            return str(error)
        return " ".join(lines) if sign == "trouble" else ""
