"""The command line: `procjobs`, also `python -m procjobs`.

1. Standard output is for the answer alone: text for people on a terminal, plain in a pipe, with `--json` one document (or
   JSON lines). Errors, progress bars and what jobs print go to standard error.
2. Only `start`, `serve`, `run`, `submit`, `tune` and `demo` start anything. Whoever asks about a pool never starts it.
3. The exit code tells the truth (`problems`).
4. Modules of commands are imported when they are needed; each new command is a line in `app.COMMANDS`.
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
        # Whatever Ctrl-C has interrupted has been unwound. A private pool would wait for its jobs at exit; without its
        # owner it ends them at once.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
