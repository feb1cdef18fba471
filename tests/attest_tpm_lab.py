"""A TPM in software with an authority of its own, and the clouds that vouch for one: every part can be forged."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from attest_lab import LAX
from mitai.attest import Policy
from mitai.attest.azure import AzureRules
from mitai.attest.checks import Checklist
from mitai.attest.eventlog import EventLogRules
from mitai.attest.gcp import GcpRules
from mitai.attest.machine import Hardware, Machine
from mitai.attest.snp import SnpRules
from mitai.attest.tpm import TpmEvidence, TpmRules, appraise

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
START, END = NOW - timedelta(days=30), NOW + timedelta(days=365)
REPORT_DATA = bytes(range(64))
RSASSA, RSAPSS, ECDSA = 0x14, 0x16, 0x18
SHA1_BANK, SHA256_BANK, SHA384_BANK = 4, 11, 12
HASHES = {4: "sha1", 11: "sha256", 12: "sha384", 13: "sha512"}
AIK = ("2.23.133.8.3",)
AK_ATTRIBUTES = 0x50072  # as tpm2_createak makes it: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, …


class LabPolicy(Policy, frozen=True, forbid_unknown_fields=True):
    """A policy with every section that these verifiers read."""

    snp: SnpRules = SnpRules()
    tpm: TpmRules = TpmRules()
    azure: AzureRules = AzureRules()
    gcp: GcpRules = GcpRules()
    event_log: EventLogRules = EventLogRules()


def tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """Return a key, made once for all tests."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class SoftTpm:
    """A TPM: registers, an attestation key, quotes."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(default_factory=rsa_key)
    scheme: int = RSASSA
    banks: dict[int, dict[int, bytes]] = field(default_factory=dict)
    firmware: int = 0x2020031200120003
    attributes: int = AK_ATTRIBUTES

    def __post_init__(self) -> None:
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            self.scheme = ECDSA
        if not self.banks:
            self.banks = {SHA256_BANK: {number: bytes(32) for number in range(24)}}

    def extend(self, register: int, data: bytes, bank: int = SHA256_BANK) -> bytes:
        """Extend a register with the hash of data; return that hash."""
        digest = hashlib.new(HASHES[bank], data).digest()
        old = self.banks[bank][register]
        self.banks[bank][register] = hashlib.new(HASHES[bank], old + digest).digest()
        return digest

    def values(self) -> tuple[bytes, ...]:
        return tuple(value for bank in self.banks.values() for _, value in sorted(bank.items()))

    def selection(self) -> bytes:
        parts = [struct.pack(">I", len(self.banks))]
        for bank, values in self.banks.items():
            bits = sum(1 << number for number in values)
            parts.append(struct.pack(">HB", bank, 3) + bits.to_bytes(3, "little"))
        return b"".join(parts)

    def attest(self, extra: bytes = REPORT_DATA, **changes: bytes) -> bytes:
        """Return TPMS_ATTEST; `changes` replace parts by name."""
        parts = {
            "magic": b"\xffTCG",
            "type": b"\x80\x18",
            "signer": tpm2b(self.qualified_name),
            "extra": tpm2b(extra),
            "clock": struct.pack(">QIIB", 1000, 2, 0, 1),
            "firmware": struct.pack(">Q", self.firmware),
            "selection": self.selection(),
            "digest": tpm2b(hashlib.sha256(b"".join(self.values())).digest()),
            "end": b"",
        }
        return b"".join({**parts, **changes}.values())

    def sign(self, message: bytes, *, hash_algorithm: int = SHA256_BANK) -> bytes:
        """Return TPMT_SIGNATURE."""
        head = struct.pack(">HH", self.scheme, hash_algorithm)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(SHA256())))
            size = (self.key.key_size + 7) // 8
            return head + tpm2b(r.to_bytes(size, "big")) + tpm2b(s.to_bytes(size, "big"))
        scheme = padding.PKCS1v15() if self.scheme == RSASSA else padding.PSS(padding.MGF1(SHA256()), 32)
        return head + tpm2b(self.key.sign(message, scheme, SHA256()))

    def public(self, **changes: bytes) -> bytes:
        """Return TPMT_PUBLIC; `changes` replace parts by name."""
        numbers = self.key.public_key().public_numbers()
        parts = {"type": b"\x00\x01", "name": b"\x00\x0b", "attributes": struct.pack(">I", self.attributes)}
        parts |= {"policy": tpm2b(b""), "cipher": b"\x00\x10", "scheme": struct.pack(">HH", self.scheme, SHA256_BANK)}
        if isinstance(self.key, rsa.RSAPrivateKey):
            modulus = numbers.n.to_bytes(self.key.key_size // 8, "big")
            parts |= {"size": struct.pack(">HI", self.key.key_size, 0), "unique": tpm2b(modulus)}
        else:
            curve = {"secp256r1": 3, "secp384r1": 4}[self.key.curve.name]
            size = (self.key.key_size + 7) // 8
            parts |= {"type": b"\x00\x23", "size": struct.pack(">HH", curve, 0x10)}
            parts |= {"unique": tpm2b(numbers.x.to_bytes(size, "big")) + tpm2b(numbers.y.to_bytes(size, "big"))}
        return b"".join({**parts, "end": b"", **changes}.values())

    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def qualified_name(self) -> bytes:
        """Of a primary key in the endorsement hierarchy."""
        name = b"\x00\x0b" + hashlib.sha256(self.public()).digest()
        return b"\x00\x0b" + hashlib.sha256(b"\x40\x00\x00\x0b" + name).digest()

    @property
    def name_pin(self) -> str:
        return "name:000b" + hashlib.sha256(self.public()).hexdigest()

    @property
    def key_pin(self) -> str:
        return "spki:" + hashlib.sha256(self.spki()).hexdigest()

    def evidence(self, extra: bytes = REPORT_DATA, **more) -> TpmEvidence:
        """Return a composite over the registers as they are."""
        quote = more.pop("quote", None) or self.attest(extra)
        fields = {"quote": quote, "signature": self.sign(quote), "pcrs": self.values(), "ak_public": self.public()}
        return TpmEvidence(**{**fields, **more})

    def hardware(self, evidence: TpmEvidence | None = None, **more) -> Hardware:
        return Hardware(tee="tpm", quote=(evidence or self.evidence()).encode(), **more)

    def policy(self, *, event_log: EventLogRules | None = None, **tpm) -> LabPolicy:
        rules = TpmRules(**{"aks": (self.name_pin,), **tpm})
        return LabPolicy(tpm=rules, event_log=event_log or EventLogRules())

    def appraise(self, hardware: Hardware | None = None, policy: LabPolicy | None = None, **more) -> Machine:
        return appraise(Checklist(), hardware or self.hardware(), policy or self.policy(), **{"now": NOW, **more})


class AkAuthority:
    """Who certifies attestation keys: a root, an intermediate, leaves."""

    def __init__(self) -> None:
        self.root_key, self.ca_key = rsa_key(2048, 1), rsa_key(2048, 2)
        self.root = self.issue("root", self.root_key, "root", self.root_key, ca=True)
        self.ca = self.issue("intermediate", self.ca_key, "root", self.root_key, ca=True)

    @property
    def pin(self) -> str:
        return "sha256:" + hashlib.sha256(self.root.public_bytes(Encoding.DER)).hexdigest()

    def issue(self, name, key, issuer, issuer_key, *, ca=False, usage="digital_signature", window=(START, END), **more):
        """Return a certificate; `instance` is Google's extension."""
        subject, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else []) for text in (name, issuer)
        )
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(window[0]).not_valid_after(window[1])
        if more.get("constraints", True):
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
        usages = dict.fromkeys(names, False) | {"key_cert_sign" if ca else usage: True}
        builder = builder.add_extension(x509.KeyUsage(**usages), critical=True)
        if more.get("extended"):
            usages = x509.ExtendedKeyUsage([ObjectIdentifier(oid) for oid in more["extended"]])
            builder = builder.add_extension(usages, critical=False)
        if more.get("instance") is not None:
            oid = ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, more["instance"]), critical=False)
        return builder.sign(issuer_key, SHA256())

    def chain(self, tpm: SoftTpm, **leaf) -> bytes:
        """Return PEM of the key's certificate, the intermediate and the root."""
        certificate = self.issue("", tpm.key, "intermediate", self.ca_key, **{"extended": AIK, **leaf})
        return b"".join(each.public_bytes(Encoding.PEM) for each in (certificate, self.ca, self.root))


