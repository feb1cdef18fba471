"""Stage `verify-sigstore`: what a release's sigstore bundle says was measured.

The checks are those of `mitai.attest.refvalues.sigstore`; only names are translated. Two of the suite's rules are its
own and live here: the input's time must also lie inside the certificate's validity, and the first subject alone is
compared.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.attest.conformance.measurement import MULTI_PLATFORM, Measurement
from mitai.attest.conformance.outcome import Outcome, Rejected, moment, run_stage
from mitai.attest.refvalues.fulcio import check_window
from mitai.attest.refvalues.sigstore import MAX_ENTRIES, SignedPayload, SigstoreIdentity, Thresholds, verify_bundle
from mitai.attest.refvalues.statement import Statement
from mitai.attest.refvalues.trusted_root import TrustedRoot

STAGE = "verify-sigstore"
CODES = {
    "attest.sigstore-root-malformed": "TRUST_ROOT_INVALID",
    "attest.sigstore-bundle-malformed": "BUNDLE_MALFORMED",
    "attest.sigstore-certificate-malformed": "BUNDLE_MALFORMED",
    "attest.certificate-key-unsupported": "BUNDLE_MALFORMED",
    "attest.sigstore-entry-count": "TLOG_COUNT_OUT_OF_RANGE",
    "attest.sigstore-log-untrusted": "REKOR_KEY_NOT_TRUSTED",
    "attest.sigstore-inclusion-missing": "REKOR_INCLUSION_INVALID",
    "attest.sigstore-inclusion-invalid": "REKOR_INCLUSION_INVALID",
    "attest.sigstore-checkpoint-invalid": "REKOR_INCLUSION_INVALID",
    "attest.sigstore-checkpoint-mismatch": "CHECKPOINT_ROOT_MISMATCH",
    "attest.sigstore-time-invalid": "REKOR_INCLUSION_INVALID",
    "attest.sigstore-timestamp-malformed": "OBSERVER_TIMESTAMP_INSUFFICIENT",
    "attest.sigstore-timestamp-invalid": "OBSERVER_TIMESTAMP_INSUFFICIENT",
    "attest.sigstore-time-missing": "OBSERVER_TIMESTAMP_INSUFFICIENT",
    "attest.sigstore-time-in-future": "OBSERVER_TIMESTAMP_INSUFFICIENT",
    "attest.sigstore-certificate-expired": "CERT_EXPIRED",
    "attest.sigstore-chain-invalid": "FULCIO_CHAIN_INVALID",
    "attest.sigstore-sct-duplicate": "SCT_DUPLICATE_LOG",
    "attest.sigstore-sct-invalid": "SCT_INSUFFICIENT",
    "attest.sigstore-sct-missing": "SCT_INSUFFICIENT",
    "attest.sigstore-signature-invalid": "DSSE_SIGNATURE_INVALID",
    "attest.sigstore-payload-type-mismatch": "PAYLOAD_TYPE_MISMATCH",
    "attest.sigstore-entry-unsupported": "REKOR_INCLUSION_INVALID",
    "attest.sigstore-entry-mismatch": "REKOR_INCLUSION_INVALID",
    "attest.sigstore-issuer-mismatch": "OIDC_ISSUER_MISMATCH",
    "attest.sigstore-repository-mismatch": "WORKFLOW_REPOSITORY_MISMATCH",
    "attest.sigstore-ref-mismatch": "WORKFLOW_REF_PREFIX_MISMATCH",
    "attest.statement-malformed": "BUNDLE_MALFORMED",
}

_Count = Annotated[int, Meta(ge=0)]
_Register = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{96}\Z")]


class _Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    oidc_issuer: str
    workflow_ref_prefix: str
    payload_type: str
    predicate_types_allowed: tuple[str, ...] | None = None
    in_toto_statement_types_allowed: tuple[str, ...] | None = None
    tlog_entries_min: _Count = 1
    tlog_entries_max: _Count | None = None
    sct_min: _Count = 1
    observer_timestamps_min: _Count = 1


class SigstoreInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle and what is expected of it."""

    bundle_b64: bytes
    expected_digest_sha256_hex: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
    repo: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+\Z")]
    policy: _Policy
    trust_root_b64: bytes
    verification_time_unix: _Count | None  # null: as of the signature
    schema_version: str = "1"


