"""What a process and its children take, and what else ran meanwhile; from Linux' /proc."""

import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS = 0.02


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, as far as they run."""
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += map(int, task.read_text().split())
            except OSError:  # gone meanwhile
                continue
    return pids


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of all its children, running or waited for."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # user, system, and both of ended children
    return total / _TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its running children; shared pages count in each."""
    total = 0
    for each in tree(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total * _PAGE_BYTES


def busy_seconds() -> float:
    """CPU seconds of everything on the machine so far."""
    line = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, line[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


@dataclass
class Spent:
    """Wall and CPU seconds of a piece of work, and cores' worth of work of others meanwhile."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    others_cores: float = 0.0

    def __enter__(self) -> Self:
        self._start = busy_seconds(), cpu_seconds(os.getpid()), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        busy, cpu, start = self._start
        self.wall_seconds = time.monotonic() - start
        self.cpu_seconds = cpu_seconds(os.getpid()) - cpu
        others = busy_seconds() - busy - self.cpu_seconds
        self.others_cores = max(0.0, others / self.wall_seconds)


class PeakMemory:
    """The most resident memory that a process and its children have at once, looked at often."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._is_over = threading.Event()
        self.num_bytes = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            self.num_bytes = max(self.num_bytes, resident_bytes(self._pid))


def machine() -> str:
    """Cores, processor, system and Python, in one line."""
    text = Path("/proc/cpuinfo").read_text()
    name = next((x for x in text.splitlines() if x.startswith("model name")), ":")
    flags = set(next((x for x in text.splitlines() if x.startswith("flags")), ":").split())
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return (
        f"{len(os.sched_getaffinity(0))} cores {name.partition(':')[2].strip()} "
        f"({', '.join(known)}), {platform.system()}, Python {platform.python_version()}"
    )
