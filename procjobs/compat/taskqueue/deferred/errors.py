"""What a deferred call raises to say how it failed."""

from __future__ import annotations


class Error(Exception):
    """The base of the exceptions of this package."""


class PermanentTaskFailure(Error):
    """The call has failed, and another try would fail too: the task ends, with a line in the log."""


class SingularTaskFailure(Error):
    """The call has failed this time: it is tried again, and nothing is written to the log."""


class UnloadableCallError(PermanentTaskFailure):
    """The code of this process does not have what the call needs: a module, a function, or the version of Python.

    Another deploy may have it, so `Handler` tries such a call again where it is not told to drop it.
    """
