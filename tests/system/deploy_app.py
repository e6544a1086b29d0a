"""A WSGI application whose jobs are in a package on disk that is changed between two of its web workers."""

from __future__ import annotations

import importlib
import os
import sys
from urllib.parse import parse_qs

import procjobs

sys_path, package, name = os.environ["PROCJOBS_TEST_CODE"].split(os.pathsep)
sys.path.insert(0, sys_path)
code = importlib.import_module(f"{package}.tasks")
pool = procjobs.Pool(name, workers=2, preload=[package, f"{package}.tasks"])


def application(environ, start_response):
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    if environ["PATH_INFO"] == "/submit":
        job = pool.submit(code.wait, query["path"], query["n"])
        job.wait_accepted(30)
        text = job.id
    elif environ["PATH_INFO"] == "/result":
        text = pool.job(query["id"]).result(30)
    elif environ["PATH_INFO"] == "/now":
        text = f"{code.VERSION} {pool.submit(code.version).result(30)}"
    else:
        text = str(os.getpid())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
