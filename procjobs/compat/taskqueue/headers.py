"""Headers by name, in any spelling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any


class Headers(MutableMapping[str, Any]):
    """A mapping whose keys may be asked for in any case, and keep the one in which they were set last.

    A value is a text, or several of them for a header that comes more than once.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._items: dict[str, tuple[str, Any]] = {}
        self.update(given or {})

    def __getitem__(self, name: str) -> Any:
        return self._items[name.lower()][1]

    def __setitem__(self, name: str, value: Any) -> None:
        self._items.pop(name.lower(), None)
        self._items[name.lower()] = (name, value)

    def __delitem__(self, name: str) -> None:
        del self._items[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._items

    def copy(self) -> Headers:
        """Return headers that can be changed without changing these."""
        return Headers(self)

    def __repr__(self) -> str:
        return repr(dict(self))
