"""The manifest of a capsule: what it holds, signed by its owner, readable without a key.

Format: `docs/spec/capsule.md`, "Manifest". The exact bytes travel in a DSSE envelope (`mitai.identity`); they are
checked as received.

Invariants:

- Nothing of a manifest is used before its owner's signature holds.
- File names are relative, bounded and unique; object names are random and say nothing about the file.
- Unknown versions, suites and fields are refused.

Example:
    >>> manifest = open_manifest(envelope, owner=alice.public, kind="model")  # doctest: +SKIP
    >>> [file.name for file in manifest.files]  # doctest: +SKIP
    ['config.json', 'model.safetensors']
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

import msgspec

from mitai.capsule import segments
from mitai.errors import CapsuleError, MitaiError, ParseError
from mitai.identity import Envelope, PublicKey

FORMAT = "mitai-capsule"
VERSION = 1
SUITE = "aes256-gcm-hkdf-16x1mib"
PAYLOAD_TYPE = "application/vnd.mitai.capsule+json"
MANIFEST_NAME = "manifest.json"

MAX_FILES = 100_000
MAX_FILE_BYTES = 1 << 44  # 16 TiB
MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
MAX_LABELS = 64
MAX_LABEL_BYTES = 4096
MAX_PARENTS = 256

_HEX16 = re.compile(r"[0-9a-f]{32}\Z")
_HEX32 = re.compile(r"[0-9a-f]{64}\Z")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file and the encrypted object that holds it.

    `commitments` has 32 bytes per segment: its salt, which with key and place fixes its AES key. `digests` has 32 bytes
    per segment, the SHA-256 of its ciphertext, or is empty when the capsule was sealed without digests.
    """

    name: str
    size: int
    object: str
    object_size: int
    commitments: bytes
    digests: bytes = b""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a capsule holds; see `docs/spec/capsule.md` for every field."""

    format: str
    v: int
    suite: str
    capsule_id: str
    name: str
    kind: str
    created: str
    owner: str
    key_check: bytes
    files: tuple[FileEntry, ...]
    parents: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    proof_identity: str | msgspec.UnsetType = msgspec.UNSET

    def encode(self) -> bytes:
        """Return the bytes to sign."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """Parse and check a manifest's exact bytes; raise `ParseError` on anything that the format forbids."""
        try:
            version = msgspec.json.decode(data, type=_Version)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError("capsule.manifest-malformed", "these bytes are not a capsule manifest") from error
        if (version.format, version.v, version.suite) != (FORMAT, VERSION, SUITE):
            raise ParseError(
                "capsule.version-unknown",
                "this capsule's format, version or suite is not known here",
                hint="a newer mitai may open it",
            )
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError("capsule.manifest-malformed", "these bytes are not a capsule manifest") from error
        _check(manifest)
        return manifest


class _Version(msgspec.Struct):
    format: str
    v: int
    suite: str


def open_manifest(
    envelope: bytes, *, owner: PublicKey, manifest_sha256: str | None = None, kind: str | None = None
) -> Manifest:
    """Return the manifest of a signed envelope.

    1. The envelope parses and is signed by `owner` as a capsule manifest.
    2. The manifest's bytes have the digest that was asked for, if one was.
    3. The manifest is well formed, of a known version.
    4. It names the same owner, and the kind that was asked for, if one was.

    Args:
        envelope: A DSSE envelope in JSON, the content of `manifest.json`.
        owner: Whose signature is demanded.
        manifest_sha256: SHA-256 of the manifest's bytes in hex, where the caller knows which revision it wants.
        kind: The kind of capsule that the caller can use.

    Raises:
        CapsuleError: A check failed.
        ParseError: The envelope or the manifest is malformed.
    """
    # Step 1: signature
    try:
        payload = Envelope.decode(envelope).open(PAYLOAD_TYPE, owner)
    except ParseError:
        raise
    except MitaiError as error:
        raise CapsuleError(
            "capsule.signature-invalid",
            f"the manifest is not signed by the owner {owner.key_id[:16]}…",
            step="signature",
            hint="it was changed, or it is another owner's capsule",
        ) from error
    # Step 2: revision
    if manifest_sha256 is not None and hashlib.sha256(payload).hexdigest() != manifest_sha256:
        raise CapsuleError(
            "capsule.manifest-mismatch",
            "the manifest is signed by its owner but is not the one that was asked for",
            step="revision",
            hint="an older or newer revision was put in its place",
        )
    # Step 3: form
    manifest = Manifest.decode(payload)
    # Step 4: owner and kind
    if manifest.owner != owner.key_id:
        raise CapsuleError(
            "capsule.owner-mismatch", "the manifest names another owner than the one who signed it", step="owner"
        )
    if kind is not None and manifest.kind != kind:
        raise CapsuleError(
            "capsule.kind-mismatch", f"a capsule of kind {manifest.kind!r} where {kind!r} is expected", step="kind"
        )
    return manifest


