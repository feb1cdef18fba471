"""The report of Azure's paravisor (HCL): the hardware's report, and the claims that it covers.

Follows "Azure confidential VMs: guest attestation design", sections "Attestation report" and "Runtime data": a header
of 32 bytes, the hardware's report in 1184 bytes (of a TD: the TDREPORT, which only its own machine can check), then the
runtime data: a head of 20 bytes and JSON.

Invariants:

- Every length is exact, reserved bytes are zero; only zeros may follow, as the report is read from a fixed NV index.
- `claims` are the exact bytes whose hash the hardware covers; keys are taken from nowhere else.

Example:
    >>> report = parse_hcl_report(data)
    >>> report.tee, report.claims_sha256.hex()
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from mitai.attest.checks import Reader
from mitai.attest.dcap.quote import TdReport, parse_quote
from mitai.attest.tpm.structures import rsa_key
from mitai.errors import AttestError, ParseError

MAX_HCL_REPORT_BYTES = 32 << 10
HARDWARE_REPORT_BYTES = 1184
AK_ID = "HCLAkPub"
_SIGNATURE = b"HCLA"
_VERSIONS = (1, 2)
_ATTESTATION_REQUEST = 2
_TEES = {2: "snp", 4: "tdx"}
_HEAD_BYTES = 20
_SHA256 = 1
_CODE = "attest.azure-hcl-malformed"
_CLAIMS = "attest.azure-claims-malformed"


@dataclass(frozen=True, slots=True)
class HclReport:
    """A paravisor's report."""

    tee: str
    hardware_report: bytes
    claims: bytes

    @property
    def report_data(self) -> bytes:
        """Return what the hardware's report data must be: SHA-256 over the claims, then zeros."""
        return hashlib.sha256(self.claims).digest() + bytes(32)


class Jwk(msgspec.Struct, frozen=True):
    """A key of the claims (RFC 7517)."""

    kid: str
    kty: str = ""
    n: str = ""
    e: str = ""


class VmConfiguration(msgspec.Struct, frozen=True, rename="kebab"):
    """How the virtual machine was configured; what a newer paravisor adds is ignored."""

    secure_boot: bool = False
    console_enabled: bool = True
    tpm_enabled: bool = False
    tpm_persisted: bool | None = None
    vm_unique_id: str = msgspec.field(default="", name="vmUniqueId")
    root_cert_thumbprint: str = ""


class RuntimeClaims(msgspec.Struct, frozen=True, rename="kebab"):
    """The runtime data."""

    keys: tuple[Jwk, ...]
    vm_configuration: VmConfiguration
    user_data: str = ""


def parse_hcl_report(data: bytes) -> HclReport:
    """Parse a paravisor's report; raise `ParseError` on anything else."""
    if len(data) > MAX_HCL_REPORT_BYTES:
        raise ParseError(_CODE, f"a paravisor's report of {len(data)} bytes is above the limit")
    reader = Reader(data, "the paravisor's report", _CODE)
    signature, version, size, request = reader.take(4), reader.u32(), reader.u32(), reader.u32()
    if signature != _SIGNATURE or version not in _VERSIONS or request != _ATTESTATION_REQUEST:
        raise ParseError(
            "attest.azure-hcl-version-unsupported", f"a paravisor's report of version {version} is unknown"
        )
    if any(reader.take(16)):
        raise ParseError(_CODE, "the paravisor's report has a status or a reserved byte that is not zero")
    hardware_report = reader.take(HARDWARE_REPORT_BYTES)
    start = reader.offset
    runtime_size, runtime_version, report_type, hash_type, claims_size = (reader.u32() for _ in range(5))
    if runtime_version != 1 or report_type not in _TEES or hash_type != _SHA256:
        raise ParseError(
            "attest.azure-hcl-version-unsupported",
            f"runtime data of version {runtime_version}, report type {report_type}, hash {hash_type} is unknown",
        )
    claims = reader.take(claims_size)
    if runtime_size != _HEAD_BYTES + claims_size or size != start + runtime_size:
        raise ParseError(_CODE, "the sizes in the paravisor's report contradict each other")
    if any(reader.rest()):
        raise ParseError(_CODE, "the paravisor's report is followed by bytes that are not zero")
    return HclReport(_TEES[report_type], hardware_report, claims)


def check_td_report(report: HclReport, quote: bytes) -> None:
    """Raise `AttestError` unless the paravisor's TDREPORT is the one that the quote was made of.

    Its MAC and CPUSVN are for its own machine's eyes; every other byte is compared, with the quote's or with what it
    has to be (Intel TDX Module ABI, TDREPORT_STRUCT).
    """
    body, data = parse_quote(quote).body, report.hardware_report
    if not isinstance(body, TdReport):
        raise AttestError("attest.azure-td-report-mismatch", "the quote beside the paravisor's report is not of a TD")
    head, tcb_info, td_info = data[:256], data[256:495], data[512:1024]
    measured = (
        body.td_attributes,
        body.xfam,
        body.mrtd,
        body.mrconfigid,
        body.mrowner,
        body.mrownerconfig,
        *body.rtmrs,
    )
    module = (body.tee_tcb_svn, body.mrseam, body.mrsignerseam, body.seam_attributes)
    hashes = hashlib.sha384(tcb_info).digest() + hashlib.sha384(td_info).digest()
    agrees = (
        head[:2] + head[3:16] == b"\x81" + bytes(14)
        and head[32:224] == hashes + body.report_data + bytes(32)
        and tcb_info[8:128] == b"".join(module)
        and td_info[:400] == b"".join(measured)
        and not any(data[495:512] + data[1024:])
    )
    if not agrees:
        raise AttestError("attest.azure-td-report-mismatch", "the quote is of another TD than the paravisor's report")


def parse_claims(data: bytes) -> RuntimeClaims:
    """Parse the runtime data, once its hash was compared; raise `ParseError` on anything else."""
    try:
        return msgspec.json.decode(data, type=RuntimeClaims)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(_CLAIMS, "the paravisor's claims are malformed") from error


def attestation_key(claims: RuntimeClaims) -> rsa.RSAPublicKey:
    """Return the vTPM's attestation key; raise `ParseError` unless there is exactly one."""
    keys = [key for key in claims.keys if key.kid == AK_ID]
    if len(keys) != 1 or keys[0].kty != "RSA":
        raise ParseError(_CLAIMS, f"the paravisor's claims hold {len(keys)} keys named {AK_ID}, or none that is RSA")
    return rsa_key(_number(keys[0].n), _number(keys[0].e), _CLAIMS)


def _number(text: str) -> int:
    """Read a number of a JWK: base64url, big-endian, without padding."""
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ParseError(_CLAIMS, "a number of the attestation key is not base64url") from error
    return int.from_bytes(data, "big")
