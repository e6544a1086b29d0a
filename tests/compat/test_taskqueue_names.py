"""The names of taskqueue: what a program of the original can import, with the bases and values that it has there."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest

from procjobs.compat import taskqueue
from procjobs.compat.taskqueue.settings.queues import LONGEST_PAUSE

BASES = {
    "BadTaskStateError": "Error", "BadTransactionStateError": "Error", "DatastoreError": "Error",
    "DuplicateTaskNameError": "Error", "InternalError": "Error", "InvalidQueueError": "Error",
    "InvalidQueueNameError": "InvalidQueueError", "InvalidTaskError": "Error", "InvalidTaskNameError": "InvalidTaskError",
    "InvalidUrlError": "InvalidTaskError", "PermissionDeniedError": "Error", "TaskAlreadyExistsError": "InvalidTaskError",
    "TaskTooLargeError": "InvalidTaskError", "TombstonedTaskError": "InvalidTaskError", "TooManyTasksError": "Error",
    "TransientError": "Error", "UnknownQueueError": "Error", "InvalidTaskRetryOptionsError": "Error",
    "InvalidLeaseTimeError": "Error", "InvalidMaxTasksError": "Error", "InvalidDeadlineError": "Error",
    "InvalidQueueModeError": "Error", "TransactionalRequestTooLargeError": "TaskTooLargeError",
    "TaskLeaseExpiredError": "Error", "QueuePausedError": "Error", "InvalidEtaError": "InvalidTaskError",
    "InvalidTagError": "Error", "InvalidDispatchDeadlineError": "Error",
}  # fmt: skip
VALUES = {
    "MAX_QUEUE_NAME_LENGTH": 100, "MAX_TASK_NAME_LENGTH": 500, "MAX_TASK_SIZE_BYTES": 102400,
    "MAX_PULL_TASK_SIZE_BYTES": 1048576, "MAX_PUSH_TASK_SIZE_BYTES": 102400, "MAX_LEASE_SECONDS": 604800,
    "MAX_TASKS_PER_ADD": 100, "MAX_TASKS_PER_LEASE": 1000, "MAX_URL_LENGTH": 2083, "MAX_TAG_LENGTH": 500,
    "MAX_DISPATCH_DEADLINE": dt.timedelta(days=1), "MIN_DISPATCH_DEADLINE": dt.timedelta(seconds=15),
    "MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES": 1048576,
}  # fmt: skip
OTHERS = {
    "BadTransactionState", "DEFAULT_APP_VERSION", "Error", "Queue", "QueueStatistics", "Task", "TaskRetryOptions", "add",
    "create_rpc",
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Nothing here starts or opens anything that could be left: the search for it would take most of the time."""


@pytest.mark.parametrize("name", BASES)
def test_exceptions_have_the_bases_of_the_original(name):
    assert (getattr(taskqueue, BASES[name]),) == getattr(taskqueue, name).__bases__


def test_the_base_of_all_exceptions_is_a_plain_one():
    assert (Exception,) == taskqueue.Error.__bases__


@pytest.mark.parametrize("name", VALUES)
def test_limits_have_the_values_of_the_original(name):
    assert VALUES[name] == getattr(taskqueue, name)


def test_all_names_of_the_original_are_public():
    assert set() == (BASES.keys() | VALUES.keys() | OTHERS) - set(taskqueue.__all__)


def test_all_public_names_are_there_and_no_others():
    there = {name for name in dir(taskqueue) if not name.startswith("_")}
    submodules = {name for name in there if isinstance(getattr(taskqueue, name), type(sys))}
    assert there - submodules == set(taskqueue.__all__) & there
    assert all(hasattr(taskqueue, name) for name in taskqueue.__all__)


def test_everything_public_is_documented():
    assert all(getattr(taskqueue, name).__doc__ for name in taskqueue.__all__)


def test_the_module_has_its_name_inside_the_package_of_the_original():
    from procjobs.compat.taskqueue import taskqueue as inner

    assert taskqueue is inner


def test_deferred_is_found_without_an_import_of_its_own():
    code = "from procjobs.compat import taskqueue; print(taskqueue.deferred.defer.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "defer" == done.stdout.strip()


def test_an_older_name_of_an_exception_is_the_same_one():
    assert taskqueue.BadTransactionStateError is taskqueue.BadTransactionState


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        taskqueue.no_such_name  # noqa: B018


def test_importing_needs_neither_the_http_client_nor_yaml():
    code = "import procjobs.compat.taskqueue, sys; print([m for m in ('httpx', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


# Objects for calls ----------------------------------------------------------------------------------------------


def test_create_rpc_says_what_to_do_instead():
    with pytest.raises(NotImplementedError, match="leave out rpc="):
        taskqueue.create_rpc()


