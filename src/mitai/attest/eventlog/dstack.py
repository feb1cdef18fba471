"""dstack's event log: what a guest measured into RTMR[3] while it started its application.

Follows dstack's `cc-eventlog` (JSON, one object an event). The digest of a runtime event covers its name and payload:
SHA-384(type as little-endian 32-bit ‖ ":" ‖ name ‖ ":" ‖ payload), or of version 2 the canonical JSON of the three.

Invariants:

- Every digest of RTMR[3] is computed from name and payload, so both are proven by the replay; what the log says of a
  digest must agree. Other kinds of event in RTMR[3] are refused.
- A name holds no colon: otherwise one digest would fit two events. A name that a rule asks for is there exactly once,
  as an application may measure names of its own choice later.

Example:
    >>> check_dstack(log, rtmrs, {"compose-hash": (digest,)})
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import rfc8785

from mitai.attest.eventlog.tcg import MAX_EVENT_LOG_BYTES
from mitai.errors import AttestError, ParseError
from mitai.wire import parse_json

DSTACK_RUNTIME_EVENT = 0x08000001
_CODE = "attest.event-log-malformed"


class DstackEvent(msgspec.Struct, frozen=True):
    """One event as dstack writes it; digest and payload are in hex."""

    imr: int
    event_type: int
    event: str
    event_payload: str
    digest: str = ""
    version: int = 1

    @property
    def payload(self) -> bytes:
        """Return the payload's bytes."""
        return _hex(self.event_payload)

    def measured(self) -> bytes:
        """Return the digest that extends the register."""
        given = _hex(self.digest)
        if self.event_type != DSTACK_RUNTIME_EVENT:
            if self.imr == 3 or len(given) != 48:
                raise ParseError(_CODE, "an event of RTMR[3] is not dstack's, or a digest is not SHA-384")
            return given
        if ":" in self.event or self.version not in {1, 2} or self.imr != 3:
            raise ParseError(_CODE, "a runtime event has a colon in its name, an unknown version, or is not of RTMR[3]")
        if self.version == 1:
            content = struct.pack("<I", self.event_type) + b":" + self.event.encode() + b":" + self.payload
        else:
            content = rfc8785.dumps({"name": self.event, "payload": self.payload.hex(), "type": self.event_type})
        digest = hashlib.sha384(content).digest()
        if given not in {b"", digest}:
            raise AttestError("attest.event-data-mismatch", "a runtime event's digest is not of its name and payload")
        return digest


def parse_dstack(log: bytes) -> tuple[DstackEvent, ...]:
    """Parse the JSON array of events; raise `ParseError` on anything else."""
    return parse_json(log, tuple[DstackEvent, ...], MAX_EVENT_LOG_BYTES, _CODE, "this is not dstack's event log")


def replay_dstack(events: Sequence[DstackEvent]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return RTMR[0] to RTMR[3] as the events claim them."""
    rtmrs = [bytes(48)] * 4
    for event in events:
        if not 0 <= event.imr <= 3:
            raise ParseError(_CODE, f"an event of register {event.imr}, which is no RTMR")
        rtmrs[event.imr] = hashlib.sha384(rtmrs[event.imr] + event.measured()).digest()
    return rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]


def check_dstack(log: bytes, rtmrs: Sequence[bytes], allowed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Check that the log replays to all RTMRs and that its events are those allowed; return payloads by name.

    Args:
        log: dstack's JSON.
        rtmrs: The four registers of the quote.
        allowed: Payloads in hex that each named event may have.

    Raises:
        AttestError: `attest.event-log-mismatch`, `attest.dstack-event-missing`, `attest.dstack-event-refused`.
    """
    events = parse_dstack(log)
    for number, (replayed, reported) in enumerate(zip(replay_dstack(events), rtmrs, strict=True)):
        if replayed != reported:
            raise AttestError(
                "attest.event-log-mismatch", f"the event log does not replay to the quote's RTMR[{number}]"
            )
    runtime = [event for event in events if event.event_type == DSTACK_RUNTIME_EVENT]
    for name, payloads in allowed.items():
        found = [event.payload.hex() for event in runtime if event.event == name]
        if len(found) != 1:
            raise AttestError(
                "attest.dstack-event-missing", f"the event {name!r} is there {len(found)} times, not once"
            )
        if found[0] not in payloads:
            raise AttestError("attest.dstack-event-refused", f"the event {name!r} has a payload that is not allowed")
    times = Counter(event.event for event in runtime)
    return {event.event: event.payload.hex() for event in runtime if times[event.event] == 1}


def _hex(text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise ParseError(_CODE, "an event of dstack's log is not in hex") from error
    if len(text) != 2 * len(data):
        raise ParseError(_CODE, "an event of dstack's log is not in hex")
    return data
