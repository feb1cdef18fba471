"""Stage `verify-attestation-tdx`: a quote and its collateral.

It drives the ordinary checks of `mitai.attest.dcap` and `mitai.attest.tdx`.

Fixtures differ from what a client does in three points, all handled here and nowhere else: recorded fixtures leave out
the issuer chains that Intel's service returns in HTTP headers (Intel's TCB signing certificate of 2018 to 2025 is
built in), one of their quotes carries bytes behind its end (they are cut off), and TCB evaluation may be switched off.
"""

from __future__ import annotations

import base64
from typing import TypeVar

import msgspec

from mitai.attest import tdx
from mitai.attest.conformance.outcome import Outcome, Rejected, moment, run_stage
from mitai.attest.dcap import tcb as dcap_tcb
from mitai.attest.dcap import verify as dcap
from mitai.attest.dcap.collateral import Collateral, verify_collateral
from mitai.attest.dcap.quote import TdReport, parse_quote, split_quote
from mitai.attest.dcap.roots import INTEL_SGX_ROOT_CA, INTEL_SGX_ROOT_CA_SHA256
from mitai.attest.dcap.tcb import TcbStatus
from mitai.attest.tdx.rules import TdxRules
from mitai.attest.x509 import parse_chain
from mitai.errors import MitaiError, ParseError

STAGE = "verify-attestation-tdx"

# CN=Intel SGX TCB Signing, valid 2018-05-21 to 2025-05-21, issued by the Intel SGX Root CA.
_TCB_SIGNING_2018 = """
    MIICizCCAjKgAwIBAgIUfjiC1ftVKUpASY5FhAPpFJG99FUwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3Qg
    Q0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
    AlVTMB4XDTE4MDUyMTEwNTAxMFoXDTI1MDUyMTEwNTAxMFowbDEeMBwGA1UEAwwVSW50ZWwgU0dYIFRDQiBTaWduaW5nMRowGAYD
    VQQKDBFJbnRlbCBDb3Jwb3JhdGlvbjEUMBIGA1UEBwwLU2FudGEgQ2xhcmExCzAJBgNVBAgMAkNBMQswCQYDVQQGEwJVUzBZMBMG
    ByqGSM49AgEGCCqGSM49AwEHA0IABENFG8xzydWRfK92bmGvP+mAh91PEyV7Jh6FGJd5ndE9aBH7R3E4A7ubrlh/zN3C4xvpoouG
    lirMba+W2ljuypajgbUwgbIwHwYDVR0jBBgwFoAUImUM1lqdNInzg7SVUr9QGzknBqwwUgYDVR0fBEswSTBHoEWgQ4ZBaHR0cHM6
    Ly9jZXJ0aWZpY2F0ZXMudHJ1c3RlZHNlcnZpY2VzLmludGVsLmNvbS9JbnRlbFNHWFJvb3RDQS5kZXIwHQYDVR0OBBYEFH44gtX7
    VSlKQEmORYQD6RSRvfRVMA4GA1UdDwEB/wQEAwIGwDAMBgNVHRMBAf8EAjAAMAoGCCqGSM49BAMCA0cAMEQCIB9C8wOAN/ImxDtG
    ACV246KcqjagZOR0kyctyBrsGGJVAiAjftbrNGsGU8YH211dRiYNoPPu19Zp/ze8JmhujB0oBw==
"""

