"""Release manifests: a publisher's signed word on what its workload measures, as reference values of a policy.

A manifest is an in-toto statement whose predicate names workload, version, source, builder and the registers by TEE;
its subjects are the images. It is signed with DSSE by an Ed25519 key, or by sigstore. The format is written down in
`docs/spec/release-manifest.md`.

Invariants:

- Which kind of signature is expected is the verifier's choice, never read from the manifest.
- A release of another workload, older than the verifier's minimum, or past its own end is refused.
- A release that pins no register at all is refused.

Example:
    >>> envelope = sign_release(Release("mitai-serve", 12, now, (Measurements("tdx", registers),)), identity)
    >>> reference_values(envelope, ReleaseTrust("mitai-serve", key=identity.public.raw.hex()), now=now)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.attest.fields import ANY
from mitai.attest.policy import REGISTERS, Policy, ReferenceValues
from mitai.attest.refvalues.sigstore import CLOCK_SKEW, MAX_BUNDLE_BYTES, verify_bundle
from mitai.attest.refvalues.statement import PAYLOAD_TYPE, STATEMENT_V1, Statement, Subject
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.errors import AttestError, MitaiError, ParseError
from mitai.identity import Envelope, Identity

PREDICATE_TYPE = "https://mitai.dev/predicate/release/v1"
_MALFORMED = "attest.release-malformed"
_Text = Annotated[str, Meta(min_length=1, max_length=256)]


class Measurements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The registers of one TEE, in hex; "any" where a register depends on the machine."""

    tee: _Text
    registers: dict[str, str]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the images were built from."""

    repository: str
    commit: Annotated[str, Meta(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?\Z")]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One release of a workload: the predicate, and the images as subjects of the statement."""

    workload: _Text
    version: Annotated[int, Meta(ge=0, le=2**53)]  # only grows
    released: datetime
    measurements: Annotated[tuple[Measurements, ...], Meta(min_length=1, max_length=256)]
    not_after: datetime | None = None
    source: Source | None = None
    builder: str = ""

    def values(self) -> tuple[ReferenceValues, ...]:
        """Return what a policy pins; TEEs that this verifier does not know are left out."""
        known = [entry for entry in self.measurements if entry.tee in REGISTERS]
        if any(all(value == ANY for value in entry.registers.values()) for entry in known):
            raise ParseError(_MALFORMED, f"the release {self.version} pins no register")
        try:
            return tuple(ReferenceValues(self.workload, entry.registers, entry.tee) for entry in known)
        except ParseError as error:
            raise ParseError(_MALFORMED, error.message) from error


def sign_release(release: Release, identity: Identity, images: tuple[Subject, ...] = ()) -> bytes:
    """Return the DSSE envelope of a manifest, signed by an Ed25519 identity."""
    release.values()
    return identity.sign(statement_of(release, images), PAYLOAD_TYPE).encode()


def statement_of(release: Release, images: tuple[Subject, ...] = ()) -> bytes:
    """Return the manifest's statement, for signers such as `cosign attest-blob --statement`."""
    predicate = msgspec.Raw(msgspec.json.encode(release))
    return msgspec.json.encode(Statement(STATEMENT_V1, PREDICATE_TYPE, images, predicate))


