"""The architecture, held by reading the imports: floors go down only, dangerous things have one owner."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import procjobs

ROOT = pathlib.Path(procjobs.__file__).parent
FLOORS = {
    "errors": 0, "clock": 0, "config": 0, "queues": 0, "version": 0,
    "shared": 1,
    "host": 2,
    "supervisor.queue": 3, "supervisor.lines": 3, "supervisor.jobs": 3, "supervisor.dispatcher": 3,
    "supervisor.assigner": 3, "supervisor.endings": 3, "supervisor.waiting": 3,
    "supervisor.engine": 3, "supervisor.verdicts": 3, "supervisor.guard": 3, "supervisor.staff": 3, "supervisor.scaling": 3,
    "store.address": 1, "store": 3,
    "worker": 3, "template": 4,
    "supervisor": 4,
    "sql": 4,
    "client": 5,
    "tuning": 6,
    "compat": 6,
    "cli": 7,
    "": 7,
}  # fmt: skip
OWNERS = {
    r"os\.(fork|kill|killpg|waitpid|waitid|wait4|posix_spawn)\(": {"host/process.py", "client/launcher.py"},
    r"\bselectors\b": {"host/loop.py"},
    r"import cloudpickle|import pickle|pickle\.loads\(": {"host/payload.py"},
    r"import time\b|from time import": {"clock.py", "host/process.py", "host/observe.py", "supervisor/log.py"},
    r"import psutil": {"host/observe.py"},
    r"import termios|import tty": {"cli/keyboard.py"},
    r"(from|import) (sqlalchemy|sqlite3|psycopg)\b": {"store/", "sql/", "client/outbox.py", "client/submitter.py"},
    r"marshal\.loads\(": {"shared/recorder_wire.py"},
    r"(from|import) rich\b": {"client/map.py", "cli/"},
    r"(from|import) click\b": {"cli/"},
    r"(from|import) matplotlib\b": {"tuning/charts.py"},
    r"(from|import) tomlkit\b": {"settings/editor.py"},
}


def modules():
    return sorted(ROOT.rglob("*.py"))


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def floor_of(name):
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


def imported_when_run(tree):
    """Yield what a module imports, but for the imports that only a type checker sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("procjobs"):
            base = node.module.removeprefix("procjobs").lstrip(".")
            for alias in node.names:
                below = f"{base}.{alias.name}".lstrip(".")
                yield below if (ROOT / (below.replace(".", "/") + ".py")).exists() else base


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_go_down_only(path):
    own = floor_of(dotted(path))
    above = [name for name in imported_when_run(ast.parse(path.read_text())) if floor_of(name) > own]
    assert [] == above


@pytest.mark.parametrize("pattern", OWNERS)
def test_dangerous_things_have_one_owner(pattern):
    users = {str(path.relative_to(ROOT)) for path in modules() if re.search(pattern, code_of(path))}
    folders = tuple(owner for owner in OWNERS[pattern] if owner.endswith("/"))
    assert {user for user in users if not user.startswith(folders)} <= OWNERS[pattern]


def test_command_line_knows_the_clients_side_only():
    for path in (ROOT / "cli").glob("*.py"):
        used = {name.partition(".")[0] for name in imported_when_run(ast.parse(path.read_text()))}
        assert set() == used & {"supervisor", "worker", "template"}, path


def code_of(path):
    """Return a module's source without its docstrings and strings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_picture_in_the_package_names_what_exists():
    names = ["client.pool.Pool", "supervisor.supervisor.Supervisor", "supervisor.dispatcher.Dispatcher",
             "template.template.Template", "worker.worker.Worker", "shared.table.ProgressTable",
             "store.recorder.Recorder"]  # fmt: skip
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(f"procjobs.{module}"), attribute)
        assert attribute in procjobs.__doc__


def test_everything_public_is_there_and_documented():
    for name in procjobs.__all__:
        assert name == "__version__" or getattr(procjobs, name).__doc__


def test_import_stays_light():
    heavy = "('sqlalchemy', 'psutil', 'numpy', 'rich', 'click', 'ctypes', 'asyncio', 'tomlkit', 'matplotlib')"
    code = f"import procjobs, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()
