"""Signed ids: what a token lets its holder do, and that nothing but the right secret makes one."""

from __future__ import annotations

import pytest

from procjobs.errors import ConfigurationError, UnknownJob
from procjobs.web import sign
from procjobs.web.access import signing
from procjobs.web.access.signing import Signer

ID = "0192f0c1-2345-7abc-8def-0123456789ab"
SECRET = "sixteen bytes at least"
NOW = 1_000_000_000.0


def check(token, secret=SECRET, now=NOW):
    return Signer(secret, lambda: now).check(token)


def made(right="look", max_age=60.0, secret=SECRET):
    return Signer(secret, lambda: NOW).sign(ID, right, max_age)


@pytest.mark.parametrize(("right", "rights"), [("look", {"look"}), ("look+cancel", {"look", "cancel"})])
def test_token_grants_what_was_signed_until_it_expires(right, rights):
    token = made(right)
    assert (ID, rights, None, NOW + 60) == check(token, now=NOW + 60)
    late = check(token, now=NOW + 61)
    assert (ID, frozenset(), "this link has expired") == late[:3]


def test_any_changed_character_makes_it_worth_nothing():
    token = made()
    for position in range(len(token)):
        for other in "0a.Z":
            changed = token[:position] + other + token[position + 1 :]
            assert changed == token or not check(changed).rights, changed
    for changed in (token[:-1], f"{token}A", f"{token}.", f"{token}=", token.upper(), ID, f"{ID}..", "", "...", "é.1.é"):
        assert not check(changed).rights, changed


def test_token_that_looks_cannot_be_made_one_that_cancels():
    looks, cancels = made("look"), made("look+cancel")
    assert looks != cancels
    assert {"look"} == check(looks).rights


def test_other_secrets_and_other_moments_make_other_tokens():
    assert not check(made(secret="another secret of this length")).rights
    head, expires, signature = made().split(".")
    assert not check(f"{head}.{int(expires) + 1}.{signature}").rights


def test_signatures_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return False

    monkeypatch.setattr(signing.hmac, "compare_digest", compare)
    assert not check(made()).rights  # nothing else decides
    assert len(signing.RIGHTS) == len(compared)


def test_sign_takes_handles_ids_and_uuids(pool, monkeypatch):
    monkeypatch.setenv("PROCJOBS_WEB_SECRET", SECRET)
    job = pool.submit(pow, 2, 3)
    assert sign(job).startswith(f"{job.id}.")
    assert sign(ID.upper().replace("-", "")).startswith(f"{ID}.")
    assert sign(ID, cancel=True) != sign(ID)
    with pytest.raises(UnknownJob, match="'film 7' is not a job id"):
        sign("film 7")


def test_secret_is_given_or_of_the_environment_or_of_this_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PROCJOBS_WEB_SECRET", SECRET)
    in_environment = sign(ID)
    monkeypatch.delenv("PROCJOBS_WEB_SECRET")
    assert signing.Signer(SECRET.encode(), lambda: 0.0).check(in_environment).rights
    of_user = sign(ID)
    assert Signer(None, lambda: 0.0).check(of_user).rights
    assert not Signer(SECRET, lambda: 0.0).check(of_user).rights
    with pytest.raises(ConfigurationError, match="has 5 bytes, and needs at least 16"):
        sign(ID, secret="short")


def test_hundred_tokens_fit_into_a_url_that_proxies_take():
    assert len("&id=".join(["api/1/events?id=", *[made("look+cancel")] * 100])) < 8_000
