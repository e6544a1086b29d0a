"""Applications for servers that tests start as programs: the pool's name comes by the environment."""

from __future__ import annotations

import os

import procjobs
from procjobs.web import progress, progress_wsgi

pool = procjobs.Pool(os.environ["TEST_POOL"])
asgi = progress(pool)
wsgi = progress_wsgi(pool)
