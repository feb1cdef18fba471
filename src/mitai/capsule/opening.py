"""Open a capsule: decrypt straight into memory, on several threads, plaintext never on a disk.

Follows `docs/spec/capsule.md`. The store and the envelope come from an untrusted host, the data key from the broker.

Invariants:

- Nothing is read before the manifest's signature, revision, owner, kind and the data key were checked.
- A buffer holds authenticated bytes of the right file, or an error is raised and the buffer is wiped.
- Where the manifest has ciphertext digests, they are checked too: then even the owner can't show two contents under
  one manifest.

Example:
    >>> source = open_capsule(FolderStore(folder), envelope, key, owner=alice.public)  # doctest: +SKIP
    >>> source.read("config.json")  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from functools import partial

from mitai.capsule import segments
from mitai.capsule.directio import Buffers, anonymous
from mitai.capsule.manifest import FileEntry, Manifest, open_manifest
from mitai.capsule.segments import HEADER_BYTES, SEALED_BYTES, SEGMENT_BYTES, Place
from mitai.capsule.sources import bounded, check_range, unknown_file
from mitai.capsule.stores import ObjectStore
from mitai.capsule.workers import Progress, default_workers, run_all
from mitai.errors import CapsuleError
from mitai.identity import PublicKey


def open_capsule(
    store: ObjectStore,
    envelope: bytes,
    data_key: bytes,
    *,
    owner: PublicKey,
    manifest_sha256: str | None = None,
    kind: str | None = None,
    workers: int | None = None,
) -> CapsuleSource:
    """Check the manifest and the key, and return the capsule's files; objects are read when files are.

    Args:
        store: Where the encrypted objects lie.
        envelope: The content of `manifest.json`.
        data_key: The capsule's 32-byte key.
        owner: Whose capsule it has to be.
        manifest_sha256: The revision that is wanted, in hex; without it any revision that the owner signed and the key
            fits is taken.
        kind: The kind that is wanted (`model`, `data`, `adapter` …).
        workers: Threads for bulk reads; as many as processors when not given.

    Raises:
        CapsuleError: A check failed; `code` says which.
        ParseError: The envelope or the manifest is malformed.
    """
    manifest = open_manifest(envelope, owner=owner, manifest_sha256=manifest_sha256, kind=kind)
    check_data_key(manifest, data_key)
    return CapsuleSource(store, manifest, data_key, default_workers() if workers is None else workers)


def check_data_key(manifest: Manifest, data_key: bytes) -> None:
    """Raise `capsule.key-wrong` unless `data_key` is this capsule's."""
    fits = len(data_key) == segments.DATA_KEY_BYTES and hmac.compare_digest(
        segments.key_check(data_key, bytes.fromhex(manifest.capsule_id)), manifest.key_check
    )
    if not fits:
        raise CapsuleError("capsule.key-wrong", f"this key does not open capsule {manifest.capsule_id}", step="key")


def check_new(manifest: Manifest, data_key: bytes, owner: PublicKey) -> None:
    """Raise unless a capsule that is new to the reader is this owner's, with this key, by its very id.

    A later revision of a capsule has another key, and is known by its id already.
    """
    check_data_key(manifest, data_key)
    if manifest.capsule_id != segments.new_id(data_key, owner.raw).hex():
        raise CapsuleError(
            "capsule.id-foreign",
            "the capsule's id does not follow from its key and its owner: it may be another's",
            step="id",
            hint="seal it anew as a new capsule",
        )