_OPEN = TdxRules(
    td_attributes_required="00" * 8,
    td_attributes_allowed="ff" * 8,
    xfam_required="00" * 8,
    xfam_allowed="ff" * 8,
    mrsignerseam="any",
    seam_attributes="any",
    mrservicetd="any",
)
_SPEC_DEFAULTS = TdxRules(td_attributes_required="00" * 8)  # their profile does not demand SEPT_VE_DISABLE
_NOT_TERMINAL = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    }
)
_CODES = {
    "attest.quote-malformed": "QUOTE_FORMAT_UNSUPPORTED",
    "attest.quote-too-large": "QUOTE_FORMAT_UNSUPPORTED",
    "attest.quote-version-unsupported": "QUOTE_FORMAT_UNSUPPORTED",
    "attest.quote-tee-unsupported": "QUOTE_FORMAT_UNSUPPORTED",
    "attest.quote-body-unsupported": "QUOTE_FORMAT_UNSUPPORTED",
    "attest.quote-cert-type-unsupported": "QUOTE_FORMAT_UNSUPPORTED",
    "attest.quote-key-type-unsupported": "ATTESTATION_KEY_TYPE_UNSUPPORTED",
    "attest.qe-report-signature-invalid": "QE_REPORT_SIGNATURE_INVALID",
    "attest.attestation-key-unbound": "AK_BINDING_INVALID",
    "attest.quote-signature-invalid": "QUOTE_SIGNATURE_INVALID",
    "attest.root-untrusted": "ROOT_CA_UNTRUSTED",
    "attest.simulation-refused": "ROOT_CA_UNTRUSTED",
    "attest.pck-chain-incomplete": "PCK_CHAIN_INCOMPLETE",
    "attest.pck-revoked": "PCK_REVOKED",
    "attest.intermediate-revoked": "INTERMEDIATE_REVOKED",
    "attest.tcb-signing-revoked": "TCB_INFO_CHAIN_INVALID",
    "attest.pck-crl-expired": "PCK_CRL_EXPIRED",
    "attest.root-crl-expired": "ROOT_CRL_EXPIRED",
    "attest.tcb-info-chain-invalid": "TCB_INFO_CHAIN_INVALID",
    "attest.tcb-info-signature-invalid": "TCB_INFO_SIGNATURE_INVALID",
    "attest.tcb-info-expired": "TCB_INFO_EXPIRED",
    "attest.tcb-info-fmspc-mismatch": "PCK_FMSPC_MISMATCH",
    "attest.qe-identity-signature-invalid": "QE_IDENTITY_SIGNATURE_INVALID",
    "attest.qe-identity-expired": "QE_IDENTITY_EXPIRED",
    "attest.qe-identity-version-unsupported": "QE_IDENTITY_VERSION_INVALID",
    "attest.qe-identity-id-mismatch": "QE_IDENTITY_ID_INVALID",
    "attest.qe-signer-mismatch": "QE_IDENTITY_MRSIGNER_MISMATCH",
    "attest.qe-identity-mismatch": "QE_IDENTITY_FIELD_MISMATCH",
    "attest.qe-vendor-mismatch": "QE_VENDOR_ID_MISMATCH",
    "attest.td-debug": "TD_ATTRIBUTES_DEBUG_SET",
    "attest.td-attributes-not-allowed": "TD_ATTRIBUTES_RESERVED_BIT_SET",
    "attest.td-attributes-missing": "TD_ATTRIBUTES_REQUIRED_BIT_CLEAR",
    "attest.xfam-not-allowed": "XFAM_RESERVED_BIT_SET",
    "attest.xfam-missing": "XFAM_REQUIRED_BIT_CLEAR",
    "attest.mrsignerseam-mismatch": "MR_SIGNER_SEAM_MISMATCH",
    "attest.seam-attributes-mismatch": "SEAM_ATTRIBUTES_MISMATCH",
    "attest.mrseam-not-allowed": "MR_SEAM_NOT_ALLOWED",
    "attest.mrconfigid-mismatch": "MR_CONFIG_ID_MISMATCH",
    "attest.mrowner-mismatch": "MR_OWNER_MISMATCH",
    "attest.mrownerconfig-mismatch": "MR_OWNER_CONFIG_MISMATCH",
    "attest.tee-tcb-svn-too-low": "TEE_TCB_SVN_BELOW_MINIMUM",
}


class _Collateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tcb_info_json: str
    qe_identity_json: str
    pck_crl_der_b64: bytes
    root_crl_der_b64: bytes
    intel_root_ca_pem: str | None = None
    tcb_info_issuer_chain_pem: str | None = None
    qe_identity_issuer_chain_pem: str | None = None
    pck_crl_issuer_chain_pem: str | None = None


class _Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tcb_evaluation_required: bool = True
    enforce_spec_defaults: bool = False
    min_tcb_evaluation_data_number: int = 0
    expected_fmspc_hex: str | None = None
    expected_td_attributes_hex: str | None = None
    expected_xfam_hex: str | None = None
    expected_mr_signer_seam_hex: str | None = None
    expected_seam_attributes_hex: str | None = None
    expected_mrseam_allowlist: tuple[str, ...] = ()
    expected_mrtd_hex: str | None = None
    expected_rtmr3_hex: str | None = None
    expected_report_data_hex: str | None = None
    expected_mr_config_id_hex: str | None = None
    expected_mr_owner_hex: str | None = None
    expected_mr_owner_config_hex: str | None = None
    min_tee_tcb_svn_hex: str | None = None
    expected_qe_vendor_id_hex: str | None = None


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: str
    quote_b64: bytes
    collateral: _Collateral
    expiration_check_date_unix: int
    policy: _Policy = _Policy()


