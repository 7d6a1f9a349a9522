"""What a decode worker may take from the machine; all that differs between platforms is here.

Linux: memory by RLIMIT_DATA, which counts what was reserved, and the worker dies with the thread
that started it. macOS knows neither, so there the parent looks at the worker's memory now and
then, and the worker ends when its input does. Windows: as macOS, without the limits.
What a worker may touch is in `confinement`.
"""

import contextlib
import ctypes
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

from perception_search.confinement import has_own_users

KERNEL_LIMITS_MEMORY = sys.platform == "linux"
"""Whether `limit_this_process` bounds memory; else the parent has to watch `resident_bytes`."""

PROCESSOR_SECONDS = 24 * 3600
"""For one file, after which its worker is ended: for files that give signs of life for ever."""

_MAX_OPEN_FILES = 128
_MAX_THREADS = 256
_COUNTS_THREADS_BY_NAMESPACE = (5, 14)
_PR_SET_PDEATHSIG = 1
_F_SETPIPE_SZ = 1031


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_this_process(memory_limit_bytes: int, file_limit_bytes: int = 0) -> None:
    """Binds the calling process: memory, no core dumps, no file written, few open files and
    threads, Ctrl-C left to the parent.

    Args:
        memory_limit_bytes: of private memory beyond what it holds now; more raises MemoryError.
        file_limit_bytes: that it may write to one file.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        return
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, file_limit_bytes)
    _lower(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    if sys.platform == "linux":
        if has_own_users() and _release() >= _COUNTS_THREADS_BY_NAMESPACE:
            _lower(resource.RLIMIT_NPROC, _MAX_THREADS)  # else all threads of the user would count
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
        held_bytes = data_pages * resource.getpagesize()
        _lower(resource.RLIMIT_DATA, held_bytes + memory_limit_bytes)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def renew_processor_time() -> None:
    """Lets this process compute for `PROCESSOR_SECONDS` from now on."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + PROCESSOR_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or until < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def _release() -> tuple[int, ...]:
    """The kernel's, as of (6, 18)."""
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def _lower(what: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(OSError, ValueError):  # a limit that this system does not know
        resource.setrlimit(what, (limit, limit))


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds, as `ps` tells it; None where it cannot be had."""
    try:
        answer = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=5, check=True
        )
        return int(answer.stdout) * 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def widen_pipe(fd: int, num_bytes: int) -> None:
    """Lets a pipe hold this much, so that its writer need not wait for its reader. Linux only."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # the user's share of pipe memory is used up
            fcntl.fcntl(fd, _F_SETPIPE_SZ, num_bytes)
