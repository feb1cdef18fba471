"""Event logs of firmware and loaders (TCG2 and CCEL): parse, replay, compare with the hardware's registers.

Follows the TCG "PC Client Platform Firmware Profile" 1.06, section 10 (crypto-agile and SHA-1 logs, startup locality),
and the "Guest-Hypervisor Communication Interface" for TDX, where register n + 1 of the log is RTMR[n].

Invariants:

- Only digests are proven by a replay: kinds and descriptions in a log are not (see `details` and `secureboot`).
- A log must be read to its end: padding may follow the last event (all 0xff or all 0x00), nothing else.
- EV_NO_ACTION never extends; of its kinds only the startup locality counts, once and before PCR 0 is extended.

Example:
    >>> rtmrs = replay_rtmrs(ccel)      # four registers of 48 bytes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mitai.attest.checks import Reader
from mitai.errors import AttestError, ParseError

MAX_EVENT_LOG_BYTES = 1 << 20  # real guests reserve 64 to 256 KiB
EV_NO_ACTION = 3  # informative: never extended
EV_EVENT_TAG = 6
ALG_SHA1, ALG_SHA256, ALG_SHA384, ALG_SHA512 = 0x0004, 0x000B, 0x000C, 0x000D
ALG_SM3 = 0x0012  # where Python's OpenSSL has it
HASHES: Mapping[int, str] = {
    number: name
    for number, name in (
        (ALG_SHA1, "sha1"),
        (ALG_SHA256, "sha256"),
        (ALG_SHA384, "sha384"),
        (ALG_SHA512, "sha512"),
        (ALG_SM3, "sm3"),
    )
    if name in hashlib.algorithms_available
}
_SIZES = {ALG_SHA1: 20, ALG_SHA256: 32, ALG_SHA384: 48, ALG_SHA512: 64, ALG_SM3: 32}
_SPEC_ID = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_CODE = "attest.event-log-malformed"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: which register, which kind, its digests by algorithm, its description."""

    register: int
    kind: int
    digests: dict[int, bytes]
    data: bytes


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log: the algorithms of its digests, and its events without the header."""

    algorithms: frozenset[int]
    events: tuple[Event, ...]


def parse_event_log(log: bytes) -> Iterator[Event]:
    """Return the events after the header; raise `ParseError` on anything malformed."""
    return iter(read_event_log(log).events)


def read_event_log(log: bytes) -> EventLog:
    """Parse a log; raise `ParseError` on anything malformed.

    A log without a crypto-agile header is one of the older kind, whose events have a SHA-1 digest alone.
    """
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise ParseError(_CODE, f"an event log of {len(log)} bytes is above the limit of {MAX_EVENT_LOG_BYTES}")
    reader = Reader(log, "the event log", _CODE)
    first = _legacy_event(reader)
    sizes = _header(first)
    is_header = first.kind == EV_NO_ACTION and first.data.startswith(b"Spec ID Event0")
    events = [] if is_header else [first]
    while reader.left:
        start = reader.offset
        if log[start : start + 8] in {b"\xff" * 8, bytes(8)}:
            if reader.rest().strip(log[start : start + 1]):
                raise ParseError(_CODE, "the event log goes on behind its padding")
            break
        events.append(_event(reader, sizes) if sizes is not None else _legacy_event(reader))
    return EventLog(frozenset(sizes or {ALG_SHA1}), tuple(events))


def _legacy_event(reader: Reader) -> Event:
    register, kind, sha1 = reader.u32(), reader.u32(), reader.take(20)
    return Event(register, kind, {ALG_SHA1: sha1}, reader.take(reader.u32()))


def _header(first: Event) -> dict[int, int] | None:
    """Read the Spec ID event; return the digest size of each algorithm, or nothing where the log is an older one."""
    if first.kind != EV_NO_ACTION or not first.data.startswith(_SPEC_ID):
        return None
    spec = Reader(first.data, "the event log's header", _CODE)
    spec.take(24)  # signature, platform class, version, errata, size of UINTN
    count = spec.u32()
    if not 1 <= count <= 8:
        raise ParseError(_CODE, f"the event log's header names {count} algorithms")
    pairs = [(spec.u16(), spec.u16()) for _ in range(count)]
    sizes = dict(pairs)
    if len(sizes) != count or any(_SIZES.get(algorithm, size) != size for algorithm, size in pairs):
        raise ParseError(_CODE, "the event log's header names an algorithm twice, or with a wrong size")
    spec.take(spec.take(1)[0])  # vendor information
    spec.end()
    return sizes


def _event(reader: Reader, sizes: Mapping[int, int]) -> Event:
    register, kind, count = reader.u32(), reader.u32(), reader.u32()
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16()
        if algorithm not in sizes or algorithm in digests:
            raise ParseError(
                _CODE, "an event has a digest of an algorithm that the log's header does not name, or twice"
            )
        digests[algorithm] = reader.take(sizes[algorithm])
    return Event(register, kind, digests, reader.take(reader.u32()))


def hash_of(algorithm: int) -> str:
    """Return the name of a bank's hash; raise `ParseError` for banks of unknown ones."""
    if algorithm not in HASHES:
        raise ParseError(_CODE, f"registers of bank {algorithm:#06x} can't be replayed: its hash is unknown")
    return HASHES[algorithm]


