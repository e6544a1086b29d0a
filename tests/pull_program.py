"""A process that uses a pull queue as a test tells it: `python -m tests.pull_program NAME POOL STORE`.

It evaluates each line of its input, and writes the value as a line.
"""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import procjobs


class Consumer:
    """Such a process, and the test's side of the conversation."""

    def __init__(self, queue):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pull_program", queue.name, queue.pool, queue.store or "-"],
            cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.pid = self._process.pid

    def send(self, expression):
        """Have an expression evaluated, and do not wait."""
        print(expression, file=self._process.stdin, flush=True)

    def receive(self):
        """Wait for the value of an expression that was sent."""
        line = self._process.stdout.readline()
        assert line, f"process {self.pid} has ended"
        return ast.literal_eval(line)

    def ask(self, expression):
        self.send(expression)
        return self.receive()

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self, *, reap=True):
        """Kill it; without `reap`, it stays a zombie."""
        self._process.kill()
        if reap:
            self._process.wait()
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def exit_code(self):
        """Wait for its end."""
        return self._process.wait()

    def close(self):
        """End it, however it is."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


items = []


def take(timeout=0.0):
    """Return the value of the next item, "nothing" where there is none, and the error where there is one."""
    try:
        item = queue.take(timeout)
    except KeyboardInterrupt:
        return "interrupted"
    except procjobs.ProcjobsError as error:
        return f"{type(error).__name__}: {error}"
    if item is None:
        return "nothing"
    items.append(item)
    return item.value


def in_thread(function, *args):
    """Return what a function returns in a thread that has ended by then."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function(*args)))
    thread.start()
    thread.join()
    return answers[0]


def in_child(function, *args):
    """Return what a function returns in a child of a fork, which ends then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, repr(function(*args)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return ast.literal_eval(text)


threads = []


def keep_thread(function, *args):
    """Return what a function returns in a thread that goes on until `leave_thread`."""
    answers, ready, leaves = [], threading.Event(), threading.Event()

    def run():
        answers.append(function(*args))
        ready.set()
        leaves.wait()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    threads.append((thread, leaves))
    ready.wait()
    return answers[0]


def leave_thread():
    thread, leaves = threads.pop()
    leaves.set()
    thread.join()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, pool, store = sys.argv[1:]
    queue = procjobs.PullQueue(name, pool=pool, store=None if store == "-" else store)
    for line in sys.stdin:
        print(repr(eval(line)), flush=True)
