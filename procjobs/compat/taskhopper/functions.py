"""The functions that are tasks: those that a module defines itself, and not those that it imports."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from procjobs.compat.taskhopper.errors import UnknownTask
from procjobs.errors import ConfigurationError, JobError


class TasksModule:
    """The module of an application's tasks, imported when it is first asked for: it may import the application itself."""

    def __init__(self, tasks: str | ModuleType) -> None:
        self._module = tasks if isinstance(tasks, ModuleType) else None
        self._name = check_name(tasks) if isinstance(tasks, str) else ""
        if self._module is None and not self._name:
            raise ConfigurationError(
                f"tasks={tasks!r}: expected the name of a module, such as 'app.tasks', the path of a file, or a module"
            )

    def find(self, name: str | Callable[..., Any]) -> str:
        """Return the name of a task; raise UnknownTask if the module does not define such a function."""
        if self._module is None:
            is_path = self._name.endswith(".py")
            self._module = load_file(self._name) if is_path else importlib.import_module(self._name)
        if callable(name):
            own = getattr(name, "__name__", repr(name))
            if find_function(self._module, own) is not name:
                raise UnknownTask(f"{name!r} is no task: {self._module.__name__} has another function called {own!r}")
            return own
        find_function(self._module, name)
        return name


def check_name(tasks: str) -> str:
    """Return the name of a module or the absolute path of a file; raise ConfigurationError if there is no such thing."""
    if tasks.endswith(".py") or os.sep in tasks:
        return check_file(tasks)
    try:
        is_there = tasks in sys.modules or importlib.util.find_spec(tasks) is not None
    except (ImportError, ValueError):
        is_there = False
    if not is_there:
        raise ConfigurationError(
            f"tasks={tasks!r}: there is no such module; expected the name of the module that defines the tasks, or the path "
            "of its file"
        )
    return tasks


def check_file(path: str) -> str:
    """Return the absolute path of a file with tasks; raise ConfigurationError if it can be none."""
    if not os.path.isfile(path) or not path.endswith(".py"):
        why = "is no Python file" if os.path.exists(path) else "does not exist"
        raise ConfigurationError(f"{path} {why}; expected the path of the file that defines the tasks, such as app/tasks.py")
    stem = os.path.basename(path).removesuffix(".py")
    if stem in sys.stdlib_module_names or not stem.isidentifier():
        raise ConfigurationError(f"{path}: a module cannot be called {stem!r}; give the file another name")
    return os.path.abspath(path)


class _FromSource(SourceFileLoader):
    """Compiles the file as it is: compiled code is found stale by size and full seconds, and an edit can be faster."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_file(path: str) -> ModuleType:
    """Import a file anew, as a module of the package that it is in; what it raises is raised."""
    root, names = os.path.dirname(path), [os.path.basename(path).removesuffix(".py")]
    while os.path.isfile(f"{root}/__init__.py"):
        root, package = os.path.split(root)
        names.insert(0, package)
    if root not in sys.path:
        sys.path.insert(0, root)
    name, parent = ".".join(names), ".".join(names[:-1])
    package_module = importlib.import_module(parent) if parent else None
    spec: ModuleSpec | None = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, path))
    assert spec is not None
    assert spec.loader is not None, "it was given"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if package_module is not None:
        setattr(package_module, names[-1], module)
    return module


def explain_load(path: str) -> ModuleType | str:
    """Import a file anew; return the module, or the traceback if that fails."""
    try:
        return load_file(path)
    except JobError:  # the interruption of the job in which this runs
        raise
    except BaseException:  # noqa: BLE001 - the edge around the application's module, which may call sys.exit()
        return traceback.format_exc()


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the functions that a module defines, by name; a decorated function counts as the one that it wraps."""
    found = {}
    for name, value in vars(module).items():
        if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == module.__name__:
            wrapped = inspect.unwrap(value)
            if inspect.isfunction(wrapped):
                found[name] = value
    return found


def find_function(module: ModuleType, name: str) -> Callable[..., Any]:
    """Return the function of a task; raise UnknownTask, which says why, if the module does not define it."""
    functions = functions_of(module)
    if name in functions:
        return functions[name]
    place = f"{module.__name__} ({getattr(module, '__file__', None) or 'no file'})"
    if isinstance(name, str) and hasattr(module, name):
        is_imported = inspect.isroutine(getattr(module, name))
        why = "it is imported there, and not defined" if is_imported else "it is no function"
        raise UnknownTask(f"there is no task {name!r} in {place}: {why}")
    close = difflib.get_close_matches(str(name), functions, 2)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise UnknownTask(f"there is no task {name!r} in {place}: no function of that name is defined there{hint}")
