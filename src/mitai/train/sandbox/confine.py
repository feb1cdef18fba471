"""Seccomp filters: what a process may still ask of the kernel, for good.

Follows seccomp(2) and linux/filter.h; `docs/spec/sandbox.md` says what each line of the tables is for. This file needs
nothing but the standard library, for the sandbox's child runs it outside of the package.

- `confine` leaves a process its memory, its clock and the descriptors that it holds. No file can be opened or looked
  at, no socket, pipe, process or thread made, no signal sent: what is not in `ALLOWED` is refused with `EPERM`.
- `forbid_network` refuses new sockets but those of AF_UNIX, and the ways around that.
- A filter holds for every thread and every program that is started later, and can't be taken off.
- A system call of another architecture ends the process.
- What can't be enforced here raises `OSError`.

Example:
    >>> confine()  # doctest: +SKIP
    >>> open("/etc/passwd")  # doctest: +SKIP
    PermissionError: [Errno 1] Operation not permitted: '/etc/passwd'
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# Numbers on x86-64 and on aarch64 (-1: it has none).
ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "writev": (20, 66),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "close": (3, 57),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, -1),
    "times": (100, 153),
    "getrusage": (98, 165),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "alarm": (37, -1),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Ways to a socket without `socket`: rings, and other processes' memory and descriptors.
AROUND_SOCKETS = {
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
}
SOCKET = (41, 198)

_AF_UNIX = 1
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_…
_SECCOMP = (317, 277)
_CAPSET = (126, 91)

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are little-endian
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
_X32 = 0x40000000  # numbers of x86-64's second ABI start here

_PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAP_AMBIENT = 38, 1, 4, 47
_SET_MODE_FILTER, _TSYNC = 1, 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def confine() -> None:
    """Leave this process, which must have one thread, nothing but `ALLOWED`; drop its capabilities."""
    column, _ = _machine()
    drop_capabilities()
    numbers = [pair[column] for pair in ALLOWED.values() if pair[column] >= 0]
    _install([*_only_if(numbers, _ALLOW), _line(_RETURN, _REFUSE)])


def forbid_network() -> None:
    """Refuse this process, all its threads and all that it starts new sockets of any family but AF_UNIX."""
    column, _ = _machine()
    _install(
        [
            _line(_AT_LEAST, _X32, 0, 1),
            _line(_RETURN, _REFUSE),
            *_only_if([pair[column] for pair in AROUND_SOCKETS.values()], _REFUSE),
            _line(_EQUAL, SOCKET[column], 1, 0),
            _line(_RETURN, _ALLOW),
            _line(_LOAD, _FIRST_ARGUMENT),
            _line(_EQUAL, _AF_UNIX, 0, 1),
            _line(_RETURN, _ALLOW),
            _line(_RETURN, _REFUSE),
        ]
    )


def drop_capabilities() -> None:
    """Give up every capability of this thread, so that even root's limits bind."""
    column, _ = _machine()
    header = struct.pack("=II", _CAPABILITY_VERSION_3, 0)
    _check(_libc.syscall(ctypes.c_long(_CAPSET[column]), header, bytes(24)))


def forbid_core_dumps() -> None:
    """Have the kernel write no image of this process, nor hand one to a program: a limit alone does not bind those."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; `parent` is that thread's process."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0))
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the process that started this one has ended")


def _machine() -> tuple[int, int]:
    """Return the tables' column and the audit number of this machine."""
    if os.name != "posix" or platform.system() != "Linux" or platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no system call filter for {platform.system()} on {platform.machine()}")
    return _MACHINES[platform.machine()]


def _line(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """Return one instruction (struct sock_filter); jumps count the lines that are skipped."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _only_if(numbers: list[int], verdict: int) -> list[bytes]:
    return [line for number in numbers for line in (_line(_EQUAL, number, 0, 1), _line(_RETURN, verdict))]


def _install(rules: list[bytes]) -> None:
    """Install `rules`, which find the call's number loaded, in every thread."""
    column, audit = _machine()
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, audit, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
        *rules,
    ]
    program = ctypes.create_string_buffer(b"".join(lines))
    filter_ = struct.pack("=H6xQ", len(lines), ctypes.addressof(program))  # struct sock_fprog
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.syscall(ctypes.c_long(_SECCOMP[column]), _SET_MODE_FILTER, _TSYNC, filter_))


def _check(result: int) -> None:
    """Raise for -1 (errno) and for a thread that could not take the filter (its id)."""
    if result:
        raise OSError(ctypes.get_errno() or errno.EBUSY, "this kernel does not confine the process")