class _SignedTcbInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tcbInfo: msgspec.Raw  # noqa: N815
    signature: str


class _SignedQeIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enclaveIdentity: msgspec.Raw  # noqa: N815
    signature: str


def run(data: bytes) -> Outcome:
    """Stage `verify-attestation-tdx`."""
    return run_stage(STAGE, data, _Input, _outputs, _code)


def _code(error: MitaiError, given: _Input) -> str:
    """Translate a refusal; a pinned value that differs is a mismatch, whichever bit it is."""
    policy = given.policy
    if error.code.startswith("attest.td-attributes-") and policy.expected_td_attributes_hex is not None:
        return "TD_ATTRIBUTES_MISMATCH"
    if error.code.startswith("attest.xfam-") and policy.expected_xfam_hex is not None:
        return "XFAM_MISMATCH"
    if "-crl-" in error.code or error.code.startswith("attest.pck-"):
        return _CODES.get(error.code, "PCK_CHAIN_INVALID")
    return _CODES.get(error.code, "QV_RESULT_TERMINAL_UNSPECIFIED")


def _appraise(given: _Input) -> tuple[int, TdReport]:
    policy, now = given.policy, moment(given.expiration_check_date_unix)
    quote = parse_quote(split_quote(given.quote_b64)[0])
    if not isinstance(quote.body, TdReport):
        raise Rejected("QUOTE_FORMAT_UNSUPPORTED")
    chain = dcap.find_pck_chain(quote, None)
    root = _root_fingerprint(given.collateral)
    dcap.check_root(chain, {root: False}, allow_simulation=False)
    issuers = [_pem(certificate.der) for certificate in chain.certificates[1:]]
    verified = verify_collateral(_collateral(given.collateral, "".join(issuers)), root, now)
    platform = dcap.verify_pck_chain(chain, verified, now)
    qe_report = dcap.verify_quote_signature(quote, platform.leaf)
    dcap.check_qe(quote, qe_report, verified)
    if policy.expected_fmspc_hex not in {None, platform.tcb.fmspc.hex()}:
        raise Rejected("PCK_FMSPC_MISMATCH")
    if policy.tcb_evaluation_required:
        result = dcap_tcb.evaluate_tcb(quote.body, platform.tcb, qe_report, verified.tcb_info, verified.qe_identity)
        if result.evaluation_number < policy.min_tcb_evaluation_data_number:
            raise Rejected("TCB_EVAL_DATA_NUMBER_TOO_LOW")
        if result.status not in _NOT_TERMINAL:
            raise Rejected("TCB_REVOKED" if result.status is TcbStatus.REVOKED else "QV_RESULT_NOT_ACCEPTED_BY_POLICY")
    tdx.check_td(quote.header, quote.body, _rules(policy))
    for expected, found, code in (
        (policy.expected_mrtd_hex, quote.body.mrtd, "MRTD_MISMATCH"),
        (policy.expected_rtmr3_hex, quote.body.rtmrs[3], "RTMR3_NONZERO"),
        (policy.expected_report_data_hex, quote.body.report_data, "REPORT_DATA_MISMATCH"),
    ):
        if expected not in {None, found.hex()}:
            raise Rejected(code)
    return quote.header.version, quote.body


def _rules(policy: _Policy) -> TdxRules:
    rules = _SPEC_DEFAULTS if policy.enforce_spec_defaults else _OPEN
    pins = {
        "td_attributes_required": policy.expected_td_attributes_hex,
        "td_attributes_allowed": policy.expected_td_attributes_hex,
        "xfam_required": policy.expected_xfam_hex,
        "xfam_allowed": policy.expected_xfam_hex,
        "mrsignerseam": policy.expected_mr_signer_seam_hex,
        "seam_attributes": policy.expected_seam_attributes_hex,
        "mrconfigid": policy.expected_mr_config_id_hex,
        "mrowner": policy.expected_mr_owner_hex,
        "mrownerconfig": policy.expected_mr_owner_config_hex,
        "min_tee_tcb_svn": policy.min_tee_tcb_svn_hex,
        "qe_vendor_id": policy.expected_qe_vendor_id_hex,
        "mrseam": policy.expected_mrseam_allowlist or None,
    }
    return msgspec.structs.replace(rules, **{name: value for name, value in pins.items() if value is not None})


