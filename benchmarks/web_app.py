"""A little WSGI application for gunicorn: it gives cheap answers while its pool is busy during the whole measure.

PROCJOBS_BENCHMARK_WEB describes the pool as JSON: kind, name, workers, nice, and the number of jobs that each web worker
submits at its start.
"""

from __future__ import annotations

import concurrent.futures
import html
import json
import os

import work

worker_class = "gthread"
settings = json.loads(os.environ["PROCJOBS_BENCHMARK_WEB"])
pool = None
jobs = []


def post_worker_init(_worker):
    """Submit this web worker's share of the jobs when it is ready."""
    global pool, jobs
    if settings["kind"] == "procjobs":
        import procjobs

        pool = procjobs.Pool(settings["name"], workers=settings["workers"], nice=settings["nice"])
    elif settings["kind"] == "executor":
        pool = concurrent.futures.ProcessPoolExecutor(settings["workers"])
    jobs = [pool.submit(work.burn, settings["progress"]) for _ in range(settings["jobs"])] if pool else []


def application(environ, start_response):
    """Answer with the web worker's pid, or with a small page that takes about 0.2 ms, as a template would."""
    if environ["PATH_INFO"] == "/pid":
        body = str(os.getpid()).encode()
    else:
        rows = "".join(f"<tr><td>{n}<td>{html.escape(f'<{n * n}> & more')}" for n in range(100))
        body = f"<table>{rows}</table>".encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
    return [body]
