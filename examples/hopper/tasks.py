"""The tasks of the example. `procjobs tasks run` reads this file anew for each task."""

import collections
import time

import procjobs


def count_words(text, *, longest=3):
    """Return the most frequent words."""
    words = collections.Counter(text.lower().split())
    return dict(words.most_common(longest))


def report(name, steps=5):
    """Take a while, as a report does, and tell how far it is."""
    for step in procjobs.track(range(steps)):
        time.sleep(0.1)
        print(f"{name}: page {step + 1} of {steps}", flush=True)
    return f"{name}.pdf"


def divide(a, b):
    """Fail where b is 0: the row gets the traceback."""
    return a / b
