"""A Nitro hypervisor of our own: documents with a root, CAs and leaves that tests can forge in every part."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attest_cose_lab import Open, cbor, sign1
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware
from mitai.attest.nitro import NitroRules, appraise
from mitai.attest.x509 import parse_der

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
USER_DATA = bytes(range(64))
PCRS = {number: bytes([number + 1]) * 48 if number < 3 else bytes(48) for number in range(16)}
NAMES = ("root", "region", "zone", "instance", "leaf")


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@dataclass
class Lab:
    """Certificates by name; `certificate` makes one again with changes."""

    certificates: dict[str, bytes] = field(default_factory=dict)

    @staticmethod
    @cache
    def build() -> Lab:
        lab = Lab()
        for issuer, name in zip(("root", *NAMES), NAMES, strict=False):
            lab.certificates[name] = lab.certificate(name, issuer)
        return lab

    def certificate(self, name: str, issuer: str | None = None, **changes) -> bytes:
        """Return a certificate of `name`, with changes."""
        issuer = issuer or NAMES[max(NAMES.index(name) - 1, 0)]
        is_ca = changes.get("ca", name != "leaf")
        depth = {"region": 2, "zone": 1, "instance": 0}.get(name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .serial_number(1 + NAMES.index(name))
            .not_valid_before(changes.get("not_before", NOW - timedelta(hours=1)))
            .not_valid_after(changes.get("not_after", NOW + timedelta(hours=2)))
            .public_key(changes.get("key", key(name)).public_key())
        )
        if changes.get("constraints", True):
            length = changes.get("path_length", depth) if is_ca else None
            builder = builder.add_extension(x509.BasicConstraints(is_ca, length), critical=True)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        usage |= {"encipher_only": False, "decipher_only": False}
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=changes.get("sign", True), key_cert_sign=is_ca, **usage), critical=True
        )
        if changes.get("critical"):
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True
            )
        return builder.sign(key(issuer), changes.get("hash", SHA384())).public_bytes(Encoding.DER)

    @cached_property
    def roots(self) -> frozenset[str]:
        return frozenset({parse_der(self.certificates["root"], "x").fingerprint})

    def fields(self, **changes) -> dict:
        """Return the fields of a document; a change to `...` leaves a field out."""
        fields = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": int(NOW.timestamp() * 1000),
            "pcrs": PCRS,
            "certificate": self.certificates["leaf"],
            "cabundle": [self.certificates[name] for name in NAMES[:-1]],
            "public_key": None,
            "user_data": USER_DATA,
            "nonce": None,
        }
        return {name: value for name, value in (fields | changes).items() if value is not ...}

    def document(self, *, indefinite=False, signer="leaf", message=None, **changes) -> bytes:
        """Return a document; `message` are options of `sign1`."""
        fields = self.fields(**changes)
        return sign1(cbor(Open(fields) if indefinite else fields), key(signer), **(message or {}))

    def appraise(self, document: bytes | None = None, rules: NitroRules | None = None, **options):
        hardware = Hardware(tee="nitro", quote=self.document() if document is None else document)
        return appraise(Checklist(), hardware, rules or NitroRules(), **{"now": NOW, "roots": self.roots, **options})
