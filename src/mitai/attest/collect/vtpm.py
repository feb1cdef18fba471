"""Evidence from a TPM: Azure's confidential VMs, Google's, and any machine whose attestation key is known.

Follows "Azure confidential VMs: guest attestation design" (report at NV index 0x01400001, user data at 0x01400002,
attestation key at 0x81000003; the quote of a TD from the host's service at 169.254.169.254), and Google's documentation
of "go-tpm-tools" about Compute Engine's vTPM (certificates and templates at NV indices 0x01c10000 to 0x01c10003; the
key is made again from its template in the endorsement hierarchy).

Invariants:

- The quote's extra data is the SHA-256 of the report data: not every TPM takes 64 bytes.
- The register values that are handed out are those that the quote covers: when a register moved meanwhile, read again.

Example:
    >>> collect_azure(report_data).tee
    'az-snp-vtpm'
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import socket
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mitai.attest.azure import parse_hcl_report
from mitai.attest.azure.hcl import HclReport, parse_claims
from mitai.attest.azure.verify import TEES
from mitai.attest.collect import tsm
from mitai.attest.collect.guest import HERE, Guest, attempts, check_answer, check_report_data, malformed
from mitai.attest.collect.http import Service, post
from mitai.attest.collect.logs import ima, tcg
from mitai.attest.collect.tpm import RH_ENDORSEMENT, WHAT, Tpm
from mitai.attest.eventlog.tcg import ALG_SHA256, HASHES
from mitai.attest.machine import Hardware
from mitai.attest.tpm.composite import TpmEvidence
from mitai.attest.tpm.structures import parse_quote, parse_signature
from mitai.errors import AttestError, ParseError

AZURE_REPORT, AZURE_USER_DATA, AZURE_AK = 0x01400001, 0x01400002, 0x81000003
AZURE_QUOTES = Service(socket.AF_INET, ("169.254.169.254", 80), "169.254.169.254", "/acc/tdquote")
GCP_KEYS = ((0x01C10000, 0x01C10001), (0x01C10002, 0x01C10003))  # certificate, template: RSA, then P-256
PCRS = tuple(range(24))
TDREPORT_BYTES = 1024
REFRESH_ATTEMPTS, REFRESH_DELAY_S = 20, 1.0  # the paravisor makes a new report some seconds after the user data
_TITLES = {tee: name for name, tee in TEES.items()}


class _Quote(msgspec.Struct, frozen=True):
    quote: str


def collect_azure(
    report_data: bytes, *, guest: Guest = HERE, bind_user_data: bool = False, with_ima: bool = False
) -> Hardware:
    """Return the evidence of an Azure confidential VM (`az-snp-vtpm` or `az-tdx-vtpm`).

    Args:
        report_data: 64 bytes that the TPM's quote covers.
        guest: The machine.
        bind_user_data: Have the paravisor's report, hence the hardware's, cover the report data too. This writes to the
            TPM's memory and takes seconds.
        with_ima: Send the list of files along that the kernel measured.

    Raises:
        AttestError: `attest.collect-…`.
    """
    check_report_data(report_data)
    with Tpm.open(guest) as tpm:
        raw = _refreshed(tpm, guest, report_data) if bind_user_data else tpm.nv_read(AZURE_REPORT)
        report = _hcl(raw)
        quoted = _quoted(tpm, guest, AZURE_AK, report_data)
    hardware_quote = _td_quote(guest, report) if report.tee == "tdx" else b""
    evidence = msgspec.structs.replace(
        quoted, hcl_report=raw, hardware_quote=hardware_quote, ima_log=ima(guest) if with_ima else b""
    )
    return Hardware(tee=_TITLES[report.tee], quote=evidence.encode(), event_log=tcg(guest))


def collect_gcp(
    report_data: bytes, *, guest: Guest = HERE, ak_issuers: bytes = b"", with_ima: bool = False
) -> Hardware:
    """Return the evidence of a Compute Engine VM (`gcp-vtpm`), and the processor's report where there is one.

    Args:
        report_data: 64 bytes that the TPM's quote covers, and the processor's report.
        guest: The machine.
        ak_issuers: PEM of Google's certificates above the attestation key's, root last: the TPM holds only the first.
        with_ima: Send the list of files along that the kernel measured.

    Raises:
        AttestError: `attest.collect-…`.
    """
    check_report_data(report_data)
    with Tpm.open(guest) as tpm:
        certificate, template = next((pair for pair in GCP_KEYS if tpm.nv_index(pair[0])), GCP_KEYS[0])
        ak_chain = _pem(tpm.nv_read(certificate)) + ak_issuers
        handle, public = tpm.create_primary(RH_ENDORSEMENT, _template(tpm.nv_read(template)))
        quoted = _quoted(tpm, guest, handle, report_data, public)
    beside = tsm.collect(report_data, guest=guest) if tsm.available(guest) else None
    evidence = msgspec.structs.replace(
        quoted, hardware_quote=beside.quote if beside else b"", ima_log=ima(guest) if with_ima else b""
    )
    endorsements = {"ak_chain": ak_chain} | (beside.endorsements if beside else {})
    return Hardware(tee="gcp-vtpm", quote=evidence.encode(), event_log=tcg(guest), endorsements=endorsements)


def collect_tpm(
    report_data: bytes, *, ak_handle: int, guest: Guest = HERE, ak_chain: bytes = b"", with_ima: bool = False
) -> Hardware:
    """Return the evidence (`tpm`) of a TPM whose attestation key somebody put at a handle.

    Args:
        report_data: 64 bytes that the quote covers.
        ak_handle: Where the key is, such as 0x81010002.
        guest: The machine.
        ak_chain: PEM of the key's certificate and those above it, root last, where it has one.
        with_ima: Send the list of files along that the kernel measured.

    Raises:
        AttestError: `attest.collect-…`.
    """
    check_report_data(report_data)
    with Tpm.open(guest) as tpm:
        quoted = _quoted(tpm, guest, ak_handle, report_data)
    evidence = msgspec.structs.replace(quoted, ima_log=ima(guest) if with_ima else b"")
    endorsements = {"ak_chain": ak_chain} if ak_chain else {}
    return Hardware(tee="tpm", quote=evidence.encode(), event_log=tcg(guest), endorsements=endorsements)


def _quoted(tpm: Tpm, guest: Guest, handle: int, report_data: bytes, public: bytes = b"") -> TpmEvidence:
    """Return a quote over all registers with their values."""
    public = public or tpm.read_public(handle)
    extra_data = hashlib.sha256(report_data).digest()
    for _ in attempts(guest):
        pcrs = tuple(tpm.pcr_read(ALG_SHA256, PCRS).values())
        quote, signature = tpm.quote(handle, extra_data, ALG_SHA256, PCRS)
        if _covers(quote, signature, extra_data, pcrs):
            return TpmEvidence(quote=quote, signature=signature, pcrs=pcrs, report_data=report_data, ak_public=public)
    raise AttestError(
        "attest.collect-registers-changing",
        "the TPM's registers changed between reading and quoting, at each attempt",
        hint="something on this machine extends registers all the time: IMA under load, for example",
    )


def _covers(quote: bytes, signature: bytes, extra_data: bytes, pcrs: Sequence[bytes]) -> bool:
    """Return whether the quote is of these values; refuse one that is of other data."""
    try:
        parsed, algorithm = parse_quote(quote), parse_signature(signature).hash_algorithm
    except ParseError as error:
        raise malformed(WHAT, error.message) from error
    if parsed.extra_data != extra_data or algorithm not in HASHES:
        raise malformed(WHAT, "the quote is not over the data that was asked for")
    return parsed.pcr_digest == hashlib.new(HASHES[algorithm], b"".join(pcrs)).digest()


def _refreshed(tpm: Tpm, guest: Guest, user_data: bytes) -> bytes:
    """Give the paravisor user data; return its report once that covers it."""
    tpm.nv_write(AZURE_USER_DATA, user_data)
    for _ in range(REFRESH_ATTEMPTS):
        raw = tpm.nv_read(AZURE_REPORT)
        try:
            found = parse_claims(_hcl(raw).claims).user_data.lower()
        except ParseError as error:
            raise malformed("Azure's paravisor", error.message) from error
        if found == user_data.hex():
            return raw
        guest.sleep(REFRESH_DELAY_S)
    raise AttestError(
        "attest.collect-timeout",
        "Azure's paravisor made no report over our user data in time",
        hint="another program may write to the same index: try again",
    )


def _hcl(raw: bytes) -> HclReport:
    try:
        return parse_hcl_report(raw)
    except ParseError as error:
        raise malformed("Azure's paravisor", error.message) from error


def _td_quote(guest: Guest, report: HclReport) -> bytes:
    """Return the quote that Azure's host makes of the paravisor's TDREPORT."""
    tdreport = base64.urlsafe_b64encode(report.hardware_report[:TDREPORT_BYTES]).rstrip(b"=").decode()
    answer = post(guest, AZURE_QUOTES, {"report": tdreport}, _Quote)
    try:
        quote = base64.urlsafe_b64decode(answer.quote + "=" * (-len(answer.quote) % 4))
    except (binascii.Error, ValueError) as error:
        raise malformed("Azure's quote service", "the quote is not base64url") from error
    check_answer("tdx", quote, report.report_data, "Azure's quote service")
    return quote


def _template(data: bytes) -> bytes:
    """Return a template as TPMT_PUBLIC, whether it is stored as such or with its size before it."""
    return data[2:] if int.from_bytes(data[:2], "big") == len(data) - 2 else data


def _pem(der: bytes) -> bytes:
    try:
        return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise malformed(WHAT, "the attestation key's certificate") from error
