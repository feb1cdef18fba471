"""Intel's side of the simulation: certificate authority, collateral service and quoting enclave.

Writes what `mitai.attest.dcap` reads, in the same formats: PCK certificates with the SGX extension, TCB info version
3, QE identity version 2, CRLs, quotes of versions 3, 4 and 5.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from mitai.attest.dcap.collateral import Collateral
from mitai.attest.dcap.pck import SGX_EXTENSION
from mitai.attest.dcap.quote import (
    CERT_PCK_CHAIN,
    CERT_QE_REPORT,
    ECDSA_P256,
    INTEL_QE_VENDOR,
    TEE_SGX,
    TEE_TDX,
    EnclaveReport,
    TdReport,
)

FMSPC = bytes.fromhex("00a51b000000")  # no real processor's
PCE_ID = bytes(2)
PPID = hashlib.sha256(b"mitai sim ppid v1").digest()[:16]  # of platforms that were made before each had its own
COMPONENT_SVNS = (2, 2, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 11
TEE_TCB_SVN = bytes([5, 1, 2]) + bytes(13)
TD_ATTRIBUTES = bytes.fromhex("0000001000000000")  # SEPT_VE_DISABLE
XFAM = bytes.fromhex("e702060000000000")
EVALUATION_NUMBER = 20
QE_SIGNER = hashlib.sha256(b"mitai sim quoting enclave signer v1").digest()
_QE_AUTH_DATA = bytes(range(32))
_QE_PRODUCT = {"tdx": 2, "sgx": 1}
_QE_SVN = 4
_LIFE = timedelta(days=3650)


def dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return PKCS #8."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read PKCS #8."""
    key = load_der_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not a key on an elliptic curve")
    return key


class StoredAuthority(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys (PKCS #8) and certificates (DER) of the four parties."""

    keys: dict[str, bytes]
    certificates: dict[str, bytes]


@dataclass(frozen=True)
class Authority:
    """Root CA, PCK CA, TCB signer and one platform's PCK certificate."""

    keys: dict[str, ec.EllipticCurvePrivateKey]
    certificates: dict[str, x509.Certificate]

    @staticmethod
    def generate(now: datetime) -> Authority:
        """Make a fresh hierarchy."""
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "ca", "signer", "pck")}
        root_name, ca_name = _name("Root CA"), _name("PCK Platform CA")
        start = now - timedelta(days=1)

        def issue(
            subject: x509.Name, key: str, issuer: x509.Name, issuer_key: str, depth: int | None
        ) -> x509.CertificateBuilder:
            return _certificate(subject, keys[key], issuer, keys[issuer_key], start=start, depth=depth)

        builders = {
            "root": issue(root_name, "root", root_name, "root", 1),
            "ca": issue(ca_name, "ca", root_name, "root", 0),
            "signer": issue(_name("TCB Signing"), "signer", root_name, "root", None),
            "pck": issue(_name("PCK Certificate"), "pck", ca_name, "ca", None).add_extension(
                x509.UnrecognizedExtension(SGX_EXTENSION, sgx_extension(ppid=secrets.token_bytes(16))), critical=False
            ),
        }
        issuers = {"root": "root", "ca": "root", "signer": "root", "pck": "ca"}
        certificates = {name: builder.sign(keys[issuers[name]], SHA256()) for name, builder in builders.items()}
        return Authority(keys, certificates)

    def stored(self) -> StoredAuthority:
        """Return the form that goes to disk."""
        return StoredAuthority(
            {name: dump_key(key) for name, key in self.keys.items()},
            {name: certificate.public_bytes(Encoding.DER) for name, certificate in self.certificates.items()},
        )

    @staticmethod
    def load(stored: StoredAuthority) -> Authority:
        """Read the form that was on disk."""
        return Authority(
            {name: load_key(key) for name, key in stored.keys.items()},
            {name: x509.load_der_x509_certificate(der) for name, der in stored.certificates.items()},
        )

    @property
    def root_certificate(self) -> bytes:
        """Return the root certificate, DER."""
        return self.certificates["root"].public_bytes(Encoding.DER)

    def chain(self, *names: str) -> str:
        """Return certificates in PEM, one after the other."""
        return "".join(self.certificates[name].public_bytes(Encoding.PEM).decode() for name in names)

    def crl(self, issuer: str, start: datetime, end: datetime, revoked: tuple[int, ...] = ()) -> bytes:
        """Sign a revocation list (DER) of the given serial numbers."""
        certificate = self.certificates[issuer]
        builder = x509.CertificateRevocationListBuilder(certificate.subject, start, end)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.keys[issuer].public_key()), critical=False
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder(serial, start).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.keys[issuer], SHA256()).public_bytes(Encoding.DER)

    def collateral(self, tee: str, start: datetime, end: datetime) -> Collateral:
        """Sign everything that a verifier of this platform needs."""
        start, end = start.replace(microsecond=0), end.replace(microsecond=0)
        tcb = msgspec.json.encode(tcb_info(tee, start, end))
        qe = msgspec.json.encode(qe_identity(tee, start, end))
        signers = self.chain("signer", "root")
        return Collateral(
            tcb_info=tcb.decode(),
            tcb_info_signature=sign(self.keys["signer"], tcb),
            tcb_info_issuer_chain=signers,
            qe_identity=qe.decode(),
            qe_identity_signature=sign(self.keys["signer"], qe),
            qe_identity_issuer_chain=signers,
            root_ca_crl=self.crl("root", start, end),
            pck_crl=self.crl("ca", start, end),
            pck_crl_issuer_chain=self.chain("ca", "root"),
        )


