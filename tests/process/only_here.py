"""A program whose functions are in modules that no worker finds, or finds in another file. `main(directory)` tries each."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import multiprocessing
import os
import runpy
import sys
import types

import procjobs

PLUGIN = """
import os
import threading
LOCK = threading.Lock()  # stays here: no function below uses it
FACTOR = 100
class Film:
    def __init__(self, frames): self.frames = frames
    def __eq__(self, other): return type(other) is type(self) and other.frames == self.frames
    def longer(self): return Film(self.frames + 1)
def times(n): return n * FACTOR
def longer(film): return film.longer()
"""


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


def by_path(pool, directory):
    module = load("uwsgi_file_app", write(f"{directory}/plugins/wsgi.py", PLUGIN))
    film = module.Film(2)
    return (
        pool.submit(module.times, 2).result(30) == 200
        and pool.submit(module.longer, film).result(30) == module.Film(3)
        and pool.submit(film.longer).result(30) == module.Film(3)
        and pool.submit(identity, film).result(30) == film
        and pool.submit(second, b"x" * 2_000_000, film).result(30) == film  # streamed
        and pool.submit(calls, module).result(30) == 700
    )


def of_package(pool, directory):
    """Load a package by path whose module needs a helper of the same package."""
    write(f"{directory}/plugins/extra/__init__.py", "")
    write(f"{directory}/plugins/extra/helper.py", "def half(n): return n // 2\n")
    write(f"{directory}/plugins/extra/main.py", "from extra_plugin import helper\ndef f(n): return helper.half(n)\n")
    package = load("extra_plugin", f"{directory}/plugins/extra/__init__.py")
    package.__path__ = [f"{directory}/plugins/extra"]
    return pool.submit(importlib.import_module("extra_plugin.main").f, 8).result(30) == 4


def same_name_elsewhere(pool, directory):
    """Load a module that has the name of another one on the path."""
    write(f"{directory}/on_path/settings_of_app.py", "def f(n): raise AssertionError('the wrong file')\n")
    return pool.submit(load("settings_of_app", write(f"{directory}/other.py", PLUGIN)).times, 1).result(30) == 100


def path_for_a_moment(pool, directory):
    write(f"{directory}/moment/momentary.py", PLUGIN)
    sys.path.insert(0, f"{directory}/moment")
    module = importlib.import_module("momentary")
    sys.path.remove(f"{directory}/moment")
    return pool.submit(module.times, 3).result(30) == 300


def path_later(pool, directory):
    write(f"{directory}/late/late_helper.py", "def twice(n): return n * 2\n")
    write(f"{directory}/late/late_module.py", "def f(n):\n    import late_helper\n    return late_helper.twice(n)\n")
    sys.path.append(f"{directory}/late")
    first = pool.submit(needs_helper, 5)  # of __main__: the helper is imported in the job alone
    return first.result(30) == 10 and pool.submit(importlib.import_module("late_module").f, 4).result(30) == 8


def path_later_for_a_known_function(pool, directory):
    """Add a path, and pass an object of a module there to a function that was submitted before."""
    import operator  # of the standard library: it goes by name

    assert pool.submit(operator.add, 1, 1).result(30) == 2
    write(f"{directory}/later/later_module.py", "class Number(int): pass\n")
    sys.path.insert(0, f"{directory}/later")
    number = importlib.import_module("later_module").Number
    return pool.submit(operator.add, number(1), 1).result(30) == 2


def made_by_hand(pool, _directory):
    module = sys.modules["made_by_hand"] = types.ModuleType("made_by_hand")
    exec(PLUGIN, module.__dict__)
    return pool.submit(module.longer, module.Film(1)).result(30) == module.Film(2)


class InMemory(importlib.abc.Loader, importlib.abc.MetaPathFinder):
    def find_spec(self, name, _path, _target=None):
        return importlib.util.spec_from_loader(name, self) if name == "in_memory" else None

    def exec_module(self, module):
        exec(PLUGIN, module.__dict__)


def by_own_finder(pool, _directory):
    sys.meta_path.append(InMemory())
    return pool.submit(importlib.import_module("in_memory").times, 2).result(30) == 200


def by_runpy(pool, directory):
    text = PLUGIN + "\nRESULT = POOL.submit(times, 4).result(30)\n"
    return runpy.run_path(write(f"{directory}/run.py", text), {"POOL": pool}, "run_by_path")["RESULT"] == 400


def zipped(pool, directory):
    import zipfile

    with zipfile.ZipFile(f"{directory}/zipped.zip", "w") as file:
        file.writestr("zipped.py", PLUGIN)
    sys.path.insert(0, f"{directory}/zipped.zip")
    return pool.submit(importlib.import_module("zipped").times, 2).result(30) == 200


def spawned(_pool, _directory):
    """Let a process that multiprocessing has spawned submit a function of this file, which is its `__mp_main__`."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=in_child, args=(sender,))
    process.start()
    result = receiver.recv()
    process.join()
    return result == 100


def in_child(sender):
    with procjobs.Pool(workers=1) as pool:
        sender.send(pool.submit(identity, 100).result(30))


def identity(value):
    return value


def second(_first, value):
    return value


def calls(module):
    return module.times(7)


def needs_helper(n):
    import late_helper

    return late_helper.twice(n)


def main(directory):
    sys.path.insert(0, f"{directory}/on_path")
    os.makedirs(f"{directory}/on_path")
    tries = (
        by_path, of_package, same_name_elsewhere, path_for_a_moment, path_later, path_later_for_a_known_function,
        made_by_hand, by_own_finder, by_runpy, zipped, spawned,
    )  # fmt: skip
    with procjobs.Pool(workers=1) as pool:
        for attempt in tries:
            try:
                outcome = attempt(pool, directory)
            except Exception as error:  # noqa: BLE001 - it is shown
                outcome = f"{type(error).__name__}: {error}"
            print(attempt.__name__, outcome, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
