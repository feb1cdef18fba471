"""Sigstore bundles, verified offline: a payload, signed by a workflow or a person, standing in a public log.

Follows sigstore/architecture-docs `client-spec.md`, "Verification", and `sigstore_bundle.proto` version 0.3. The
checks in order and what is not covered are in `docs/spec/sigstore.md`.

Invariants:

- Nothing is fetched: who is trusted comes from the caller's trusted root, everything else from the bundle.
- A signature counts as of the time that the log signed; nothing that the bundle alone says is a time.
- Exactly one signature; every log entry of the bundle must hold, one good one does not excuse a bad one.

Example:
    >>> signed = verify_bundle(bundle, TrustedRoot.decode(root), now=now)
    >>> SigstoreIdentity(issuer=GITHUB, repository="example/workload").check(signed.signer)
    >>> Statement.decode(signed.payload)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from mitai.attest.refvalues.fulcio import SignerClaims, verify_certificate, verify_timestamps
from mitai.attest.refvalues.rekor import Entry, check_binding, check_logs, verify_entry
from mitai.attest.refvalues.statement import PAYLOAD_TYPE
from mitai.attest.refvalues.timestamps import verify_timestamp
from mitai.attest.refvalues.trusted_root import TrustedRoot
from mitai.attest.x509 import Certificate, parse_der
from mitai.errors import AttestError, ParseError
from mitai.identity import Envelope
from mitai.wire import parse_json

GITHUB = "https://token.actions.githubusercontent.com"
MAX_BUNDLE_BYTES = 16 << 20
MAX_ENTRIES = 8
CLOCK_SKEW = timedelta(minutes=5)
_MALFORMED = "attest.sigstore-bundle-malformed"
_MEDIA_TYPES = frozenset(
    {"application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json;version=0.3"}
)


class _RawBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    raw_bytes: bytes


class _Timestamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    signed_timestamp: bytes


class _Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    timestamps: tuple[_Timestamp, ...] = msgspec.field(name="rfc3161Timestamps", default=())


class _Material(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    certificate: _RawBytes
    tlog_entries: tuple[Entry, ...] = ()
    timestamp_verification_data: _Times | None = None

    @property
    def timestamps(self) -> tuple[bytes, ...]:
        """The RFC 3161 timestamps."""
        times = self.timestamp_verification_data
        return tuple(timestamp.signed_timestamp for timestamp in times.timestamps) if times else ()


class _Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: Envelope


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many witnesses of each kind a signature needs."""

    log_entries: int = 1
    max_log_entries: int = MAX_ENTRIES
    certificate_logs: int = 1
    times: int = 1


STRICT = Thresholds()


class SigstoreIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who must have signed: a workflow of a repository at a ref, or a person by the certificate's subject."""

    issuer: str
    repository: str = ""  # owner/name
    ref_prefix: str = "refs/tags/"
    workflow: str = ""  # path in the repository, such as .github/workflows/release.yml; empty: any of them
    subject: str = ""  # exact subject of the certificate: an e-mail address, or a URI

    def __post_init__(self) -> None:
        if not self.issuer or bool(self.repository) == bool(self.subject):
            raise ParseError(
                "attest.policy-malformed", "a sigstore identity names its issuer, and either a repository or a subject"
            )

    def check(self, signer: SignerClaims) -> None:
        """Raise `AttestError` unless this is who signed."""
        if signer.issuer != self.issuer:
            raise AttestError(
                "attest.sigstore-issuer-mismatch", f"logged in by {signer.issuer[:120]!r}, not {self.issuer[:120]!r}"
            )
        if self.subject and signer.subject != self.subject:
            raise AttestError(
                "attest.sigstore-subject-mismatch", f"signed by {signer.subject[:120]!r}, not {self.subject[:120]!r}"
            )
        if self.repository:
            self._check_workflow(signer)

    def _check_workflow(self, signer: SignerClaims) -> None:
        if signer.repository != self.repository:
            raise AttestError(
                "attest.sigstore-repository-mismatch",
                f"signed in {signer.repository[:120]!r}, not {self.repository[:120]!r}",
            )
        if not signer.ref.startswith(self.ref_prefix):
            raise AttestError(
                "attest.sigstore-ref-mismatch",
                f"signed at {signer.ref[:120]!r}, which does not begin with {self.ref_prefix[:120]!r}",
            )
        expected = f"https://github.com/{self.repository}/{self.workflow}@{signer.ref}"
        if self.workflow and signer.subject != expected:
            raise AttestError(
                "attest.sigstore-workflow-mismatch", f"signed by {signer.subject[:120]!r}, not {expected[:120]!r}"
            )


