"""The application of the measure of streams: the progress of jobs, for uvicorn."""

import os

import procjobs
from procjobs.web import progress

application = progress(procjobs.Pool(os.environ["PROCJOBS_BENCHMARK_POOL"]))
