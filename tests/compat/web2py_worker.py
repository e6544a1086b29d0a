"""A worker of procjobs.compat.web2py, as a program: `python -m tests.compat.web2py_worker URI FOLDER OPTIONS`."""

from __future__ import annotations

import json
import logging
import sys

from pydal import DAL

from procjobs.compat.web2py import Scheduler
from tests.compat.web2py_tasks import TASKS


def main():
    uri, folder, options = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    db = DAL(uri, folder=folder)
    scheduler = Scheduler(db, TASKS, migrate=False, **json.loads(options))
    scheduler.loop()
    print("loop has returned")


if __name__ == "__main__":
    main()
