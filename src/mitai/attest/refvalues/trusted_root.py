"""Sigstore's trusted root: which certificate authorities, certificate logs and signature logs a verifier believes.

Follows `sigstore_trustroot.proto` of sigstore/protobuf-specs, in its JSON form. The file is the caller's own: it is
taken from Sigstore's TUF repository (or a private deployment) once, and given to every verification.

Invariants:

- Unknown versions and unknown members are refused, for they might restrict what we would then trust too far.
- A key or authority counts only inside its own `validFor`.

Example:
    >>> root = TrustedRoot.decode(Path("trusted_root.json").read_bytes())
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mitai.attest.x509 import Certificate, parse_der
from mitai.errors import ParseError
from mitai.wire import parse_json

MAX_ROOT_BYTES = 1 << 20
_CODE = "attest.sigstore-root-malformed"
_MEDIA_TYPES = frozenset(
    {
        "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "application/vnd.dev.sigstore.trustedroot.v0.1+json",
        "application/vnd.dev.sigstore.trustedroot+json;version=0.2",
        "application/vnd.dev.sigstore.trustedroot.v0.2+json",
    }
)


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a key may be used; no end: until further notice."""

    start: datetime
    end: datetime | None = None

    def covers(self, moment: datetime) -> bool:
        """Return whether `moment` lies inside."""
        return self.start <= moment and (self.end is None or moment <= self.end)


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    raw_bytes: bytes
    key_details: str | None = None
    valid_for: Window | None = None


class _LogId(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    key_id: bytes


class _Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    public_key: _Key
    log_id: _LogId
    base_url: str | None = None
    hash_algorithm: str | None = None
    checkpoint_key_id: _LogId | None = None
    operator: str | None = None


class _RawBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    raw_bytes: bytes


class _Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificates: tuple[_RawBytes, ...]


class _Authority(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    cert_chain: _Chain
    valid_for: Window
    subject: dict[str, str | None] | None = None
    uri: str | None = None
    operator: str | None = None


class _Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    media_type: str
    tlogs: tuple[_Log, ...] = ()
    certificate_authorities: tuple[_Authority, ...] = ()
    ctlogs: tuple[_Log, ...] = ()
    timestamp_authorities: tuple[_Authority, ...] = ()


@dataclass(frozen=True, slots=True)
class LogKey:
    """The key of a log."""

    log_id: bytes
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
    window: Window

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether `signature` is the log's over `message` (callers raise)."""
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority: its chain, root last; first the issuer of leaves, or the certificate that signs timestamps."""

    chain: tuple[Certificate, ...]
    window: Window


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """What a verifier of sigstore bundles trusts."""

    authorities: tuple[Authority, ...]
    timestamp_authorities: tuple[Authority, ...]
    certificate_logs: dict[bytes, LogKey]  # by log id
    signature_logs: dict[bytes, LogKey]

    @staticmethod
    def decode(data: bytes) -> TrustedRoot:
        """Parse `trusted_root.json`; raise `ParseError` on anything else."""
        raw = parse_json(data, _Root, MAX_ROOT_BYTES, _CODE, "these bytes are not a trusted root of sigstore")
        if raw.media_type not in _MEDIA_TYPES:
            raise ParseError(_CODE, f"a trusted root of the unknown type {raw.media_type[:80]!r}")
        return TrustedRoot(
            tuple(_authority(authority) for authority in raw.certificate_authorities),
            tuple(_authority(authority) for authority in raw.timestamp_authorities),
            _logs(raw.ctlogs),
            _logs(raw.tlogs),
        )


def _authority(raw: _Authority) -> Authority:
    chain = tuple(parse_der(certificate.raw_bytes, _CODE) for certificate in raw.cert_chain.certificates)
    if not chain or not _timed(raw.valid_for):
        raise ParseError(_CODE, "a certificate authority of the trusted root has no certificate or no time zone")
    return Authority(chain, raw.valid_for)


def _logs(raw: tuple[_Log, ...]) -> dict[bytes, LogKey]:
    """Return the logs by id; one with a key of a kind that is not verified here can vouch for nothing: left out."""
    logs = {log.log_id.key_id: _log(log) for log in raw}
    if len(logs) != len(raw):
        raise ParseError(_CODE, "two logs of the trusted root have the same id")
    return {log_id: log for log_id, log in logs.items() if log is not None}


def _log(raw: _Log) -> LogKey | None:
    window = raw.public_key.valid_for
    if window is None or not _timed(window) or len(raw.log_id.key_id) != 32:
        raise ParseError(_CODE, "a log of the trusted root has no validity or no id of 32 bytes")
    try:
        key = load_der_public_key(raw.public_key.raw_bytes)
    except UnsupportedAlgorithm:
        return None
    except ValueError as error:
        raise ParseError(_CODE, "a key of the trusted root is malformed") from error
    if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        return None
    return LogKey(raw.log_id.key_id, key, window)


def _timed(window: Window) -> bool:
    return window.start.tzinfo is not None and (window.end is None or window.end.tzinfo is not None)
