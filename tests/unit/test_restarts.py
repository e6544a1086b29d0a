"""The restart budget, with time as a parameter."""

from __future__ import annotations

from procjobs.shared.restarts import RestartBudget


def test_failures_within_the_intensity_cost_no_time():
    budget = RestartBudget(intensity=3, period=5.0)
    for now in (0.0, 1.0, 2.0):
        budget.add_failure(now)
    assert (0.0, False) == (budget.not_before, budget.spent)


def test_failures_past_it_cost_more_and_more_up_to_a_bound():
    budget = RestartBudget(intensity=1, period=100.0, first_pause=0.1, longest_pause=1.0)
    pauses = []
    for now in range(7):
        budget.add_failure(float(now))
        pauses.append(round(budget.not_before - now, 6) if budget.not_before else 0)
    assert [0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0] == pauses


def test_old_failures_are_forgotten_and_a_success_forgets_all():
    budget = RestartBudget(intensity=1, period=5.0)
    budget.add_failure(0.0)
    budget.add_failure(10.0)
    assert not budget.spent
    budget.add_failure(11.0)
    assert budget.spent
    budget.add_success()
    assert (False, 0.0) == (budget.spent, budget.not_before)