@pytest.mark.parametrize("deadline", ["10", 3j])
def test_create_rpc_refuses_a_deadline_that_is_no_number(deadline):
    with pytest.raises(TypeError):
        taskqueue.create_rpc(deadline)


def test_create_rpc_refuses_a_negative_deadline():
    with pytest.raises(taskqueue.InvalidDeadlineError):
        taskqueue.create_rpc(-1)


@pytest.mark.parametrize(
    "call",
    [
        lambda rpc: taskqueue.Queue().add_async(taskqueue.Task(), rpc=rpc),
        lambda rpc: taskqueue.Task().add_async(rpc=rpc),
        lambda rpc: taskqueue.Queue().delete_tasks_by_name_async("a", rpc),
        lambda rpc: taskqueue.Queue().lease_tasks_async(1, 1, rpc),
        lambda rpc: taskqueue.Queue().lease_tasks_by_tag_async(1, 1, None, rpc),
        lambda rpc: taskqueue.Queue().fetch_statistics_async(rpc),
    ],
)
def test_an_object_for_a_call_is_refused(call):
    with pytest.raises(TypeError, match="get_result"):
        call(object())


# Statistics, as values ------------------------------------------------------------------------------------------


def test_statistics_with_equal_values_are_equal():
    first, second = (taskqueue.QueueStatistics(taskqueue.Queue("a"), 10, 20, 1, 2, 5.0) for _ in range(2))
    assert first == second
    assert taskqueue.QueueStatistics(taskqueue.Queue("a"), 10, 20, 1, 2, 4.0) != first
    assert taskqueue.QueueStatistics(taskqueue.Queue("b"), 10, 20, 1, 2, 5.0) != first
    assert object() != first


def test_statistics_show_all_values():
    shown = repr(taskqueue.QueueStatistics(taskqueue.Queue(), 3))
    assert shown == (
        "QueueStatistics(queue=Queue<name='default'>, tasks=3, oldest_eta_usec=None, executed_last_minute=None, "
        "in_flight=None, enforced_rate=None)"
    )


# Retry options --------------------------------------------------------------------------------------------------


def test_retry_options_that_are_not_given_are_none():
    options = taskqueue.TaskRetryOptions()
    names = ["min_backoff_seconds", "max_backoff_seconds", "max_doublings", "task_retry_limit", "task_age_limit"]
    assert [None] * 5 == [getattr(options, name) for name in names]


def test_retry_options_are_kept():
    options = taskqueue.TaskRetryOptions(
        min_backoff_seconds=3, max_backoff_seconds=5, max_doublings=8, task_retry_limit=10, task_age_limit=599.5
    )
    assert (3, 5, 8, 10, 600) == (
        options.min_backoff_seconds, options.max_backoff_seconds, options.max_doublings, options.task_retry_limit,
        options.task_age_limit,
    )  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"min_backoff_seconds": -1}, {"max_backoff_seconds": -5}, {"max_doublings": -1}, {"task_retry_limit": -1},
        {"task_age_limit": -1}, {"min_backoff_seconds": 5, "max_backoff_seconds": 3}, {"max_doublings": 1.5},
        {"min_backoff_seconds": float("nan")}, {"task_age_limit": float("inf")},
    ],
)  # fmt: skip
def test_retry_options_that_contradict_themselves_are_refused(values):
    with pytest.raises(taskqueue.InvalidTaskRetryOptionsError):
        taskqueue.TaskRetryOptions(**values)


@pytest.mark.parametrize("values", [{"foo": 23}, {"min_backoff_seconds": "1"}])
def test_retry_options_of_another_name_or_type_are_a_type_error(values):
    with pytest.raises(TypeError):
        taskqueue.TaskRetryOptions(**values)


@pytest.mark.parametrize(
    ("given", "least", "most", "doublings"),
    [
        ({}, 0.1, 3600, 16),
        ({"min_backoff_seconds": 10, "max_backoff_seconds": 300, "max_doublings": 3}, 10, 300, 3),
        ({"min_backoff_seconds": 7200}, 7200, 7200, 16),
        ({"max_backoff_seconds": 0.01}, 0.01, 0.01, 16),
        ({"min_backoff_seconds": 1e300, "max_doublings": 10**30}, LONGEST_PAUSE, LONGEST_PAUSE, 10**30),
    ],
)
def test_options_of_a_task_have_the_defaults_for_what_is_missing(given, least, most, doublings):
    parameters = taskqueue.TaskRetryOptions(**given).parameters()
    assert (least, most, doublings) == (
        parameters.min_backoff_seconds, parameters.max_backoff_seconds, parameters.max_doublings
    )  # fmt: skip
    assert (None, None) == (parameters.task_retry_limit, parameters.task_age_limit)
    assert parameters == type(parameters).from_json(parameters.to_json())
