"""How collectors reach the machine that they run on, and what its refusals mean.

Everything that a collector asks of the kernel goes through a `Guest`: files below a root, ioctls, connections, waiting.
Tests replace these calls by a fake of the interface; nothing else is replaced.

Invariants:

- Every answer has a limit, every wait that is ours has an end; the kernel's own waits end with ETIMEDOUT.
- A failed call leaves as an `AttestError` with a code `attest.collect-…` and what to do about it.

Example:
    >>> read(Guest(root=Path("/")), "proc/cpuinfo", 1 << 20, "the processor's description")
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mitai.attest.cca import parse_token
from mitai.attest.dcap.quote import parse_quote
from mitai.attest.nitro import parse_document
from mitai.attest.snp import parse_report
from mitai.errors import AttestError, ParseError

REPORT_DATA_BYTES = 64
ATTEMPTS = 5
RETRY_DELAY_S = 0.5
TIMEOUT_S = 30.0
TRANSIENT = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR})

Address = str | tuple[str, int] | tuple[int, int]  # a path; host and port; context id and port
Ioctl = Callable[[int, int, bytearray], int]


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags)


def _ioctl(descriptor: int, request: int, argument: bytearray) -> int:
    import fcntl  # where there is none nothing is collected, but the module can be imported

    result: int = fcntl.ioctl(descriptor, request, argument, True)  # the kernel writes into the argument
    return result


def _connect(family: int, address: Address) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT_S)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Guest:
    """The machine: its file system's root and the calls that reach its kernel."""

    root: Path = Path("/")
    open: Callable[[Path, int], int] = _open
    ioctl: Ioctl = _ioctl
    mkdir: Callable[[Path], None] = os.mkdir
    rmdir: Callable[[Path], None] = os.rmdir
    connect: Callable[[int, Address], socket.socket] = _connect
    sleep: Callable[[float], None] = time.sleep

    def has(self, path: str) -> bool:
        """Return whether there is a file, as far as this user can see."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False


HERE = Guest()


def iowr(kind: int, number: int, size: int) -> int:
    """Return the number of an ioctl that reads and writes `size` bytes (asm-generic/ioctl.h, _IOWR)."""
    return 3 << 30 | size << 16 | kind << 8 | number


def address_of(buffer: bytearray) -> int:
    """Return where a buffer is, for structures that point to it; it must outlive the call and keep its size."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn what the kernel refuses inside the block into an `AttestError` that names the interface."""
    try:
        yield
    except OSError as error:
        raise refusal(error, what) from error


def refusal(error: OSError, what: str) -> AttestError:
    """Return what a failed call means."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if isinstance(error, TimeoutError):
        return AttestError(
            "attest.collect-timeout",
            f"{what} did not answer in time",
            hint="the host may be busy, or refuse: try again",
        )
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.ECONNREFUSED:
            return AttestError(
                "attest.collect-missing", f"{what} is not there ({name})", hint="`mitai doctor` says what is missing"
            )
        case errno.EACCES | errno.EPERM:
            return AttestError(
                "attest.collect-permission",
                f"no permission to use {what} ({name})",
                hint="run as root, or give this user access to the device; `mitai doctor` says how",
            )
        case number if number in TRANSIENT:
            return AttestError(
                "attest.collect-busy",
                f"{what} was busy at each of {ATTEMPTS} attempts ({name})",
                hint="try again later",
            )
        case errno.EFBIG | errno.EMSGSIZE:
            return oversized(what)
    return AttestError("attest.collect-failed", f"{what} failed ({name})", hint="the kernel's log may say more")


def oversized(what: str) -> AttestError:
    """Return the refusal of an answer above its limit."""
    return AttestError("attest.collect-oversized", f"{what} gave more than its limit")


def malformed(what: str, why: str) -> AttestError:
    """Return the refusal of an answer that is not what the interface promises."""
    return AttestError("attest.collect-malformed", f"{what} gave an answer that is malformed: {why}")


def attempts(guest: Guest) -> Iterator[int]:
    """Yield the numbers of a few attempts, with a pause before each but the first."""
    for number in range(ATTEMPTS):
        if number:
            guest.sleep(RETRY_DELAY_S)
        yield number


@contextmanager
def opened(guest: Guest, path: str, flags: int) -> Iterator[int]:
    """Open a file or device for the block."""
    descriptor = guest.open(guest.root / path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_bytes(guest: Guest, path: str, limit: int, what: str) -> bytes:
    """Return a file's content; raise `OSError`, or `AttestError` above the limit."""
    chunks, size = [], 0
    with opened(guest, path, os.O_RDONLY) as descriptor:
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise oversized(what)
    return b"".join(chunks)


def read(guest: Guest, path: str, limit: int, what: str) -> bytes:
    """Return a file's content; raise `AttestError` where it can't be read, or above the limit."""
    with refusals(what):
        return read_bytes(guest, path, limit, what)


def check_report_data(report_data: bytes) -> None:
    """Refuse report data that the hardware does not take."""
    if len(report_data) != REPORT_DATA_BYTES:
        raise ParseError(
            "attest.collect-report-data-malformed",
            f"report data has {REPORT_DATA_BYTES} bytes, not {len(report_data)}",
        )


_REPORT_DATA: dict[str, Callable[[bytes], bytes]] = {
    "tdx": lambda quote: parse_quote(quote).body.report_data,
    "snp": lambda report: parse_report(report).report_data,
    "cca": lambda token: parse_token(token).realm.challenge,
    "nitro": lambda document: parse_document(document).user_data or b"",
}


def check_answer(tee: str, quote: bytes, report_data: bytes, what: str) -> None:
    """Refuse evidence that is malformed, or that covers other bytes than those that were asked for."""
    try:
        found = _REPORT_DATA[tee](quote)
    except ParseError as error:
        raise malformed(what, error.message) from error
    if found != report_data:
        raise AttestError(
            "attest.collect-report-data-mismatch",
            f"{what} answered with evidence over other bytes than those that were asked for",
            hint="another program uses the same interface at the same time: try again",
        )
