"""The number of workers, written into a settings file of which nothing else changes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib

import pytest

from procjobs.errors import ConfigurationError
from procjobs.settings import editor as settings_file
from procjobs.settings.editor import Place, choose_pool, find_place, write_workers
from procjobs.settings.file import find_file, load_file
from procjobs.settings.plan import host_names

pytest.importorskip("tomlkit")
HEADER = '[pool.media.hosts."web1.example.org"]'
ADDED = f"{HEADER}\nworkers = 4\n"


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.delenv(settings_file.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(directory, text, *, pool="media", below=()):
    path = directory / "procjobs.toml"
    path.write_bytes(text.encode())
    write_workers(Place(path, below), pool, 4, "web1.example.org")
    assert [] == [name for name in os.listdir(directory) if name.startswith(".")]
    return path.read_bytes().decode()


def test_new_table_is_added_below_what_is_there(directory):
    text = "# Ours.\n[pool.media]\nworkers = 2   # the rest\n\n# Theirs.\n[pool.other]\nnice = 3\n# The end.\n"
    assert f"{text}\n{ADDED}" == written(directory, text)


def test_number_that_is_there_is_replaced_where_it_stands(directory):
    text = f"# Ours.\n{HEADER}   # the big one\nnice = 3\nworkers = 9  # since May\n\n# Theirs.\n[pool.other]\n"
    assert text.replace("9", "4") == written(directory, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pool.media.workers = 2\n",
        "[pool]\nmedia = {workers = 2}  # short\n",
        "[pool.media]\nhosts = {other = {workers = 3}}\n",
        '[pool.media.hosts]\n"web1.example.org" = {nice = 3}\n',
        '[pool.media.hosts."web1.example.org"]\nnice = 3\n[pool.media]\nworkers = 2\n',
        '[pool.media.hosts.b]\nworkers = 1\n[web]\na = 1\n[pool.media.hosts."web1.example.org"]\nnice = 3\n[pool.media]\n',
        "[pool.media]\r\nworkers = 2\r\n",
        "[pool.media]\nworkers = 2",
    ],
    ids=["empty", "dotted", "inline", "inline hosts", "inline host", "reversed", "scattered", "CRLF", "no end of line"],
)
def test_every_way_to_write_tables_is_understood(directory, text):
    expected = tomllib.loads(text)
    host = expected.setdefault("pool", {}).setdefault("media", {}).setdefault("hosts", {})
    host.setdefault("web1.example.org", {})["workers"] = 4
    after = written(directory, text)
    assert expected == tomllib.loads(after)
    assert ("\r\n" in text, text.count("#")) == (after.count("\r\n") == after.count("\n") > 0, after.count("#"))


def test_settings_of_a_project_are_below_its_tool_table(directory):
    (directory / "pyproject.toml").write_text('[project]\nname = "web"\n\n[tool.procjobs.pool.media]\nworkers = 2\n')
    place = find_place()
    assert ("media", directory / "pyproject.toml") == (choose_pool(place, None), place.path)
    change = write_workers(place, "media", 4, "web1")
    assert change.table == '[tool.procjobs.pool.media.hosts."web1"]'
    assert 4 == tomllib.loads(place.path.read_text())["tool"]["procjobs"]["pool"]["media"]["hosts"]["web1"]["workers"]


@pytest.mark.parametrize("name", ["procjobs.toml", "pyproject.toml"])
def test_pools_of_this_host_read_what_was_written(directory, name):
    header = "[tool.procjobs.default]" if name == "pyproject.toml" else "[default]"
    (directory / name).write_text(f"{header}\nnice = 3\n")
    write_workers(find_place(), "media", 4)
    read = load_file(find_file()).require_valid()
    assert str(directory / name) == read.path
    assert {"workers": 4} == read.holding("media", host_names())[0].values
    assert [] == [table for table in read.holding("other", host_names()) if "workers" in table.values]


def test_nearest_file_upward_has_the_settings(directory, monkeypatch):
    (directory / "a/b").mkdir(parents=True)
    monkeypatch.chdir(directory / "a/b")
    assert Place(directory / "a/b/procjobs.toml") == find_place()  # there is none: it is to be made here
    (directory / "procjobs.toml").touch()
    assert Place(directory / "procjobs.toml") == find_place()
    (directory / "a/pyproject.toml").write_text("[tool.ruff]\n")  # of no concern
    assert Place(directory / "procjobs.toml") == find_place()
    (directory / "a/pyproject.toml").write_text("[tool.procjobs]\n")
    assert Place(directory / "a/pyproject.toml", ("tool", "procjobs")) == find_place()
    (directory / "a/procjobs.toml").touch()
    assert Place(directory / "a/procjobs.toml") == find_place()


def test_variable_names_another_file(directory, monkeypatch):
    (directory / "procjobs.toml").touch()
    (directory / "other.toml").touch()
    monkeypatch.setenv(settings_file.VARIABLE, str(directory / "other.toml"))
    assert Place(directory / "other.toml") == find_place()


def test_no_device_is_replaced_by_a_file(directory, monkeypatch):
    for name, text in ((os.devnull, "is no file that can be written; make it"), ("/no/such/file", "there is no such file")):
        monkeypatch.setenv(settings_file.VARIABLE, name)
        with pytest.raises(ConfigurationError, match=f"PROCJOBS_CONFIG={name}.*{text}"):
            find_place()


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_file_that_somebody_else_left_for_everybody_is_not_ours(directory, monkeypatch):
    (directory / "below").mkdir()
    monkeypatch.chdir(directory / "below")
    (directory / "procjobs.toml").touch()
    directory.chmod(0o1777)
    os.chown(directory / "procjobs.toml", 4712, -1)
    assert Place(directory / "below/procjobs.toml") == find_place()
    directory.chmod(0o755)
    assert Place(directory / "procjobs.toml") == find_place()


def test_reserve_that_contradicts_the_number_has_to_go_first(directory):
    place = Place(directory / "procjobs.toml")
    place.path.write_text('[pool.media.hosts."web1"]\nreserve = 2\n')
    with pytest.raises(ConfigurationError, match="has a reserve, which a number of workers contradicts"):
        write_workers(place, "media", 4, "web1")


def test_change_is_told(directory):
    place = Place(directory / "procjobs.toml")
    assert f"made {place.path}: {HEADER} workers = 4" == str(write_workers(place, "media", 4, "web1.example.org"))
    assert ADDED == place.path.read_text()
    assert str(write_workers(place, "media", 6, "web1.example.org")).endswith("workers = 6 (was 4)")
    before = place.path.stat()
    assert "says so already" in str(write_workers(place, "media", 6, "web1.example.org"))
    assert before == place.path.stat()


def test_file_keeps_its_mode_and_stays_a_link(directory):
    real = directory / "real.toml"
    real.touch()
    real.chmod(0o640)
    (directory / "procjobs.toml").symlink_to(real)
    write_workers(Place(directory / "procjobs.toml"), "media", 4, "web1")
    assert (True, 0o640) == ((directory / "procjobs.toml").is_symlink(), stat.S_IMODE(real.stat().st_mode))
    assert "workers = 4" in real.read_text()


def test_pool_that_is_not_named_has_to_be_the_only_one(directory):
    place = Place(directory / "procjobs.toml")
    with pytest.raises(ConfigurationError, match="it has none yet; name it: --write=NAME"):
        choose_pool(place, None)
    place.path.write_text("[pool.b]\n[pool.a]\n")
    with pytest.raises(ConfigurationError, match="there are a, b; name it"):
        choose_pool(place, None)
    assert "new" == choose_pool(place, "new")
    with pytest.raises(ConfigurationError, match="cannot be the name of a pool"):
        choose_pool(place, "jobs:transcode")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pool", "is not TOML"),
        ("pool = 3\n", "pool is 3, and should be a table"),
        ("[pool]\nmedia = 4\n", "pool.media is 4, and should be a table"),
        ('[pool.media.hosts]\n"web1" = 4\n', "pool.media.hosts.web1 is 4, and should be a table"),
    ],
)
def test_file_with_something_else_in_the_place_is_not_touched(directory, text, said):
    place = Place(directory / "procjobs.toml")
    place.path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        write_workers(place, "media", 4, "web1")
    assert text == place.path.read_text()


def test_file_that_cannot_be_written_is_told_with_what_to_write(directory):
    place = Place(directory / "no such directory" / "procjobs.toml")
    with pytest.raises(ConfigurationError, match=r"cannot be written: No such file .* workers = 4"):
        write_workers(place, "media", 4, "web1")


def test_without_tomlkit_it_says_what_to_install():
    code = "import sys; sys.modules['tomlkit'] = None; from procjobs.settings import editor as s; s.check_installed()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "writing settings needs tomlkit: pip install 'procjobs[cli]'" in done.stderr
