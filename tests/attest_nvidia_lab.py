"""A maker of NVIDIA evidence with keys of its own: chains, reports, signed manifests, OCSP responses, NRAS bundles.

Manifests are written in canonical form by hand, so that nothing of the verifier makes what it is to verify.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mitai.attest.checks import Checklist
from mitai.attest.nvidia import (
    Device,
    DeviceEvidence,
    Endorsements,
    NvidiaRules,
    Roots,
    appraise_devices,
    device_nonce,
    encode_devices,
)

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
NONCE = bytes(range(32))
FWID = bytes(range(48))
DRIVER, VBIOS, BIOS = "570.10.20", "96.00.9F.00.01", "96.10.6D.00.01"
DAY = timedelta(days=1)

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
TCG = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
DS = "http://www.w3.org/2000/09/xmldsig#"
C14N = "http://www.w3.org/2006/12/xml-c14n11"


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


@dataclass
class Party:
    """A certificate, its key and its issuer."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    certificate: x509.Certificate
    issuer: Party | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def chain(self) -> list[Party]:
        return [self, *(self.issuer.chain if self.issuer else [])]

    @property
    def pem(self) -> bytes:
        return b"".join(party.certificate.public_bytes(Encoding.PEM) for party in self.chain)


def make(
    name: str,
    issuer: Party | None = None,
    *,
    ca: bool = True,
    serial: int | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    start: datetime = NOW - 30 * DAY,
    end: datetime = NOW + 300 * DAY,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    signs: bool = True,
    digest: hashes.HashAlgorithm | None = None,
) -> Party:
    """Issue a certificate; without an issuer it is a root."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(signs and not ca, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(usage, critical=True)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Party(key, builder.sign(issuer.key if issuer else key, digest or hashes.SHA384()), issuer)


def fwid_extension(fwid: bytes = FWID, oid: str = "2.23.133.5.4.1") -> tuple[x509.ExtensionType, bool]:
    value = b"\x30\x5a" + bytes(20) + bytes.fromhex("303d06096086480165030402020430") + fwid
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False


@dataclass
class Chip:
    """A GPU or a switch: its chain, and what it reports."""

    leaf: Party
    kind: str
    pdi: bytes

    @property
    def pem(self) -> bytes:
        return self.leaf.pem


def record(measurements: dict[int, bytes]) -> tuple[int, bytes]:
    blocks = [
        struct.pack("<BBHBH", index + 1, 1, 3 + len(value), 1, len(value)) + value
        for index, value in measurements.items()
    ]
    return len(blocks), b"".join(blocks)


def request(nonce: bytes) -> bytes:
    return b"\x11\xe0\x01\xff" + nonce + b"\x00"


def message(nonce: bytes, measurements: dict[int, bytes], opaque: list[tuple[int, bytes]]) -> bytes:
    """Return what a device signs."""
    number, blocks = record(measurements)
    fields = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in opaque)
    response = b"\x11\x60\x00\x00" + bytes([number]) + len(blocks).to_bytes(3, "little") + blocks
    return request(nonce) + response + bytes(32) + struct.pack("<H", len(fields)) + fields


def vbios_bytes(version: str) -> bytes:
    a, b, c, d, e = bytes.fromhex(version.replace(".", ""))
    return bytes([d, c, b, a, e, 0, 0, 0])


def gpu_opaque(**changes: bytes | None) -> list[tuple[int, bytes]]:
    """Return a GPU's fields; by number prefixed with `f`, nothing leaves a field away."""
    fields: dict[int, bytes | None] = {
        3: DRIVER.encode() + b"\0",
        6: vbios_bytes(VBIOS),
        11: b"\xaa",
        15: b"882\0\0",
        17: b"1010\0",
        18: b"0200\0",
        20: FWID,
        21: b"\x55",
        34: b"\x01\x00",
        36: b"\x00\x00",
    }
    fields |= {int(name[1:]): value for name, value in changes.items()}
    return [(kind, value) for kind, value in fields.items() if value is not None]


def switch_opaque(pdi: bytes, gpus: list[bytes], **changes: bytes | None) -> list[tuple[int, bytes]]:
    links = b"".join(gpus).ljust(64, b"\0") + b"\x00\x01\xff".ljust(64, b"\xff")
    fields: dict[int, bytes | None] = {6: BIOS.encode(), 22: pdi, 26: links, 25: b"\x01\x00"}
    fields |= {int(name[1:]): value for name, value in changes.items()}
    return [(kind, value) for kind, value in fields.items() if value is not None]


