"""The architecture, held by reading the imports: floors go down only, no circles, dangerous things have one owner."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache

import pytest

import procjobs
from tests.unit.imports import ROOT, circles, dotted, graph, imports_of, parse, paths

FLOORS = {
    "originals": -1,
    "errors": 0, "clock": 0, "version": 0,
    "shared": 1,
    "host": 2,
    "schedules": 3, "settings": 4,
    "worker": 5, "store": 5,
    "template": 6, "sql": 6,
    "dispatch": 7,
    "supervisor": 8, "supervisor.workers": 9, "supervisor.durable": 10,
    "supervisor.generations": 11, "supervisor.lifecycle": 11, "supervisor.children": 12, "supervisor.clients": 12,
    "supervisor.schedules": 12,
    "supervisor.composition": 13, "supervisor.supervisor": 14, "supervisor.boot": 15,
    "client.connection": 16, "client": 17,
    "": 18,
    "compat": 19, "web": 19, "ffmpeg": 19, "integrations": 19, "tuning": 19, "testing": 19, "metrics": 19,
    "cli": 20, "__main__": 21,
}  # fmt: skip
"""A module imports from its own floor and from those below. `""` is the package itself: the public names."""
PURE = {folder: {folder, "shared", "errors", "clock"} for folder in ("dispatch", "schedules")}
"""Folders without I/O and without a clock, and all that they may import of the package; of `clock`, NEVER alone."""
NO_CLOCK_NO_IO = {
    "asyncio", "fcntl", "mmap", "os", "select", "selectors", "signal", "socket", "subprocess", "threading", "time"
}  # fmt: skip
FACES = ("compat", "ffmpeg", "web", "integrations")
"""They stand on the public names alone, as a user's own code would."""
# The adapters of `compat` import the libraries that an application's own code would import.
OWNERS = {
    r"os\.(fork|kill|killpg|waitpid|waitid|wait4|posix_spawn)\(": {"host/process.py", "client/launcher.py"},
    r"\bselectors\b": {"host/loop.py"},
    r"import cloudpickle|import pickle|pickle\.loads\(": {"host/payload.py", "host/pickler.py", "compat/"},
    r"import time\b|from time import": {
        "clock.py", "host/process.py", "host/observe.py", "supervisor/log.py", "compat/", "web/"
    },
    r"import psutil": {"host/observe.py"},
    r"import termios|import tty": {"cli/keyboard.py"},
    r"(from|import) (sqlalchemy|sqlite3|psycopg)\b": {
        "store/", "sql/", "client/outbox.py", "client/submitter.py", "compat/", "shared/passwords.py"
    },
    r"\brecvmsg\b|\bSCM_RIGHTS\b|\brecv_fds\b": {"host/descriptors.py"},
    r"Outcome\.VERDICT, ": {"shared/wire.py"},
    r"marshal\.loads\(": {"shared/recorder_wire.py"},
    r"(from|import) rich\b": {"client/bar.py", "cli/"},
    r"(from|import) click\b": {"cli/"},
    r"(from|import) matplotlib\b": {"tuning/charts.py"},
    r"(from|import) tomlkit\b": {"settings/editor.py"},
    r"O_CREAT|os\.mkdir|makedirs|\.mkdir\(|\.touch\(|\.write_(text|bytes)\(": {"shared/private_files.py"},
}



def modules():
    return paths()


def floor_of(name):
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_go_down_only(path):
    name = dotted(path)
    above = {(name, other) for other in imports_of(path) if floor_of(other) > floor_of(name)}
    assert set() == above


def test_nobody_knows_anybody_in_a_circle():
    assert [] == circles(graph())


@pytest.mark.parametrize("folder", PURE)
def test_pure_folders_do_nothing_but_decide(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        used = {name.partition(".")[0] for name in imports_of(path)} - PURE[folder]
        assert set() == used | outside_imports(path) & NO_CLOCK_NO_IO, path
        assert names_from(path, "procjobs.clock") <= {"NEVER"}, path


def names_from(path, module):
    found = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom) and node.module == module]
    return {alias.name for node in found for alias in node.names}


