"""The command line: `procjobs`, also `python -m procjobs`. Start reading at `app`; `main` is for the entry points only.

1. Standard output is for the answer alone: styled text on a terminal, plain text in a pipe, with `--json` one document (or
   JSON lines). Errors, progress bars and the output of jobs go to standard error.
2. Only `start`, `serve`, `run`, `submit`, `tune` and `demo` start a pool. Commands that ask about a pool never start it.
3. Exit codes are listed in `problems`, with the errors that lead to them.
4. The module of a command is imported when the command is used. A new command needs one line in `app.COMMANDS`.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def main() -> None:
    """Run the command line, and end the interpreter with its exit code."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"procjobs: the command line needs {' and '.join(missing)}: pip install 'procjobs[cli]'\n")
        raise SystemExit(1)
    from procjobs.cli.app import run
    from procjobs.cli.problems import INTERRUPTED

    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        # The interrupted command has cleaned up. A normal exit would wait for the jobs of a private pool; the pool ends them
        # at once when its owner dies.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
