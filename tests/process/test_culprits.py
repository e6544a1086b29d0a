"""Arguments, functions and results that cannot be pickled: the message names the member, and says what to do instead."""

from __future__ import annotations

import collections
import concurrent.futures
import contextvars
import dataclasses
import functools
import io
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading

import pytest

import procjobs
from tests.process import jobs


class Film:
    def __init__(self, **members):
        vars(self).update(members)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


@dataclasses.dataclass
class Page:
    film: Film


def made_in(scope, name):
    """Make a function as `__main__` has them, which goes by value."""
    exec(compile(f"def uses():\n    return {name}\n", "<here>", "exec"), scope)
    return scope["uses"]


def refused(pool, function, *args, **kwargs):
    with pytest.raises(procjobs.PayloadError) as caught:
        pool.submit(function, *args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "path", "remedy"),
    [
        (Film(lock=threading.Lock()), r"argument 0\.lock is a _thread\.lock", "make it in the job"),
        ([1, {"a": Film(event=threading.Event())}], r"argument 0\[1\]\['a'\]\.event is a threading\.Event", "make it"),
        (Page(Film(inner=Slotted((0, threading.local())))), r"argument 0\.film\.inner\.inner\[1\] is", "make it in the job"),
        ({1, "two", frozenset({3, threading.RLock()})}, "an item of an item of argument 0", "make it in the job"),
        ((n for n in range(3)), "argument 0 of", r"pass list\(\.\.\.\) of it"),
        (Film(frames=(n for n in range(3))), r"argument 0\.frames is a generator", "pass list"),
        (functools.partial(jobs.add, threading.Lock()), r"argument 0\.args\[0\]", "make it in the job"),
        (collections.deque([Film(lock=threading.Lock())]), "", ""),
        (contextvars.ContextVar("v"), "'v', which has no default", "put it into a module"),
        (Film(done=concurrent.futures.Future()), r"argument 0\.done is a concurrent", "pass its result"),
    ],
)  # fmt: skip
def test_message_names_the_member_and_the_remedy(pool, value, path, remedy):
    said = refused(pool, jobs.echo, value)
    assert said.startswith("argument 0 of tests.process.jobs.echo, of type ")
    assert re.search(path, said), said
    assert re.search(remedy, said), said


def test_open_files_are_refused_and_not_copied(pool, tmp_path):
    path = tmp_path / "film.txt"
    path.write_text("frames")
    with open(path) as text, open(path, "rb") as binary, tempfile.TemporaryFile() as temporary:
        for file in (text, binary, temporary, Film(file=text)):
            assert "pass its path, and open it in the job" in refused(pool, jobs.echo, file)
        assert "the global file" in refused(pool, made_in({"__name__": "__main__", "file": text}, "file"))
    assert "out" == pool.submit(made_in({"__name__": "__main__", "out": sys.__stdout__}, "out and 'out'")).result(30)
    assert "text" == pool.submit(jobs.echo, io.StringIO("text")).result(30).read()


def test_connections_to_databases_and_programs_are_refused(pool):
    connection = sqlite3.connect(":memory:")
    with subprocess.Popen(["true"]) as program:
        assert "connect in the job" in refused(pool, jobs.echo, connection)
        assert "start the program in the job" in refused(pool, jobs.echo, program)
    connection.close()


def test_engines_and_sessions_of_sqlalchemy_are_refused(pool):
    orm = pytest.importorskip("sqlalchemy.orm")
    engine = pytest.importorskip("sqlalchemy").create_engine("sqlite://")
    for value in (engine, Film(engine=engine), orm.Session(engine), orm.sessionmaker(engine)):
        assert "connect in the job" in refused(pool, jobs.echo, value)


def test_pools_and_jobs_are_refused(pool, pool_name):
    job = pool.submit(jobs.echo, 1)
    assert "pass job.id" in refused(pool, jobs.echo, job)
    assert "a private pool belongs to the process" in refused(pool, jobs.echo, pool)
    assert "the global pool of" in refused(pool, made_in({"__name__": "__main__", "pool": pool}, "pool"))
    with procjobs.Pool(pool_name, workers=1) as named:
        for value in (named, named.options(retries=1), Film(pool=named)):
            assert f"make procjobs.Pool({pool_name!r}) in the job" in refused(pool, jobs.echo, value)
        named.stop()