def _name(role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"Mitai Simulation SGX {role}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Mitai Simulation"),
        ]
    )


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    start: datetime,
    depth: int | None,
) -> x509.CertificateBuilder:
    """Lay out a certificate as Intel's profile does; `depth` is the path length of a CA, or None."""
    ca = depth is not None
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), start, start + _LIFE)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca, depth), critical=True)
    )


def sgx_extension(
    fmspc: bytes = FMSPC, pce_id: bytes = PCE_ID, svns: tuple[int, ...] = COMPONENT_SVNS, ppid: bytes = PPID
) -> bytes:
    """Return the value of the PCK certificate's SGX extension."""
    tcb = [((2, number), _integer(svn)) for number, svn in enumerate(svns, 1)]
    tcb += [((2, 17), _integer(PCE_SVN)), ((2, 18), _der(0x04, bytes(svns)))]
    fields = [
        _field((1,), _der(0x04, ppid)),
        _field((2,), _der(0x30, b"".join(_field(path, value) for path, value in tcb))),
        _field((3,), _der(0x04, pce_id)),
        _field((4,), _der(0x04, fmspc)),
        _field((5,), _der(0x0A, b"\0")),
    ]
    return _der(0x30, b"".join(fields))


def _field(path: tuple[int, ...], value: bytes) -> bytes:
    oid = bytes.fromhex("2a864886f84d010d01") + bytes(path)
    return _der(0x30, _der(0x06, oid) + value)


def _integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def tcb_info(tee: str, start: datetime, end: datetime) -> dict[str, object]:
    """Return TCB info version 3 with one level that is up to date and one that is not."""
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    old_svns = (1, *COMPONENT_SVNS[1:])

    def level(svns: tuple[int, ...], status: str, **more: object) -> dict[str, object]:
        tcb: dict[str, object] = {"sgxtcbcomponents": [{"svn": svn} for svn in svns], "pcesvn": PCE_SVN}
        if tee == "tdx":
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in TEE_TCB_SVN]
        return {"tcb": tcb, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status, **more}

    info: dict[str, object] = {
        "id": tee.upper(),
        "version": 3,
        "issueDate": _time(start),
        "nextUpdate": _time(end),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
    }
    if tee == "tdx":
        levels = [_isv_level(TEE_TCB_SVN[0])]
        info["tdxModule"] = module
        info["tdxModuleIdentities"] = [{"id": f"TDX_{TEE_TCB_SVN[1]:02X}", **module, "tcbLevels": levels}]
    info["tcbLevels"] = [
        level(COMPONENT_SVNS, "UpToDate"),
        level(old_svns, "OutOfDate", advisoryIDs=["MITAI-SIM-00001"]),
    ]
    return info


