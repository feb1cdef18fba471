"""A stand-in for AMD: roots, signing keys, VCEKs, VLEKs and reports of any shape, every part of which can be forged."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware, Machine
from mitai.attest.snp import SnpRules, Trust, appraise
from mitai.attest.snp.roots import AMD
from mitai.attest.x509 import Certificate, Profile

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
START, END = NOW - timedelta(days=30), NOW + timedelta(days=365)
RSA_BITS = 2048  # AMD has 4096, which takes seconds to make; a test shows that the real profile refuses these
PROFILE = Profile(AMD.signatures, AMD.curves, RSA_BITS)
PSS = padding.PSS(padding.MGF1(SHA384()), SHA384().digest_size)
CHIP = bytes(range(64))
TCB = {"Milan": bytes((9, 0, 0, 0, 0, 0, 24, 219)), "Turin": bytes((1, 2, 3, 4, 0, 0, 0, 200))}
TCB["Genoa"] = TCB["Milan"]
CPUID = {"Milan": bytes((0x19, 0x01, 1)), "Genoa": bytes((0x19, 0x11, 1)), "Turin": bytes((0x1A, 0x02, 1))}
VMPL, ALGORITHM, PLATFORM, KEY_INFO, POLICY = 0x30, 0x34, 0x40, 0x48, 0x08
CURRENT_TCB, REPORTED_TCB, COMMITTED_TCB, LAUNCH_TCB = 0x38, 0x180, 0x1E0, 0x1F0
CURRENT, COMMITTED, MITIGATIONS = 0x1E8, 0x1EC, 0x1F8
_OID = "1.3.6.1.4.1.3704.1."
_GUIDS = {
    "vcek": "63da758d-e664-4564-adc5-f4b93be8accd",
    "vlek": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ask": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ark": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "crl": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
    "other": "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6",
}


def amd_name(common_name: str, organization: str = "Advanced Micro Devices") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def integer(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes((2, len(content))) + content


def text(value: str) -> bytes:
    return bytes((0x16, len(value))) + value.encode()


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def table(**blobs: bytes) -> bytes:
    """Return a table of certificates as a host fills it."""
    header, body = b"", b""
    for name, blob in blobs.items():
        offset = 24 * (len(blobs) + 1) + len(body)
        header += uuid.UUID(_GUIDS[name]).bytes + struct.pack("<II", offset, len(blob))
        body += blob
    return header + bytes(24) + body


@dataclass
class Amd:
    """An authority for one product."""

    product: str = "Genoa"
    bits: int = RSA_BITS
    keys: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = {name: rsa.generate_private_key(65537, self.bits) for name in ("ark", "ask", "asvk")}
        self.keys |= {name: ec.generate_private_key(ec.SECP384R1()) for name in ("vcek", "vlek")}
        self.names = {
            "ark": f"ARK-{self.product}",
            "ask": f"SEV-{self.product}",
            "asvk": f"SEV-VLEK-{self.product}",
            "vcek": "SEV-VCEK",
            "vlek": "SEV-VLEK",
        }
        self.ark, self.ask, self.asvk = self.certificate("ark"), self.certificate("ask"), self.certificate("asvk")

    @property
    def trust(self) -> Trust:
        root = Certificate(self.ark, x509.load_der_x509_certificate(self.ark))
        return Trust({root.fingerprint: self.product}, PROFILE)

    def certificate(
        self,
        role: str,
        *,
        signer: str | None = None,
        key=None,
        name: x509.Name | None = None,
        issuer: x509.Name | None = None,
        ca: bool = True,
        usage: bool | None = True,
        extensions: dict[str, bytes] | None = None,
        window: tuple[datetime, datetime] = (START, END),
        scheme: str = "pss",
        serial: int | None = None,
    ) -> bytes:
        """Return a certificate of AMD's kind."""
        signer = signer or {"vcek": "ask", "vlek": "asvk"}.get(role, "ark")
        builder = (
            x509.CertificateBuilder()
            .subject_name(name or amd_name(self.names[role]))
            .issuer_name(issuer or amd_name(self.names[signer]))
            .public_key((key or self.keys[role]).public_key())
            .serial_number(serial or {"ark": 0x10000, "ask": 0x10001, "asvk": 0x10101}.get(role, 1))
            .not_valid_before(window[0])
            .not_valid_after(window[1])
        )
        if role in {"ark", "ask", "asvk"}:
            depth = None if role == "ark" or not ca else 0
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=depth), critical=True)
            if usage is not None:
                builder = builder.add_extension(_usage(usage), critical=True)
        for oid, value in (extensions or {}).items():
            extension = x509.UnrecognizedExtension(ObjectIdentifier(_OID + oid), value)
            builder = builder.add_extension(extension, critical=False)
        pss = {"rsa_padding": PSS} if scheme == "pss" else {}
        return builder.sign(self.keys[signer], SHA384(), **pss).public_bytes(Encoding.DER)

    def vek(self, kind: str = "vcek", changes: dict[str, bytes | None] | None = None, **more) -> bytes:
        """Return a VCEK or VLEK; `changes` are extensions by number, None leaves one out."""
        return self.certificate(kind, extensions=self.extensions(kind, changes), **more)

    def extensions(self, kind: str, changes: dict[str, bytes | None] | None = None) -> dict[str, bytes]:
        tcb, turin = TCB[self.product], self.product == "Turin"
        order = ["3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8"]
        order = order if turin else ["3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8"]
        found: dict[str, bytes | None] = {"1": integer(int(turin)), "2": text(self.product)}
        found |= {oid: integer(level) for oid, level in zip(order, tcb, strict=True)}
        found |= {"4": CHIP[:8] if turin else CHIP} if kind == "vcek" else {"5": text("CN=cloud.example")}
        found |= changes or {}
        return {oid: value for oid, value in found.items() if value is not None}

    def chain(self, kind: str = "vcek") -> bytes:
        return pem(self.ask if kind == "vcek" else self.asvk, self.ark)

    def crl(self, *revoked: int, signer: str = "ark", window=(START, END), name: x509.Name | None = None) -> bytes:
        """Return a revocation list of the root's."""
        builder = x509.CertificateRevocationListBuilder()
        builder = builder.issuer_name(name or amd_name(self.names["ark"])).last_update(window[0]).next_update(window[1])
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.keys[signer], SHA384(), rsa_padding=PSS).public_bytes(Encoding.DER)

    def report(self, changes: dict[int, bytes] | None = None, *, version: int = 3, kind: str = "vcek") -> bytes:
        """Return a signed report; `changes` are bytes by offset, made before it is signed."""
        body = bytearray(0x2A0)
        fields = {
            0x00: struct.pack("<I", version),
            0x04: struct.pack("<I", 7),
            POLICY: struct.pack("<Q", 0x3001F),
            0x10: b"family id 16 byt",
            0x20: b"image id 16 byte",
            VMPL: bytes(4),
            ALGORITHM: struct.pack("<I", 1),
            PLATFORM: struct.pack("<Q", 0x27),
            KEY_INFO: struct.pack("<I", 1 | (4 if kind == "vlek" else 0)),
            0x50: b"\x33" * 64,
            0x90: b"\x11" * 48,
            0xC0: b"\x22" * 32,
            0xE0: b"\x44" * 48,
            0x110: b"\x55" * 48,
            0x140: b"\x66" * 32,
            0x160: b"\xff" * 32,
            CURRENT_TCB: TCB[self.product],
            REPORTED_TCB: TCB[self.product],
            0x188: CPUID[self.product] if version > 2 else bytes(3),
            0x1A0: CHIP if self.product != "Turin" else CHIP[:8],
            COMMITTED_TCB: TCB[self.product],
            CURRENT: bytes((40, 55, 1)),
            COMMITTED: bytes((40, 55, 1)),
            LAUNCH_TCB: TCB[self.product],
            MITIGATIONS: struct.pack("<QQ", 5, 7) if version > 4 else bytes(16),
        }
        for offset, content in [*fields.items(), *(changes or {}).items()]:
            body[offset : offset + len(content)] = content
        return sign(bytes(body), self.keys[kind])

    def hardware(self, report: bytes | None = None, *, kind: str = "vcek", **endorsements: bytes | None) -> Hardware:
        """Return evidence with everything that belongs to it; None leaves an endorsement out."""
        given = {"vek": self.vek(kind), "chain": self.chain(kind), "crl": self.crl(), **endorsements}
        return Hardware(
            tee="snp",
            quote=report if report is not None else self.report(kind=kind),
            endorsements={name: value for name, value in given.items() if value is not None},
        )

    def appraise(self, hardware: Hardware | None = None, rules: SnpRules | None = None, **more) -> Machine:
        more = {"now": NOW, "trust": self.trust, **more}
        return appraise(Checklist(), hardware or self.hardware(), rules or SnpRules(), **more)


