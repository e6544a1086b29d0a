"""The end of a worker that retires: the pool's finalizer, then the functions that were registered with `atexit`.

The template's own are not among them: what they clean up, such as a temporary directory, the other workers still need. The
supervisor kills a worker that is not through with them after the grace period.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import sys
import weakref

from procjobs.host import payload
from procjobs.worker.exceptions import OWN_FILES, format_traceback

OWN_FILES.add(__file__)


def forget_inherited() -> None:
    """Forget the functions that the template has registered. For a worker that was just forked.

    `weakref.finalize` keeps a list of its own, and registers itself once for each process that it is first used in.
    """
    atexit._clear()  # noqa: SLF001 - documented for subinterpreters only; there is no other way
    with contextlib.suppress(AttributeError):
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # noqa: SLF001
            finalizer.atexit = False
        weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # noqa: SLF001


def finish(finalizer: str | None) -> None:
    """Call the finalizer (base64 of a pickled call) and what jobs have registered; errors are printed.

    That of multiprocessing is left out: it waits for children that are to end with this process.
    """
    if finalizer is not None:
        try:
            function, args = payload.loads(base64.b64decode(finalizer))
            function(*args)
        except BaseException as error:  # noqa: BLE001 - the edge around the user's finalizer; sys.exit() ends nothing more
            print(f"the finalizer failed:\n{format_traceback(error)}", file=sys.stderr)  # noqa: T201 - the log has it
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        atexit.unregister(util._exit_function)  # noqa: SLF001 - see above
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit, which ends a worker, does not
