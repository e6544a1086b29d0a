"""Describes the machine and the versions, and reads the memory of processes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from services import ADAPTERS

OTHERS = ["numpy", "pandas", "Pillow", "av", "redis"]


def describe():
    cpu = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), cpu)
    return {
        "cpu": cpu or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load": os.getloadavg(),
        "cpu_shared_by_session": is_cpu_shared_by_session(),
    }


def is_cpu_shared_by_session():
    """Return whether the kernel gives each session the same share of the CPUs (sched(7), autogroup).

    Then niceness counts within a session only, and a pool with sessions of its own gets more CPU time than a pool without.
    This holds outside of CPU cgroups; containers and systemd's services have such cgroups.
    """
    try:
        if Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() != "1":
            return False
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return False
    for _, controllers, path in lines:
        if "cpu" in controllers.split(","):
            return path == "/"
    return not any(Path(f"/sys/fs/cgroup{path}/cpu.weight").exists() for _, controllers, path in lines if not controllers)


def describe_versions():
    versions = {"python": sys.version}
    for distribution in [*(peer.distribution for peer in ADAPTERS.values() if peer.distribution), *OTHERS]:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[distribution] = "not installed"
    server = shutil.which("redis-server")
    if server:
        versions["redis-server"] = subprocess.run(
            [server, "--version"], capture_output=True, text=True, check=False
        ).stdout.strip()
    return versions


def memory_of(pids):
    """Return bytes by the kernel's names (Pss, Pss_Anon, Pss_Shmem...), summed over processes.

    The proportional set size counts a page that n processes share as 1/n in each of them.
    """
    total = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/smaps_rollup") as file:
            next(file)
            for line in file:
                name, kilobytes, _ = line.split()
                total[name[:-1]] = total.get(name[:-1], 0) + int(kilobytes) * 1024
    return total


def resident_of(pid):
    """Return a process's resident bytes by kind: RssAnon, RssFile, RssShmem."""
    with open(f"/proc/{pid}/status") as file:
        lines = [line.split() for line in file if line.startswith("Rss")]
    return {name[:-1]: int(kilobytes) * 1024 for name, kilobytes, _ in lines}