@cache
def authority() -> AkAuthority:
    return AkAuthority()


def der(tag: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes((tag, len(content))) + content


def instance(*, production: bytes | None = b"\xff", zone: str = "us-central1-a", security: bool = True) -> bytes:
    """Return Google's extension: zone, project, instance."""
    content = der(0x0C, zone.encode()) + der(2, b"\x05") + der(0x0C, b"a-project") + der(2, b"\x00\xea")
    content += der(0x0C, b"a-machine")
    properties = der(0xA0, der(2, b"\x00")) + (der(0xA1, der(1, production)) if production is not None else b"")
    return der(0x30, content + (der(0xA0, der(0x30, properties)) if security else b""))


def base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def claims(tpm: SoftTpm, *, user_data: bytes = bytes(64), keys: list[dict] | None = None, **vm) -> bytes:
    """Return the JSON that a paravisor writes; `vm` changes its configuration."""
    numbers = tpm.key.public_key().public_numbers()
    ak = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": base64url(numbers.e), "n": base64url(numbers.n)}
    vm_id = "390CBCF5-6C67-4D9B-98EF-C3F1699CC8FC"
    configuration = {"console-enabled": True, "secure-boot": True, "tpm-enabled": True, "vmUniqueId": vm_id, **vm}
    body = {"keys": [ak] if keys is None else keys, "vm-configuration": configuration, "user-data": user_data.hex()}
    return json.dumps(body).encode()


def hcl_report(hardware_report: bytes, runtime: bytes, /, *, kind: int = 2, **changes: bytes) -> bytes:
    """Return a paravisor's report in 2600 bytes; `changes` replace parts by name."""
    parts = {
        "signature": b"HCLA",
        "version": struct.pack("<I", 2),
        "size": struct.pack("<I", 32 + 1184 + 20 + len(runtime)),
        "request": struct.pack("<I", 2),
        "reserved": bytes(16),
        "report": hardware_report.ljust(1184, b"\0"),
        "head": struct.pack("<IIIII", 20 + len(runtime), 1, kind, 1, len(runtime)),
        "runtime": runtime,
    }
    return b"".join({**parts, "end": b"", **changes}.values()).ljust(2600, b"\0")


def lax(**sections) -> LabPolicy:
    """Return a policy under which the simulated TDs of these tests pass."""
    base = {name: getattr(LAX, name) for name in ("tcb", "tdx", "sgx")}
    return LabPolicy(**{**base, **sections})
