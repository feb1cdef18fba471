"""What travels and what comes out: evidence of a device, and the device that it proves.

The format is written down in `docs/spec/evidence-nvidia.md`. An evidence bundle's `devices` are the exact bytes of a
JSON array of `DeviceEvidence`; the CPU's quote covers their hash, and every report answers `device_nonce`: the GPU that
is verified is the one that this CPU's guest talks to, now.

Example:
    >>> devices = encode_devices((DeviceEvidence(kind="gpu", report=report, certificates=pem, rims=rims),))
    >>> decode_devices(devices)[0].kind
    'gpu'
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from mitai.errors import ParseError

MAX_DEVICES = 64
MAX_DEVICES_BYTES = 4 << 20
MAX_RIMS = 64
MAX_RESPONSES = 512
NONCE_BYTES = 32
_NONCE_LABEL = b"mitai device nonce v1\0"
_CODE = "attest.devices-malformed"

Kind = Literal["gpu", "switch"]


class Endorsements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What NVIDIA signed, whoever carries it: manifests (XML) and OCSP responses (DER)."""

    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()


class DeviceEvidence(Endorsements, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's evidence; the endorsements of any entry serve all entries."""

    kind: Kind
    report: bytes
    certificates: bytes  # PEM, leaf first


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a report proves about a device."""

    kind: Kind
    chip: str  # as certified: GH100, GB100, LS10 …
    ueid: str  # the device certificate's serial number, in decimal, as NVIDIA writes it
    pdi: str  # the chip's own id, by which GPUs and switches name each other; NRAS does not tell it
    driver: str  # nothing for a switch
    vbios: str  # of a switch: its BIOS
    mode: str  # spt, mpt or ppcie; nothing for a switch, or where NRAS does not tell it
    measurements: Mapping[int, str]  # hex, by index as manifests count
    measured: str  # for people: what its measurements were held to
    peers: frozenset[str]  # the ids at its links
    signed: bytes
    not_after: datetime  # when a certificate or a revocation status ends

    def summary(self) -> list[tuple[str, str]]:
        """Return (name, value) lines for a terminal."""
        software = [("driver", self.driver), ("mode", self.mode)] if self.kind == "gpu" else []
        return [
            (self.kind, f"genuine NVIDIA {self.chip}, {self.ueid}"),
            *software,
            ("firmware", self.vbios),
            ("measurements", self.measured),
        ]


def device_nonce(nonce: bytes) -> bytes:
    """Return the nonce for devices under the verifier's nonce, so that no one exchange serves as the other."""
    if len(nonce) != NONCE_BYTES:
        raise ParseError("attest.nonce-malformed", f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return hashlib.sha256(_NONCE_LABEL + nonce).digest()


def encode_devices(devices: tuple[DeviceEvidence, ...]) -> bytes:
    """Return the JSON array: the bytes that the CPU's quote covers."""
    return msgspec.json.encode(devices)


def decode_devices(data: bytes) -> tuple[DeviceEvidence, ...]:
    """Parse the JSON array; raise `ParseError` on anything else, above 4 MiB, 64 devices, 64 RIMs, 512 responses."""
    if len(data) > MAX_DEVICES_BYTES:
        raise ParseError(_CODE, f"device evidence of {len(data)} bytes is above the limit")
    try:
        devices = msgspec.json.decode(data, type=tuple[DeviceEvidence, ...])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(_CODE, "these bytes are not evidence of devices") from error
    rims, responses = sum(len(each.rims) for each in devices), sum(len(each.ocsp) for each in devices)
    if len(devices) > MAX_DEVICES or rims > MAX_RIMS or responses > MAX_RESPONSES:
        raise ParseError(
            _CODE, f"{len(devices)} devices, {rims} manifests, {responses} OCSP responses: above the limit"
        )
    return devices
