"""A TPM's commands, written and read by hand: what a quote needs, through `/dev/tpmrm0`.

Follows the TCG "TPM 2.0 Library Specification": part 1, section 18 (authorization areas) and annex B of part 3's
command schematics; part 2 for handles, TPMA_NV and response codes; part 3 for NV_ReadPublic, NV_Read, NV_Write,
NV_DefineSpace, ReadPublic, PCR_Read, Quote and CreatePrimary. The device is Linux's resource manager: one command, one
response; what a program loaded is gone when it closes the device.

Invariants:

- Authorization is by empty password only: none of the objects that collectors use has another.
- A response is read to its last byte, and only a response to the command that was sent is used.

Example:
    >>> with Tpm.open(guest) as tpm:
    ...     public = tpm.read_public(0x81000003)
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mitai.attest.collect.guest import TIMEOUT_S, Guest, attempts, malformed, opened, refusals
from mitai.attest.tpm.structures import Buffer
from mitai.errors import AttestError, ParseError

DEVICE = "dev/tpmrm0"
WHAT = "the TPM (/dev/tpmrm0)"
RH_OWNER, RH_ENDORSEMENT = 0x40000001, 0x4000000B
OWNER_WRITE, OWNER_READ = 1 << 1, 1 << 17  # TPMA_NV
MAX_RESPONSE_BYTES = 4096
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_PASSWORD = struct.pack(">IHBH", 0x40000009, 0, 0, 0)  # TPM_RS_PW: no nonce, no attributes, an empty password
_ALG_NULL, _ALG_SHA256 = 0x0010, 0x000B
_CREATE_PRIMARY, _NV_READ_PUBLIC, _NV_READ, _NV_WRITE, _NV_DEFINE_SPACE = 0x131, 0x169, 0x14E, 0x137, 0x12A
_QUOTE, _PCR_READ, _READ_PUBLIC = 0x158, 0x17E, 0x173
_RETRY = frozenset({0x922, 0x908, 0x90A})  # TPM_RC_RETRY, YIELDED, TESTING
_CHUNK_BYTES = 512  # no TPM has a smaller TPM_PT_NV_BUFFER_MAX
_MAX_NV_BYTES = 32 << 10
_PCRS_AT_ONCE = 8
_RC_HANDLE = 0x08B
_MEANINGS = {
    _RC_HANDLE: "there is no such key or index",
    0x08E: "a password is needed",
    0x0A2: "a password is needed",
    0x101: "the TPM failed its self-test",
    0x149: "the index may not be read or written this way",
    0x14A: "the index was never written",
    0x921: "the TPM is locked after wrong passwords",
}


def tpm2b(data: bytes) -> bytes:
    """Return a buffer with its 16-bit size before it."""
    return struct.pack(">H", len(data)) + data


def selection(bank: int, registers: Iterable[int]) -> bytes:
    """Return TPML_PCR_SELECTION of some registers of one bank."""
    bits = sum(1 << number for number in registers)
    return struct.pack(">IHB", 1, bank, 3) + bits.to_bytes(3, "little")


@dataclass(frozen=True, slots=True)
class NvIndex:
    """What a TPM says of an index of its memory."""

    attributes: int
    size_bytes: int


class Tpm:
    """An open TPM."""

    def __init__(self, guest: Guest, device: int) -> None:
        self._guest = guest
        self._device = device

    @staticmethod
    @contextmanager
    def open(guest: Guest) -> Iterator[Tpm]:
        """Open the TPM for the block."""
        with refusals(WHAT), opened(guest, DEVICE, os.O_RDWR | os.O_NONBLOCK) as device:
            yield Tpm(guest, device)

    def nv_index(self, index: int) -> NvIndex | None:
        """Return an index's attributes and size, or nothing where there is none (NV_ReadPublic)."""
        code, body = self._exchange(_NV_READ_PUBLIC, struct.pack(">I", index))
        if _plain(code) == _RC_HANDLE:
            return None
        reader = _buffer(self._checked(code, body))
        public = _buffer(reader.sized())
        reader.sized()  # the index's name
        reader.end()
        found, _, attributes = public.number(4), public.number(2), public.number(4)
        public.sized()  # its policy
        size = public.number(2)
        public.end()
        if found != index:
            raise malformed(WHAT, "it is of another index")
        return NvIndex(attributes, size)

    def nv_read(self, index: int) -> bytes:
        """Return the content of an index; raise `AttestError` where there is none (NV_Read)."""
        found = self.nv_index(index)
        if found is None:
            raise AttestError(
                "attest.collect-nv-missing",
                f"{WHAT} has no index {index:#010x}",
                hint="this machine is not set up as its cloud's confidential machines are: `mitai doctor`",
            )
        if found.size_bytes > _MAX_NV_BYTES:
            raise malformed(WHAT, "an index is larger than any that collectors read")
        authority = RH_OWNER if found.attributes & OWNER_READ else index
        data = b""
        while len(data) < found.size_bytes:
            size = min(_CHUNK_BYTES, found.size_bytes - len(data))
            reader = self._authorized(_NV_READ, (authority, index), struct.pack(">HH", size, len(data)))
            chunk = reader.sized()
            reader.end()
            if len(chunk) != size:
                raise malformed(WHAT, "an index gave less than was asked for")
            data += chunk
        return data

    def nv_write(self, index: int, data: bytes) -> None:
        """Write a short index, which is made where it does not exist (NV_DefineSpace, NV_Write)."""
        found = self.nv_index(index)
        if found is None:
            attributes = OWNER_WRITE | OWNER_READ
            public = struct.pack(">IHIHH", index, _ALG_SHA256, attributes, 0, len(data))
            self._authorized(_NV_DEFINE_SPACE, (RH_OWNER,), tpm2b(b"") + tpm2b(public)).end()
            found = NvIndex(attributes, len(data))
        authority = RH_OWNER if found.attributes & OWNER_WRITE else index
        self._authorized(_NV_WRITE, (authority, index), tpm2b(data) + struct.pack(">H", 0)).end()

    def read_public(self, handle: int) -> bytes:
        """Return the public area (TPMT_PUBLIC) of a key (ReadPublic)."""
        reader = _buffer(self._checked(*self._exchange(_READ_PUBLIC, struct.pack(">I", handle))))
        public, *_ = reader.sized(), reader.sized(), reader.sized()  # then name and qualified name
        reader.end()
        return public

    def pcr_read(self, bank: int, registers: Iterable[int]) -> dict[int, bytes]:
        """Return the values of registers (PCR_Read); a TPM gives a few at a time."""
        wanted, values = list(registers), dict[int, bytes]()
        while left := [number for number in wanted if number not in values]:
            found = self._pcr_read(bank, left[:_PCRS_AT_ONCE])
            if not found:
                raise AttestError("attest.collect-pcr-bank-missing", f"{WHAT} has no registers of bank {bank:#06x}")
            values |= found
        return {number: values[number] for number in wanted}

    def _pcr_read(self, bank: int, registers: list[int]) -> dict[int, bytes]:
        reader = _buffer(self._checked(*self._exchange(_PCR_READ, selection(bank, registers))))
        reader.number(4)  # update counter
        numbers: list[int] = []
        for _ in range(reader.number(4)):
            algorithm, size = reader.number(2), reader.number(1)
            bits = int.from_bytes(reader.take(size), "little")
            numbers += [number for number in range(8 * size) if bits >> number & 1 and algorithm == bank]
        digests = [reader.sized() for _ in range(reader.number(4))]
        reader.end()
        if len(numbers) != len(digests) or not set(numbers) <= set(registers):
            raise malformed(WHAT, "it gave other registers than those that were asked for")
        return dict(zip(numbers, digests, strict=True))

    def quote(self, handle: int, extra_data: bytes, bank: int, registers: Iterable[int]) -> tuple[bytes, bytes]:
        """Return a quote (TPMS_ATTEST) and its signature (TPMT_SIGNATURE), of the key's own scheme (Quote)."""
        parameters = tpm2b(extra_data) + struct.pack(">H", _ALG_NULL) + selection(bank, registers)
        reader = self._authorized(_QUOTE, (handle,), parameters)
        return reader.sized(), reader.rest()

    def create_primary(self, hierarchy: int, template: bytes) -> tuple[int, bytes]:
        """Make the key that a template always makes in a hierarchy; return handle and public area (CreatePrimary)."""
        sensitive = tpm2b(tpm2b(b"") + tpm2b(b""))
        parameters = sensitive + tpm2b(template) + tpm2b(b"") + struct.pack(">I", 0)
        reader = self._authorized(_CREATE_PRIMARY, (hierarchy,), parameters, returns_handle=True)
        return reader.number(4), reader.sized()

    def _authorized(
        self, command: int, handles: tuple[int, ...], parameters: bytes, *, returns_handle: bool = False
    ) -> Buffer:
        """Run a command under an empty password; return its parameters, behind the handle where it returns one."""
        area = struct.pack(f">{len(handles)}I", *handles) + struct.pack(">I", len(_PASSWORD)) + _PASSWORD
        reader = _buffer(self._checked(*self._exchange(command, area + parameters, _SESSIONS)))
        handle = reader.take(4) if returns_handle else b""
        answer = reader.take(reader.number(4))
        reader.sized(), reader.take(1), reader.sized()  # the session's nonce, attributes and acknowledgement
        reader.end()
        return _buffer(handle + answer)

    @staticmethod
    def _checked(code: int, body: bytes) -> bytes:
        if code:
            meaning = _MEANINGS.get(_plain(code), "see part 2 of its specification")
            raise AttestError("attest.collect-tpm-error", f"{WHAT} refused a command with {code:#x}: {meaning}")
        return body

    def _exchange(self, command: int, content: bytes, tag: int = _NO_SESSIONS) -> tuple[int, bytes]:
        """Send a command; return the response's code and what follows it. Try again while the TPM is busy."""
        message = struct.pack(">HII", tag, 10 + len(content), command) + content
        code, body = 0, b""
        for _ in attempts(self._guest):
            answer = self._transmit(message)
            if len(answer) < 10:
                raise malformed(WHAT, "it ends early")
            answer_tag, size, code = struct.unpack_from(">HII", answer)
            if size != len(answer) or answer_tag != (_NO_SESSIONS if code else tag):
                raise malformed(WHAT, "its head does not fit")
            body = answer[10:]
            if code not in _RETRY:
                break
        return code, body

    def _transmit(self, message: bytes) -> bytes:
        if os.write(self._device, message) != len(message):
            raise malformed(WHAT, "it took a part of a command only")
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        for _ in attempts(self._guest):  # before Linux 5.1 the device says that it has an answer too early
            if not poll.poll(TIMEOUT_S * 1000):
                raise TimeoutError
            if answer := os.read(self._device, MAX_RESPONSE_BYTES + 1):
                return answer
        raise malformed(WHAT, "it is empty")


class _Response(Buffer):
    """A cursor whose refusals are those of a collector."""

    def take(self, size: int) -> bytes:
        try:
            return super().take(size)
        except ParseError as error:
            raise malformed(WHAT, error.message) from error

    def end(self) -> None:
        try:
            super().end()
        except ParseError as error:
            raise malformed(WHAT, error.message) from error


def _plain(code: int) -> int:
    """Return a response code without the number of the handle, session or parameter that it is about (format one)."""
    return code & 0x0BF if code & 0x80 else code


def _buffer(data: bytes) -> Buffer:
    return _Response(data, "the answer", "attest.collect-malformed")
