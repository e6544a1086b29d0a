"""queue.yaml: what it says, and the errors of one that breaks a rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.compat.taskqueue.settings import queue_yaml
from procjobs.compat.taskqueue.settings.queues import QueueSettings, RetryParameters
from procjobs.errors import ConfigurationError

WHOLE = """
application: shop
total_storage_limit: 1.5M
resume_paused_queues: False
queue:
- name: default
  rate: 10/m
- name: mail-1
  rate: 2000/d
  bucket_size: 11
  max_concurrent_requests: 3
  target: 1.api
  mode: push
  retry_parameters:
    task_retry_limit: 7
    task_age_limit: 1.5d
    min_backoff_seconds: 10
    max_backoff_seconds: 300.5
    max_doublings: 0
- name: inbox
  mode: pull
  rate: 5/s
  acl:
  - user_email: ann@example.org
  - writer_email: bob@example.org
  retry_parameters:
    task_retry_limit: 3
"""


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Nothing here starts or opens anything that could be left: the search for it would take most of the time."""


def parse_one(lines):
    """Return the queue of a file with these lines for it."""
    found = queue_yaml.parse("queue:\n- name: q\n" + "".join(f"  {line}\n" for line in lines.splitlines()))
    return found.queues["q"]


def test_a_whole_file():
    found = queue_yaml.parse(WHOLE)
    assert ["default", "mail-1", "inbox"] == list(found.queues)
    assert 1_572_864 == found.total_storage_limit
    assert QueueSettings(rate=1 / 6) == found.queues["default"]
    assert found.queues["mail-1"] == QueueSettings(
        "mail-1", "push", 2000 / 86400, 11, 3, "1.api", RetryParameters(10, 300.5, 0, 7, 129_600)
    )
    assert found.queues["inbox"] == QueueSettings("inbox", "pull", retry=RetryParameters(task_retry_limit=3))


@pytest.mark.parametrize("text", ["", "# nothing\n", "queue:\n", "queue: []\n"])
def test_a_file_without_queues_has_the_default_one(text):
    found = queue_yaml.parse(text)
    assert {"default": QueueSettings("default", "push", 5.0, 5)} == found.queues
    assert found.total_storage_limit is None


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("1/s", 1), ("1.5/m", 0.025), ("0/s", 0), ("0./s", 0), ("7200./h", 2), ("0", 0), ("'0'", 0),
        ("2000/d", 2000 / 86400),
    ],
)  # fmt: skip
def test_rates_are_tasks_per_second(rate, expected):
    assert expected == pytest.approx(parse_one(f"rate: {rate}").rate)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("12345s", 12345), ("20m", 1200), ("2h", 7200), ("1.5d", 129600), ("12345.5s", 12345), ("1e-2d", 864)],
)
def test_age_limits_are_whole_seconds(limit, expected):
    assert expected == parse_one(f"retry_parameters:\n  task_age_limit: {limit}").retry.task_age_limit


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("1443", 1443), ("1443B", 1443), ("2K", 2048), ("200M", 200 * 1024**2), ("1G", 1024**3), ("1.5T", 3 * 1024**4 // 2)],
)
def test_storage_limits_are_bytes(limit, expected):
    assert expected == queue_yaml.parse(f"total_storage_limit: {limit}").total_storage_limit


def test_a_backoff_that_is_given_alone_moves_the_default_of_the_other():
    least = parse_one("retry_parameters:\n  min_backoff_seconds: 7200").retry
    most = parse_one("retry_parameters:\n  max_backoff_seconds: 0.05").retry
    assert (7200, 7200, 0.05, 0.05) == (
        least.min_backoff_seconds, least.max_backoff_seconds, most.min_backoff_seconds, most.max_backoff_seconds
    )  # fmt: skip


def test_numbers_that_yaml_takes_for_something_else():
    found = queue_yaml.parse("queue:\n- name: 1234\n  target: 1\n  bucket_size: '11'\n")
    assert ("1234", "1", 11) == (found.queues["1234"].name, found.queues["1234"].target, found.queues["1234"].bucket_size)


