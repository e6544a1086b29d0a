"""Functions and classes that a worker does not find by name, and where their tracebacks point."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from procjobs.client.connection.caller import Caller, real
from tests.process import only_here

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def run(program, *arguments):
    """Run a program in another process; return what it writes to standard output."""
    ended = subprocess.run(
        [sys.executable, program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert 0 == ended.returncode, ended.stderr
    return ended.stdout


def test_functions_of_modules_that_no_worker_finds_run_all_the_same(tmp_path):
    outcomes = dict(line.split(" ", 1) for line in run(only_here.__file__, tmp_path).splitlines())
    assert {"True"} == set(outcomes.values()), outcomes


ORDINARY = """
import sys
import numpy, pytest, sqlalchemy
from procjobs.client.connection.caller import Caller, real
caller = Caller(real(sys.path))
caller.refresh(None)
print(caller.by_value)
"""


def test_all_modules_of_an_ordinary_process_are_found_by_name(tmp_path):
    """Not of this one: other tests load modules from folders that they take off the path again."""
    (tmp_path / "ordinary.py").write_text(ORDINARY)
    assert "set()\n" == run(tmp_path / "ordinary.py")


def test_module_of_an_editable_install_is_found_by_name(tmp_path, monkeypatch):
    # As setuptools does it: a finder in a file of site-packages, which a .pth loads in each process.
    source = tmp_path / "source" / "editable_app.py"
    source.parent.mkdir()
    source.write_text("def f(): return 1\n")
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    (site_packages / "__editable___app_finder.py").write_text(
        "import sys\n"
        "from importlib.util import spec_from_file_location\n"
        "class Finder:\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return spec_from_file_location(name, {str(source)!r}) if name == 'editable_app' else None\n"
        "sys.meta_path.append(Finder)\n"
    )
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(str(site_packages))
    __import__("__editable___app_finder")
    module = __import__("editable_app")
    caller = Caller(real(sys.path))
    caller.refresh("editable_app")
    assert "editable_app" not in caller.by_value
    monkeypatch.delitem(sys.modules, "editable_app")
    assert 1 == module.f()


def test_namespace_packages_extensions_and_built_in_modules_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "spaced" / "inner").mkdir(parents=True)
    (tmp_path / "spaced" / "inner" / "deep.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("spaced.inner.deep")
    caller = Caller(real(sys.path))
    caller.refresh(None)
    assert set() == caller.by_value & {"spaced", "spaced.inner", "spaced.inner.deep", "_socket", "sys", "zipimport"}


def test_traceback_of_a_function_of_main_shows_the_line_and_the_file(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import procjobs, traceback\n"
        "def fails(n):\n"
        "    half = n - 1\n"
        "    return 1 / half  # the line\n"
        "if __name__ == '__main__':\n"
        "    with procjobs.Pool(workers=1) as pool:\n"
        "        print(''.join(traceback.format_exception(pool.submit(fails, 1).exception(30))))\n"
        "        print(''.join(traceback.format_exception(pool.submit(lambda: fails(1)).exception(30))))\n"
    )
    text = run(program)
    assert 2 == text.count(f'File "{program}", line 4, in fails\n    return 1 / half  # the line')
    assert f'File "{program}", line 8, in <lambda>' in text


def test_traceback_of_a_function_that_was_typed_in_names_its_cell(pool):
    scope = {"__name__": "__main__"}
    exec(compile("def fails():\n\n    return 1 / 0\n", "<ipython-input-7-abc>", "exec"), scope)
    error = pool.submit(scope["fails"]).exception(30)
    assert 'File "<ipython-input-7-abc>", line 3, in fails' in str(error.__cause__)


@pytest.mark.parametrize("way", ["adding it", "removing another one meanwhile"])
def test_path_that_is_added_for_each_function_adds_up(pool, tmp_path, monkeypatch, way):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("first_of_path", "second_of_path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text("def f(): return __name__\n")
        if way != "adding it" and name == "second_of_path":
            sys.path.remove(str(tmp_path / "first_of_path"))
        sys.path.append(str(tmp_path / name))
        assert name == pool.submit(__import__(name).f).result(30)
        monkeypatch.delitem(sys.modules, name)


def test_path_longer_than_a_frame_does_no_harm(pool, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, *(f"/nowhere/{n:0200}" for n in range(1000))])
    assert 2 == pool.submit(only_here.identity, 2).result(30)