def replay(log: bytes | EventLog, algorithm: int = ALG_SHA384, hash_name: str = "") -> dict[int, bytes]:
    """Return the value of every register that the log extends, in the bank of one algorithm.

    Args:
        log: A TCG2 or CCEL log, as bytes or parsed.
        algorithm: TCG's number of the bank's hash.
        hash_name: Its name, where it is not one that we know.
    """
    name = hash_name or hash_of(algorithm)
    size = hashlib.new(name).digest_size
    parsed = log if isinstance(log, EventLog) else read_event_log(log)
    if algorithm not in parsed.algorithms:
        raise ParseError(_CODE, f"the event log has no {name} digests")
    registers: dict[int, bytes] = {}
    initial: bytes | None = None
    for event in parsed.events:
        if event.kind == EV_NO_ACTION:
            if event.data.startswith(_STARTUP_LOCALITY):
                initial = _startup(event, size, late=initial is not None or 0 in registers)
            continue
        digest = event.digests.get(algorithm, b"")
        if len(digest) != size:
            raise ParseError(_CODE, f"an event of register {event.register} has no {name} digest")
        start = initial if event.register == 0 and initial is not None else bytes(size)
        previous = registers.get(event.register, start)
        registers[event.register] = hashlib.new(name, previous + digest).digest()
    return registers


def _startup(event: Event, size: int, *, late: bool) -> bytes:
    """Return what PCR 0 starts with: the locality of TPM2_Startup, or 4 after a hardware-measured start."""
    locality = event.data[len(_STARTUP_LOCALITY) :]
    if event.register != 0 or locality not in {b"\0", b"\3", b"\4"} or late:
        raise ParseError(_CODE, "the event log's startup locality is malformed, there twice, or too late")
    return bytes(size - 1) + locality


def replay_rtmrs(log: bytes | EventLog) -> tuple[bytes, bytes, bytes, bytes]:
    """Return RTMR[0] to RTMR[3] as the log claims them."""
    registers = replay(log)
    if not registers.keys() <= {1, 2, 3, 4}:
        raise ParseError(_CODE, "the event log extends registers that are no RTMR")
    zero = bytes(48)
    return registers.get(1, zero), registers.get(2, zero), registers.get(3, zero), registers.get(4, zero)


def check_replay(log: bytes | EventLog, rtmrs: Sequence[bytes]) -> None:
    """Raise `AttestError` unless the log replays to exactly these registers."""
    for number, (replayed, reported) in enumerate(zip(replay_rtmrs(log), rtmrs, strict=True)):
        if replayed != reported:
            raise AttestError(
                "attest.event-log-mismatch", f"the event log does not replay to the quote's RTMR[{number}]"
            )


def proven_pcrs(
    log: bytes | EventLog, pcrs: Mapping[int, bytes], algorithm: int, required: Sequence[int]
) -> frozenset[int]:
    """Return the PCRs that the log explains; raise `AttestError` where one that must be is not.

    Args:
        log: A TCG2 log.
        pcrs: The quoted registers of one bank.
        algorithm: TCG's number of the bank's hash.
        required: Registers that must replay. The operating system goes on extending others without this log.
    """
    replayed = replay(log, algorithm)
    proven = frozenset(number for number, value in pcrs.items() if replayed.get(number, bytes(len(value))) == value)
    for number in required:
        if number not in proven:
            raise AttestError(
                "attest.event-log-mismatch",
                f"the event log does not replay to PCR {number}, or the quote does not hold that register",
            )
    return proven
