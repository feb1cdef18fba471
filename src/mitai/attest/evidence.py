"""Evidence and claims: what a measured process hands to whoever wants to trust it.

The format is written down in `docs/spec/evidence.md`.

Invariants:

- `report_data` covers the verifier's nonce and the exact bytes of claims and device evidence; keys are taken from
  those bytes only.
- Bytes are hashed as received: claims are never parsed and written again before they are hashed.
- Unknown fields, unknown versions and oversized input are refused.

Example:
    >>> evidence = Evidence.decode(body)
    >>> report_data(nonce, evidence.claims, evidence.devices)
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

import msgspec

from mitai.attest.dcap.collateral import Collateral
from mitai.attest.machine import Hardware
from mitai.errors import ParseError
from mitai.wire import parse_json

MAX_EVIDENCE_BYTES = 4 << 20
MAX_CLAIMS_BYTES = 1 << 20
NONCE_BYTES = 32
NO_DEVICES = b"[]"

_REPORT_DATA_LABEL = b"mitai report data v1\0"
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def report_data(nonce: bytes, claims: bytes, devices: bytes) -> bytes:
    """Return the 64 bytes that the hardware signs: SHA-512 over label, nonce and the digests of claims and devices."""
    if len(nonce) != NONCE_BYTES:
        raise ParseError("attest.nonce-malformed", f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    parts = _REPORT_DATA_LABEL + nonce + hashlib.sha256(claims).digest() + hashlib.sha256(devices).digest()
    return hashlib.sha512(parts).digest()


class CapsuleClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A capsule that is open in the process."""

    id: str
    manifest_sha256: str


class LedgerClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log that the process writes to, and the latest checkpoint (a signed note) that it has seen."""

    origin: str
    vkey: str
    checkpoint: bytes


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a measured process says about itself; every key that a client uses is in here."""

    v: int = 1
    workload: str
    key_config: bytes  # RFC 9458 key configuration: the channel's HPKE key
    receipt_key: bytes = b""  # Ed25519 public key (32 bytes) that signs receipts, or nothing
    tls_key_sha256: str | None = None
    capsules: tuple[CapsuleClaim, ...] = ()
    policies: tuple[str, ...] = ()  # SHA-256 of the policies in force, in hex
    ledger: LedgerClaim | None = None
    extra: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.v != 1:
            raise ParseError("attest.claims-version-unsupported", f"claims of version {self.v}, expected 1")
        digests = [*self.policies, *(capsule.manifest_sha256 for capsule in self.capsules)]
        digests += [self.tls_key_sha256] if self.tls_key_sha256 is not None else []
        if not all(_SHA256_HEX.fullmatch(digest) for digest in digests):
            raise ParseError("attest.claims-malformed", "a digest in the claims is not SHA-256 in lower-case hex")
        if len(self.receipt_key) not in {0, 32}:
            raise ParseError("attest.claims-malformed", f"a receipt key has 32 bytes, not {len(self.receipt_key)}")
        if len({capsule.id for capsule in self.capsules}) != len(self.capsules):
            raise ParseError("attest.claims-malformed", "the claims name a capsule twice")
        if not _NAME.fullmatch(self.workload):
            raise ParseError(
                "attest.claims-malformed", "a workload is named by up to 64 of a-z, 0-9, dot, dash, underscore"
            )

    def encode(self) -> bytes:
        """Return the JSON form: the bytes that `report_data` covers."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> Claims:
        """Parse claims; raise `ParseError` on anything else or above 1 MiB."""
        return parse_json(data, Claims, MAX_CLAIMS_BYTES, "attest.claims-malformed", "the claims are malformed")


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The bundle as it travels."""

    v: int = 1
    tee: str
    quote: bytes
    event_log: bytes = b""
    collateral: Collateral | None = None  # Intel's
    endorsements: dict[str, bytes] = {}  # other vendors' certificates and the like, by name
    devices: bytes = NO_DEVICES  # the exact bytes of a JSON array
    claims: bytes
    nonce: bytes

    def __post_init__(self) -> None:
        if self.v != 1:
            raise ParseError("attest.evidence-version-unsupported", f"evidence of version {self.v}, expected 1")

    def hardware(self) -> Hardware:
        """Return the part that the hardware made, and what vouches for it."""
        return Hardware(
            tee=self.tee,
            quote=self.quote,
            event_log=self.event_log,
            endorsements=self.endorsements,
            collateral=self.collateral,
        )

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> Evidence:
        """Parse evidence; raise `ParseError` on anything else or above 4 MiB."""
        return parse_json(
            data, Evidence, MAX_EVIDENCE_BYTES, "attest.evidence-malformed", "these bytes are not evidence"
        )


class Attester(Protocol):
    """The TEE that this process runs in."""

    @property
    def tee(self) -> str:
        """The kind of evidence that it makes, such as `tdx`."""
        ...

    def evidence(self, claims: bytes, nonce: bytes) -> Evidence:
        """Return fresh evidence for these claims and this nonce (32 bytes, chosen by the verifier)."""
        ...

    def sealing_key(self, label: bytes) -> bytes:
        """Return 32 bytes that only this platform and this measurement can derive."""
        ...