OF_QUEUE = {
    "rate: 5": "rate",
    "rate: 200/d/h": "rate",
    "rate: 200/f": "rate",
    "rate: x/s": "rate",
    "rate: -1/s": "rate",
    "rate: true": "rate",
    "bucket_size: 0": "bucket_size",
    "bucket_size: 501": "bucket_size",
    "bucket_size: 1.5": "bucket_size",
    "max_concurrent_requests: 0": "max_concurrent_requests",
    "max_concurrent_requests: many": "max_concurrent_requests",
    "mode: Pull": "mode",
    "mode: pull\ntarget: a": "target",
    "target: bad:bad": "target",
    "target: 1.1.module": "target",
    "ratee: 5/s": "ratee",
    "retry_parameters: 3": "retry_parameters",
    "retry_parameters:\n  task_retry_limit: -1": "retry_parameters.task_retry_limit",
    "retry_parameters:\n  task_retry_limit: true": "retry_parameters.task_retry_limit",
    "retry_parameters:\n  max_doublings: 1.5": "retry_parameters.max_doublings",
    "retry_parameters:\n  task_age_limit: 12345": "retry_parameters.task_age_limit",
    "retry_parameters:\n  task_age_limit: 123,45s": "retry_parameters.task_age_limit",
    "retry_parameters:\n  task_age_limit: 12345mm": "retry_parameters.task_age_limit",
    "retry_parameters:\n  task_age_limit: 0s": "retry_parameters.task_age_limit",
    "retry_parameters:\n  min_backoff_seconds: -1": "retry_parameters.min_backoff_seconds",
    "retry_parameters:\n  min_backoff_seconds: .nan": "retry_parameters.min_backoff_seconds",
    "retry_parameters:\n  min_backoff_seconds: 5\n  max_backoff_seconds: 3": "retry_parameters.max_backoff_seconds",
    "retry_parameters:\n  backoff: 3": "retry_parameters.backoff",
}


@pytest.mark.parametrize("lines", OF_QUEUE)
def test_an_error_names_the_file_the_queue_and_the_key(lines):
    with pytest.raises(ConfigurationError) as found:
        parse_one(lines)
    assert str(found.value).startswith(f"queue.yaml: queue 'q': {OF_QUEUE[lines]}: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queue: 3", "queue.yaml: queue: expected a list"),
        ("- name: a", "queue.yaml: expected keys"),
        ("queus: []", "queue.yaml: queus: there is no such key"),
        ("total_storage_limit: 14M3", "queue.yaml: total_storage_limit: "),
        ("queue:\n- rate: 5/s", "queue.yaml: queue 1: name: "),
        ("queue:\n- name: a_b", "queue.yaml: queue 1: name: "),
        ("queue:\n- name: ok\n- mail", "queue.yaml: queue 2: expected keys"),
        ("queue:\n- name: a\n- name: b\n- name: a", "queue.yaml: the queue 'a' is there twice"),
        ("queue:\n- name: a\n  rate: 1/s\n  rate: 2/s", "'rate' is there twice"),
        ("queue: [", "queue.yaml is not YAML"),
        ("queue: []\n---\nqueue: []\n", "queue.yaml is not YAML"),
        ("queue: !!python/object/apply:os.getcwd []", "queue.yaml is not YAML"),
    ],
)
def test_a_file_that_is_none_is_refused(text, words):
    with pytest.raises(ConfigurationError) as found:
        queue_yaml.parse(text)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_cannot_be_read_is_an_error_with_its_path(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"# \xff\n")
    for name in ("missing.yaml", "latin.yaml"):
        with pytest.raises(ConfigurationError, match=f"{name} cannot be read"):
            queue_yaml.read(str(tmp_path / name))


@given(
    st.builds(
        QueueSettings,
        name=st.just("q"),
        mode=st.sampled_from(["push", "pull"]),
        rate=st.floats(0, 500),
        bucket_size=st.integers(1, 500),
        max_concurrent_requests=st.none() | st.integers(1, 100),
        target=st.none() | st.just("a"),
        retry=st.builds(RetryParameters, min_backoff_seconds=st.floats(0, 9), task_age_limit=st.none() | st.integers(1, 9)),
    )
)
def test_settings_come_back_from_json_as_they_were(settings):
    assert settings == QueueSettings.from_json(settings.to_json())
