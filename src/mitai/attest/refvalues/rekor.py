"""Rekor's entries: proof that a signature stands in the public log, and since when.

Follows RFC 6962 section 2.1 (Merkle tree), C2SP signed-note and tlog-checkpoint as Rekor 1 uses them, and Rekor's
entry type `dsse` 0.0.1.

Invariants:

- The entry is in the tree whose root the log signed in the checkpoint beside the proof.
- The time of the entry counts only with the log's own signature over entry and time together (the "inclusion promise").
- The entry is about this signature of this certificate over this payload, not about another.

Example:
    >>> logged_at = verify_entry(entry, root)
    >>> check_binding(entry, payload, signature, leaf)
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
    integrated_time: _Decimal = "0"
    inclusion_promise: _Promise | None = None
    inclusion_proof: _Proof | None = None

    @property
    def place(self) -> tuple[bytes, str]:
        """What names the entry: its log and its number there."""
        return self.log_id.key_id, self.log_index


def verify_entry(entry: Entry, root: TrustedRoot) -> datetime | None:
    """Check that the log holds the entry; return since when, or nothing where the log did not sign a time.

    1. The log is one of the trusted root's, inside its validity.
    2. The log signed a checkpoint, and it has the root and size of the proof.
    3. The entry is in that tree.
    4. Where there is a promise, the log signed entry and time.
    """
    # 1
    logged_at = datetime.fromtimestamp(int(entry.integrated_time), UTC) if len(entry.integrated_time) < 12 else None
    log = root.signature_logs.get(entry.log_id.key_id)
    if log is None or logged_at is None or (int(entry.integrated_time) and not log.window.covers(logged_at)):
        raise AttestError("attest.sigstore-log-untrusted", "the trusted root has no such signature log at that time")
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
    if entry.inclusion_promise is None or not int(entry.integrated_time):
        return None
    if not log.signed(_promised(entry), entry.inclusion_promise.signed_entry_timestamp):
        raise AttestError("attest.sigstore-time-invalid", "the log did not sign the time of the entry")
    return logged_at


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
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


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


class _DsseSignature(msgspec.Struct, frozen=True):
    signature: bytes
    verifier: bytes


class _DsseSpec(msgspec.Struct, frozen=True, rename="camel"):
    payload_hash: _Hash
    signatures: tuple[_DsseSignature, ...]


class _DsseBody(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    spec: _DsseSpec


def check_binding(entry: Entry, payload: bytes, signature: bytes, leaf: Certificate) -> None:
    """Raise `AttestError` unless the entry is about this payload, this signature and this certificate."""
    try:
        body = msgspec.json.decode(entry.canonicalized_body, type=_DsseBody)
        (logged,) = body.spec.signatures
        certificate = x509.load_pem_x509_certificate(logged.verifier)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise ParseError("attest.sigstore-entry-unsupported", "the log entry is not one of kind dsse 0.0.1") from error
    named = entry.kind_version
    if (body.kind, body.api_version) != ("dsse", "0.0.1") or (named is not None and named != _Kind("dsse", "0.0.1")):
        raise ParseError("attest.sigstore-entry-unsupported", "the log entry is not one of kind dsse 0.0.1")
    payload_hash = _Hash("sha256", hashlib.sha256(payload).hexdigest())
    if (
        body.spec.payload_hash != payload_hash
        or logged.signature != signature
        or certificate.public_bytes(Encoding.DER) != leaf.der
    ):
        raise AttestError("attest.sigstore-entry-mismatch", "the log entry is about another signature")
