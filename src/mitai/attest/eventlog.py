"""Event logs (CCEL): replay what firmware and loaders measured, and compare it with the hardware's registers.

Follows the TCG "PC Client Platform Firmware Profile" 1.06, section 10 (crypto-agile log), and the "Guest-Hypervisor
Communication Interface" for TDX, where measurement register n + 1 of the log is RTMR[n].

Invariants:

- Only digests are proven by a replay: descriptions in a log are not, and nothing here hands them on as facts.
- A log must be read to its end: padding may follow the last event (all 0xff or all 0x00), nothing else.

Example:
    >>> rtmrs = replay_rtmrs(ccel)      # four registers of 48 bytes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mitai.attest.checks import Reader
from mitai.errors import AttestError, ParseError

MAX_EVENT_LOG_BYTES = 1 << 20  # real guests reserve 64 to 256 KiB
EV_NO_ACTION = 3  # informative: never extended
EV_EVENT_TAG = 6
ALG_SHA384 = 0x000C
_SPEC_ID = b"Spec ID Event03\0"
_CODE = "attest.event-log-malformed"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: which register, which kind, its digests by algorithm, its description."""

    register: int
    kind: int
    digests: dict[int, bytes]
    data: bytes


def parse_event_log(log: bytes) -> Iterator[Event]:
    """Yield the events after the header; raise `ParseError` on anything malformed."""
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise ParseError(_CODE, f"an event log of {len(log)} bytes is above the limit of {MAX_EVENT_LOG_BYTES}")
    reader = Reader(log, "the event log", _CODE)
    sizes = _header(reader)
    while reader.left:
        start = reader.offset
        if log[start : start + 8] in {b"\xff" * 8, bytes(8)}:
            if reader.rest().strip(log[start : start + 1]):
                raise ParseError(_CODE, "the event log goes on behind its padding")
            return
        register, kind, count = reader.u32(), reader.u32(), reader.u32()
        digests: dict[int, bytes] = {}
        for _ in range(count):
            algorithm = reader.u16()
            if algorithm not in sizes or algorithm in digests:
                raise ParseError(
                    _CODE, "an event has a digest of an algorithm that the log's header does not name, or twice"
                )
            digests[algorithm] = reader.take(sizes[algorithm])
        yield Event(register, kind, digests, reader.take(reader.u32()))


def _header(reader: Reader) -> dict[int, int]:
    """Read the Spec ID event; return the digest size of each algorithm."""
    register, kind, _sha1 = reader.u32(), reader.u32(), reader.take(20)
    spec = Reader(reader.take(reader.u32()), "the event log's header", _CODE)
    if kind != EV_NO_ACTION or spec.take(16) != _SPEC_ID:
        raise ParseError(_CODE, f"the event log does not start with a crypto-agile header (register {register})")
    spec.take(8)  # platform class, version, errata, size of UINTN
    count = spec.u32()
    if not 1 <= count <= 8:
        raise ParseError(_CODE, f"the event log's header names {count} algorithms")
    sizes = {spec.u16(): spec.u16() for _ in range(count)}
    spec.take(spec.take(1)[0])  # vendor information
    spec.end()
    return sizes


def replay(log: bytes, algorithm: int = ALG_SHA384, hash_name: str = "sha384") -> dict[int, bytes]:
    """Return the value of every register that the log extends."""
    size = hashlib.new(hash_name).digest_size
    registers: dict[int, bytes] = {}
    for event in parse_event_log(log):
        if event.kind == EV_NO_ACTION:
            continue
        digest = event.digests.get(algorithm, b"")
        if len(digest) != size:
            raise ParseError(_CODE, f"an event of register {event.register} has no {hash_name} digest")
        previous = registers.get(event.register, bytes(size))
        registers[event.register] = hashlib.new(hash_name, previous + digest).digest()
    return registers


def replay_rtmrs(log: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return RTMR[0] to RTMR[3] as the log claims them."""
    registers = replay(log)
    if not registers.keys() <= {1, 2, 3, 4}:
        raise ParseError(_CODE, "the event log extends registers that are no RTMR")
    zero = bytes(48)
    return registers.get(1, zero), registers.get(2, zero), registers.get(3, zero), registers.get(4, zero)


def check_replay(log: bytes, rtmrs: Sequence[bytes]) -> None:
    """Raise `AttestError` unless the log replays to exactly these registers."""
    for number, (replayed, reported) in enumerate(zip(replay_rtmrs(log), rtmrs, strict=True)):
        if replayed != reported:
            raise AttestError(
                "attest.event-log-mismatch", f"the event log does not replay to the quote's RTMR[{number}]"
            )
