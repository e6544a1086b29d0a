"""The jobs that clients of store_chaos.py submit, as its ledger has to know them."""

BACKOFF = 0.6
"""The pause after the first attempt of a `retried` job, at most; half of it at least."""
KINDS = {
    "quick": {},
    "middle": {},
    "long": {},
    "sturdy": {"retries": 3, "backoff": 0.05},
    "retried": {"retries": 2, "backoff": BACKOFF},
    "failing": {"retries": 1, "backoff": 0.05},
    "delayed": {},
    "keyed": {},
    "stubborn": {},
    "unique": {"unique": True},
}
"""The options of each kind of job. The name of a job begins with its kind; a key, if it has one, is its name."""
WEIGHTS = (6, 4, 1, 2, 2, 1, 2, 3, 2, 2)
SECONDS = {"quick": (0.0, 0.008), "long": (0.4, 1.2), "keyed": (0.02, 0.15), "stubborn": (0.3, 0.9), "unique": (0.05, 0.3)}
"""How long a kind runs; a stubborn one does not end at SIGTERM."""
FAILURES = {"failing": 99}
UNTAKEN = "PoolClosed", "QueueFull", "StoreUnavailable", "SupervisorLost", "SupervisorError", "UnknownJob"
"""Answers that do not say how a job has ended."""
UNFINISHED = "finished_at IS NULL AND (pool = :pool OR pool LIKE :pool || '@%')"