def _root_fingerprint(collateral: _Collateral) -> str:
    if collateral.intel_root_ca_pem is None:
        return INTEL_SGX_ROOT_CA_SHA256
    roots = parse_chain(collateral.intel_root_ca_pem.encode(), "attest.root-untrusted")
    if len(roots) != 1:
        raise Rejected("ROOT_CA_UNTRUSTED")
    return roots[0].fingerprint


def _collateral(given: _Collateral, pck_ca_chain: str) -> Collateral:
    signing_chain = _pem(base64.b64decode(_TCB_SIGNING_2018)) + _pem(INTEL_SGX_ROOT_CA)
    tcb = _decode(given.tcb_info_json, _SignedTcbInfo, "attest.tcb-info-signature-invalid")
    qe = _decode(given.qe_identity_json, _SignedQeIdentity, "attest.qe-identity-signature-invalid")
    return Collateral(
        tcb_info=bytes(tcb.tcbInfo).decode(),
        tcb_info_signature=_signature(tcb.signature, "attest.tcb-info-signature-invalid"),
        tcb_info_issuer_chain=given.tcb_info_issuer_chain_pem or signing_chain,
        qe_identity=bytes(qe.enclaveIdentity).decode(),
        qe_identity_signature=_signature(qe.signature, "attest.qe-identity-signature-invalid"),
        qe_identity_issuer_chain=given.qe_identity_issuer_chain_pem or signing_chain,
        root_ca_crl=given.root_crl_der_b64,
        pck_crl=given.pck_crl_der_b64,
        pck_crl_issuer_chain=given.pck_crl_issuer_chain_pem or pck_ca_chain,
    )


_SignedKind = TypeVar("_SignedKind", _SignedTcbInfo, _SignedQeIdentity)


def _decode(text: str, kind: type[_SignedKind], code: str) -> _SignedKind:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(code, "signed JSON is malformed") from error


def _signature(text: str, code: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ParseError(code, "a signature is not in hex") from error


def _pem(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _outputs(given: _Input) -> dict[str, object]:
    version, body = _appraise(given)
    registers = [body.mrtd.hex(), *(rtmr.hex() for rtmr in body.rtmrs)]
    return {
        "quote_version": version,
        "tee_type": "TDX",
        "measurement": {"type": "https://tinfoil.sh/predicate/tdx-guest/v2", "registers": registers},
        "body_fields": {
            "tee_tcb_svn_hex": body.tee_tcb_svn.hex(),
            "mrseam_hex": body.mrseam.hex(),
            "mrsignerseam_hex": body.mrsignerseam.hex(),
            "seam_attributes_hex": body.seam_attributes.hex(),
            "td_attributes_hex": body.td_attributes.hex(),
            "td_attributes_decoded": _decoded_attributes(int.from_bytes(body.td_attributes, "little")),
            "xfam_hex": body.xfam.hex(),
            "mrtd_hex": body.mrtd.hex(),
            "mrconfigid_hex": body.mrconfigid.hex(),
            "mrowner_hex": body.mrowner.hex(),
            "mrownerconfig_hex": body.mrownerconfig.hex(),
            "rtmrs_hex": registers[1:],
            "report_data_hex": body.report_data.hex(),
        },
    }


def _decoded_attributes(attributes: int) -> dict[str, bool]:
    masks = {
        "tud_debug": 1,
        "tud_reserved_nonzero": 0xFE,
        "sec_reserved_lower_nonzero": 0x0FFF_FF00,
        "sec_sept_ve_disable": 1 << 28,
        "sec_reserved_bit29": 1 << 29,
        "sec_pks": 1 << 30,
        "sec_kl": 1 << 31,
        "other_reserved_nonzero": 0x7FFF_FFFF << 32,
        "other_perfmon": 1 << 63,
    }
    return {name: bool(attributes & mask) for name, mask in masks.items()}
