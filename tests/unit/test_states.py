"""The table of states, read as a graph."""

from __future__ import annotations

import ast

import pytest

from procjobs.dispatch.model import Generation, Job, Kind
from procjobs.shared import states
from procjobs.shared.config import JobOptions
from procjobs.shared.states import FINAL, TRANSITIONS, Event, JobState
from tests.unit.imports import ROOT, parse


def test_every_state_has_a_paragraph():
    missing = [state.text for state in JobState if state.text not in states.__doc__]
    assert [] == missing


def test_final_states_are_never_left():
    assert set() == {state for state, _ in TRANSITIONS} & FINAL


def test_every_state_that_is_not_final_leads_to_a_final_one():
    reach = set(FINAL)
    while more := {state for (state, _), after in TRANSITIONS.items() if after in reach} - reach:
        reach |= more
    assert set(JobState) == reach


def in_state(state):
    job = Job(bytes(16), Kind(1, b"work", JobOptions()), Generation(1, ""))
    job.state = state
    return job


@pytest.mark.parametrize("state", JobState)
def test_job_goes_where_the_table_says_and_nowhere_else(state):
    for event in Event:
        job, after = in_state(state), TRANSITIONS.get((state, event))
        if after is None:
            with pytest.raises(ValueError, match=f"a job that is {state.text} cannot {event.name}"):
                job.advance(event)
        else:
            job.advance(event)
        assert (state if after is None else after) is job.state


@pytest.mark.parametrize("state", [state for state in JobState if state not in FINAL])
def test_every_job_that_has_not_ended_can_be_cancelled(state):
    assert JobState.CANCELLED is TRANSITIONS[state, Event.CANCEL]


@pytest.mark.parametrize("event", [Event.RETURN, Event.FAIL, Event.CANCEL, Event.EXPIRE, Event.REJECT])
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SCHEDULED])
def test_job_that_waits_can_turn_out_to_have_ended(state, event):
    assert TRANSITIONS[state, event] in FINAL


def test_one_function_writes_the_state_of_a_job():
    """`self.state` in the other classes is that of a slot, or of themselves."""
    writers = []
    for path in sorted((ROOT / "dispatch").glob("*.py")):
        for node in ast.walk(parse(path)):
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = {ast.unparse(target) for target in targets}
            writers += [f"{path.name}: {name}" for name in names if name.endswith(".state") and name != "slot.state"]
    assert {"model.py: self.state"} == set(writers)
