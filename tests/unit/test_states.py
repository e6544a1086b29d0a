"""The table of states, read as a graph."""

from __future__ import annotations

import pytest

from procjobs.shared import states
from procjobs.shared.states import FINAL, TRANSITIONS, Event, JobState


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


def test_every_waiting_state_can_be_cancelled():
    for state in (JobState.QUEUED, JobState.SCHEDULED, JobState.RETRYING, JobState.RUNNING):
        assert states.advance_state(state, Event.CANCEL) is JobState.CANCELLED


def test_event_that_cannot_happen_is_refused_in_words():
    with pytest.raises(ValueError, match="a job that is succeeded cannot START"):
        states.advance_state(JobState.SUCCEEDED, Event.START)