MEASUREMENTS = {index: hashlib.sha384(b"measurement %d" % index).digest() for index in range(40)}
DRIVER_REFERENCES = {index: (MEASUREMENTS[index],) for index in (7, 21, 35)}
VBIOS_REFERENCES = {1: (bytes(48), MEASUREMENTS[1]), 2: (MEASUREMENTS[2],)}


def resource(index: int, hashes_: tuple[bytes, ...], active: str = "True") -> str:
    values = "".join(f' ns2:Hash{number}="{value.hex()}"' for number, value in enumerate(hashes_))
    return (
        f'<ns0:Resource active="{active}" alternatives="{len(hashes_)}" index="{index}" name="Measurement_{index}"'
        f' size="48" type="Measurement"{values}></ns0:Resource>'
    )


def swid(edition: str, product: str, version: str, resources: str) -> str:
    """Return a manifest in canonical form, less its last end tag."""
    return (
        f'<SoftwareIdentity xmlns="{SWID}" xmlns:ns0="{SWID}" xmlns:ns2="{SHA384}" name="{product}" tagId="x">\n'
        f'<ns0:Meta xmlns:ns1="{TCG}" colloquialVersion="{version}" edition="{edition}" product="{product}"'
        f' ns1:FirmwareManufacturerId="5703" ns1:PlatformManufacturerId="5703"></ns0:Meta>\n'
        f"<ns0:Payload>{resources}</ns0:Payload>\n"
    )


def signed_info(digest: bytes) -> str:
    return (
        f'<ds:CanonicalizationMethod Algorithm="{C14N}"></ds:CanonicalizationMethod>'
        '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"></ds:SignatureMethod>'
        f'<ds:Reference URI=""><ds:Transforms><ds:Transform Algorithm="{DS}enveloped-signature"></ds:Transform>'
        f'<ds:Transform Algorithm="{C14N}"></ds:Transform></ds:Transforms>'
        '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod>'
        f"<ds:DigestValue>{base64.b64encode(digest).decode()}</ds:DigestValue></ds:Reference>"
    )


def sign_manifest(text: str, signer: Party, info: str | None = None) -> bytes:
    """Return the manifest with its signature, as NVIDIA's signing service puts it: before the last end tag."""
    info = info or signed_info(hashlib.sha384(f"{text}</SoftwareIdentity>".encode()).digest())
    scope = f'xmlns="{SWID}" xmlns:ds="{DS}" xmlns:ns0="{SWID}" xmlns:ns2="{SHA384}"'
    value = raw_signature(signer.key, f"<ds:SignedInfo {scope}>{info}</ds:SignedInfo>".encode())
    certificates = "".join(
        f"<ds:X509Certificate>{base64.b64encode(party.der).decode()}</ds:X509Certificate>" for party in signer.chain
    )
    return (
        f'{text}<ds:Signature xmlns:ds="{DS}"><ds:SignedInfo>{info}</ds:SignedInfo>'
        f"<ds:SignatureValue>{base64.b64encode(value).decode()}</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>"
    ).encode()


def ocsp_response(
    subject: Party,
    *,
    responder: Party | None = None,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    this_update: datetime = NOW - timedelta(hours=1),
    next_update: datetime | None = NOW + timedelta(hours=23),
    algorithm: hashes.HashAlgorithm | None = None,
    issuer: Party | None = None,
    extension: bool = False,
) -> bytes:
    """Return a response about a certificate, signed by its issuer or by a responder."""
    issuer = issuer or subject.issuer
    signer = responder or issuer
    builder = ocsp.OCSPResponseBuilder().add_response(
        subject.certificate,
        issuer.certificate,
        algorithm or hashes.SHA384(),
        status,
        this_update,
        next_update,
        NOW - DAY if status is ocsp.OCSPCertStatus.REVOKED else None,
        reason,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    if responder:
        builder = builder.certificates([responder.certificate])
    if extension:
        builder = builder.add_extension(x509.OCSPNonce(b"nonce"), critical=True)
    return builder.sign(signer.key, hashes.SHA384()).public_bytes(Encoding.DER)


def responder_of(issuer: Party, **more) -> Party:
    usage = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), True)
    return make("Responder", issuer, **{"ca": False, "extensions": (usage,), **more})


