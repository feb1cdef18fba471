"""Which verifier appraises which TEE."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime

from mitai.attest import azure, cca, csv, gcp, nitro, snp, tpm
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.dcap import appraise as dcap
from mitai.attest.dcap.quote import TdReport, parse_quote
from mitai.attest.machine import Hardware, Machine
from mitai.attest.policy import Policy
from mitai.errors import AttestError, ParseError

_EVIDENCE_DIGEST_LABEL = b"mitai evidence digest v1\0"

# Of each TEE, the bytes of its quote that the hardware signs.
_SIGNED: Mapping[str, Callable[[bytes], bytes]] = {
    "tdx": lambda quote: parse_quote(quote).signed,
    "sgx": lambda quote: parse_quote(quote).signed,
    "snp": lambda report: snp.parse_report(report).signed,
    "nitro": lambda document: nitro.parse_document(document).message.signed,
    "cca": lambda token: cca.parse_token(token).signed,
    "csv": lambda report: csv.parse_report(report).signed,
    "az-snp-vtpm": tpm.signed_part,
    "az-tdx-vtpm": tpm.signed_part,
    "gcp-vtpm": tpm.signed_part,
    "tpm": tpm.signed_part,
}

_WITHOUT_LOG = {"sgx", "snp", "nitro", "cca", "csv"}


def appraise(
    checks: Checklist, hardware: Hardware, policy: Policy, *, now: datetime, cache: VerifiedCache | None = None
) -> Machine:
    """Verify evidence of the hardware, whatever the TEE.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    rules = policy.event_log
    if hardware.tee in _WITHOUT_LOG and (rules.relies_on_log or rules.ima.demanded):
        with checks.step("event log"):
            raise AttestError(
                "attest.event-log-missing", f"the policy demands an event log, and {hardware.tee} has none to check"
            )
    match hardware.tee:
        case "tdx" | "sgx":
            return dcap.appraise(checks, hardware, policy, now=now, cache=cache)
        case "snp":
            return snp.appraise(checks, hardware, policy.snp, now=now, cache=cache)
        case "nitro":
            return nitro.appraise(checks, hardware, policy.nitro, now=now, cache=cache)
        case "cca":
            return cca.appraise(checks, hardware, policy.cca, now=now, cache=cache)
        case "csv":
            return csv.appraise(checks, hardware, policy.csv, now=now, cache=cache)
        case "az-snp-vtpm" | "az-tdx-vtpm":
            return azure.appraise(checks, hardware, policy, now=now, cache=cache)
        case "gcp-vtpm":
            return gcp.appraise(checks, hardware, policy, now=now, cache=cache)
        case "tpm":
            return tpm.appraise(checks, hardware, policy, now=now, cache=cache)
        case other:
            with checks.step("tee"):
                raise AttestError("attest.tee-unsupported", f"evidence of an unknown TEE {other[:32]!r}")


def guess_tee(evidence: bytes) -> str:
    """Return whose evidence these bytes look like; its verifier decides whether they are.

    Raises:
        ParseError: They look like no evidence that is known.
    """
    if len(evidence) == _SNP_REPORT_BYTES:
        return "snp"
    if evidence[:2] in _INTEL_VERSIONS:
        return tee_of_quote(evidence)
    if evidence[:2] == b"\xd2\x84" or evidence[:1] == b"\x84":  # COSE_Sign1, tagged or not
        return "nitro"
    if evidence[:3] in {b"\xd9\x01\x8f", b"\xd9\x03\x8b"}:  # tags 399 and 907
        return "cca"
    raise ParseError("attest.tee-unknown", "this looks like no evidence that is known", hint="say whose it is: --tee")


_SNP_REPORT_BYTES = 1184
_INTEL_VERSIONS = {version.to_bytes(2, "little") for version in (3, 4, 5)}


def tee_of_quote(quote: bytes) -> str:
    """Return whether a quote of Intel's is of TDX or SGX."""
    return "tdx" if isinstance(parse_quote(quote).body, TdReport) else "sgx"


def evidence_sha256(tee: str, quote: bytes) -> str:
    """Return the digest by which receipts name evidence: over the signed part of its quote, in hex.

    A quote as a whole is malleable (padding, another encoding of the same signature), its signed part is not; and that
    part holds `report_data`, hence nonce, claims and devices.
    """
    signed = _SIGNED.get(tee)
    if signed is None:
        raise ParseError("attest.tee-unsupported", f"evidence of an unknown TEE {tee[:32]!r}")
    return evidence_digest(signed(quote))


def evidence_digest(signed: bytes) -> str:
    """Return `evidence_sha256` of a signed part."""
    return hashlib.sha256(_EVIDENCE_DIGEST_LABEL + signed).hexdigest()
