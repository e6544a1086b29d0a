"""A secret of the user: one for all processes, safe from others."""

import multiprocessing
import os
import stat

import pytest

import procjobs
from procjobs.errors import ConfigurationError


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "procjobs"


def ask(barrier, answers):
    barrier.wait()
    answers.put(procjobs.user_secret("web"))


def test_processes_that_ask_at_once_get_the_same_secret(state):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=ask, args=(barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert {procjobs.user_secret("web")} == found
    assert ["secret-web"] == os.listdir(state)


def test_secret_is_for_its_user_alone_and_another_one_for_each_name(state):
    secret = procjobs.user_secret("web")
    assert 32 == len(secret)
    assert 0o600 == stat.S_IMODE((state / "secret-web").stat().st_mode)
    assert secret != procjobs.user_secret("other")


def test_file_that_others_may_read_is_refused(state):
    procjobs.user_secret("web")
    (state / "secret-web").chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0600"):
        procjobs.user_secret("web")


def test_link_and_short_file_are_refused(state):
    procjobs.user_secret("web")
    (state / "secret-link").symlink_to(state / "secret-web")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        procjobs.user_secret("link")
    (state / "secret-web").write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="remove it"):
        procjobs.user_secret("web")


@pytest.mark.parametrize("name", ["", "../x", "Web", "a/b", "x" * 50])
def test_name_that_is_no_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="no name of a secret"):
        procjobs.user_secret(name)


def test_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(ConfigurationError, match="XDG_STATE_HOME"):
        procjobs.user_secret("web")
