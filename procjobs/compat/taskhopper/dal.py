"""Tasks as rows of a pydal DAL, within the transaction of the application."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.dialects import postgresql, sqlite

from procjobs.compat.taskhopper import table
from procjobs.compat.taskhopper.table import Task
from procjobs.errors import ConfigurationError

_DIALECTS: Final = {"sqlite": sqlite.dialect(), "postgres": postgresql.dialect()}  # type: ignore[no-untyped-call]
_SECOND: Final = timedelta(seconds=1)


class DalWriter:
    """Adds rows with the DAL; `db.task_status` is defined there afterwards."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._ensure_table()
        if table.task_status.name not in db.tables:
            self._define()
        missing = {column.name for column in table.task_status.columns} - set(db.task_status.fields)
        if missing:
            raise ConfigurationError(
                f"the DAL has a table task_status of its own, without {', '.join(sorted(missing))}; give one of "
                "them another name"
            )

    def _ensure_table(self) -> None:
        """Create the table if it is not there, and commit that, as pydal does when it creates one."""
        dialect = _DIALECTS.get(self._db._adapter.dbengine)  # noqa: SLF001 - pydal has no other name for it
        if dialect is None:
            raise ConfigurationError(f"tasks are kept in SQLite or PostgreSQL, and this DAL is for {self._db._dbname}")  # noqa: SLF001
        found = {name for (name,) in self._db.executesql(table.COLUMNS_QUERIES[dialect.name])}
        if table.check_columns(found, "the database of the DAL"):
            return
        for statement in table.creation(dialect):
            self._db.executesql(statement)
        self._db.commit()

    def _define(self) -> None:
        """Define the table in the DAL.

        `result` is in pydal's list of reserved words, though no database reserves it: a DAL made with
        check_reserved=["all"] would refuse the column.
        """
        from pydal import Field

        kinds = {"Integer": "integer", "String": "string", "JSON": "json", "DateTime": "datetime", "Text": "text"}
        fields = [
            Field(column.name, kinds[type(column.type).__name__], writable=False)
            for column in table.task_status.columns
            if column.name != "id"
        ]
        db = self._db
        checked, db._check_reserved = db._check_reserved, None  # noqa: SLF001 - pydal has no other name for it
        try:
            db.define_table(table.task_status.name, *fields, migrate=False)
            _ = db.task_status  # a DAL with lazy_tables defines the table now
        finally:
            db._check_reserved = checked  # noqa: SLF001

    def insert(self, values: dict[str, Any]) -> int:
        """See Writer. pydal keeps full seconds: a task is due in the next one, not before its time."""
        created, due = values["created_on"], values["due_on"]
        full = {"created_on": _floor(created), "due_on": _floor(due) if due <= created else _ceil(due)}
        return int(self._db.task_status.insert(**{**values, **full}))

    def read(self, task_id: int) -> Task | None:
        """See Writer."""
        row = self._db.task_status(task_id)
        return None if row is None else Task(*(row[name] for name in Task._fields))


def _floor(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _ceil(moment: datetime) -> datetime:
    return moment if not moment.microsecond else _floor(moment) + _SECOND
