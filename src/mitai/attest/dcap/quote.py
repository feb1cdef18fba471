"""Intel DCAP quotes: SGX version 3, TDX versions 4 and 5, as bytes and as values.

Follows "Intel TDX DCAP Quoting Library API", appendix 3 (versions 4 and 5), and "Intel SGX ECDSA QuoteLibReference
DCAP API", appendix A (version 3).

Invariants:

- Unknown versions, TEE types, key types, body types and certification data types are refused.
- Every length is exact. After the signature data only zero bytes may follow: some firmware returns its whole buffer.
- `signed` is exactly what the attestation key signed, taken from the bytes received.

Example:
    >>> quote = parse_quote(data)
    >>> quote.body.mrtd.hex()
"""

from __future__ import annotations

from dataclasses import dataclass

from mitai.attest.checks import Reader
from mitai.errors import ParseError

MAX_QUOTE_BYTES = 32 << 10  # a quote with its chain has about 5 KiB; some platforms pad to 8 or 16

TEE_SGX = 0x00
TEE_TDX = 0x81
ECDSA_P256 = 2
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

ENCLAVE_REPORT_BYTES = 384
TD_REPORT_10_BYTES = 584
TD_REPORT_15_BYTES = 648

CERT_PCK_CHAIN = 5  # PEM of leaf, intermediate and root
CERT_QE_REPORT = 6  # from version 4 on: QE report, its signature, and nested certification data
CERT_OUT_OF_BAND = (
    1,
    2,
    3,
)  # the PCK certificate's identifiers, in the clear or encrypted: the chain must come with the collateral


@dataclass(frozen=True, slots=True)
class Header:
    """The 48 bytes that every quote starts with."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX REPORT body, 384 bytes: an enclave's, or the quoting enclave's own."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report body: 1.0 (584 bytes), or 1.5 with the two fields at the end."""

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mrservicetd: bytes | None = None


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """The signature data: what signs the quote, and what vouches for that key."""

    signature: bytes  # ECDSA r ‖ s over Quote.signed
    attestation_key: bytes  # P-256 x ‖ y
    qe_report: bytes  # raw 384 bytes
    qe_signature: bytes  # ECDSA r ‖ s of the PCK key over qe_report
    qe_auth_data: bytes
    cert_type: int
    cert_data: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote of either TEE."""

    header: Header
    body: TdReport | EnclaveReport
    signed: bytes
    signature: QuoteSignature


def parse_quote(data: bytes) -> Quote:
    """Parse a quote; raise `ParseError` on anything that is not exactly one."""
    if len(data) > MAX_QUOTE_BYTES:
        raise ParseError(
            "attest.quote-too-large", f"a quote of {len(data)} bytes is above the limit of {MAX_QUOTE_BYTES}"
        )
    reader = Reader(data, "the quote", "attest.quote-malformed")
    header = _header(reader)
    body = _body(reader, header)
    signed = data[: reader.offset]
    signature_data = reader.take(reader.u32())
    if reader.rest().strip(b"\0"):
        raise ParseError("attest.quote-malformed", "the quote's signature data is followed by bytes that are not zero")
    return Quote(header, body, signed, _signature(signature_data, header.version))


def split_quote(data: bytes) -> tuple[bytes, bytes]:
    """Return a quote's own bytes and what follows them, for carriers that append bytes; parse the first part."""
    reader = Reader(data, "the quote", "attest.quote-malformed")
    _body(reader, _header(reader))
    end = reader.u32() + reader.offset
    return data[:end], data[end:]


def _header(reader: Reader) -> Header:
    header = Header(
        version=reader.u16(),
        attestation_key_type=reader.u16(),
        tee_type=reader.u32(),
        qe_svn=reader.u16(),
        pce_svn=reader.u16(),
        qe_vendor_id=reader.take(16),
        user_data=reader.take(20),
    )
    expected_tee = {3: TEE_SGX, 4: TEE_TDX, 5: TEE_TDX}.get(header.version)
    if expected_tee is None:
        raise ParseError("attest.quote-version-unsupported", f"quote version {header.version} is not 3, 4 or 5")
    if header.tee_type != expected_tee:
        raise ParseError(
            "attest.quote-tee-unsupported",
            f"TEE type {header.tee_type:#x} does not belong in quote version {header.version}",
        )
    if header.attestation_key_type != ECDSA_P256:
        raise ParseError(
            "attest.quote-key-type-unsupported",
            f"attestation key type {header.attestation_key_type} is not ECDSA on P-256",
        )
    return header