class _TdxPredicate(msgspec.Struct, frozen=True):
    rtmr1: _Register
    rtmr2: _Register


class _MultiPlatformPredicate(msgspec.Struct, frozen=True):
    snp_measurement: _Register
    tdx_measurement: _TdxPredicate


def run(data: bytes) -> Outcome:
    """Stage `verify-sigstore`."""
    return run_stage(STAGE, data, SigstoreInput, _appraise, lambda error, _: CODES.get(error.code, "BUNDLE_MALFORMED"))


def _appraise(given: SigstoreInput) -> dict[str, object]:
    policy = given.policy
    given_time = given.verification_time_unix
    now = datetime.now(UTC) if given_time is None else moment(given_time)
    signed = verify_bundle(
        given.bundle_b64,
        TrustedRoot.decode(given.trust_root_b64),
        now=now,
        payload_type=policy.payload_type,
        thresholds=Thresholds(
            log_entries=policy.tlog_entries_min,
            max_log_entries=MAX_ENTRIES if policy.tlog_entries_max is None else policy.tlog_entries_max,
            certificate_logs=policy.sct_min,
            times=policy.observer_timestamps_min,
        ),
    )
    if given_time is not None:
        check_window(signed.certificate, now)
    SigstoreIdentity(issuer=policy.oidc_issuer, repository=given.repo, ref_prefix=policy.workflow_ref_prefix).check(
        signed.signer
    )
    statement = Statement.decode(signed.payload)
    if not _allowed(statement.kind, policy.in_toto_statement_types_allowed):
        raise Rejected("IN_TOTO_STATEMENT_TYPE_NOT_ALLOWED")
    if not statement.subject:
        raise Rejected("SUBJECT_MISSING")
    digest = given.expected_digest_sha256_hex.lower()
    if statement.subject[0].digest.get("sha256", "").lower() != digest:
        raise Rejected("SUBJECT_DIGEST_MISMATCH")
    if not _allowed(statement.predicate_type, policy.predicate_types_allowed):
        raise Rejected("PREDICATE_TYPE_NOT_ALLOWED")
    return _outputs(signed, statement, digest)


def _allowed(kind: str, kinds: tuple[str, ...] | None) -> bool:
    return kinds is None or kind in kinds


def _measurement(statement: Statement) -> Measurement:
    if statement.predicate_type != MULTI_PLATFORM:
        raise Rejected("PREDICATE_MEASUREMENT_INVALID")
    try:
        predicate = msgspec.json.decode(statement.predicate, type=_MultiPlatformPredicate)
    except msgspec.MsgspecError as error:
        raise Rejected("PREDICATE_MEASUREMENT_INVALID") from error
    tdx = predicate.tdx_measurement
    registers = (predicate.snp_measurement, tdx.rtmr1, tdx.rtmr2)
    return Measurement(MULTI_PLATFORM, tuple(register.lower() for register in registers))


def _outputs(signed: SignedPayload, statement: Statement, digest: str) -> dict[str, object]:
    return {
        "predicate_type": statement.predicate_type,
        "in_toto_statement_type": statement.kind,
        "subject_name": statement.subject[0].name,
        "subject_digest_sha256_hex": digest,
        "measurement": msgspec.to_builtins(_measurement(statement)),
        "cert_oidc_issuer": signed.signer.issuer,
        "cert_workflow_ref": signed.signer.ref,
        "cert_workflow_repository": signed.signer.repository,
        "cert_workflow_signer_uri": signed.signer.build_signer,
        "rekor_log_id_hex": signed.log_ids[0].hex() if signed.log_ids else "",
        "rekor_integrated_time_unix": int(signed.signed_at.timestamp()),
        "tlog_entry_count": len(signed.log_ids),
        "sct_count": signed.certificate_logs,
    }
