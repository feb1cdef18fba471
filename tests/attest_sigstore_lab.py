"""A small Sigstore of our own: Fulcio, certificate log, Rekor; it makes any bundle, also bad ones."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mitai.attest.refvalues.sigstore import GITHUB
from mitai.attest.refvalues.statement import PAYLOAD_TYPE

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SIGNED_AT = NOW - timedelta(days=20)
REPOSITORY = "example/workload"
REF = "refs/tags/v1.2.3"
WORKFLOW = ".github/workflows/release.yml"
TSTINFO = "2a864886f70d0109100104"
SHA256_OID = "608648016503040201"
_FULCIO = "1.3.6.1.4.1.57264.1."
_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def octets(data: bytes, tag: int = 4) -> bytes:
    """A DER string of fewer than 65,536 bytes."""
    size = len(data)
    length = (
        bytes([size]) if size < 128 else b"\x81" + bytes([size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + data


def sequence(*members: bytes) -> bytes:
    return octets(b"".join(members), 0x30)


def attribute(oid: str, value: bytes) -> bytes:
    return sequence(octets(bytes.fromhex(oid), 6), octets(value, 0x31))


def claims(**changes: bytes | None) -> dict[str, bytes]:
    """The extensions that Fulcio writes for a workflow; None leaves one out."""
    uri = f"https://github.com/{REPOSITORY}/{WORKFLOW}@{REF}".encode()
    usual = {
        "1": GITHUB.encode(),
        "3": b"a" * 40,
        "5": REPOSITORY.encode(),
        "6": REF.encode(),
        "8": octets(GITHUB.encode(), 12),
        "9": octets(uri, 12),
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


@dataclass
class SigstoreLab:
    """Keys of every part; all bundles are signed at `SIGNED_AT` unless told otherwise."""

    root_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    ca_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    log_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    rekor_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    tsa_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    rekor2_key: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        start, end = NOW - timedelta(days=1000), NOW + timedelta(days=1000)
        self.root = self._authority("root", self.root_key, None, start, end)
        self.ca = self._authority("issuer", self.ca_key, self.root, start, end)

        self.tsa = self.timestamp_certificate()

    def timestamp_certificate(self, purposes=(ExtendedKeyUsageOID.TIME_STAMPING,), **changes) -> x509.Certificate:
        start, end = changes.get("start", NOW - timedelta(days=900)), NOW + timedelta(days=900)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "timestamps")]))
            .issuer_name(self.root.subject)
            .public_key(self.tsa_key.public_key())
            .serial_number(42)
            .not_valid_before(start)
            .not_valid_after(end)
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
        return builder.sign(self.root_key, SHA384())

    def _authority(self, name, key, issuer, start, end) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.root_key, SHA384())
        )

    # -- the trusted root ------------------------------------------------------------------------------------

    def root_fields(self) -> dict:
        window = {"start": "2025-01-01T00:00:00Z"}

        def log(key) -> dict:
            return {
                "baseUrl": "https://log.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": text(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": window},
                "logId": {"keyId": text(hashlib.sha256(spki(key)).digest())},
            }

        def chain_of(*certificates) -> dict:
            encoded = [{"rawBytes": text(certificate.public_bytes(Encoding.DER))} for certificate in certificates]
            return {
                "subject": {"organization": "x", "commonName": "x"},
                "uri": "https://x.example",
                "certChain": {"certificates": encoded},
                "validFor": window,
            }

        rekor2 = log(self.rekor2_key)
        rekor2["logId"] = {"keyId": text(self.rekor2_id)}
        rekor2["publicKey"]["keyDetails"] = "PKIX_ED25519"
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor_key), rekor2],
            "certificateAuthorities": [chain_of(self.ca, self.root)],
            "ctlogs": [log(self.log_key)],
            "timestampAuthorities": [chain_of(self.tsa, self.root)],
        }

    @property
    def rekor2_id(self) -> bytes:
        """C2SP signed-note: of the name, the algorithm and the key."""
        raw = self.rekor2_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return hashlib.sha256(b"rekor2.example\n\1" + raw).digest()

    def trusted_root(self, **changes) -> bytes:
        return json.dumps({**self.root_fields(), **changes}).encode()

    # -- certificates ----------------------------------------------------------------------------------------

    def certificate(
        self,
        key,
        *,
        extensions: dict[str, bytes] | None = None,
        subject: x509.GeneralName | None = None,
        start: datetime | None = None,
        scts: int = 1,
        sct_log=None,
        usage: x509.KeyUsage | None = None,
        purposes: x509.ExtendedKeyUsage | None = None,
        timestamps: bytes | None = None,
        signer=None,
    ) -> x509.Certificate:
        """A signing certificate of ten minutes."""
        start = start or SIGNED_AT - timedelta(minutes=1)
        uri = x509.UniformResourceIdentifier(f"https://github.com/{REPOSITORY}/{WORKFLOW}@{REF}")
        usage = usage or x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(key.public_key())
            .serial_number(4711)
            .not_valid_before(start)
            .not_valid_after(start + timedelta(minutes=10))
            .add_extension(usage, critical=True)
            .add_extension(purposes or x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([subject or uri]), critical=True)
        )
        for name, value in (claims() if extensions is None else extensions).items():
            oid = x509.ObjectIdentifier(_FULCIO + name)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)

        def signed(listed: bytes) -> x509.Certificate:
            extension = x509.UnrecognizedExtension(_SCTS, octets(struct.pack(">H", len(listed)) + listed))
            return builder.add_extension(extension, critical=False).sign(signer or self.ca_key, SHA384())

        if not scts and timestamps is None:
            return builder.sign(signer or self.ca_key, SHA384())
        blank = self._timestamp(sct_log or self.log_key, start, b"")
        precertificate = signed(blank).tbs_precertificate_bytes
        one = self._timestamp(sct_log or self.log_key, start, precertificate)
        return signed(one * scts if timestamps is None else timestamps)

    def _timestamp(self, key, moment: datetime, precertificate: bytes) -> bytes:
        """A signed certificate timestamp with its length before it (RFC 6962, section 3.2)."""
        time_ms = int(moment.timestamp() * 1000)
        issuer = hashlib.sha256(spki(self.ca_key)).digest()
        body = struct.pack(">BBQH", 0, 0, time_ms, 1) + issuer
        body += len(precertificate).to_bytes(3, "big") + precertificate + b"\0\0"
        signature = key.sign(body, ec.ECDSA(SHA256()))
        sct = b"\0" + hashlib.sha256(spki(key)).digest() + struct.pack(">QH", time_ms, 0)
        sct += b"\4\3" + struct.pack(">H", len(signature)) + signature
        return struct.pack(">H", len(sct)) + sct

    # -- bundles ---------------------------------------------------------------------------------------------

    def entry(self, body: bytes, *, logged_at: datetime = SIGNED_AT, neighbours: int = 2, rekor=None) -> dict:
        """A log entry of a tree that has `neighbours` other entries before it."""
        rekor = rekor or self.rekor_key
        node, hashes, index = hashlib.sha256(b"\0" + body).digest(), [], neighbours
        leaves = [hashlib.sha256(b"\0%d" % number).digest() for number in range(neighbours)]
        # The new entry is the last leaf: its siblings are the perfect subtrees before it, smallest first.
        left, start = [], 0
        for bit in reversed(range(neighbours.bit_length())):
            if neighbours >> bit & 1:
                left.append(_root(leaves[start : start + (1 << bit)]))
                start += 1 << bit
        for sibling in reversed(left):
            hashes.append(sibling)
            node = hashlib.sha256(b"\1" + sibling + node).digest()
        log_id = hashlib.sha256(spki(rekor)).digest()
        note = f"rekor.example - 1\n{neighbours + 1}\n{text(node)}\n"
        signature = text(log_id[:4] + rekor.sign(note.encode(), ec.ECDSA(SHA256())))
        time_s = int(logged_at.timestamp())
        promised = {"body": text(body), "integratedTime": time_s, "logID": log_id.hex(), "logIndex": index + 100}
        promise = json.dumps(promised, separators=(",", ":"), sort_keys=True).encode()
        return {
            "logIndex": str(index + 100),
            "logId": {"keyId": text(log_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(time_s),
            "inclusionPromise": {"signedEntryTimestamp": text(rekor.sign(promise, ec.ECDSA(SHA256())))},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": text(node),
                "treeSize": str(neighbours + 1),
                "hashes": [text(sibling) for sibling in hashes],
                "checkpoint": {"envelope": f"{note}\n— rekor.example {signature}\n"},
            },
            "canonicalizedBody": text(body),
        }

    def timestamp(
        self,
        message: bytes,
        moment: datetime = SIGNED_AT,
        *,
        algorithm=None,
        imprint: bytes | None = None,
        attributes: list[bytes] | None = None,
        info: bytes | None = None,
        named: bytes | None = None,
        status: int = 0,
        signer=None,
    ) -> bytes:
        """An RFC 3161 response; options spoil one part each."""
        algorithm = algorithm or SHA256()
        oid = {"sha256": SHA256_OID, "sha384": "608648016503040202"}[algorithm.name]
        name = sequence(octets(bytes.fromhex(oid), 6))
        digest = hashlib.new(algorithm.name, message).digest() if imprint is None else imprint
        time = octets(moment.strftime("%Y%m%d%H%M%SZ").encode(), 0x18)
        parts = (octets(b"\1", 2), octets(b"\x2a\3", 6), sequence(name, octets(digest)), octets(b"\7", 2), time)
        info = sequence(*parts, sequence(octets(b"\1", 2))) if info is None else info
        certificate = hashlib.sha256(self.tsa.public_bytes(Encoding.DER)).digest() if named is None else named
        usual = [
            attribute("2a864886f70d010903", octets(bytes.fromhex(TSTINFO), 6)),
            attribute("2a864886f70d010904", octets(hashlib.new(algorithm.name, info).digest())),
            attribute("2a864886f70d010910022f", sequence(sequence(sequence(octets(certificate))))),
        ]
        signed = b"".join(sorted(usual if attributes is None else attributes))
        signature = (signer or self.tsa_key).sign(octets(signed, 0x31), ec.ECDSA(algorithm))
        signer_info = sequence(octets(b"\1", 2), sequence(), name, octets(signed, 0xA0), sequence(), octets(signature))
        content = sequence(octets(bytes.fromhex(TSTINFO), 6), octets(octets(info), 0xA0))
        data = sequence(octets(b"\3", 2), octets(name, 0x31), content, octets(b"", 0xA0), octets(signer_info, 0x31))
        token = sequence(octets(bytes.fromhex("2a864886f70d010702"), 6), octets(data, 0xA0))
        return sequence(sequence(octets(bytes([status]), 2)), token)

    def bundle2(self, payload: bytes, *, rekord: dict | None = None, moment: datetime = SIGNED_AT, **options) -> dict:
        """A bundle with an entry of Rekor 2 and a timestamp."""
        fields = self.bundle(payload, **options)
        envelope = fields["dsseEnvelope"]
        kind = envelope["payloadType"].encode()
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = envelope["signatures"][0]["sig"]
        verifier = {
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "x509Certificate": fields["verificationMaterial"]["certificate"],
        }
        body = {
            "data": {"algorithm": "SHA2_256", "digest": text(hashlib.sha256(message).digest())},
            "signature": {"content": signature, "verifier": verifier},
            **(rekord or {}),
        }
        whole = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": body}}
        entry = self.entry(json.dumps(whole).encode())
        note = f"rekor2.example\n3\n{entry['inclusionProof']['rootHash']}\n"
        signed = text(self.rekor2_id[:4] + self.rekor2_key.sign(note.encode()))
        entry["inclusionProof"]["checkpoint"]["envelope"] = (
            f"{note}\n— rekor2.example {signed}\n— witness.example AAAA\n"
        )
        entry["logId"] = {"keyId": text(self.rekor2_id)}
        entry["kindVersion"] = {"kind": "hashedrekord", "version": "0.0.2"}
        for name in ("integratedTime", "inclusionPromise"):
            del entry[name]
        token = self.timestamp(base64.b64decode(signature), moment)
        fields["verificationMaterial"]["tlogEntries"] = [entry]
        fields["verificationMaterial"]["timestampVerificationData"] = {
            "rfc3161Timestamps": [{"signedTimestamp": text(token)}]
        }
        return fields

    def bundle(
        self,
        payload: bytes,
        *,
        payload_type: str = PAYLOAD_TYPE,
        key=None,
        certificate: x509.Certificate | None = None,
        logged_at: datetime = SIGNED_AT,
        logged: dict | None = None,
        rekor=None,
        **options,
    ) -> dict:
        """A bundle's fields; `logged` changes what the log entry says, `options` go to the certificate."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = certificate or self.certificate(key, **options)
        kind = payload_type.encode()
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = key.sign(message, ec.ECDSA(SHA384() if key.curve.name == "secp384r1" else SHA256()))
        spec = {
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": text(signature), "verifier": text(certificate.public_bytes(Encoding.PEM))}],
        }
        body = {"apiVersion": "0.0.1", "kind": "dsse", "spec": {**spec, **(logged or {})}}
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": text(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self.entry(json.dumps(body).encode(), logged_at=logged_at, rekor=rekor)],
            },
            "dsseEnvelope": {
                "payload": text(payload),
                "payloadType": payload_type,
                "signatures": [{"sig": text(signature)}],
            },
        }


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    return hashlib.sha256(b"\1" + _root(leaves[:half]) + _root(leaves[half:])).digest()


def encode(fields: dict) -> bytes:
    return json.dumps(fields).encode()
