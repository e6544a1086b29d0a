"""Which declared schedules are retired: a table of who declares what, who is connected, and what the store had before."""

from __future__ import annotations

from procjobs.dispatch.model import Generation
from procjobs.supervisor.schedules.declarations import Declarations


def generation(number, *, clients=1, ready=True):
    made = Generation(number, f"code {number}")
    made.clients, made.ready = clients, ready
    return made


def declaring(declarations, who, *names):
    for name in names:
        declarations.add(who, name)
    declarations.set(who, names)


def test_nothing_is_retired_before_somebody_has_declared_all_of_theirs():
    declarations = Declarations()
    declarations.add(generation(1), "one")
    assert not declarations.have_changed(0.0)


def test_newer_code_retires_what_code_without_clients_had():
    declarations, old, new = Declarations(), generation(1), generation(2)
    declaring(declarations, old, "one", "two")
    declaring(declarations, new, "one")
    assert declarations.have_changed(0.0)
    assert [] == declarations.retired(["one", "two"])
    assert not declarations.have_changed(0.0)
    old.clients = 0
    assert declarations.have_changed(0.0)
    assert ["two"] == declarations.retired(["one", "two"])


def test_processes_of_the_same_code_may_declare_different_ones():
    declarations, only = Declarations(), generation(1)
    declaring(declarations, only, "one")
    declaring(declarations, only, "two")
    assert [] == declarations.retired(["one", "two"])


def test_the_newest_code_counts_without_clients():
    declarations, old, new = Declarations(), generation(1, clients=0), generation(2, clients=0)
    declaring(declarations, old, "one")
    declaring(declarations, new, "two")
    assert ["one"] == declarations.retired(["one", "two"])


def test_a_reload_takes_the_clients_along():
    declarations, old, new, reloaded = Declarations(), generation(1), generation(2), generation(3)
    declaring(declarations, old, "one")
    declaring(declarations, new, "two")
    old.successor, old.clients = reloaded, 0
    assert [] == declarations.retired(["one", "two"])


def test_a_preload_that_goes_on_may_declare_more():
    declarations, new = Declarations(), generation(1, ready=False)
    declaring(declarations, new, "one")
    assert [] == declarations.retired(["one", "of the preload"])
    new.ready = True
    assert declarations.have_changed(0.0)
    assert ["of the preload"] == declarations.retired(["one", "of the preload"])


def test_what_an_earlier_life_of_the_pool_had_is_given_time_to_come_back():
    declarations, new = Declarations(), generation(1)
    declarations.expect(["one", "two"], 100.0)
    declaring(declarations, new, "one")
    assert [] == declarations.retired(["one", "two"])
    assert not declarations.have_changed(109.0)
    assert declarations.have_changed(declarations.expected_until)
    assert ["two"] == declarations.retired(["one", "two"])
