"""Rekor's entries: proof that a signature stands in the public log, and since when.

Follows RFC 6962 section 2.1 (Merkle tree), C2SP signed-note and tlog-checkpoint, and the entries that Rekor keeps for a
signed envelope: `dsse` 0.0.1 (Rekor 1) and `hashedrekord` 0.0.2 (Rekor 2).

Invariants:

- The entry is in the tree whose root the log signed in the checkpoint beside the proof.
- The time of the entry counts only with the log's own signature over entry and time together (the "inclusion promise").
- The entry is about this signature of this certificate over this payload, not about another.

Example:
    >>> logged_at = verify_entry(entry, root)
    >>> check_binding(entry, envelope, leaf)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from mitai.attest.refvalues.trusted_root import LogKey, TrustedRoot
from mitai.attest.x509 import Certificate
from mitai.errors import AttestError, ParseError
from mitai.identity import Envelope

_DIGESTS = {"SHA2_256": hashlib.sha256, "SHA2_384": hashlib.sha384}
_Decimal = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,17})\Z")]  # 64-bit numbers are strings in protobuf's JSON


class _LogId(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    key_id: bytes


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    version: str


class _Promise(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    signed_entry_timestamp: bytes


class _Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    envelope: str


class _Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    root_hash: bytes
    tree_size: _Decimal
    checkpoint: _Checkpoint
    log_index: _Decimal = "0"
    hashes: tuple[bytes, ...] = ()


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A log entry as a bundle carries it."""

    log_id: _LogId
    canonicalized_body: bytes
    log_index: _Decimal = "0"
    kind_version: _Kind | None = None
    integrated_time: Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,10})\Z")] = "0"  # up to the year 5138
    inclusion_promise: _Promise | None = None
    inclusion_proof: _Proof | None = None

    @property
    def place(self) -> tuple[bytes, bytes]:
        """What names the entry: its log, and what that has; the number alone is nothing that every log signs."""
        return self.log_id.key_id, self.canonicalized_body


def verify_entry(entry: Entry, root: TrustedRoot) -> datetime | None:
    """Check that the log holds the entry; return since when, or nothing where the log did not sign a time.

    1. The log is one of the trusted root's.
    2. The log signed a checkpoint, and it has the root and size of the proof.
    3. The entry is in that tree.
    4. Where there is a promise, the log signed entry and time.
    """
    # 1
    log = root.signature_logs.get(entry.log_id.key_id)
    if log is None:
        raise AttestError("attest.sigstore-log-untrusted", "the trusted root has no such signature log")
    # 2
    proof = entry.inclusion_proof
    if proof is None:
        raise AttestError("attest.sigstore-inclusion-missing", "the bundle does not prove that the log has the entry")
    size, tree = _verify_checkpoint(proof.checkpoint.envelope, log)
    if (size, tree) != (int(proof.tree_size), proof.root_hash):
        raise AttestError("attest.sigstore-checkpoint-mismatch", "the log signed another tree than the proof is for")
    # 3
    leaf = hashlib.sha256(b"\0" + entry.canonicalized_body).digest()
    if _climb(leaf, int(proof.log_index), size, proof.hashes) != tree:
        raise AttestError("attest.sigstore-inclusion-invalid", "the entry is not in the log where the proof says")
    # 4
    if entry.inclusion_promise is None or entry.integrated_time == "0":
        return None
    if not log.signed(_promised(entry), entry.inclusion_promise.signed_entry_timestamp):
        raise AttestError("attest.sigstore-time-invalid", "the log did not sign the time of the entry")
    return datetime.fromtimestamp(int(entry.integrated_time), UTC)


def check_logs(entries: Sequence[Entry], root: TrustedRoot, moment: datetime) -> None:
    """Raise `AttestError` unless every entry's log was in use at `moment`."""
    if not all(root.signature_logs[entry.log_id.key_id].window.covers(moment) for entry in entries):
        raise AttestError("attest.sigstore-log-untrusted", f"the trusted root has no such signature log on {moment:%F}")