def test_web_requests_are_refused(pool):
    remedy = "pass the parts of the request"
    flask = pytest.importorskip("flask")
    with flask.Flask("app").test_request_context("/?a=1"):
        assert remedy in refused(pool, jobs.echo, flask.request)
        assert remedy in refused(pool, jobs.echo, Film(request=flask.request._get_current_object()))
        assert remedy in refused(pool, jobs.echo, flask.session)


def test_requests_of_django_and_starlette_are_refused(pool):
    remedy = "pass the parts of the request"
    http = pytest.importorskip("django.http")
    conf = pytest.importorskip("django.conf")
    if not conf.settings.configured:
        conf.settings.configure()
    assert remedy in refused(pool, jobs.echo, http.HttpRequest())
    requests = pytest.importorskip("starlette.requests")
    assert remedy in refused(pool, jobs.echo, requests.Request({"type": "http", "headers": []}))


def test_functions_that_need_what_cannot_go_say_which(pool):
    scope = {"__name__": "__main__", "VAR": contextvars.ContextVar("VAR"), "LOCK": threading.Lock()}
    assert "the global VAR of" in (said := refused(pool, made_in(scope, "VAR.get()")))
    assert "put it into a module" in said
    assert "the global LOCK of" in refused(pool, made_in(scope, "LOCK"))
    lock = threading.Lock()
    assert "the variable lock of" in refused(pool, lambda: lock)


def test_context_variable_with_a_default_is_the_same_one_for_all_functions_of_a_job(pool):
    scope = {"__name__": "__main__", "VAR": contextvars.ContextVar("VAR", default=1)}
    scope["VAR"].set(2)  # stays in this context
    exec("def get(): return VAR.get()\ndef sets(get): VAR.set(VAR.get() + 4); return get()\n", scope)
    assert 1 == pool.submit(scope["get"]).result(30)
    assert 5 == pool.submit(scope["sets"], scope["get"]).result(30)
    assert scope["VAR"] is pool.submit(jobs.echo, scope["VAR"]).result(30)


def test_cached_functions_and_properties_of_main_work(pool):
    scope = {"__name__": "__main__", "functools": functools}
    text = """
@functools.lru_cache(maxsize=7, typed=True)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.cache
def plain(): return 5
class Film:
    def __init__(self, n): self.n = n
    @functools.cached_property
    def frames(self): return self.n * 2
    @functools.lru_cache
    def longer(self, by): return self.n + by
    @staticmethod
    @functools.cache
    def static(): return 3
def uses(film): return fib(30), plain(), film.frames, film.frames, film.longer(1), film.static(), vars(film)["frames"]
def parameters(): return fib.cache_parameters(), fib.__name__
"""
    exec(text, scope)
    assert (832040, 5, 4, 4, 3, 3, 4) == pool.submit(scope["uses"], scope["Film"](2)).result(30)
    assert ({"maxsize": 7, "typed": True}, "fib") == pool.submit(scope["parameters"]).result(30)
    assert 55 == pool.submit(scope["fib"], 10).result(30)


def test_cached_function_of_a_module_goes_by_name(pool):
    assert jobs.echo_cached is pool.submit(jobs.echo, jobs.echo_cached).result(30)


def test_result_that_cannot_go_back_names_the_member(pool):
    with pytest.raises(procjobs.PayloadError, match=r"the result\['lock'\] is a _thread\.lock.* make it in the job"):
        pool.submit(jobs.return_with_lock).result(30)


def test_search_ends_soon_in_a_large_or_circular_value(pool):
    film = Film(parts=[list(range(100)) for _ in range(1000)])
    film.itself = film
    film.lock = threading.Lock()
    assert "argument 0.lock is a _thread.lock" in refused(pool, jobs.echo, film)
