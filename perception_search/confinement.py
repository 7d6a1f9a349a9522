"""What a decode worker can no longer do once it has started; all of it by the platform's own means.

Decoders are large and files come from anywhere: should one take a worker over, then it finds a
process that reads files and computes, and little else. Linux alone can be asked for that without
privileges, and not every kernel or container grants all of it: `confine` goes on without what is
refused and says so, and `impossible` tries what must fail. On other platforms nothing is confined.

What reading needs is kept: libraries are still loaded, threads started, files of any folder read,
by root those of other users too.
"""

import contextlib
import ctypes
import errno
import functools
import os
import platform
import re
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from perception_search.call_filter import refuse_calls

WHAT_MUST_FAIL = {
    "connect": "open a connection",
    "send": "send a packet",
    "create": "create a file",
    "execute": "run a program",
}
"""What `impossible` tries, in words."""

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1 << 1  # reads and writes files of others
_CAP_DAC_READ_SEARCH = 1 << 2  # reads files of others
_MAX_CAPABILITIES = 64

# The same numbers on every architecture that Linux supports but Alpha.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
# What each version of Landlock (Documentation/userspace-api/landlock.rst) can refuse. Later
# versions than these refuse the same.
_FILE_ACCESS_SINCE = {
    1: (1 << 13) - 1,  # execute, write, read, list, remove, make of every kind
    2: 1 << 13,  # link or move to another folder
    3: _TRUNCATE,
    5: 1 << 15,  # ioctl on a device
}
_TCP_ACCESS_SINCE = {4: 0b11}  # bind, connect
_SCOPES_SINCE = {6: 0b11}  # abstract sockets and signals of processes outside

_REFUSED = (errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


def confine(write_folder: Path | None = None) -> list[str]:
    """What the platform did not grant, in words; the rest this process has given up for good.

    To be called while the process has one thread: threads that run already are not bound.

    Args:
        write_folder: where files that exist may be written, but none be made; None for nowhere.
    """
    if sys.platform != "linux":
        return [f"{platform.system()} confines no process by itself"]
    missing = []
    restrict_files = functools.partial(_restrict_files, write_folder)
    for step in (_leave_network, _drop_privileges, restrict_files, refuse_calls):
        try:
            step()
        except OSError as error:
            missing.append(str(error.strerror))
    if num_others := len(list(Path("/proc/self/task").glob("*"))) - 1:
        missing.append(f"{num_others} threads were there before, and are not bound")
    return missing


def has_own_users() -> bool:
    """Whether this process is in a user namespace that `confine` made: no uid is mapped there."""
    try:
        return sys.platform == "linux" and not Path("/proc/self/uid_map").read_bytes()
    except OSError:
        return False


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} is refused ({os.strerror(number)})")
    return answer


def _leave_network() -> None:
    """A network namespace of its own, in which not even the loopback device is up.

    Without privileges that takes a user namespace too. There root would lose what lets it read the
    files of others, so it makes none: in a container that gives root few rights it stays.
    """
    reads_all = _held_capabilities() & (_CAP_DAC_READ_SEARCH | _CAP_DAC_OVERRIDE)
    flags = _CLONE_NEWNET if reads_all else _CLONE_NEWUSER | _CLONE_NEWNET
    _checked(_libc().unshare(flags), "a network namespace")


def _held_capabilities() -> int:
    """The effective ones, a bit each; none where it cannot be told."""
    with contextlib.suppress(OSError):
        found = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1], 16)
    return 0


def _drop_privileges() -> None:
    """No capability but what root reads the files of others with, and no way to gain any."""
    libc = _libc()
    held = 0 if has_own_users() else _held_capabilities()
    kept = held & _CAP_DAC_READ_SEARCH or held & _CAP_DAC_OVERRIDE
    for number in range(_MAX_CAPABILITIES):
        if not kept >> number & 1:  # fails for numbers the kernel does not know, and without rights
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; upper 32
    _checked(libc.capset(header, data), "dropping capabilities")
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _restrict_files(write_folder: Path | None) -> None:
    """Landlock: files may be read, all else that this kernel's version knows is refused."""
    libc = _libc()
    libc.syscall.restype = ctypes.c_long
    version = _checked(
        libc.syscall(
            *(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0)),
            _LANDLOCK_CREATE_RULESET_VERSION,
        ),
        "Landlock",
    )
    files = landlock_access(_FILE_ACCESS_SINCE, version)
    tcp = landlock_access(_TCP_ACCESS_SINCE, version)
    scopes = landlock_access(_SCOPES_SINCE, version)
    # Older kernels take the longer structure as long as what they do not know is 0.
    attributes = struct.pack("=QQQ", files, tcp, scopes)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _checked(libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0), "Landlock")
    try:
        _allow_beneath(libc, ruleset, Path("/"), _READ_FILE | _READ_DIR)
        if write_folder is not None and write_folder.is_dir():
            written = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE
            _allow_beneath(libc, ruleset, write_folder, written & files)
        _checked(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    finally:
        os.close(ruleset)


def landlock_access(since: dict[int, int], version: int) -> int:
    """All bits that a version of Landlock knows; a later one knows those of the earlier ones."""
    known = 0
    for first, bits in since.items():
        if version >= first:
            known |= bits
    return known


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, folder: Path, access: int) -> None:
    fd = os.open(folder, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, fd)
        answer = libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        _checked(answer, "Landlock")
    finally:
        os.close(fd)


def impossible(folder: Path) -> list[str]:
    """Those of `WHAT_MUST_FAIL` that this process tried in vain; what succeeds is undone.

    Args:
        folder: where a file could be made otherwise, as of `scratch_folder`.
    """
    attempts: dict[str, Callable[[], None]] = {
        "connect": lambda: _reach(socket.SOCK_STREAM),
        "send": lambda: _reach(socket.SOCK_DGRAM),
        "create": lambda: _create(folder),
        "execute": _execute,
    }
    failed = []
    for name in WHAT_MUST_FAIL:
        try:
            attempts[name]()
        except OSError as error:
            if error.errno in _REFUSED:
                failed.append(name)
    return failed


def scratch_folder() -> Path:
    """Where this process may make a file, as long as it is not confined."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # there is no such folder at all
        return Path("/tmp")


def _reach(kind: int) -> None:
    """Asks for the discard port of this machine; that nobody listens there is an answer too."""
    with socket.socket(socket.AF_INET, kind) as asked:
        asked.setblocking(False)
        asked.connect(("127.0.0.1", 9))


def _create(folder: Path) -> None:
    path = folder / f".perception-search-{os.getpid()}-{os.urandom(4).hex()}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    path.unlink()


def _execute() -> None:
    if not hasattr(os, "posix_spawn"):
        return
    program = "/bin/true" if Path("/bin/true").exists() else "/usr/bin/true"
    os.waitpid(os.posix_spawn(program, [program], {}), 0)
