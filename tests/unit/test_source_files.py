"""Which files of an application are seen, and when they count as others."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import uuid
import zipfile

import pytest

from procjobs.host.source_files import SourceFiles
from procjobs.shared.source_digest import find_changed, read_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def name():
    return f"seen_{uuid.uuid4().hex[:8]}"


def seen(files, folder):
    """Return the names of the files of a folder that were seen, with whether they were loaded."""
    found = files.since(0)
    return {os.path.relpath(path, folder): source.is_loaded for path, source in found.items() if str(folder) in path}


def test_files_of_a_package_and_those_beside_a_module(folder, name):
    package = folder / f"{name}_package"
    (package / "below").mkdir(parents=True)
    for path in (package / "__init__.py", package / "other.py", package / "below" / "deep.py", folder / f"{name}.py"):
        path.write_text("x = 1")
    (folder / "notes.txt").write_text("")
    files = SourceFiles()
    importlib.import_module(f"{name}_package.other")
    files.look()
    inside = {f"{name}_package/{path}" for path in ("__init__.py", "other.py", "below/deep.py")}
    assert inside == seen(files, folder).keys()
    assert {f"{name}_package/__init__.py", f"{name}_package/other.py"} == {
        path for path, is_loaded in seen(files, folder).items() if is_loaded
    }
    importlib.import_module(name)
    files.look()
    assert inside | {f"{name}.py"} == seen(files, folder).keys()


def test_neither_the_library_nor_installed_packages_are_seen():
    files = SourceFiles()
    files.look()
    assert not [path for path in files.since(0) if "site-packages" in path or path.startswith(os.path.dirname(os.__file__))]


def test_package_of_a_function_in_site_packages_is_known_by_its_folder():
    files = SourceFiles()
    files.look(pytest.raises)
    files.look(pytest.raises)
    installed = [path for path in files.since(0) if "site-packages" in path]
    assert len(installed) == 1


def test_module_that_an_import_hook_finds(tmp_path, monkeypatch, name):
    path = tmp_path / "elsewhere.py"
    path.write_text("x = 1")

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, *_):
            return importlib.util.spec_from_file_location(fullname, path) if fullname == name else None

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    files = SourceFiles()
    importlib.import_module(name)
    files.look()
    assert {"elsewhere.py": True} == seen(files, tmp_path)
    del sys.modules[name]


def test_archive_stands_for_its_modules(folder, name, monkeypatch):
    archive = folder / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{name}.py", "x = 1")
    monkeypatch.syspath_prepend(archive)
    files = SourceFiles()
    importlib.import_module(name)
    files.look()
    assert {f"app.zip/{name}.py": True} == seen(files, folder)


def test_file_counts_as_it_was_when_it_was_loaded(folder, name):
    path = folder / f"{name}.py"
    path.write_text("x = 1")
    files = SourceFiles()
    module = importlib.import_module(name)
    position = files.look()
    path.write_text("x = 22")
    assert position == files.look()
    importlib.reload(module)
    assert position == files.look()  # the modules are as many as before
    exec("def job(): pass", module.__dict__)
    files.look(module.job)
    assert {f"{name}.py"} == {os.path.basename(path) for path in files.since(position)}


def test_module_that_is_not_loaded_any_more_makes_no_difference(folder, name):
    (folder / f"{name}.py").write_text("x = 1")
    files = SourceFiles()
    importlib.import_module(name)
    files.look()
    assert {f"{name}.py": True} == seen(files, folder)
    del sys.modules[name]
    files.look()
    assert {f"{name}.py": False} == seen(files, folder)


def test_module_in_the_place_of_another_one_is_seen_by_a_new_connection(folder, name):
    for each in (name, f"{name}_other"):
        (folder / f"{each}.py").write_text("x = 1")
    files = SourceFiles()
    importlib.import_module(name)
    files.look()
    del sys.modules[name]
    importlib.import_module(f"{name}_other")
    files.look(at_all=True)
    assert {f"{name}.py": False, f"{name}_other.py": True} == seen(files, folder)


def test_file_is_looked_at_again_when_it_is_loaded(folder, name):
    (folder / f"{name}.py").write_text("x = 1")
    (folder / f"{name}_late.py").write_text("x = 1")
    files = SourceFiles()
    importlib.import_module(name)
    position = files.look()
    (folder / f"{name}_late.py").write_text("x = 22")
    importlib.import_module(f"{name}_late")
    files.look()
    ((path, source),) = files.since(position).items()
    assert (f"{name}_late.py", True) == (os.path.basename(path), source.is_loaded)


LAZY = type("Lazy", (), {"__getattr__": lambda *_: 1 / 0})()


@pytest.mark.parametrize("strange", [None, 3, LAZY], ids=["None", "a number", "a lazy module"])
def test_anything_may_lie_among_the_modules(monkeypatch, strange):
    monkeypatch.setitem(sys.modules, "strange_thing", strange)
    SourceFiles().look()


def test_package_that_is_too_large_is_known_by_its_loaded_modules(folder, name, monkeypatch):
    monkeypatch.setattr("procjobs.host.source_files._MAX_ENTRIES", 3)
    package = folder / name
    package.mkdir()
    for n in range(5):
        (package / f"m{n}.py").write_text("")
    (package / "__init__.py").write_text("")
    files = SourceFiles()
    importlib.import_module(name)
    files.look()
    assert {f"{name}/__init__.py"} == seen(files, folder).keys()


def test_files_that_are_gone_have_not_changed(tmp_path):
    (tmp_path / "there.py").write_text("1")
    before = {str(tmp_path / name): "some digest" for name in ("there.py", "gone.py")}
    assert {str(tmp_path / "there.py")} == find_changed(before.items()).keys()
    assert read_source(str(tmp_path / "gone.py")) is None