class CapsuleSource:
    """An opened capsule: a `FileSource` whose every byte was authenticated. Safe to read from several threads."""

    def __init__(self, store: ObjectStore, manifest: Manifest, data_key: bytes, workers: int) -> None:
        self.manifest = manifest
        self._store = store
        self._data_key = data_key
        self._workers = workers
        self._buffers = _buffers(manifest)
        self._checked: set[str] = set()  # objects whose size is right
        self._files = {file.name: file for file in sorted(manifest.files, key=lambda file: file.name)}

    def __repr__(self) -> str:
        return f"CapsuleSource({self.manifest.capsule_id}, {len(self._files)} files)"

    def names(self) -> tuple[str, ...]:
        """Return every file's name, sorted."""
        return tuple(self._files)

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return self._file(name).size

    def read(self, name: str) -> bytes:
        """Return a whole file of at most 1 GiB."""
        buffer = bytearray(bounded(self.size(name)))
        self.read_into(name, 0, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on; every segment that is touched is decrypted and authenticated as a whole."""
        self._fill(self._file(name), offset, buffer, self._workers, None)

    def read_file_into(
        self, name: str, buffer: memoryview, workers: int | None = None, progress: Progress | None = None
    ) -> None:
        """Fill `buffer`, which has exactly the file's size, on `workers` threads."""
        file = self._file(name)
        if buffer.nbytes != file.size:
            raise CapsuleError("capsule.range-invalid", f"a buffer of {buffer.nbytes} bytes for a file of {file.size}")
        self._fill(file, 0, buffer, self._workers if workers is None else workers, progress)

    def _file(self, name: str) -> FileEntry:
        try:
            return self._files[name]
        except KeyError:
            raise unknown_file(name) from None

    def _fill(self, file: FileEntry, offset: int, buffer: memoryview, workers: int, progress: Progress | None) -> None:
        buffer = buffer.cast("B")
        check_range(file.size, offset, len(buffer))
        end = offset + len(buffer)
        final = segments.count(file.size) - 1
        first, last = min(final, offset // SEGMENT_BYTES), min(final, max(offset, end - 1) // SEGMENT_BYTES)
        jobs: list[Callable[[], int]] = []
        for index in range(first, last + 1):
            start = index * SEGMENT_BYTES
            stop = start + segments.plain_size(file.size, index)
            wanted = buffer[max(offset, start) - offset : max(0, min(end, stop) - offset)]
            jobs.append(partial(self._open_segment, file, index, max(0, offset - start), wanted))
        try:
            if file.object not in self._checked:
                check_object_size(self._store, file)
                self._checked.add(file.object)
            run_all(jobs, workers, progress, len(buffer))
        except BaseException:
            segments.wipe(buffer)
            raise

    def _open_segment(self, file: FileEntry, index: int, skip: int, wanted: memoryview) -> int:
        """Decrypt one segment; `wanted` takes its bytes from `skip` on."""
        place = place_of(self.manifest, file, index)
        commitment = file.commitments[32 * index : 32 * index + 32]
        with self._buffers.lend() as buffer:
            sealed = _read(self._store, file, segments.offset(index), buffer[: segments.sealed_size(place.length)])
            if len(wanted) == place.length:
                segments.open_into(self._data_key, place, commitment, sealed, wanted)
            else:
                with anonymous(place.length) as memory, memoryview(memory) as whole, whole[: place.length] as plain:
                    segments.open_into(self._data_key, place, commitment, sealed, plain)
                    wanted[:] = plain[skip : skip + len(wanted)]
            _check_digest(file, index, sealed)
        return len(wanted)


def verify_objects(
    store: ObjectStore,
    envelope: bytes,
    owner: PublicKey,
    *,
    names: Iterable[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Check what a store holds against the manifest, without any key; for uploaders and hosts.

    1. The manifest is signed by its owner and well formed.
    2. With `names` (a listing of the store): no object is missing and none is there that the manifest does not list.
    3. Every object has its size, and every segment starts with the commitment that the manifest pins: nothing is
       truncated, swapped or older.
    4. Where the capsule was sealed with digests: every segment's SHA-256 fits, so that not one bit differs. Without
       digests, changed bytes inside of segments are found on opening only.

    Raises:
        CapsuleError: A check failed; `code` says which.
        ParseError: The envelope or the manifest is malformed.
    """
    # Step 1: manifest
    manifest = open_manifest(envelope, owner=owner)
    # Step 2: listing
    if names is not None:
        _check_listing(manifest, set(names))
    # Steps 3 and 4: objects
    jobs, buffers = [], _buffers(manifest)
    for file in manifest.files:
        check_object_size(store, file)
        indices = range(segments.count(file.size))
        jobs += [partial(_verify_segment, store, manifest, file, index, buffers) for index in indices]
    total = sum(file.object_size for file in manifest.files)
    run_all(jobs, default_workers() if workers is None else workers, progress, total)
    return manifest


def _check_listing(manifest: Manifest, names: set[str]) -> None:
    listed = {file.object for file in manifest.files}
    if listed - names:
        raise CapsuleError("capsule.object-missing", f"the store lacks {len(listed - names)} objects", step="listing")
    if names - listed:
        raise CapsuleError(
            "capsule.object-unlisted", f"the store has {len(names - listed)} objects of no file", step="listing"
        )


def _verify_segment(store: ObjectStore, manifest: Manifest, file: FileEntry, index: int, buffers: Buffers) -> int:
    size = segments.sealed_size(segments.plain_size(file.size, index))
    with buffers.lend() as buffer:
        sealed = _read(store, file, segments.offset(index), buffer[: size if file.digests else HEADER_BYTES])
        header, commitment = bytes(sealed[:HEADER_BYTES]), file.commitments[32 * index : 32 * index + 32]
        segments.check_header(header, place_of(manifest, file, index), commitment)
        _check_digest(file, index, sealed)
    return size


def place_of(manifest: Manifest, file: FileEntry, index: int) -> Place:
    """Return where one of a file's segments belongs."""
    return Place(bytes.fromhex(manifest.capsule_id), bytes.fromhex(file.object), file.size, index)


def check_object_size(store: ObjectStore, file: FileEntry) -> None:
    """Raise when the store's object is shorter or longer than the manifest says."""
    try:
        size = store.size(file.object)
    except OSError as error:
        raise _store_failed(file, error) from error
    if size < file.object_size:
        raise CapsuleError(
            "capsule.object-truncated", f"object {file.object} has {size} of {file.object_size} bytes", step="size"
        )
    if size > file.object_size:
        raise CapsuleError(
            "capsule.object-too-long", f"object {file.object} has {size} bytes, not {file.object_size}", step="size"
        )


def _buffers(manifest: Manifest) -> Buffers:
    """Return room for one sealed segment of the largest file, for each thread."""
    return Buffers(min(SEALED_BYTES, max((file.object_size for file in manifest.files), default=0)))


def _check_digest(file: FileEntry, index: int, sealed: memoryview) -> None:
    """Raise where the manifest has a digest for this segment and it is another one."""
    digest = file.digests[32 * index : 32 * index + 32]
    if digest and not hmac.compare_digest(hashlib.sha256(sealed).digest(), digest):
        raise CapsuleError(
            "capsule.digest-mismatch",
            f"segment {index} of object {file.object} has another SHA-256 than the manifest says",
            step="digest",
        )


def _read(store: ObjectStore, file: FileEntry, position: int, buffer: memoryview) -> memoryview:
    try:
        got = store.read_into(file.object, position, buffer)
    except OSError as error:
        raise _store_failed(file, error) from error
    if got != len(buffer):
        raise CapsuleError(
            "capsule.store-lied",
            f"the store returned {got} bytes of object {file.object} where {len(buffer)} were asked for",
            step="read",
        )
    return buffer


def _store_failed(file: FileEntry, error: OSError) -> CapsuleError:
    return CapsuleError(
        "capsule.store-failed", f"the store failed on object {file.object}: {type(error).__name__}", step="read"
    )
