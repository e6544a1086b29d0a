"""Who has the jobs of a pool: a claim is taken, kept, lost; from whom it is taken, and from whom it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from procjobs.errors import StoreUnavailable
from procjobs.host.identity import Identity, identify
from procjobs.shared.recorder_wire import LEASE, Open
from procjobs.store import claim as claim_module
from procjobs.store.claim import Claim, ClaimLost
from procjobs.store.database import open_engine
from procjobs.store.schema import migrate

MARK = "0" * 32


class Claimant:
    """A recorder's view of the claim of one pool; `identity` is that of its supervisor, by default this process."""

    def __init__(self, store, owner, identity=None, options=""):
        identity = identity or identify(os.getpid())
        holder = json.dumps({**identity._asdict(), "mark": MARK, "directory": ["/nonexistent", "pool"]})
        url = store.url + (f"&{options}" if options else "")
        self.claim = Claim(Open(url, "pool", owner, 1.0, 1.0, 1, holder, 0, [], {}), None)
        self._connection = None
        self._store = store

    def take(self):
        """Connect, and take the claim as a recorder does; after an error the connection is given up."""
        self.leave()
        if self.claim.file is not None:
            self.claim.file.lock()
        self._connection = open_engine(self._store.url).connect()
        try:
            with self._connection.begin():
                migrate(self._connection)
                return self.claim.take(self._connection)
        except BaseException:
            self.leave()
            raise

    def do(self, name):
        with self._connection.begin():
            return getattr(self.claim, name)(self._connection)

    def leave(self):
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def end(self):
        self.leave()
        self.claim.close()


@pytest.fixture
def claimant(store):
    """Return a function that makes claimants, which end with the test."""
    found = []

    def make(*arguments, **settings):
        found.append(Claimant(store, *arguments, **settings))
        return found[-1]

    yield make
    for each in found:
        each.end()


def ended_process():
    """Return the identity of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identify(process.pid)
    process.communicate(b"\n")
    assert identity.has_ended()
    return identity


def elsewhere():
    """Return the identity of a process of which nothing can be seen from here."""
    return Identity("elsewhere", "another boot", 1, 4711, 1)


def only_postgresql(store):
    if store.url.startswith("sqlite"):
        pytest.skip("an SQLite file is locked as long as its supervisor or its recorder runs")


def test_claim_grows_with_each_supervisor_and_not_with_its_connections(claimant):
    first = claimant("first")
    assert first.take()
    assert not first.take()
    assert 1 == first.claim.epoch
    first.do("verify")
    first.do("release")
    first.end()
    second = claimant("second")
    assert second.take()
    assert 2 == second.claim.epoch


def test_claim_of_a_supervisor_that_has_ended_is_taken(claimant):
    first = claimant("first", ended_process())
    assert first.take()
    first.end()
    second = claimant("second")
    assert second.take()
    second.end()
    with pytest.raises(ClaimLost, match=rf"supervisor {os.getpid()} on host .* has the jobs of pool pool now"):
        first.take()


def test_claim_of_a_supervisor_that_runs_is_not_taken_though_its_recorder_has_gone(claimant, store):
    first = claimant("first")
    first.take()
    first.leave()  # for SQLite the file stays locked: the supervisor has it open, too
    second = claimant("second")
    with pytest.raises(StoreUnavailable, match=f"in use by .*supervisor {os.getpid()}"):
        second.take()
    assert not first.take()


def test_claim_of_a_supervisor_that_is_not_seen_is_taken_when_it_has_been_silent(claimant, store, monkeypatch):
    only_postgresql(store)
    now = 1000.0
    monkeypatch.setattr(claim_module, "monotonic", lambda: now)
    first = claimant("first", elsewhere())
    first.take()
    first.leave()
    second = claimant("second")

    def is_refused():
        with pytest.raises(StoreUnavailable, match="in use by the supervisor 4711 on host elsewhere"):
            second.take()
        return True

    assert is_refused()
    now += LEASE - 1
    assert is_refused()
    assert not first.take()
    first.do("renew")
    first.leave()
    now += 2
    assert is_refused()
    now += LEASE - 1
    second.claim.note_failure(OSError("the database is away"))
    now += 2
    assert is_refused(), "while the database was away it could say nothing"
    now += LEASE + 1
    assert second.take()
    with pytest.raises(ClaimLost):
        first.take()


def test_nothing_is_written_under_a_claim_that_was_lost(claimant, store):
    first = claimant("first")
    first.take()
    store.write("UPDATE procjobs_claims SET epoch = epoch + 1")
    with pytest.raises(ClaimLost, match="was the database restored"):
        first.do("verify")
    store.write("DELETE FROM procjobs_claims")
    with pytest.raises(ClaimLost, match="was the database replaced"):
        first.do("verify")


def test_claim_cannot_change_hands_while_a_transaction_under_it_is_open(claimant, store):
    only_postgresql(store)
    first = claimant("first", ended_process())
    first.take()
    second = claimant("second")
    with first._connection.begin():
        first.claim.verify(first._connection)
        with pytest.raises(StoreUnavailable, match="still writes the last events"):
            second.take()
    first.leave()
    assert second.take()


def test_connection_of_a_recorder_that_hangs_is_not_waited_for_long(claimant, store, monkeypatch):
    only_postgresql(store)
    monkeypatch.setattr(claim_module, "_PREDECESSOR_TIMEOUT", 0.0)
    first = claimant("first", ended_process())
    first.take()
    second = claimant("second")
    assert second.take()


def test_lease_is_told_only_where_others_may_not_see_the_supervisor(claimant, store):
    only_postgresql(store)
    for options, has_lease in (("", False), ("procjobs_host=blue", True)):
        only = claimant(f"owner {has_lease}", ended_process(), options=options)
        only.take()
        assert has_lease == (only.do("renew") is not None)
        only.end()