def verify_release(envelope: bytes, trust: ReleaseTrust, *, now: datetime) -> tuple[Release, tuple[Subject, ...]]:
    """Return the release and its images, or raise `AttestError` or `ParseError` at the first check that fails.

    1. The trusted key, or the trusted sigstore identity, signed these bytes.
    2. They are a statement of type release, version 1.
    3. It is the workload's, and not older than the verifier's minimum.
    4. It was released, and signed, neither before `not_before` nor in the future, and has not ended.
    """
    # 1
    payload, signed_at = _open(envelope, trust, now)
    # 2
    statement = Statement.decode(payload)
    if (statement.kind, statement.predicate_type) != (STATEMENT_V1, PREDICATE_TYPE):
        raise AttestError(
            "attest.release-type-mismatch", f"the signed statement is of type {statement.predicate_type[:120]!r}"
        )
    release = _decode(statement)
    # 3
    if release.workload != trust.workload:
        raise AttestError(
            "attest.release-workload-mismatch", f"a release of {release.workload!r}, expected {trust.workload!r}"
        )
    if release.version < trust.min_version:
        raise AttestError(
            "attest.release-too-old",
            f"version {release.version} is below the verifier's minimum {trust.min_version}",
            hint="run a newer release; lower min_version only to go back on purpose",
        )
    # 4
    first = min(release.released, signed_at or release.released)
    if trust.not_before is not None and first < trust.not_before:
        raise AttestError("attest.release-too-old", f"released on {first:%F}, before {trust.not_before:%F}")
    if release.released > now + CLOCK_SKEW:
        raise AttestError("attest.release-in-future", f"released on {release.released:%F %T}, which is yet to come")
    if release.not_after is not None and now > release.not_after:
        raise AttestError("attest.release-expired", f"the release ended on {release.not_after:%F %T}")
    return release, statement.subject


def reference_values(envelope: bytes, trust: ReleaseTrust, *, now: datetime) -> tuple[ReferenceValues, ...]:
    """Return what a trusted release pins, to be used as `workloads` of a policy."""
    return _known_values(verify_release(envelope, trust, now=now)[0])


def with_releases(policy: Policy, envelopes: Sequence[bytes], *, now: datetime) -> Policy:
    """Return the policy with what these releases pin among its workloads; each must be one that the policy trusts."""
    trusted = [trusted_release(envelope, policy.releases, now=now)[0] for envelope in envelopes]
    added = [values for release in trusted for values in _known_values(release)]
    return msgspec.structs.replace(policy, workloads=(*policy.workloads, *added))


def trusted_release(
    envelope: bytes, trusts: Sequence[ReleaseTrust], *, now: datetime
) -> tuple[Release, tuple[Subject, ...]]:
    """Return a release, and its images, that one of these publishers vouches for."""
    refusals: list[MitaiError] = []
    for trust in trusts:
        try:
            return verify_release(envelope, trust, now=now)
        except (AttestError, ParseError) as error:
            refusals.append(error)
    if not refusals:
        raise AttestError(
            "attest.release-untrusted",
            "the policy trusts nobody's releases",
            hint="name a key or a sigstore identity under [[releases]]",
        )
    # That the release is another workload's says less than why the trust for this one refused it.
    raise min(refusals, key=lambda error: error.code == "attest.release-workload-mismatch")


def _known_values(release: Release) -> tuple[ReferenceValues, ...]:
    values = release.values()
    if not values:
        raise AttestError("attest.release-tee-unknown", "the release has values only for TEEs that are not known here")
    return values


def _open(envelope: bytes, trust: ReleaseTrust, now: datetime) -> tuple[bytes, datetime | None]:
    """Return the payload that the trusted signer signed, and when, where a log says so."""
    if trust.sigstore is not None:
        signed = verify_bundle(envelope, trust.trusted_root(), now=now)
        trust.sigstore.check(signed.signer)
        return signed.payload, signed.signed_at
    if len(envelope) > MAX_BUNDLE_BYTES:
        raise ParseError(_MALFORMED, f"a release manifest of {len(envelope)} bytes is above the limit")
    try:
        return Envelope.decode(envelope).open(PAYLOAD_TYPE, trust.public_key()), None
    except ParseError as error:
        raise ParseError(_MALFORMED, error.message) from error
    except MitaiError as error:
        raise AttestError("attest.release-signature-invalid", error.message, hint=error.hint) from error


def _decode(statement: Statement) -> Release:
    try:
        release = msgspec.json.decode(statement.predicate, type=Release)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(_MALFORMED, f"the release manifest is malformed: {error}") from error
    times = [release.released, *([release.not_after] if release.not_after else [])]
    if any(moment.tzinfo is None for moment in times):
        raise ParseError(_MALFORMED, "a time of the release manifest has no time zone")
    return release
