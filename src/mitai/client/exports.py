"""Exports on one's own machine: what a request says, as its requester signed it; a recipient's key; the plaintext.

Follows `docs/spec/exports.md`.

Invariants:

- A request is shown and voted on as it was signed: its id is computed here, from the very bytes that are shown.
- A folder of plaintext appears whole or not at all, and never in place of something else.

Example:
    >>> pending = owner.exports(capsule_id)[0]
    >>> owner.vote_export(pending.id, approve=True)
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mitai.broker import protocol
from mitai.broker.protocol import (
    ExportAnswer,
    ExportedKey,
    ExportView,
    Recipient,
    RequestExport,
    export_info,
    sha256_hex,
)
from mitai.capsule import Manifest, open_manifest
from mitai.capsule.opening import CapsuleSource, check_data_key
from mitai.channel.hpke import Aead, Kem, PrivateKey, setup_recipient
from mitai.channel.ohttp import KeyConfig
from mitai.client.lineage import proven
from mitai.errors import ClientError
from mitai.identity import PublicKey
from mitai.ledger.entry import Export, decode
from mitai.ledger.note import Checkpoint
from mitai.wire import parse_json

_BLOCK_BYTES = 64 << 20
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Pending:
    """A request for export, verified, and how the broker says that it stands."""

    id: str
    request: RequestExport
    view: ExportView


@dataclass(frozen=True)
class Exported:
    """A capsule that was let out: its data key with its verified manifest."""

    manifest: Manifest
    envelope: bytes
    key: ExportedKey

    def __repr__(self) -> str:
        return f"Exported({self.manifest.capsule_id!r})"


class RecipientKey:
    """The key that exports to oneself are sealed to, made from 32 secret bytes."""

    def __init__(self, seed: bytes) -> None:
        self._private = PrivateKey.from_seed(Kem.X_WING, seed)
        self._config = KeyConfig(0, Kem.X_WING, self._private.public, (Aead.AES_256_GCM,))

    def recipient(self, name: str, party: PublicKey) -> Recipient:
        """Return what a request for export names."""
        return Recipient(name, party.key_id, self._config.encode())

    def open(self, request: str, sealed: bytes) -> ExportedKey:
        """Open a key that was sealed for exactly this request; raise `ChannelError` for any other."""
        enc, ciphertext = sealed[: self._config.kem.enc_bytes], sealed[self._config.kem.enc_bytes :]
        context = setup_recipient(self._private, enc, export_info(request), self._config.aeads[0])
        return protocol.decode(context.open(ciphertext), ExportedKey, protocol.MAX_EXPORT_BYTES)


def read_recipient(data: bytes) -> Recipient:
    """Read a recipient's file, whose key must be one that something can be sealed to."""
    recipient = parse_json(data, Recipient, 16 << 10, "client.recipient-malformed", "this file names no recipient")
    KeyConfig.decode(recipient.key)
    return recipient


def verify_view(view: ExportView, capsule: str, broker: str) -> Pending:
    """Return a request when its requester signed it, at this broker, about this capsule; raise `MitaiError` if not."""
    payload = view.command.open(protocol.COMMAND_TYPE, PublicKey(view.public_key))
    request = protocol.decode_export_command(payload)
    if (
        not isinstance(request, RequestExport)
        or request.party != PublicKey(view.public_key).key_id
        or (request.capsule, request.broker) != (capsule, broker)
    ):
        raise ClientError("client.export-mismatch", "the broker answers about another request for export")
    return Pending(sha256_hex(payload), request, view)


def open_export(answer: ExportAnswer, request: str, key: RecipientKey, checkpoint: Checkpoint) -> Exported:
    """Return what was let out when all of these hold.

    1. The ledger says so: its entry names the request, and is in the tree of the checkpoint.
    2. The data key is sealed to `key`, for this request.
    3. The manifest is signed by the key that came sealed, has the digest that came sealed, and the data key opens it.

    Raises:
        MitaiError: One of the steps failed.
    """
    # 1. ledger
    entry = decode(proven(answer.entry, checkpoint))
    if not isinstance(entry, Export) or entry.export != request:
        raise ClientError("client.export-mismatch", "the ledger's entry is about something else than this export")
    # 2. key
    opened = key.open(request, answer.sealed)
    if (opened.request, opened.capsule) != (request, entry.capsule):
        raise ClientError("client.export-mismatch", "the sealed key is of another export than the ledger says")
    # 3. manifest
    signer = PublicKey(opened.signer)
    manifest = open_manifest(answer.manifest, owner=signer, manifest_sha256=opened.manifest_sha256)
    if manifest.capsule_id != opened.capsule:
        raise ClientError("client.export-mismatch", "the manifest is of another capsule than the sealed key")
    check_data_key(manifest, opened.data_key)
    return Exported(manifest, answer.manifest, opened)


def write_plaintext(source: CapsuleSource, folder: Path, progress: Report | None = None) -> None:
    """Write an opened capsule's files into a new folder, which appears when all are there and on disk.

    Raises:
        ClientError: There is something at `folder` already, or a file can't be written; nothing is left behind.
        CapsuleError: A file is not what the manifest says; nothing is left behind.
    """
    if os.path.lexists(folder):
        raise ClientError(
            "client.export-exists", f"{folder} is there already, and nothing is overwritten", hint="name another folder"
        )
    part = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    name = ""
    try:
        part.mkdir(parents=True, mode=0o700)
        total, done = sum(source.size(name) for name in source.names()), 0
        for name in source.names():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            done += _write_file(source, name, path)
            if progress:
                progress(done, total)
        part.rename(folder)
    except OSError as error:
        raise ClientError(
            "client.export-unwritable",
            f"{folder / name} can't be written: {error.strerror or type(error).__name__}",
            hint="is there room? is the folder yours? a capsule with files 'a' and 'a/b' fits into no folder",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_file(source: CapsuleSource, name: str, path: Path) -> int:
    size = source.size(name)
    buffer = memoryview(bytearray(min(size, _BLOCK_BYTES)))
    with path.open("xb") as file:
        for offset in range(0, size, _BLOCK_BYTES):
            block = buffer[: min(_BLOCK_BYTES, size - offset)]
            source.read_into(name, offset, block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return size
