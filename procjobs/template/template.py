"""The template process of one generation of code.

1. It has one thread, checked after each module of the preload: no Python thread, and no native one that outlives a fork. It
   runs users' code only while it imports; its workers run the rest.
2. It forks workers on request and does nothing else. The supervisor is their parent (procjobs.host.process).
3. It opens nothing that a worker must not have, and a worker closes the template's socket before it runs anything.
4. When the supervisor is gone, it kills the workers' process groups and all processes that carry the pool's mark in their
   environment, and ends itself.

It talks with the supervisor over a SOCK_SEQPACKET pair, one JSON object a message:

    supervisor -> template   {"spawn": slot, "cpus": [number, ...]} with the worker's two sockets; {"gone": pid}
                             {"hooks": true} with the socket of the process that calls hooks
    template -> supervisor   {"ready": true} | {"failed": traceback}
                             {"threads": module, "native": names of native threads, none if it has Python threads}
                             {"spawned": slot, "pid": pid} | {"refused": slot, "why": text}
                             {"hooks": pid} | {"hooks": 0, "why": text}
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from procjobs.errors import ProcjobsError
from procjobs.host import cpus, descriptors, observe, process, shortages, threads, titles
from procjobs.shared import source_digest
from procjobs.shared.wire import limit_text
from procjobs.template.declared_schedules import pack_declared
from procjobs.worker.loaded_files import LOADED_FILES
from procjobs.worker.startup import WorkerSetup
from procjobs.worker.worker import run_worker

CONTROL_FD, SPEC_FD, TABLE_FD, FILES_FD = 3, 4, 5, 6
_WORKER_FDS_ROOM: Final = descriptors.room_for(6)  # see procjobs.supervisor.workers.worker_link
_MIN_FDS: Final = 64
_MAX_MESSAGE_BYTES: Final = 64 * 1024  # the supervisor reads as much at once
_MAX_PROBLEM_BYTES: Final = 10_000
_SQL: Final = "procjobs.sql.configuration"
"""The workers of a pool with a database import this: it takes 150 ms, once here instead of in each of them."""
_IMPORTING: Final = frozenset({"procjobs", "importlib"})
assert 6 * _MAX_PROBLEM_BYTES < _MAX_MESSAGE_BYTES - 1024  # JSON may make six bytes of one


class Template:
    """Preloads, then forks on request until the supervisor is gone."""

    def __init__(
        self, control: socket.socket, setup: WorkerSetup, arguments: Mapping[str, Any], schedules: Sequence[str] | None
    ) -> None:
        """`arguments` are those of the process; `schedules` in base64 those of the settings file, where a service begins."""
        self._control = control
        self._setup = setup
        self._supervisor_pid: int = arguments["supervisor_pid"]
        self._pool = os.path.basename(arguments["directory"])
        self._job_defaults: dict[str, Any] = arguments["job_defaults"]
        self._of_file = None if schedules is None else [base64.b64decode(body) for body in schedules]
        self._workers: set[int] = set()

    def preload(self, modules: list[str]) -> bool:
        """Import the modules; tell the supervisor the outcome, and return whether workers can be forked."""
        for name in modules:
            before = threads.thread_count()
            try:
                importlib.import_module(name)
            except BaseException as error:  # noqa: BLE001 - all that a user's module raises ends here, SystemExit too
                self._tell({"failed": limit_text(f"preload of {name!r} failed: {_describe(error)}", _MAX_PROBLEM_BYTES)})
                return False
            has_threads = threads.thread_count() > before
            native = [] if has_threads else threads.threads_kept_in_fork()
            if has_threads or native:
                self._tell({"threads": name, "native": [text[:20] for text in native[:50]]})
                return False
        importlib.import_module("logging")  # every worker needs it
        for stream in (sys.stdout, sys.stderr):  # or every worker would print the output of the preload again
            with contextlib.suppress(Exception):
                stream.flush()
        try:
            self._tell_of_code()
        except ProcjobsError as error:
            self._tell({"failed": limit_text(f"preload failed: {error}", _MAX_PROBLEM_BYTES)})
            return False
        gc.collect()
        gc.freeze()  # no collection touches these objects again: their pages stay shared with the workers
        self._tell({"ready": True})
        return True

    def _tell_of_code(self) -> None:
        """Put into the file of digests what the supervisor is to know of the code.

        "files": those that have other contents now, or were loaded here; "schedules": what the modules and the settings
        file of a service declare, in base64.
        """
        digests = json.loads(os.pread(FILES_FD, os.fstat(FILES_FD).st_size, 0))
        loaded = {path: digest for path, digest in LOADED_FILES.look().items() if digests.get(path) != digest}
        declared = pack_declared(self._pool, self._job_defaults, self._of_file)
        news = {
            "files": {**source_digest.find_changed(digests.items()), **loaded},
            "schedules": None if declared is None else [base64.b64encode(body).decode() for body in declared],
        }
        os.ftruncate(FILES_FD, 0)
        os.pwrite(FILES_FD, json.dumps(news).encode(), 0)
        os.close(FILES_FD)

    def serve(self) -> None:
        """Fork workers until the supervisor is gone."""
        while True:
            try:
                message, fds, is_lost = descriptors.receive(self._control, _MAX_MESSAGE_BYTES, _WORKER_FDS_ROOM)
            except ConnectionResetError:  # it was killed with a message of ours unread
                break
            if not message:
                break
            request = json.loads(message)
            if "spawn" in request and is_lost:
                descriptors.close_all(fds)
                self._tell({"refused": request["spawn"], "why": descriptors.out_of_descriptors("template of the workers")})
            elif "spawn" in request:
                self._spawn(request["spawn"], request["cpus"], fds)
            elif "hooks" in request:
                self._fork_hooks(fds)
            else:
                self._workers.discard(request["gone"])
        for pid in self._workers:
            process.kill_group(pid, signal.SIGKILL)
        process.kill_marked(os.environ[observe.MARK])

    def _spawn(self, slot: int, worker_cpus: list[int], fds: list[int]) -> None:
        def child() -> NoReturn:
            self._become_child()
            if worker_cpus:
                cpus.pin(worker_cpus)
            run_worker(self._setup, slot, fds)

        try:
            pid = process.fork_to_subreaper(child, lambda pid: self._tell({"spawned": slot, "pid": pid}))
        except OSError as error:
            self._tell({"refused": slot, "why": f"a worker could not be forked: {shortages.explain(error)}"})
        else:
            self._workers.add(pid)
        finally:
            descriptors.close_all(fds)

    def _become_child(self) -> None:
        """Be a child of the supervisor, in a session of its own, without the template's socket."""
        process.lead_new_session()
        process.wait_for_new_parent(self._supervisor_pid)
        process.die_with_parent(self._supervisor_pid)
        self._control.close()

    def _fork_hooks(self, fds: list[int]) -> None:
        def child() -> NoReturn:
            self._become_child()
            from procjobs.worker.hooks import run_hooks  # here, because most pools have none

            run_hooks(self._setup, fds[0])

        try:
            if not fds:
                raise OSError(descriptors.out_of_descriptors("template of the workers"))
            self._workers.add(process.fork_to_subreaper(child, lambda pid: self._tell({"hooks": pid})))
        except OSError as error:
            self._tell({"hooks": 0, "why": f"a process for hooks could not be forked: {shortages.explain(error)}"})
        finally:
            descriptors.close_all(fds)

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())


