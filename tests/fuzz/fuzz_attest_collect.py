"""Fuzz: answers of a guest's interfaces: TPM, sev-guest, NSM, configfs-tsm, the hosts' quote services.

The first byte picks the interface, the rest is what it answers; a TPM's answers have two bytes of length before each.

Run `python tests/fuzz/fuzz_attest_collect.py [libFuzzer options]` with atheris.
"""

import contextlib
import ctypes
import os
import socket
import struct
import sys
from pathlib import Path

from mitai.attest.collect import Guest, dstack, nsm, sev, tdx, tsm, vtpm
from mitai.errors import MitaiError

DATA = bytes(64)


def _file(data: bytes) -> int:
    descriptor = os.memfd_create("answer")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _tpm(data: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        while len(data) > 2:
            size = int.from_bytes(data[:2], "big") % 4096 or 1
            message, data = data[2 : 2 + size], data[2 + size :]
            if not message:
                break
            try:
                theirs.send(message, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        theirs.shutdown(socket.SHUT_WR)
        guest = Guest(Path("/nowhere"), open=lambda path, flags: os.dup(ours.fileno()), sleep=lambda seconds: None)
        vtpm.collect_tpm(DATA, ak_handle=1, guest=guest)


def _device(data: bytes, collect) -> None:
    def ioctl(descriptor: int, request: int, argument: bytearray) -> int:
        if request == nsm.NSM_IOCTL_RAW:
            address, size = struct.unpack_from("<QQ", argument, 16)
            ctypes.memmove(address, data, min(size, len(data)))
            struct.pack_into("<Q", argument, 24, len(data))
            return 0
        if request == tdx.TDX_CMD_GET_REPORT0:
            argument[64:] = data[: len(argument) - 64].ljust(len(argument) - 64, b"\0")
            return 0
        (address,) = struct.unpack_from("<Q", argument, 16)
        size = 64 if request == sev.SNP_GET_DERIVED_KEY else 4000
        ctypes.memmove(address, data[:size].ljust(size, b"\0"), size)
        return 0

    guest = Guest(Path("/nowhere"), open=lambda path, flags: _file(b""), ioctl=ioctl, sleep=lambda seconds: None)
    collect(guest)


def _configfs(data: bytes) -> None:
    provider, _, rest = data.partition(b"\0")
    answers = {"provider": provider, "outblob": rest, "auxblob": rest, "generation": b"0", "privlevel_floor": rest[:2]}

    def opens(path: Path, flags: int) -> int:
        return _file(answers.get(path.name, b""))

    guest = Guest(
        Path("/nowhere"), open=opens, mkdir=lambda path: None, rmdir=lambda path: None, sleep=lambda seconds: None
    )
    tsm.collect(DATA, guest=guest)


def _service(data: bytes, collect) -> None:
    def connect(family: int, address: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        with theirs:
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            kept.append(theirs.dup())  # so that the request can be sent
        return ours

    kept: list[socket.socket] = []
    try:
        collect(Guest(Path("/nowhere"), connect=connect, sleep=lambda seconds: None))
    finally:
        for each in kept:
            each.close()


INTERFACES = (
    _tpm,
    lambda data: _device(data, lambda guest: sev.collect(DATA, guest=guest, vmpl=0)),
    lambda data: _device(data, lambda guest: sev.derived_key(guest=guest, vmpl=0)),
    lambda data: _device(data, lambda guest: nsm.collect(DATA, guest=guest)),
    lambda data: _device(data, lambda guest: nsm.describe_pcr(0, guest=guest)),
    lambda data: _device(data, lambda guest: tdx.tdreport(DATA, guest=guest)),
    _configfs,
    lambda data: _service(data, lambda guest: tdx.quote_of(bytes(1024), guest=guest, port=1)),
    lambda data: _service(data, lambda guest: dstack.collect(DATA, guest=guest)),
)
_PUBLIC = struct.pack(">HIIH", 0x8001, 18, 0, 2) + b"\1\2" + bytes(4)
_PCRS = struct.pack(">HIIIIHB", 0x8001, 27 + 34, 0, 1, 1, 11, 3) + b"\1\0\0" + struct.pack(">IH", 1, 32) + bytes(32)
_HTTP = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"quote":"00"}'
SEEDS = [
    b"\0" + b"".join(struct.pack(">H", len(message)) + message for message in (_PUBLIC, _PCRS)),
    b"\1" + struct.pack("<II24x", 0, 1184) + bytes(1184),
    b"\2" + struct.pack("<I28x", 0) + b"\1" * 32,
    b"\3\xa1\x6bAttestation\xa1\x68document\x41\0",
    b"\4\xa1\x6bDescribePCR\xa2\x64lock\xf5\x64data\x41\0",
    b"\5\x81\0" + bytes(1022),
    b"\6tdx_guest\n\0" + bytes(700),
    b"\7" + struct.pack(">I", 25) + struct.pack("<HHIIIII", 1, 0, 1, 25, 0, 0, 1) + b"q",
    b"\x08" + _HTTP,
]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    if data:
        with contextlib.suppress(MitaiError):
            INTERFACES[data[0] % len(INTERFACES)](data[1:])


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
