"""Seal files: encrypt every file into an object, on several threads, then sign the manifest; resumable.

Follows `docs/spec/capsule.md`. Memory is bounded by the number of threads, not by the size of files.

Invariants:

- The manifest is written last, by an atomic rename: a folder without one is no capsule.
- Sealing can be killed at any moment and called again. The journal (`.sealing.json`) holds the plan, and the data key
  encrypted under a key that only the owner's identity gives. It is removed once the manifest stands.
- No file holds plaintext or a key in the clear.
- Files that are in memory only (a `FileSource` that is no folder) are sealed from there.
- Resuming trusts nothing that it finds: a segment is kept only if it opens under the key and equals the source's bytes.

Example:
    >>> sealed = seal(Path("model"), Path("sealed"), owner=alice, name="my model")  # doctest: +SKIP
    >>> sealed.manifest_sha256  # doctest: +SKIP
    '5f1c…'
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mitai.capsule import directio, segments
from mitai.capsule import manifest as manifests
from mitai.capsule.directio import Buffers
from mitai.capsule.manifest import MANIFEST_NAME, PAYLOAD_TYPE, FileEntry, Manifest, open_manifest
from mitai.capsule.opening import check_data_key
from mitai.capsule.segments import CHUNK_BYTES, SEALED_BYTES, SEGMENT_BYTES, Place
from mitai.capsule.sources import FileSource, FolderSource, read_exactly, source_changed
from mitai.capsule.stores import checked
from mitai.capsule.workers import Progress, default_workers, run_all
from mitai.errors import CapsuleError
from mitai.identity import MAX_ENVELOPE_BYTES, Envelope, Identity

JOURNAL_NAME = ".sealing.json"
BUFFERS_IN_TURN = 3  # memory that a virtual machine's host just read is slow to write again, until its cache let go
_JOURNAL_LABEL = b"mitai capsule journal key v1"


@dataclass(frozen=True)
class Sealed:
    """What sealing gives: hand `data_key` to the broker, the folder to any host."""

    capsule_id: str
    envelope: bytes = field(repr=False)
    manifest_sha256: str
    data_key: bytes = field(repr=False)


class PlannedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is to be sealed, and the name of its object."""

    name: str
    size: int
    object: str


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan of an unfinished seal."""

    v: int
    capsule_id: str
    name: str
    kind: str
    created: str
    owner: str
    parents: tuple[str, ...]
    labels: dict[str, str]
    digests: bool
    wrapped_key: bytes
    files: tuple[PlannedFile, ...]
    proof_identity: str | msgspec.UnsetType = msgspec.UNSET

    def request(self) -> tuple[object, ...]:
        """Return what has to be the same for a seal to be resumed."""
        files = tuple((file.name, file.size) for file in self.files)
        said = self.name, self.kind, self.owner, self.parents, self.labels, self.digests, self.proof_identity
        return *said, files


def seal(
    source_dir: Path | FileSource,
    dest_dir: Path,
    *,
    owner: Identity,
    name: str,
    kind: str = "model",
    data_key: bytes | None = None,
    capsule_id: str | None = None,
    parents: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    digests: bool = False,
    proof_identity: str | msgspec.UnsetType = msgspec.UNSET,
    workers: int | None = None,
    progress: Progress | None = None,
    now: datetime | None = None,
) -> Sealed:
    """Seal every file of `source_dir` into `dest_dir`; after a crash, call again with the same arguments to resume.

    Args:
        source_dir: The plain folder, without `.git` and `.cache` in it; or files from elsewhere, which must not change.
        dest_dir: An empty or absent folder, or one where the same seal was interrupted.
        owner: Signs the manifest; also wraps the data key in the journal while sealing is under way.
        name: A name for people, in the clear.
        kind: `model`, `data`, `adapter` …, in the clear.
        data_key: 32 uniformly random bytes; made when not given. Whoever has to be safe against being killed right
            after `seal` has returned makes and keeps the key beforehand.
        capsule_id: Of the capsule that this is a new revision of; a new one when not given.
        parents: Ids of the capsules that this one derives from.
        labels: Short texts for people and programs, in the clear.
        digests: Put SHA-256 of the ciphertext into the manifest: anyone can then check stored objects bit by bit
            without a key, and one manifest can't stand for two contents, not even by its owner's doing. Costs
            hashing on sealing and on each opening.
        proof_identity: Of the model in these files, where its answers are proven: the same that their verifiers know.
        workers: Threads; as many as processors when not given.
        progress: Called with (done, total) plaintext bytes.
        now: The time of creation; the clock's when not given.

    Raises:
        CapsuleError: Sealing is impossible or was interrupted by a changed source, a full disk …; `code` says which.
        ParseError: A name, label or the journal is malformed.
    """
    source = FolderSource(source_dir) if isinstance(source_dir, Path) else source_dir
    if isinstance(source_dir, Path) and dest_dir.resolve().is_relative_to(source_dir.resolve()):
        raise CapsuleError("capsule.destination-inside-source", "the sealed folder can't lie within the plain folder")
    request = Journal(
        v=1,
        capsule_id=checked(capsule_id) if capsule_id else "",  # of a new one it follows from its key
        name=name,
        kind=kind,
        created=(now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        owner=owner.key_id,
        parents=parents,
        labels=dict(labels or {}),
        digests=digests,
        wrapped_key=b"",
        files=tuple(PlannedFile(file, source.size(file), secrets.token_hex(16)) for file in source.names()),
        proof_identity=proof_identity,
    )
    try:
        with _locked(dest_dir):
            journal, key = _plan(dest_dir, request, owner, data_key, capsule_id)
            if not (dest_dir / MANIFEST_NAME).exists():
                _Sealer(source, dest_dir, journal, key).run(owner, workers, progress)
            return _finish(dest_dir, journal, key, owner)
    except OSError as error:
        raise CapsuleError(
            "capsule.io-failed",
            f"sealing stopped: {error.strerror or type(error).__name__}",
            hint="nothing is lost: seal again with the same arguments to resume",
        ) from error


def _plan(
    dest: Path, request: Journal, owner: Identity, data_key: bytes | None, capsule_id: str | None
) -> tuple[Journal, bytes]:
    """Return the journal and the data key: those of the interrupted seal in `dest`, or new ones, safely written."""
    if data_key is not None and len(data_key) != segments.DATA_KEY_BYTES:
        raise CapsuleError("capsule.key-malformed", f"a data key has 32 bytes, not {len(data_key)}")
    path = dest / JOURNAL_NAME
    if path.exists():
        journal = _read_journal(path)
        if journal.request() != request.request() or capsule_id not in {None, journal.capsule_id}:
            raise CapsuleError(
                "capsule.resume-mismatch",
                "an unfinished seal of something else lies in the destination",
                hint="finish it with the same source and arguments, or remove the folder",
            )
        key = _unwrap(journal, owner)
        if data_key not in {None, key}:
            raise CapsuleError("capsule.resume-mismatch", "the unfinished seal in the destination has another data key")
        return journal, key
    _refuse_leftovers(dest)
    key = data_key or secrets.token_bytes(segments.DATA_KEY_BYTES)
    named = request.capsule_id or segments.new_id(key, owner.public.raw).hex()
    journal = msgspec.structs.replace(request, capsule_id=named)
    journal = msgspec.structs.replace(journal, wrapped_key=_wrap(key, journal, owner))
    _check_plan(journal, key)
    _write_atomically(path, msgspec.json.encode(journal))
    return journal, key


def _check_plan(journal: Journal, key: bytes) -> None:
    """Find out before the work, not after it, whether the manifest will be valid and small enough to be opened."""
    nothing = bytes(32), bytes(32)
    blank = {(file.object, index): nothing for file in journal.files for index in range(segments.count(file.size))}
    payload = _manifest(journal, key, blank).encode()
    Manifest.decode(payload)
    if len(payload) * 4 // 3 + 1024 > MAX_ENVELOPE_BYTES:
        raise CapsuleError("capsule.too-large", "too many files or too much data for one capsule")


def _refuse_leftovers(dest: Path) -> None:
    names = {path.name for path in dest.iterdir()} - {JOURNAL_NAME + ".tmp"}
    if MANIFEST_NAME in names:
        raise CapsuleError("capsule.exists", "a finished capsule lies in the destination")
    if names:
        raise CapsuleError("capsule.destination-not-empty", "the destination holds files that are no unfinished seal")


def _read_journal(path: Path) -> Journal:
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=Journal)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CapsuleError(
            "capsule.journal-malformed", "the journal in the destination is damaged", hint="remove the folder"
        ) from error
    if journal.v != 1:
        raise CapsuleError("capsule.version-unknown", "the journal in the destination is of an unknown version")
    for file in journal.files:
        checked(file.object)
    checked(journal.capsule_id)
    return journal


class _Sealer:
    """One run over all segments of a plan."""

    def __init__(self, source: FileSource, dest: Path, journal: Journal, key: bytes) -> None:
        self._source = source
        self._dest = dest
        self._journal = journal
        self._key = key
        largest = max((segments.object_size(file.size) for file in journal.files), default=0)
        self._segments = Buffers(min(SEALED_BYTES, largest), rotate=BUFFERS_IN_TURN)
        self._chunks = Buffers(min(CHUNK_BYTES, largest))
        self._opened = Buffers(min(SEGMENT_BYTES, largest))  # plaintext, so never the same memory as what is written
        self._made: dict[tuple[str, int], tuple[bytes, bytes]] = {}  # (object, index): commitment, digest

    def run(self, owner: Identity, workers: int | None, progress: Progress | None) -> None:
        """Seal what is not sealed yet, make it durable, and write the signed manifest."""
        stamps = self._stamps()
        jobs: list[Callable[[], int]] = [
            partial(self._segment, file, index)
            for file in self._journal.files
            for index in range(segments.count(file.size))
        ]
        total = sum(file.size for file in self._journal.files)
        run_all(jobs, default_workers() if workers is None else workers, progress, total)
        if self._stamps() != stamps:
            raise source_changed(self._journal.name)
        for file in self._journal.files:
            self._settle(file)
        payload = _manifest(self._journal, self._key, self._made).encode()
        Manifest.decode(payload)
        _write_atomically(self._dest / MANIFEST_NAME, owner.sign(payload, PAYLOAD_TYPE).encode())

    def _stamps(self) -> list[tuple[int, int]]:
        """Return size and time of each file of a folder, by which a change while it is read is found out."""
        if not isinstance(self._source, FolderSource):
            return []
        try:
            return [self._source.stamp(file.name) for file in self._journal.files]
        except FileNotFoundError:
            raise source_changed(self._journal.name) from None

    def _segment(self, file: PlannedFile, index: int) -> int:
        """Seal one segment at its place, unless it already lies there."""
        place = Place(bytes.fromhex(self._journal.capsule_id), bytes.fromhex(file.object), file.size, index)
        descriptor = os.open(self._dest / file.object, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            made = self._kept(descriptor, file, place)
            self._made[file.object, index] = made or self._write(descriptor, file, place)
        finally:
            os.close(descriptor)
        return place.length

    def _write(self, descriptor: int, file: PlannedFile, place: Place) -> tuple[bytes, bytes]:
        with self._segments.lend() as buffer, self._chunks.lend() as chunk:
            sealed = buffer[: segments.sealed_size(place.length)]
            segments.seal(self._key, place, self._blocks(file, place, chunk), sealed)
            directio.write(descriptor, sealed, segments.offset(place.index))
            return self._facts(sealed)

    def _kept(self, descriptor: int, file: PlannedFile, place: Place) -> tuple[bytes, bytes] | None:
        """Return commitment and digest of a segment that lies there already and whose content is the source's."""
        start, size = segments.offset(place.index), segments.sealed_size(place.length)
        if os.fstat(descriptor).st_size < start + size:
            return None
        with self._segments.lend() as buffer, self._opened.lend() as room, self._chunks.lend() as chunk:
            sealed, plain = buffer[:size], room[: place.length]
            directio.read_into(descriptor, sealed, start)
            try:
                segments.open_into(self._key, place, segments.pinned(sealed), sealed, plain)
            except CapsuleError:
                return None
            blocks = zip(self._blocks(file, place, chunk), segments.cuts(place.length), strict=True)
            same = all(bytes(block) == plain[begin:end].tobytes() for block, (begin, end) in blocks)
            return self._facts(sealed) if same else None

    def _facts(self, sealed: memoryview) -> tuple[bytes, bytes]:
        """Return what the manifest says of a segment: commitment and digest."""
        return segments.pinned(sealed), hashlib.sha256(sealed).digest() if self._journal.digests else b""

    def _blocks(self, file: PlannedFile, place: Place, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the source's bytes of one segment by chunks, each until the next: mapped, or read into `buffer`."""
        first = place.index * SEGMENT_BYTES
        if not isinstance(self._source, FolderSource):
            for start, end in segments.cuts(place.length):
                block = buffer[: end - start]
                self._source.read_into(file.name, first + start, block)
                yield block
            return
        with (
            self._source.opened(file.name) as descriptor,
            directio.mapped(descriptor, first, place.length) as memory,
        ):
            for start, end in segments.cuts(place.length):
                if memory is None:
                    block = buffer[: end - start]
                    read_exactly(descriptor, first + start, block, file.name)
                    yield block
                else:
                    with memory[start:end] as block:
                        yield block

    def _settle(self, file: PlannedFile) -> None:
        """Give an object its exact length and make it durable."""
        descriptor = os.open(self._dest / file.object, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, segments.object_size(file.size))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _manifest(journal: Journal, key: bytes, made: Mapping[tuple[str, int], tuple[bytes, bytes]]) -> Manifest:
    def joined(file: PlannedFile, which: int) -> bytes:
        return b"".join(made[file.object, index][which] for index in range(segments.count(file.size)))

    return Manifest(
        format=manifests.FORMAT,
        v=manifests.VERSION,
        suite=manifests.SUITE,
        capsule_id=journal.capsule_id,
        name=journal.name,
        kind=journal.kind,
        created=journal.created,
        owner=journal.owner,
        key_check=segments.key_check(key, bytes.fromhex(journal.capsule_id)),
        files=tuple(
            FileEntry(
                name=file.name,
                size=file.size,
                object=file.object,
                object_size=segments.object_size(file.size),
                commitments=joined(file, 0),
                digests=joined(file, 1) if journal.digests else b"",
            )
            for file in journal.files
        ),
        parents=journal.parents,
        labels=journal.labels,
        proof_identity=journal.proof_identity,
    )


def _finish(dest: Path, journal: Journal, key: bytes, owner: Identity) -> Sealed:
    """Check the manifest that stands, remove the journal, and return the result."""
    envelope = (dest / MANIFEST_NAME).read_bytes()
    manifest = open_manifest(envelope, owner=owner.public)
    check_data_key(manifest, key)
    if manifest.capsule_id != journal.capsule_id:
        raise CapsuleError("capsule.resume-mismatch", "the manifest in the destination is another capsule's")
    (dest / JOURNAL_NAME).unlink()
    payload = Envelope.decode(envelope).payload
    return Sealed(manifest.capsule_id, envelope, hashlib.sha256(payload).hexdigest(), key)


def _journal_key(journal: Journal, owner: Identity) -> AESGCM:
    info = _JOURNAL_LABEL + b"\0" + bytes.fromhex(journal.capsule_id)
    return AESGCM(HKDFExpand(SHA256(), 32, info).derive(owner.seed()))


def _wrap(key: bytes, journal: Journal, owner: Identity) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + _journal_key(journal, owner).encrypt(nonce, key, None)


def _unwrap(journal: Journal, owner: Identity) -> bytes:
    nonce, sealed = journal.wrapped_key[:12], journal.wrapped_key[12:]
    try:
        return _journal_key(journal, owner).decrypt(nonce, sealed, None)
    except (InvalidTag, ValueError) as error:
        raise CapsuleError("capsule.journal-malformed", "the journal's key does not open for this owner") from error


@contextmanager
def _locked(dest: Path) -> Iterator[None]:
    """Hold the destination for this process; the lock goes away with it, however it ends."""
    dest.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(dest, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CapsuleError("capsule.seal-running", "another process seals into this folder") from None
        yield
    finally:
        os.close(descriptor)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
