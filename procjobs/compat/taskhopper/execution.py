"""A task in its worker, a fresh process: `tasks.py` is read as it is now, and the answer is a text of JSON.

The answer is one of
    {"result": ...}         what the task returned
    {"failed": TEXT}        it could not be called, or returned something that is not JSON
    {"unloadable": TEXT}    tasks.py cannot be imported: the traceback
What the task raises is raised. So the runner loads neither code nor objects of the application.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from procjobs.compat.taskhopper.errors import ArgumentsNotJSON, UnknownTask
from procjobs.compat.taskhopper.functions import explain_load, find_function, functions_of
from procjobs.compat.taskhopper.json_values import check_json, unpack_arguments


def list_tasks(path: str) -> str:
    """Return the names of the tasks in a file, as an answer."""
    module = explain_load(path)
    return json.dumps({"unloadable": module} if isinstance(module, str) else {"result": sorted(functions_of(module))})


def run_task(path: str, name: str, stored: Any) -> str:
    """Call a task, and return its answer."""
    module = explain_load(path)
    if isinstance(module, str):
        return json.dumps({"unloadable": module})
    try:
        function = find_function(module, name)
        args, kwargs = unpack_arguments(name, stored)
    except (UnknownTask, ArgumentsNotJSON) as error:
        return json.dumps({"failed": str(error)})
    value = function(*args, **kwargs)
    if inspect.iscoroutine(value):
        import asyncio

        value = asyncio.run(value)
    try:
        check_json(value, "its result")
    except ArgumentsNotJSON as error:
        said = f"{name}() ran to its end, but its result cannot be kept: {error}. It returned {_shown(value)}"
        return json.dumps({"failed": said})
    return json.dumps({"result": value})


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.500}"
    except Exception as error:  # noqa: BLE001 - the edge around the code of the result's class
        return f"an object whose repr() raises {type(error).__name__}"