def _describe(error: BaseException) -> str:
    """Return `Type: message`, for places that show only the beginning, and the traceback in the user's own files."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _IMPORTING:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    line = traceback.format_exception_only(error)[-1].strip()
    return line[:1000] if text.strip() == line else f"{line[:1000]}\n{text}"


def main(arguments: dict[str, Any]) -> None:
    """Run a template; `arguments` come from the supervisor's command line."""
    process.die_with_parent(arguments["supervisor_pid"])  # while it imports, it may not see that the supervisor is gone
    process.set_title("procjobs-templ")
    titles.show_title(f"procjobs: template of {os.path.basename(arguments['directory'])}")
    # That of the user, for jobs and the programs that they start; as many as a worker needs at least.
    descriptors.set_descriptor_limit(max(arguments["max_fds"], _MIN_FDS))
    # Until a worker has its handlers.
    for number in (signal.SIGINT, process.STACK_SIGNAL, process.TELL_SIGNAL, process.SOFT_SIGNAL):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=CONTROL_FD)
    # All templates of the generation share its position, and another one may be reading now.
    spec = json.loads(os.pread(SPEC_FD, os.fstat(SPEC_FD).st_size, 0))
    os.close(SPEC_FD)
    for fd in (CONTROL_FD, TABLE_FD, FILES_FD):
        os.set_inheritable(fd, False)
    sys.path[:] = spec["sys_path"]
    sys.argv[:] = [""]
    with contextlib.suppress(OSError):  # the directory may be gone by now; then jobs run in the supervisor's
        os.chdir(spec["cwd"])
    setup = WorkerSetup(
        table_fd=TABLE_FD,
        rows_offset=arguments["rows_offset"],
        directory=arguments["directory"],
        initializer=spec["initializer"],
        finalizer=spec.get("finalizer"),
        wrappers=tuple((name, pickled) for name, pickled in spec.get("wrappers", ())),
        nice=arguments["nice"],
        record_arguments=arguments["record_arguments"],
        database=spec.get("database"),
    )
    with control:  # else an interpreter with -W would complain of it at its end
        template = Template(control, setup, arguments, spec.get("schedules"))
        own = [_SQL] if spec.get("database") else []
        if template.preload([*own, *(name for name in spec["preload"] if name not in arguments["skip"])]):
            process.outlive_parent()
            template.serve()
