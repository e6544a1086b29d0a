"""`web2py`: workers of web2py's Scheduler, see procjobs.compat.web2py."""

from __future__ import annotations

import logging
import os

import click

from procjobs.cli import parameters, screen
from procjobs.cli.problems import FAILED, OK, Problem


@click.command(short_help="Run workers for the Scheduler of web2py applications.")
@click.option(
    "-K", "applications", metavar="APP[:GROUP...][,APP...]", multiple=True, required=True,
    help="The applications that get a worker each, and the groups whose tasks it takes; can be given again.",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False), default=".", metavar="FOLDER",
    help="web2py's folder, or that of the module; default: the current one.",
)  # fmt: skip
@parameters.json_option
def web2py(applications: tuple[str, ...], folder: str, as_json: bool) -> int:
    """Run a worker for each application APP until it ends: with `max_empty_runs`, a terminate or kill, SIGTERM or Ctrl-C.

    APP is an application of web2py, or a module that makes a procjobs.compat.web2py.Scheduler when it is imported.
    Exit code 1 if a worker has given up.
    """
    try:
        from procjobs.compat.web2py.command import parse_applications, run_workers
    except ModuleNotFoundError as error:
        raise Problem(f"{error.name} is not installed", "pip install 'procjobs[web2py]'") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    found = parse_applications(applications)
    code = run_workers(found, os.path.abspath(folder))
    if as_json:
        screen.write_json({"applications": [name for name, _ in found], "ok": not code})
    return FAILED if code else OK
