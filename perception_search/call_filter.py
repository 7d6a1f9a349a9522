"""System calls that a decode worker has no use for, refused by the kernel (seccomp); Linux alone.

This takes neither a namespace nor a late kernel, so it holds in containers that grant neither. The
numbers are those of the kernel: arch/x86/entry/syscalls/syscall_64.tbl for x86_64, and
include/uapi/asm-generic/unistd.h for aarch64.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

_X86_64, _AARCH64 = "x86_64", "aarch64"
_AUDIT_ARCHITECTURE = {_X86_64: 0xC000003E, _AARCH64: 0xC00000B7}
_REFUSED_CALLS = {  # name: number on x86_64, on aarch64
    "socket": (41, 198),
    "socketpair": (53, 199),  # one of a pair can be connected to another place
    "execve": (59, 221),
    "execveat": (322, 281),
    "io_uring_setup": (425, 425),  # which makes sockets too
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "setns": (308, 268),
    "unshare": (272, 97),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
_OTHER_ABI = 0x40000000  # x86_64's x32 calls, the same ones by other numbers

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_CALL_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # in struct seccomp_data
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.EACCES

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls() -> None:
    """Have calls that make sockets, run programs or look into other processes fail from now on.

    `no_new_privs` must be set. Threads that run already are not bound, and what other processes
    show in `/proc` is Landlock's business.

    Raises:
        OSError: the kernel does not grant it, or the numbers of this machine's calls are not known.
    """
    machine = os.uname().machine
    if machine not in _AUDIT_ARCHITECTURE or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, f"a filter of system calls is not made for {machine}")
    column = list(_AUDIT_ARCHITECTURE).index(machine)
    numbers = [both[column] for both in _REFUSED_CALLS.values()]
    content = _filter(_AUDIT_ARCHITECTURE[machine], numbers)
    program = _Program(len(content) // 8, content)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"a filter of system calls is refused ({os.strerror(number)})")


def _filter(architecture: int, refused: Iterable[int]) -> bytes:
    """A program for the kernel (struct sock_filter each): these calls fail, and every call that is
    made as on another architecture.
    """
    refused = list(refused)
    last = len(refused) + 1  # how far behind the first comparison of a number `_FAIL` stands
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
            (_JUMP_IF_EQUAL, 1, 0, architecture),
            (_RETURN, 0, 0, _FAIL),
            (_LOAD, 0, 0, _CALL_OFFSET),
            (_JUMP_IF_AT_LEAST, last, 0, _OTHER_ABI),
            *((_JUMP_IF_EQUAL, last - 1 - n, 0, number) for n, number in enumerate(refused)),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _FAIL),
        )
    )