def _promised(entry: Entry) -> bytes:
    """Rekor's signed entry timestamp: RFC 8785 JSON of body, time, log and index."""
    fields = {
        "body": base64.b64encode(entry.canonicalized_body).decode(),
        "integratedTime": int(entry.integrated_time),
        "logID": entry.log_id.key_id.hex(),
        "logIndex": int(entry.log_index),
    }
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def _verify_checkpoint(note: str, log: LogKey) -> tuple[int, bytes]:
    """Return size and root of a checkpoint that the log signed (C2SP tlog-checkpoint)."""
    text, _, signatures = note.partition("\n\n")
    lines = text.split("\n")
    origin = lines[0].split(" ")[0]  # Rekor signs with its host's name, which begins the origin
    signed = False
    for line in signatures.split("\n")[:16]:
        dash, _, rest = line.partition(" ")
        name, _, blob = rest.partition(" ")
        signature = _base64(blob) if (dash, name) == ("—", origin) else b""
        signed = signed or (signature[:4] == log.log_id[:4] and log.signed((text + "\n").encode(), signature[4:]))
    if not signed:
        raise AttestError("attest.sigstore-checkpoint-invalid", "the log did not sign the checkpoint of the proof")
    if len(lines) < 3 or not lines[1].isascii() or not lines[1].isdecimal() or len(lines[1]) > 18:
        raise AttestError("attest.sigstore-checkpoint-invalid", "the log's checkpoint is malformed")
    return int(lines[1]), _base64(lines[2])


def _base64(text: str) -> bytes:
    """Decode base64 in its one spelling; nothing otherwise."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode() == text else b""


def _climb(node: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that an inclusion proof leads to (RFC 9162 section 2.1.3.2); nothing if it has another shape."""
    if index >= size or len(proof) > 64 or any(len(sibling) != 32 for sibling in proof):
        return None
    last = size - 1
    for sibling in proof:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    return node if last == 0 else None


class _Hash(msgspec.Struct, frozen=True):
    algorithm: str
    value: str


class _Signature1(msgspec.Struct, frozen=True):
    signature: bytes
    verifier: bytes  # PEM


class _Dsse1(msgspec.Struct, frozen=True, rename="camel"):
    payload_hash: _Hash
    signatures: tuple[_Signature1, ...]


class _Body1(msgspec.Struct, frozen=True):
    spec: _Dsse1


class _RawBytes(msgspec.Struct, frozen=True, rename="camel"):
    raw_bytes: bytes


class _Verifier2(msgspec.Struct, frozen=True):
    certificate: _RawBytes = msgspec.field(name="x509Certificate")


class _Signature2(msgspec.Struct, frozen=True):
    content: bytes
    verifier: _Verifier2


class _Digest2(msgspec.Struct, frozen=True):
    algorithm: str
    digest: bytes


class _Rekord2(msgspec.Struct, frozen=True):
    data: _Digest2
    signature: _Signature2


class _Spec2(msgspec.Struct, frozen=True):
    rekord: _Rekord2 = msgspec.field(name="hashedRekordV002")


class _Body2(msgspec.Struct, frozen=True):
    spec: _Spec2


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str


def check_binding(entry: Entry, envelope: Envelope, leaf: Certificate) -> None:
    """Raise `AttestError` unless the entry is about this envelope's payload and signature and this certificate."""
    body = entry.canonicalized_body
    signature = envelope.signatures[0].sig
    try:
        head = msgspec.json.decode(body, type=_Head)
        named = entry.kind_version or _Kind(head.kind, head.api_version)
        match head.kind, head.api_version:
            case "dsse", "0.0.1":
                first = msgspec.json.decode(body, type=_Body1).spec
                (logged,) = first.signatures
                certificate = x509.load_pem_x509_certificate(logged.verifier).public_bytes(Encoding.DER)
                same = first.payload_hash == _Hash("sha256", hashlib.sha256(envelope.payload).hexdigest())
                same = same and logged.signature == signature
            case "hashedrekord", "0.0.2":
                second = msgspec.json.decode(body, type=_Body2).spec.rekord
                certificate = second.signature.verifier.certificate.raw_bytes
                digest = _DIGESTS[second.data.algorithm](envelope.signed_bytes()).digest()
                same = second.data.digest == digest and second.signature.content == signature
            case _:
                raise ValueError("another kind")
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, KeyError) as error:
        raise ParseError(
            "attest.sigstore-entry-unsupported", "the log entry is of no kind that is read here"
        ) from error
    if not same or certificate != leaf.der or named != _Kind(head.kind, head.api_version):
        raise AttestError("attest.sigstore-entry-mismatch", "the log entry is about another signature")