def amd(product: str = "Genoa") -> Amd:
    """Return the authority of a product, made once."""
    return _made(product)


@cache
def _made(product: str) -> Amd:
    return Amd(product)


def sign(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a report: the body with its signature, little-endian in fields of 72 bytes."""
    r, s = decode_dss_signature(key.sign(body, ec.ECDSA(SHA384())))
    return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def _usage(key_cert_sign: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    values = dict.fromkeys(names, False)
    return x509.KeyUsage(**values, key_cert_sign=key_cert_sign, crl_sign=True, encipher_only=False, decipher_only=False)


def firmware(
    *, kernel_hashes: bool = True, ap_reset: bytes | None = b"\x04\xb0\x80\0", sections: bytes | None = None
) -> bytes:
    """Return 8 KiB that look to a verifier like OVMF built for SEV-SNP."""
    if sections is None:
        sections = struct.pack("<III", 0x800000, 0x9000, 1) + struct.pack("<III", 0x80A000, 0x3000, 1)
        sections += struct.pack("<III", 0x80D000, 0x1000, 2) + struct.pack("<III", 0x80E000, 0x1000, 3)
        sections += struct.pack("<III", 0x80F000, 0x1000, 4)
        sections += struct.pack("<III", 0x810000, 0x1000, 0x10) if kernel_hashes else b""
    metadata = struct.pack("<4sIII", b"ASEV", 16 + len(sections), 1, len(sections) // 12) + sections
    entries = _entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", 0x800))
    entries += _entry("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", 0x810C00, 0x400))
    entries += _entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", ap_reset) if ap_reset is not None else b""
    footer = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    end = entries + struct.pack("<H", len(entries) + 18) + footer + bytes(range(32))
    body = bytearray(b"\x90" * 8192)
    body[8192 - 0x800 : 8192 - 0x800 + len(metadata)] = metadata
    body[8192 - len(end) :] = end
    return bytes(body)


def _entry(guid: str, content: bytes) -> bytes:
    return content + struct.pack("<H", len(content) + 18) + uuid.UUID(guid).bytes_le