def qe_identity(tee: str, start: datetime, end: datetime) -> dict[str, object]:
    """Return QE identity version 2."""
    return {
        "id": "TD_QE" if tee == "tdx" else "QE",
        "version": 2,
        "issueDate": _time(start),
        "nextUpdate": _time(end),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": _QE_PRODUCT[tee],
        "tcbLevels": [_isv_level(_QE_SVN)],
    }


def _isv_level(svn: int) -> dict[str, object]:
    return {"tcb": {"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate"}


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return an ECDSA signature as r ‖ s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def td_report(measured: tuple[bytes, bytes, bytes, bytes, bytes], report_data: bytes) -> TdReport:
    """Return the report of a TD with this MRTD, these RTMRs and this report data."""
    mrtd, *rtmrs = measured
    return TdReport(
        tee_tcb_svn=TEE_TCB_SVN,
        mrseam=hashlib.sha384(b"mitai sim TDX module v1").digest(),
        mrsignerseam=bytes(48),
        seam_attributes=bytes(8),
        td_attributes=TD_ATTRIBUTES,
        xfam=XFAM,
        mrtd=mrtd,
        mrconfigid=bytes(48),
        mrowner=bytes(48),
        mrownerconfig=bytes(48),
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        report_data=report_data,
    )


def encode_td_report(report: TdReport) -> bytes:
    """Return the 584 bytes of TD report 1.0, or the 648 of 1.5."""
    parts = [
        report.tee_tcb_svn,
        report.mrseam,
        report.mrsignerseam,
        report.seam_attributes,
        report.td_attributes,
        report.xfam,
    ]
    parts += [report.mrtd, report.mrconfigid, report.mrowner, report.mrownerconfig, *report.rtmrs, report.report_data]
    parts += [report.tee_tcb_svn2 or b"", report.mrservicetd or b""]
    return b"".join(parts)


def encode_enclave_report(report: EnclaveReport) -> bytes:
    """Return the 384 bytes of an SGX REPORT body."""
    return struct.pack(
        "<16s4s28x16s32s32x32s96xHH60x64s",
        report.cpu_svn,
        report.misc_select,
        report.attributes,
        report.mrenclave,
        report.mrsigner,
        report.isv_prod_id,
        report.isv_svn,
        report.report_data,
    )


def issue_quote(
    body: TdReport | EnclaveReport, attestation_key: ec.EllipticCurvePrivateKey, authority: Authority, *, version: int
) -> bytes:
    """Sign a quote of version 3 (enclave report), 4 (TD report 1.0) or 5 (either TD report)."""
    tee = TEE_TDX if isinstance(body, TdReport) else TEE_SGX
    raw = encode_td_report(body) if isinstance(body, TdReport) else encode_enclave_report(body)
    signed = struct.pack("<HHIHH16s20s", version, ECDSA_P256, tee, 0, 0, INTEL_QE_VENDOR, bytes(20))
    if version == 5:
        signed += struct.pack("<HI", 2 if len(raw) == 584 else 3, len(raw))
    signed += raw
    point = attestation_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    qe_report = encode_enclave_report(
        EnclaveReport(
            cpu_svn=bytes(COMPONENT_SVNS),
            misc_select=bytes(4),
            attributes=bytes.fromhex("1100000000000000e700000000000000"),
            mrenclave=hashlib.sha256(b"mitai sim quoting enclave v1").digest(),
            mrsigner=QE_SIGNER,
            isv_prod_id=_QE_PRODUCT["tdx" if tee == TEE_TDX else "sgx"],
            isv_svn=_QE_SVN,
            report_data=hashlib.sha256(point + _QE_AUTH_DATA).digest() + bytes(32),
        )
    )
    chain = authority.chain("pck", "ca", "root").encode() + b"\0"
    vouch = qe_report + sign(authority.keys["pck"], qe_report)
    vouch += struct.pack("<H", len(_QE_AUTH_DATA)) + _QE_AUTH_DATA
    vouch += struct.pack("<HI", CERT_PCK_CHAIN, len(chain)) + chain
    if version >= 4:
        vouch = struct.pack("<HI", CERT_QE_REPORT, len(vouch)) + vouch
    signature_data = sign(attestation_key, signed) + point + vouch
    return signed + struct.pack("<I", len(signature_data)) + signature_data