@dataclass
class NvidiaLab:
    """Roots, CAs, one signer of manifests; GPUs and switches at will."""

    device_root: Party = field(default_factory=lambda: make("Lab Device Identity CA"))
    rim_root: Party = field(default_factory=lambda: make("Lab RIM Root CA"))

    def __post_init__(self) -> None:
        self.identity = make("Lab GH100 Identity", self.device_root)
        self.provisioner = make("Lab GH100 Provisioner", self.identity)
        self.rim_ca = make("Lab Reference Value GH100 CA", self.rim_root)
        self.rim_signer = make("Lab RIM Signer", make("Lab Reference Value L3", self.rim_ca), ca=False)

    @property
    def roots(self) -> Roots:
        return Roots(self.device_root.sha256, self.rim_root.sha256)

    def chip(self, kind: str = "gpu", pdi: bytes = b"chip0001", **more) -> Chip:
        name = "GH100 A01 GSP" if kind == "gpu" else "LS_10 A01 FSP"
        device = make(f"{name} BROM", self.provisioner, serial=int.from_bytes(b"\x41" + pdi, "big"))
        leaf = make(f"{name} FMC LF", device, **{"ca": False, "extensions": (fwid_extension(),), **more})
        return Chip(leaf, kind, pdi)

    def report(self, chip: Chip, measurements=None, opaque=None, nonce: bytes | None = None) -> bytes:
        fields = opaque if opaque is not None else gpu_opaque()
        values = MEASUREMENTS if measurements is None else measurements
        signed = message(device_nonce(NONCE) if nonce is None else nonce, values, fields)
        return signed + raw_signature(chip.leaf.key, signed)

    def rim(self, edition="GPU", product="GH100", version=DRIVER, references=DRIVER_REFERENCES, signer=None) -> bytes:
        resources = "".join(resource(index, values) for index, values in references.items())
        resources += resource(63, (bytes(48),), "False")
        return sign_manifest(swid(edition, product, version, resources), signer or self.rim_signer)

    def rims(self) -> tuple[bytes, ...]:
        bios = {index: (MEASUREMENTS[index],) for index in range(10)}
        return (
            self.rim(),
            self.rim(version=VBIOS, references=VBIOS_REFERENCES),
            self.rim("SWITCH", "LS10", BIOS, bios),
        )

    def asked(self, *chips: Chip) -> list[Party]:
        """Return the certificates whose status is wanted."""
        devices = [party for chip in chips for party in chip.leaf.chain[1:-1]]
        return list({party.der: party for party in [*devices, *self.rim_signer.chain[:-1]]}.values())

    def statuses(self, *chips: Chip) -> tuple[bytes, ...]:
        return tuple(ocsp_response(party, responder=responder_of(party.issuer)) for party in self.asked(*chips))

    def entry(self, chip: Chip, **changes) -> DeviceEvidence:
        fields = {"kind": chip.kind, "report": self.report(chip), "certificates": chip.pem}
        return DeviceEvidence(**{**fields, **changes})

    def full(self, chip: Chip | None = None, **changes) -> DeviceEvidence:
        """Return evidence of one GPU with all its endorsements."""
        chip = chip or self.chip()
        return self.entry(chip, **{"rims": self.rims(), "ocsp": self.statuses(chip), **changes})

    def verify(self, *entries: DeviceEvidence, rules: NvidiaRules | None = None, **more) -> tuple[Device, ...]:
        more = {"nonce": NONCE, "now": NOW, "roots": self.roots, "checks": Checklist(), **more}
        checks, nonce = more.pop("checks"), more.pop("nonce")
        return appraise_devices(checks, encode_devices(entries), nonce, rules or NvidiaRules(), **more)

    def fabric(self, gpus: int = 2, switches: int = 2) -> list[DeviceEvidence]:
        """Return GPUs and switches that name each other, in protected PCIe mode."""
        names = [b"gpu%05d" % number for number in range(gpus)]
        fabric = [b"swt%05d" % number for number in range(switches)]
        links = b"".join(pdi[::-1] for pdi in fabric)
        entries = []
        for pdi in names:
            chip = self.chip(pdi=pdi)
            opaque = gpu_opaque(f22=links, f36=b"\x02\x00", f21=b"\xaa")
            entries.append(self.entry(chip, report=self.report(chip, opaque=opaque)))
        for pdi in fabric:
            chip = self.chip("switch", pdi)
            entries.append(self.entry(chip, report=self.report(chip, opaque=switch_opaque(pdi, names))))
        return entries