def check_file_name(name: str) -> None:
    """Raise `ParseError` unless `name` is a relative path that is safe to show, store and compare."""
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise ParseError("capsule.name-invalid", "a file name is not valid Unicode") from None
    parts = raw.split(b"/")
    if (
        len(raw) > MAX_NAME_BYTES
        or any(part in {b"", b".", b".."} or len(part) > MAX_PART_BYTES for part in parts)
        or "\\" in name
        or not name.isprintable()
    ):
        raise ParseError("capsule.name-invalid", "a file name is empty, absolute, too long or has forbidden parts")


def _check(manifest: Manifest) -> None:
    """Check what the types cannot say."""
    _demand(_HEX16.match(manifest.capsule_id), "capsule_id")
    _demand(_HEX32.match(manifest.owner), "owner")
    _demand(_KIND.match(manifest.kind), "kind")
    _demand(0 < len(manifest.name) <= 200 and manifest.name.isprintable(), "name")
    _demand(len(manifest.key_check) == segments.KEY_CHECK_BYTES, "key_check")
    _demand(_is_utc_time(manifest.created), "created")
    _demand(len(manifest.parents) <= MAX_PARENTS and all(map(_HEX16.match, manifest.parents)), "parents")
    _demand(len(set(manifest.parents)) == len(manifest.parents), "parents")
    _demand(len(manifest.labels) <= MAX_LABELS, "labels")
    _demand(all(0 < len(k) <= 64 and len(v) <= MAX_LABEL_BYTES for k, v in manifest.labels.items()), "labels")
    identity = manifest.proof_identity
    _demand(identity is msgspec.UNSET or (manifest.kind == "model" and _HEX32.match(identity)), "proof_identity")
    _demand(len(manifest.files) <= MAX_FILES, "files")
    for file in manifest.files:
        _check_file(file)
    for what in ("name", "object"):
        values = [getattr(file, what) for file in manifest.files]
        if len(set(values)) != len(values):
            raise ParseError("capsule.duplicate-name", f"a manifest lists the same {what} twice")


def _check_file(file: FileEntry) -> None:
    check_file_name(file.name)
    _demand(_HEX16.match(file.object), "object")
    _demand(0 <= file.size <= MAX_FILE_BYTES, "size")
    if file.object_size != segments.object_size(file.size):
        raise ParseError("capsule.size-mismatch", "a manifest's object size does not fit its file size")
    count = segments.count(file.size)
    _demand(len(file.commitments) == 32 * count, "commitments")
    _demand(len(file.digests) in {0, 32 * count}, "digests")


def _is_utc_time(text: str) -> bool:
    if len(text) != 20 or not text.isascii():
        return False
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007  # the format demands UTC
    except ValueError:
        return False
    return True


def _demand(condition: object, field: str) -> None:
    if not condition:
        raise ParseError("capsule.manifest-malformed", f"a manifest's field {field!r} is not valid")
