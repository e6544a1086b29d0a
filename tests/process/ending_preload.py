"""A module that registers functions for the end of the process that imports it: the template."""

import atexit
import os
import weakref


class Thing:
    """Something with a finalizer."""


def tell(text):
    """Write into the file that the environment names."""
    with open(os.environ["ENDING_TRACE"], "a") as file:
        file.write(f"{text}\n")


thing = Thing()
if "ENDING_TRACE" in os.environ:
    atexit.register(tell, "atexit of the template")
    weakref.finalize(thing, tell, "finalizer of the template")
