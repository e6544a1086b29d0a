"""Finds how many workers a pool should have on this host, by running the real job in pools of several sizes.

Import the names below; start reading at `tuning`, then `measure` (one size), `load` (the jobs) and `knee` (the choice).

1. Each size is measured with a private pool as users start it, in a closed loop: more jobs are queued than there are
   workers, and a new job follows each job that ends. The job is the real one, with all its effects.
2. A size that would not fit into memory is not tried, and never recommended.
3. Only sizes that were measured are recommended; nothing is extrapolated (`knee`, which is pure and explains its rule).
4. Sizes that were measured before a failure or Ctrl-C are kept, and can be shown.

>>> from procjobs.tuning import tune
>>> report = tune(pow, [(2, 10), (3, 20)], sizes=[1], seconds=0.1)
>>> report.knee.workers
1
"""

from procjobs.errors import TuningFailed
from procjobs.tuning.knee import Knee, find_knee
from procjobs.tuning.plan import Call, default_sizes
from procjobs.tuning.report import Measurement, Report, Skipped
from procjobs.tuning.tuning import Tuning, tune

__all__ = [
    "Call",
    "Knee",
    "Measurement",
    "Report",
    "Skipped",
    "Tuning",
    "TuningFailed",
    "default_sizes",
    "find_knee",
    "tune",
]