def outside_imports(path):
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_collaborators_are_given_at_construction(path):
    """Nobody sets an attribute of a collaborator, nor leaves one of its own for others to set."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Constant):
            targets = [leaf for target in node.targets for leaf in getattr(target, "elts", [target])]
            found |= {ast.unparse(target) for target in targets if is_of_a_collaborator(target, node.value)}
        elif isinstance(node, ast.ClassDef) and not is_record(node):
            found |= {
                f"{node.name}.{ast.unparse(statement.target)}"
                for statement in node.body
                if isinstance(statement, ast.AnnAssign) and statement.value is None
            }
    assert set() == found


def is_of_a_collaborator(target, value):
    if not isinstance(target, ast.Attribute):
        return False
    owner = target.value
    of_another = isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "self"
    return of_another or (isinstance(value, ast.Name) and value.id == "self")


def is_record(node):
    """Whether the annotations of a class are its fields: a NamedTuple, a protocol, a dataclass."""
    names = [ast.unparse(base) for base in node.bases] + [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.startswith(("NamedTuple", "Protocol", "dataclass", "TypedDict")) for name in names)


@pytest.mark.parametrize("path", [p for face in FACES for p in sorted((ROOT / face).rglob("*.py"))], ids=dotted)
def test_faces_stand_on_public_names(path):
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "procjobs":
            base = node.module.removeprefix("procjobs").lstrip(".")
            if base.partition(".")[0] in FACES:
                continue
            public = importlib.import_module(node.module).__all__ if base in {"", "sql"} else ()
            names = {alias.name for alias in node.names} - {"sql", *FACES}
            private = () if base == "errors" else names - set(public)
            found |= {(dotted(path), f"{base}.{name}".lstrip(".")) for name in private}
    assert set() == found


@pytest.mark.parametrize("pattern", OWNERS)
def test_dangerous_things_have_one_owner(pattern):
    users = {str(path.relative_to(ROOT)) for path in modules() if re.search(pattern, code_of(path))}
    folders = tuple(owner for owner in OWNERS[pattern] if owner.endswith("/"))
    assert {user for user in users if not user.startswith(folders)} <= OWNERS[pattern]


def test_command_line_knows_the_clients_side_only():
    for path in (ROOT / "cli").glob("*.py"):
        used = {name.partition(".")[0] for name in imports_of(path)}
        assert set() == used & {"supervisor", "worker", "template", "dispatch"}, path


@cache
def code_of(path):
    """Return a module's source without its docstrings and strings."""
    tree = ast.parse(path.read_text())  # not that of `parse`, which others read: this one is changed
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_picture_in_the_package_names_what_exists():
    names = ["client.pool.Pool", "supervisor.supervisor.Supervisor", "dispatch.dispatcher.Dispatcher",
             "template.template.Template", "worker.worker.Worker", "shared.table.reader.ProgressTable",
             "store.recorder.Recorder"]  # fmt: skip
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(f"procjobs.{module}"), attribute)
        assert attribute in procjobs.__doc__


def test_files_that_the_package_points_to_exist():
    for name in re.findall(r"\b[a-z_]+(?:/[a-z_]+)*\.py\b", procjobs.__doc__.replace("tests/unit/test_floors.py", "")):
        assert (ROOT / name).is_file(), name


def test_everything_public_is_there_and_documented():
    for name in procjobs.__all__:
        assert name == "__version__" or getattr(procjobs, name).__doc__


def test_import_stays_light():
    heavy = "('sqlalchemy', 'psutil', 'numpy', 'rich', 'click', 'ctypes', 'asyncio', 'tomlkit', 'matplotlib')"
    code = f"import procjobs, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()
