"""Stage `verify-attestation-sev`: AMD SEV-SNP reports, through `mitai.attest.snp`.

The suite's own profile (its specification, section 3.7.1) gives minima and forbidden bits that hold for every input
unless it turns them off. Three points differ from what a client does: a root may be injected (its own signature is then
checked, and CA certificates may lack keyUsage), a chip key that is masked is accepted, and pins are compared here.

In the suite's one recorded output the versions and TCBs from offset 0x1E0 on are shifted; ours are at the offsets of
the specification.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from mitai.attest.checks import Checklist
from mitai.attest.conformance.outcome import Malformed, Outcome, Rejected, moment, run_stage
from mitai.attest.machine import Hardware
from mitai.attest.snp import Report, SnpRules, SnpTcb, Trust, appraise, parse_report
from mitai.attest.snp.report import REPORT_BYTES, TCB_LAYOUTS, tcb_components
from mitai.attest.snp.roots import AMD, published
from mitai.attest.x509 import Certificate, parse_chain, verify_chain
from mitai.errors import MitaiError, ParseError

_SUITE_TCB = SnpTcb(bootloader=7, snp=14, microcode=72)
_SUITE_RULES = SnpRules(
    signing_keys=("vcek",),
    allow_masked_chip_key=True,
    min_firmware=(1, 55, 21),
    allow_provisional_firmware=False,
    policy_forbidden=("debug", "migrate-ma", "cxl-allow", "mem-aes-256-xts"),
    platform_required=("tsme",),
)
_ONLY_SOUND = SnpRules(signing_keys=("vcek",), allow_masked_chip_key=True)
_CODES = {
    "attest.snp-report-malformed": "REPORT_FORMAT_UNSUPPORTED",
    "attest.snp-report-version-unsupported": "WRONG_REPORT_VERSION",
    "attest.snp-vek-malformed": "VCEK_CHAIN_INVALID",
    "attest.snp-chain-malformed": "ASK_INVALID",
    "attest.snp-chain-invalid": "VCEK_CHAIN_INVALID",
    "attest.snp-chain-expired": "VCEK_EXPIRED",
    "attest.snp-role-mismatch": "VCEK_CHAIN_INVALID",
    "attest.snp-root-untrusted": "ARK_UNTRUSTED",
    "attest.snp-vek-identity-missing": "VCEK_HWID_MISMATCH",
    "attest.snp-chip-id-mismatch": "VCEK_HWID_MISMATCH",
    "attest.snp-vek-tcb-mismatch": "VCEK_TCB_MISMATCH",
    "attest.snp-product-mismatch": "VCEK_CHAIN_INVALID",
    "attest.snp-signature-invalid": "REPORT_SIGNATURE_INVALID",
    "attest.snp-tcb-order": "TCB_OUT_OF_DATE",
    "attest.snp-tcb-too-low": "TCB_OUT_OF_DATE",
    "attest.snp-launch-tcb-too-low": "TCB_OUT_OF_DATE",
    "attest.snp-firmware-too-old": "TCB_OUT_OF_DATE",
    "attest.snp-firmware-provisional": "TCB_OUT_OF_DATE",
    "attest.snp-debug": "GUEST_POLICY_DEBUG_SET",
    "attest.snp-migration-agent": "GUEST_POLICY_MIGRATE_MA_SET",
    "attest.snp-policy-reserved": "GUEST_POLICY_RESERVED_BIT_SET",
    "attest.snp-platform-info-unknown": "PLATFORM_INFO_INVALID",
    "attest.snp-platform-missing": "PLATFORM_INFO_INVALID",
    "attest.snp-unsigned": "SIGNER_INFO_INVALID",
    "attest.snp-signing-key-unsupported": "SIGNER_INFO_INVALID",
    "attest.snp-signing-key-not-allowed": "SIGNER_INFO_INVALID",
}
_POLICY_NAMES = {
    "smt": "smt",
    "migrate_ma": "migrate-ma",
    "debug": "debug",
    "single_socket": "single-socket",
    "cxl_allow": "cxl-allow",
    "mem_aes_256_xts": "mem-aes-256-xts",
    "raplmsr_dis": "rapl-dis",
    "ciphertext_hiding_dram": "ciphertext-hiding-dram",
}
_PLATFORM_NAMES = {
    "smt_en": "smt",
    "tsme_en": "tsme",
    "ecc_en": "ecc",
    "rapl_dis": "rapl-dis",
    "ciphertext_hiding": "ciphertext-hiding-dram",
}
_TCB_NAMES = {"bl_spl": "bootloader", "tee_spl": "tee", "snp_spl": "snp", "ucode_spl": "microcode"}
_BYTES = (
    *("family_id", "image_id", "report_data", "measurement", "host_data", "id_key_digest", "author_key_digest"),
    *("report_id", "report_id_ma", "chip_id"),
)


class _Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    expected_measurement_hex: str | None = None
    expected_host_data_hex: str | None = None
    expected_report_data_hex: str | None = None
    expected_id_key_digest_hex: str | None = None
    expected_author_key_digest_hex: str | None = None
    min_tcb_bl_spl: int = _SUITE_TCB.bootloader
    min_tcb_tee_spl: int = _SUITE_TCB.tee
    min_tcb_snp_spl: int = _SUITE_TCB.snp
    min_tcb_ucode_spl: int = _SUITE_TCB.microcode
    enforce_spec_defaults: bool = True


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: str
    attestation_doc_b64: bytes
    vcek_der_b64: bytes
    expiration_check_date_unix: int
    amd_root_ca_pem: str | None = None
    ask_pem: str | None = None
    policy: _Policy = _Policy()


def run(data: bytes) -> Outcome:
    """Stage `verify-attestation-sev`."""
    return run_stage("verify-attestation-sev", data, _Input, _appraise, _translate)


def _translate(error: MitaiError, _: _Input) -> str:
    return _CODES.get(error.code, "QV_RESULT_TERMINAL_UNSPECIFIED")


def _appraise(given: _Input) -> dict[str, object]:
    now, rules = moment(given.expiration_check_date_unix), _rules(given.policy)
    quote = _decompress(given.attestation_doc_b64)
    trust, chain = _trust(given, now)
    hardware = Hardware(tee="snp", quote=quote, endorsements={"vek": given.vcek_der_b64, **chain})
    machine = appraise(Checklist(), hardware, rules, now=now, trust=trust)
    report = parse_report(quote)
    for name in ("measurement", "host_data", "report_data", "id_key_digest", "author_key_digest"):
        if getattr(given.policy, f"expected_{name}_hex") not in {None, getattr(report, name).hex()}:
            raise Rejected(f"{name.upper()}_MISMATCH")
    return _outputs(report, machine.facts["product"])


def _decompress(data: bytes) -> bytes:
    try:
        report = zlib.decompressobj(wbits=31).decompress(data, REPORT_BYTES + 1)
    except zlib.error as error:
        raise Rejected("REPORT_FORMAT_UNSUPPORTED") from error
    if len(report) < REPORT_BYTES:
        raise Rejected("REPORT_TRUNCATED")
    return report


def _rules(policy: _Policy) -> SnpRules:
    try:
        least = SnpTcb(
            bootloader=policy.min_tcb_bl_spl,
            tee=policy.min_tcb_tee_spl,
            snp=policy.min_tcb_snp_spl,
            microcode=policy.min_tcb_ucode_spl,
        )
    except ParseError as error:
        raise Malformed from error
    rules = _SUITE_RULES if policy.enforce_spec_defaults else _ONLY_SOUND
    launch = _SUITE_TCB if policy.enforce_spec_defaults else SnpTcb()
    return msgspec.structs.replace(
        rules, min_tcb=dict.fromkeys(TCB_LAYOUTS, least), min_launch_tcb=dict.fromkeys(TCB_LAYOUTS, launch)
    )


def _trust(given: _Input, now: datetime) -> tuple[Trust, dict[str, bytes]]:
    """Return the trusted roots and, where ASK or ARK are injected, the chain."""
    if given.amd_root_ca_pem is None and given.ask_pem is None:
        return Trust(), {}
    profile = replace(AMD, usage_optional=True)
    ask, ark = _one(given.ask_pem), _one(given.amd_root_ca_pem)
    product = next(each.common_name.rpartition("-")[2] for each in (ask, ark) if each is not None)
    if product not in TCB_LAYOUTS:
        raise ParseError("attest.snp-root-untrusted", "an injected certificate is named after no product of AMD's")
    ask, ark = ask or published()[f"SEV-{product}"], ark or published()[f"ARK-{product}"]
    verify_chain((ark, ark), "snp", now, profile)  # its own signature
    chain = ask.parsed.public_bytes(Encoding.PEM) + ark.parsed.public_bytes(Encoding.PEM)
    return Trust({ark.fingerprint: product}, profile), {"chain": chain}


def _one(pem: str | None) -> Certificate | None:
    if pem is None:
        return None
    certificates = parse_chain(pem.encode(), "attest.snp-chain-malformed")
    if len(certificates) != 1:
        raise ParseError("attest.snp-chain-malformed", "not one certificate")
    return certificates[0]


def _outputs(report: Report, product: str) -> dict[str, object]:
    levels = tcb_components(product, report.current_tcb)
    abi_major, abi_minor = report.policy_abi
    fields: dict[str, object] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy_hex": f"{report.policy:016x}",
        "policy_decoded": {
            "abi_minor": abi_minor,
            "abi_major": abi_major,
            "reserved_mbo": True,
            **{theirs: ours in report.policy_flags for theirs, ours in _POLICY_NAMES.items()},
        },
        "vmpl": report.vmpl,
        "signature_algo": 1,
        "current_tcb_decoded": {theirs: levels[ours] for theirs, ours in _TCB_NAMES.items()},
        "platform_info_hex": f"{report.platform_info:016x}",
        "platform_info_decoded": {theirs: ours in report.platform_flags for theirs, ours in _PLATFORM_NAMES.items()},
        "signer_info_hex": f"{report.key_info:08x}",
    }
    fields |= {f"{name}_hex": getattr(report, name).hex() for name in _BYTES}
    for name in ("current", "reported", "committed", "launch"):
        fields[f"{name}_tcb_hex"] = getattr(report, f"{name}_tcb")[::-1].hex()
    for name in ("current", "committed"):
        fields |= {f"{name}_{part}": getattr(getattr(report, name), part) for part in ("build", "minor", "major")}
    measurement = {"type": "https://tinfoil.sh/predicate/sev-snp-guest/v2", "registers": [report.measurement.hex()]}
    return {"measurement": measurement, "body_fields": fields}