@dataclass(frozen=True, slots=True)
class SignedPayload:
    """What a bundle proves: a payload, who signed it and when."""

    payload: bytes
    signer: SignerClaims
    certificate: Certificate
    signed_at: datetime
    log_ids: tuple[bytes, ...]
    certificate_logs: int


def verify_bundle(
    bundle: bytes,
    root: TrustedRoot,
    *,
    now: datetime,
    payload_type: str = PAYLOAD_TYPE,
    thresholds: Thresholds = STRICT,
) -> SignedPayload:
    """Verify a bundle; raise `AttestError` or `ParseError` at the first check that fails.

    1. It is a bundle of version 0.3 with one certificate, one signature and enough log entries, none of them twice.
    2. Every log entry is in its log, and every timestamp is an authority's; enough times are signed by the log or such
       an authority, none of them in the future.
    3. At each of these times the certificate was valid, an authority of the trusted root issued it, the logs were in
       use.
    4. Enough certificate logs vouch for the certificate.
    5. The certificate's key signed payload and payload type, and the type is the expected one.
    6. Each log entry is about this signature.

    Who the signer must be is the caller's next question (`SigstoreIdentity.check`).
    """
    # 1
    material, envelope = _decode(bundle)
    leaf = parse_der(material.certificate.raw_bytes, _MALFORMED)
    entries = material.tlog_entries
    count = len({entry.place for entry in entries})
    if count != len(entries) or not thresholds.log_entries <= count <= min(MAX_ENTRIES, thresholds.max_log_entries):
        raise AttestError(
            "attest.sigstore-entry-count", f"the bundle has {len(entries)} log entries, or one of them twice"
        )
    # 2
    signature = envelope.signatures[0].sig
    times = [moment for entry in entries if (moment := verify_entry(entry, root)) is not None]
    times += [verify_timestamp(token, signature, root) for token in set(material.timestamps)]
    if len(times) < thresholds.times:
        raise AttestError("attest.sigstore-time-missing", "nobody who is trusted says when the signature was made")
    # 3
    for moment in times or [now]:
        issuer = verify_certificate(leaf, root, moment)
        check_logs(entries, root, moment)
    if any(moment > now + CLOCK_SKEW for moment in times):
        raise AttestError("attest.sigstore-time-in-future", "the signature is said to be made in the future")
    # 4
    vouched = verify_timestamps(leaf, issuer, root, thresholds.certificate_logs)
    # 5
    _verify_signature(leaf, signature, envelope.signed_bytes())
    if envelope.payload_type != payload_type:
        raise AttestError(
            "attest.sigstore-payload-type-mismatch",
            f"signed as {envelope.payload_type[:80]!r} where {payload_type!r} is expected",
        )
    # 6
    for entry in entries:
        check_binding(entry, envelope, leaf)
    return SignedPayload(
        envelope.payload,
        SignerClaims.read(leaf),
        leaf,
        min(times, default=now),
        tuple(entry.log_id.key_id for entry in entries),
        vouched,
    )


def _decode(bundle: bytes) -> tuple[_Material, Envelope]:
    raw = parse_json(
        bundle,
        _Bundle,
        MAX_BUNDLE_BYTES,
        _MALFORMED,
        "these bytes are not a sigstore bundle of version 0.3 with a certificate and a DSSE envelope",
    )
    if raw.media_type not in _MEDIA_TYPES:
        raise ParseError(_MALFORMED, f"a bundle of the unsupported type {raw.media_type[:80]!r}")
    if len(raw.verification_material.timestamps) > MAX_ENTRIES:
        raise ParseError(_MALFORMED, f"the bundle has more than {MAX_ENTRIES} timestamps")
    if len(raw.dsse_envelope.signatures) != 1:
        raise ParseError(_MALFORMED, f"the envelope has {len(raw.dsse_envelope.signatures)} signatures, expected one")
    return raw.verification_material, raw.dsse_envelope


def _verify_signature(leaf: Certificate, signature: bytes, message: bytes) -> None:
    key = leaf.ec_key
    try:
        key.verify(signature, message, ec.ECDSA(SHA384() if key.curve.name == "secp384r1" else SHA256()))
    except InvalidSignature as error:
        raise AttestError(
            "attest.sigstore-signature-invalid", "the certificate's key did not sign this payload"
        ) from error
