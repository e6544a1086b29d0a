"""A web server with one page: bars of jobs of a named pool. Arguments: port, pool, ids of jobs."""

import sys

import uvicorn

import procjobs
from procjobs.web import progress, tag
from tests.web.browsing import site

if __name__ == "__main__":
    port, pool, *ids = sys.argv[1:]
    body = "".join(tag(job_id, "Film 7") for job_id in ids)
    app = site(progress(procjobs.Pool(pool)), lambda: body)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")