def _body(reader: Reader, header: Header) -> TdReport | EnclaveReport:
    if header.version == 3:
        return parse_enclave_report(reader.take(ENCLAVE_REPORT_BYTES))
    if header.version == 4:
        return parse_td_report(reader.take(TD_REPORT_10_BYTES))
    body_type, size = reader.u16(), reader.u32()
    if {2: TD_REPORT_10_BYTES, 3: TD_REPORT_15_BYTES}.get(body_type) != size:
        raise ParseError(
            "attest.quote-body-unsupported", f"body type {body_type} of {size} bytes is no TD report 1.0 or 1.5"
        )
    return parse_td_report(reader.take(size))


def parse_td_report(data: bytes) -> TdReport:
    """Parse a TD report body of 584 or 648 bytes."""
    reader = Reader(data, "the TD report", "attest.quote-malformed")
    tee_tcb_svn = reader.take(16)
    mrseam, mrsignerseam = reader.take(48), reader.take(48)
    seam_attributes, td_attributes, xfam = reader.take(8), reader.take(8), reader.take(8)
    mrtd, mrconfigid, mrowner, mrownerconfig = (reader.take(48) for _ in range(4))
    rtmrs = (reader.take(48), reader.take(48), reader.take(48), reader.take(48))
    report_data = reader.take(64)
    tee_tcb_svn2, mrservicetd = (reader.take(16), reader.take(48)) if reader.left else (None, None)
    reader.end()
    return TdReport(
        tee_tcb_svn=tee_tcb_svn,
        mrseam=mrseam,
        mrsignerseam=mrsignerseam,
        seam_attributes=seam_attributes,
        td_attributes=td_attributes,
        xfam=xfam,
        mrtd=mrtd,
        mrconfigid=mrconfigid,
        mrowner=mrowner,
        mrownerconfig=mrownerconfig,
        rtmrs=rtmrs,
        report_data=report_data,
        tee_tcb_svn2=tee_tcb_svn2,
        mrservicetd=mrservicetd,
    )


def parse_enclave_report(data: bytes) -> EnclaveReport:
    """Parse an SGX REPORT body of 384 bytes."""
    if len(data) != ENCLAVE_REPORT_BYTES:
        raise ParseError(
            "attest.quote-malformed", f"an enclave report has {ENCLAVE_REPORT_BYTES} bytes, not {len(data)}"
        )
    return EnclaveReport(
        cpu_svn=data[0:16],
        misc_select=data[16:20],
        attributes=data[48:64],
        mrenclave=data[64:96],
        mrsigner=data[128:160],
        isv_prod_id=int.from_bytes(data[256:258], "little"),
        isv_svn=int.from_bytes(data[258:260], "little"),
        report_data=data[320:384],
    )


def _signature(data: bytes, version: int) -> QuoteSignature:
    reader = Reader(data, "the quote's signature data", "attest.quote-malformed")
    signature, attestation_key = reader.take(64), reader.take(64)
    if version >= 4:
        outer_type = reader.u16()
        if outer_type != CERT_QE_REPORT:
            raise ParseError(
                "attest.quote-cert-type-unsupported", f"certification data of type {outer_type}, expected 6"
            )
        reader = _exactly(reader, reader.u32())
    qe_report, qe_signature = reader.take(ENCLAVE_REPORT_BYTES), reader.take(64)
    qe_auth_data = reader.take(reader.u16())
    cert_type = reader.u16()
    if cert_type != CERT_PCK_CHAIN and cert_type not in CERT_OUT_OF_BAND:
        raise ParseError(
            "attest.quote-cert-type-unsupported", f"certification data of type {cert_type} is not supported"
        )
    cert_data = reader.take(reader.u32())
    reader.end()
    return QuoteSignature(signature, attestation_key, qe_report, qe_signature, qe_auth_data, cert_type, cert_data)


def _exactly(reader: Reader, size: int) -> Reader:
    """Return a reader over the next `size` bytes, which must be all that is left."""
    nested = Reader(reader.take(size), "the QE certification data", "attest.quote-malformed")
    reader.end()
    return nested
