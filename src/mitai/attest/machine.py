"""What the verifiers of all TEEs have in common: evidence of the hardware in, a `Machine` out.

Each TEE's folder has `appraise(checks, hardware, rules, *, now, cache) -> Machine`; `mitai.attest.verify` picks it by
`Hardware.tee`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import msgspec

from mitai.attest.dcap.collateral import Collateral
from mitai.wire import parse_json

MAX_HARDWARE_BYTES = 8 << 20
Memory = Literal["encrypted", "isolated", "visible"]
_MEMORY = {"isolated": "not shown to be encrypted: the host may read it", "visible": "DEBUG: the host can read it"}


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Evidence of the hardware alone, as it travels.

    `endorsements` are certificates and the like by name (each verifier's page in `docs/spec/` lists its own); their
    carrier does not matter, as their vendor signed them.
    """

    tee: str
    quote: bytes
    event_log: bytes = b""
    endorsements: dict[str, bytes] = {}
    collateral: Collateral | None = None  # Intel's

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> Hardware:
        """Parse the JSON form; raise `ParseError` on anything else or above 8 MiB."""
        return parse_json(
            data, Hardware, MAX_HARDWARE_BYTES, "attest.evidence-malformed", "these bytes are not evidence"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What hardware evidence proves about a machine and what was measured into it."""

    tee: str
    title: str  # for people, such as "Intel TDX"
    measurements: Mapping[str, str]  # register to hex
    report_data: bytes  # the caller's bytes that the hardware signed
    signed: bytes  # all bytes that it signed: what identifies the evidence
    not_after: datetime  # when an endorsement ends
    checks: tuple[tuple[str, str], ...]
    memory: Memory  # encrypted; no more than isolated from other guests; or visible to the host: debug mode
    simulated: bool = False
    tcb_status: str = ""
    advisory_ids: tuple[str, ...] = ()
    tcb_evaluation_number: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)  # for people: chip, product, versions
    platform: str = ""  # which hardware, "KIND:HEX", where fresh evidence proves it: see `docs/spec/residency.md`

    def summary(self) -> list[tuple[str, str]]:
        """Return (name, value) lines for a terminal; the first says whether this is a simulation."""
        genuine = "SIMULATED: proves nothing about hardware" if self.simulated else f"genuine {self.title}"
        lines = [("hardware", genuine)]
        if self.memory != "encrypted":
            lines.append(("memory", _MEMORY[self.memory]))
        if self.tcb_status:
            lines.append(("tcb status", self.tcb_status))
        if self.tcb_evaluation_number:
            lines.append(("tcb evaluation number", str(self.tcb_evaluation_number)))
        lines += [("advisories", ", ".join(self.advisory_ids))] if self.advisory_ids else []
        lines += [("platform", self.platform)] if self.platform else []
        return [*lines, *self.facts.items(), ("valid until", f"{self.not_after:%F %T} UTC"), *self.measurements.items()]