FABRIC_RULES = NvidiaRules(modes=("ppcie",), ocsp="if-present", min_gpus=2, min_switches=2)


def compact(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@dataclass
class NrasLab:
    """An attestation service with its own intermediate (RSA, as NVIDIA's) and a signing key."""

    intermediate: Party = field(
        default_factory=lambda: make("Lab Attestation Intermediate", key=_rsa_key(), digest=hashes.SHA256())
    )

    def __post_init__(self) -> None:
        self.signer = make("Lab Attestation Service", self.intermediate, ca=False, digest=hashes.SHA256())

    def rules(self, **more) -> NvidiaRules:
        return NvidiaRules(**{"nras_roots": (self.intermediate.sha256,), "modes": ("spt", "mpt", "ppcie"), **more})

    def jwks(self, signer: Party | None = None, kid: str = "key-1", copies: int = 1) -> bytes:
        x5c = [base64.b64encode(party.der).decode() for party in (signer or self.signer).chain]
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-384", "kid": kid, "x5c": x5c}] * copies}).encode()

    def token(self, claims: dict, **header) -> str:
        head = compact(json.dumps({"kid": "key-1", "alg": "ES384", **header}).encode())
        signed = f"{head}.{compact(json.dumps(claims).encode())}"
        return f"{signed}.{compact(raw_signature(self.signer.key, signed.encode()))}"

    def common(self, **changes) -> dict:
        moment = int(NOW.timestamp())
        return {
            "iss": "https://nras.attestation.nvidia.com",
            "eat_nonce": device_nonce(NONCE).hex(),
            "nbf": moment - 10,
            "iat": moment - 10,
            "exp": moment + 3590,
            **changes,
        }

    def gpu_claims(self, number: int = 0, **changes) -> dict:
        """Return claims 3.0 about a good GPU; a change to None leaves a claim away."""
        chain = {
            "x-nvidia-cert-status": "valid",
            "x-nvidia-cert-ocsp-status": "good",
            "x-nvidia-cert-revocation-reason": None,
        }
        truths = ["arch-check", "vbios-index-no-conflict", "attestation-report-cert-chain-fwid-match"]
        truths += [f"attestation-report-{what}" for what in ("parsed", "nonce-match", "signature-verified")]
        truths += [
            f"{rim}-rim-{what}"
            for rim in ("driver", "vbios")
            for what in ("fetched", "schema-validated", "signature-verified", "version-match", "measurements-available")
        ]
        claims = {
            **self.common(),
            **{f"x-nvidia-gpu-{name}": True for name in truths},
            **{f"x-nvidia-gpu-{name}-cert-chain": chain for name in ("attestation-report", "driver-rim", "vbios-rim")},
            "x-nvidia-gpu-driver-version": DRIVER,
            "x-nvidia-gpu-vbios-version": VBIOS,
            "hwmodel": "GH100 A01 GSP BROM",
            "ueid": str(1000 + number),
            "oemid": "5703",
            "measres": "success",
            "secboot": True,
            "dbgstat": "disabled",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def bundle(self, *devices: dict, overall: dict | None = None, names: tuple[str, ...] = ()) -> bytes:
        names = names or tuple(f"GPU-{number}" for number in range(len(devices)))
        tokens = {name: self.token(claims) for name, claims in zip(names, devices, strict=True)}
        digests = {name: ["DIGEST", ["SHA-256", hashlib.sha256(t.encode()).hexdigest()]] for name, t in tokens.items()}
        claims = self.common(submods=digests) | {"x-nvidia-overall-att-result": True} | (overall or {})
        return json.dumps([["JWT", self.token(claims)], tokens]).encode()


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def nvidia_lab() -> NvidiaLab:
    """Return one lab for all tests that change nothing in it."""
    return NvidiaLab()


@cache
def nras_lab() -> NrasLab:
    return NrasLab()


def endorsements(lab: NvidiaLab, *chips: Chip) -> Endorsements:
    return Endorsements(lab.rims(), lab.statuses(*chips))
