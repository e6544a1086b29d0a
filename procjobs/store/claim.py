"""The claim: which supervisor has the jobs of a pool in a store.

1. A claim is an epoch, a number in the database that only grows. It is greater by one for each supervisor that takes it, and
   every row that this one writes has it.
2. A transaction writes only if it sees, in the row of the claim, that the claim still holds; that row cannot change before
   the transaction has ended. So nothing of a supervisor that has lost its claim gets into the database.
3. A claim is taken from another supervisor only if that one has given it up, has ended for certain, or was silent for LEASE
   seconds. A supervisor that is told of its loss, or that may have lost it, kills its runs and ends.
4. For SQLite the locked file is the proof that nobody else is there (procjobs.store.sqlite_file).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select, text, update

from procjobs.clock import boottime, monotonic
from procjobs.errors import StoreUnavailable
from procjobs.host import process
from procjobs.host.identity import Identity
from procjobs.host.rundir import RunDir
from procjobs.shared.recorder_wire import LEASE
from procjobs.shared.store_address import split_options, sqlite_path
from procjobs.store import started_attempts
from procjobs.store.schema import claims
from procjobs.store.sqlite_file import StoreFile
from procjobs.store.statements import prepare

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.shared.recorder_wire import Open

_PREDECESSOR_TIMEOUT: Final = 5.0
"""How long a new supervisor lets the recorder of the one before write its last events."""
_END_HOLDERS_OF_LOCK: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((classid::bigint << 32) | objid::bigint) = :number"
)


class ClaimLost(Exception):
    """Another supervisor has the jobs of the pool now, or nobody knows whose they are."""


class Claim:
    """The right of the supervisor `owner` to the jobs of a pool; `epoch` is 0 until it was taken for the first time.

    `started_attempts` are those that the supervisor from which it was taken has left in a directory of its own.
    """

    def __init__(self, settings: Open, fd: int | None) -> None:
        """`fd` is the locked file of an SQLite store that an earlier recorder of this supervisor has opened."""
        path = sqlite_path(settings.url)
        self.pool = settings.pool
        self.owner = settings.owner
        self.epoch = settings.epoch
        self.file = None if path is None else StoreFile(path, fd)
        self.started_attempts: dict[str, int] = {}
        self._holder = settings.holder
        self._may_be_elsewhere = path is None and "procjobs_host" in split_options(settings.url)[1]
        self._waits_until: float | None = None
        self._seen: tuple[int, int] | None = None
        self._seen_at = 0.0

    # Taking it --------------------------------------------------------------------------------------------------

    def take(self, connection: Connection) -> bool:
        """Take the claim, or find that it still holds, in the open transaction; return whether it was taken anew.

        Raise StoreUnavailable while it is another's, ClaimLost if it was ours and is not any more.
        """
        query = select(claims).where(claims.c.pool == self.pool)
        row = connection.execute(query).first()
        if self.epoch:
            if row is None and self.file is not None:
                raise StoreUnavailable(self.file.describe_loss())
            if row is None or (row.owner, row.epoch) != (self.owner, self.epoch):
                raise ClaimLost(self._describe_loss(row))
            self._try_lock(connection)
            return False
        if row is not None and row.owner not in {"", self.owner}:
            self._check_that_it_is_free(row)
        self._wait_for_predecessor(connection)
        values = {"owner": self.owner, "holder": self._holder}
        if row is None:
            connection.execute(insert(claims).values(pool=self.pool, epoch=1, beats=0, **values))
        else:
            unchanged = connection.execute(query.with_for_update()).first() == row
            if not unchanged:
                raise StoreUnavailable("another supervisor takes the jobs of this pool at the same moment")
            connection.execute(update(claims).where(claims.c.pool == self.pool).values(epoch=row.epoch + 1, **values))
        self.epoch = 1 if row is None else row.epoch + 1
        return True

    def _check_that_it_is_free(self, row: Any) -> None:
        """Return if the holder has ended, and its workers too; raise StoreUnavailable if that is not certain."""
        values = json.loads(row.holder)
        mark, directory = values.pop("mark"), RunDir(*values.pop("directory"))
        holder = Identity(**values)
        if holder.has_ended():
            process.kill_marked(mark)
            self.started_attempts = started_attempts.read(directory)
            return
        if self.file is not None:
            return
        if (row.epoch, row.beats) != self._seen:
            self._seen, self._seen_at = (row.epoch, row.beats), monotonic()
        rest = self._seen_at + LEASE - monotonic()
        if holder.is_visible or rest > 0:
            until = "while that one runs" if holder.is_visible else f"until that one was silent for {rest:.0f} s more"
            raise StoreUnavailable(
                f"the jobs of pool {self.pool} are in use by the supervisor {holder.pid} on host {holder.host}, {until}. "
                "Does the pool run twice, with different runtime directories? Stop one, or give it another name"
            )

    def note_failure(self, error: Exception) -> None:
        """Note an error. Where the database was not reached, the silence of another supervisor says nothing."""
        if not isinstance(error, StoreUnavailable):
            self._seen = None

    def _wait_for_predecessor(self, connection: Connection) -> None:
        """Raise StoreUnavailable while the recorder of an earlier supervisor may be writing its last events.

        Its connection holds a lock. One that is half open holds it for hours: it is ended, and not waited for any longer.
        """
        if self._try_lock(connection):
            return
        if self._waits_until is None:
            self._waits_until = monotonic() + _PREDECESSOR_TIMEOUT
        if monotonic() < self._waits_until:
            raise StoreUnavailable("the recorder of an earlier supervisor still writes the last events of that one")

    def _try_lock(self, connection: Connection) -> bool:
        if self.file is not None:
            return True
        digest = hashlib.sha256(f"procjobs {self.pool}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        if connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": number}):
            return True
        if self.epoch or (self._waits_until is not None and monotonic() >= self._waits_until):
            connection.execute(text(_END_HOLDERS_OF_LOCK), {"number": number})
        return False

    # Holding it -------------------------------------------------------------------------------------------------

    def verify(self, connection: Connection) -> None:
        """Raise ClaimLost unless the claim holds until the end of the open transaction."""
        row = prepare(connection.dialect).hold_claim.first(connection, b_pool=self.pool)
        if row is None or (row.owner, row.epoch) != (self.owner, self.epoch):
            raise ClaimLost(self._describe_loss(row))

    def renew(self, connection: Connection) -> float | None:
        """Show others that this supervisor is there; return until when its claim holds if it may be cut off from them.

        That is on CLOCK_BOOTTIME, None where others can see whether it runs.
        """
        if self.file is not None:
            return None
        began_at = boottime()
        connection.execute(update(claims).where(claims.c.pool == self.pool).values(beats=claims.c.beats + 1))
        return began_at + LEASE if self._may_be_elsewhere else None

    def release(self, connection: Connection) -> None:
        """Give the claim up."""
        mine = (claims.c.pool == self.pool) & (claims.c.owner == self.owner) & (claims.c.epoch == self.epoch)
        connection.execute(update(claims).where(mine).values(owner=""))

    def _describe_loss(self, row: Any) -> str:
        if row is None:
            return f"the claim of pool {self.pool} is not in the store any more: was the database replaced?"
        if row.owner in {"", self.owner}:
            return f"the claim of pool {self.pool} is another one than before: was the database restored?"
        holder = json.loads(row.holder)
        return f"the supervisor {holder['pid']} on host {holder['host']} has the jobs of pool {self.pool} now"

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()
