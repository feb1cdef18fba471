"""Opening: what comes out is what went in, or an error says exactly what is wrong."""

from __future__ import annotations

import hashlib
import threading

import pytest

from mitai.capsule import FolderStore, Manifest, open_capsule, open_manifest, verify_objects
from mitai.capsule.manifest import PAYLOAD_TYPE
from mitai.capsule.segments import CHUNK_BYTES, HEADER_BYTES, SEALED_BYTES, SEGMENT_BYTES, sealed_size
from mitai.errors import CapsuleError, MitaiError, ParseError
from mitai.identity import Envelope, Identity

BIG = "model.safetensors"
STEP = sealed_size(SEGMENT_BYTES)


def refused(code: str, work, kind=CapsuleError) -> MitaiError:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.code == code
    return caught.value


def test_every_file_comes_back(capsule, contents):
    source = capsule.open()
    assert source.names() == tuple(sorted(contents))
    for name, content in contents.items():
        assert source.size(name) == len(content)
        assert source.read(name) == content


@pytest.mark.parametrize("workers", [1, 4])
def test_bulk_read_reports_progress(capsule, contents, workers):
    buffer = bytearray(len(contents[BIG]))
    seen = []
    capsule.open().read_file_into(BIG, memoryview(buffer), workers, lambda done, total: seen.append((done, total)))
    assert buffer == contents[BIG]
    assert [total for _, total in seen] == [len(buffer)] * 3
    assert seen[-1][0] == len(buffer)
    assert sorted(done for done, _ in seen) == [done for done, _ in seen]


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, 1),
        (SEGMENT_BYTES - 1, 2),
        (SEGMENT_BYTES, 0),
        (SEGMENT_BYTES, SEGMENT_BYTES),
        (SEGMENT_BYTES - 5, SEGMENT_BYTES + 10),
        (2 * SEGMENT_BYTES + 69_999, 1),
        (2 * SEGMENT_BYTES + 70_000, 0),
        (12_345, 2 * SEGMENT_BYTES),
    ],
)
def test_any_range(capsule, contents, offset, length):
    buffer = bytearray(length)
    capsule.open().read_into(BIG, offset, memoryview(buffer))
    assert buffer == contents[BIG][offset : offset + length]


def test_read_into_a_buffer_of_another_type(capsule, contents):
    from array import array

    numbers = array("I", bytes((2 << 20) - 72))
    capsule.open().read_into("folder/chunk.bin", 0, memoryview(numbers))
    assert numbers.tobytes() == contents["folder/chunk.bin"]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 24), (23, 1), (24, 0)])
def test_a_range_outside_of_the_file_is_refused(capsule, offset, length):
    refused(
        "capsule.range-invalid", lambda: capsule.open().read_into("config.json", offset, memoryview(bytearray(length)))
    )


def test_a_buffer_of_another_size_is_refused(capsule):
    refused("capsule.range-invalid", lambda: capsule.open().read_file_into("config.json", memoryview(bytearray(5))))


def test_an_unknown_file_is_refused(capsule):
    refused("capsule.file-unknown", lambda: capsule.open().read("../config.json"))
    refused("capsule.file-unknown", lambda: capsule.open().size("nothing"))


def test_a_file_too_large_for_bytes_is_refused(capsule, monkeypatch):
    monkeypatch.setattr("mitai.capsule.sources.MAX_READ_BYTES", 1 << 20)
    refused("capsule.file-too-large", lambda: capsule.open().read(BIG))


def test_nothing_secret_in_representations(capsule):
    text = repr(capsule.open()) + repr(capsule.sealed)
    assert capsule.sealed.data_key.hex() not in text
    assert repr(capsule.sealed.data_key) not in text


def test_ciphertext_shows_no_content_and_the_manifest_no_key(capsule, contents):
    for name, content in capsule.store().objects.items():
        for plain in contents.values():
            assert len(plain) < 16 or plain[:16] not in content, name
    assert capsule.sealed.data_key not in capsule.payload()


# --- the manifest --------------------------------------------------------------------------------


def test_a_changed_manifest_is_refused(capsule):
    envelope = Envelope.decode(capsule.sealed.envelope)
    changed = Envelope(envelope.payload.replace(b"a test", b"b test"), envelope.payload_type, envelope.signatures)
    refused("capsule.signature-invalid", lambda: open_manifest(changed.encode(), owner=capsule.owner.public))


def test_another_owner_is_refused(capsule):
    other = Identity.generate()
    error = refused("capsule.signature-invalid", lambda: open_manifest(capsule.sealed.envelope, owner=other.public))
    assert error.step == "signature"
    resigned = other.sign(capsule.payload(), PAYLOAD_TYPE).encode()
    refused("capsule.owner-mismatch", lambda: open_manifest(resigned, owner=other.public))


def test_a_statement_of_another_type_is_refused(capsule):
    command = capsule.owner.sign(capsule.payload(), "application/vnd.mitai.command+json").encode()
    refused("capsule.signature-invalid", lambda: open_manifest(command, owner=capsule.owner.public))


def test_no_envelope_is_refused(capsule):
    refused("identity.envelope-malformed", lambda: open_manifest(b"{", owner=capsule.owner.public), ParseError)


def test_another_revision_is_refused(capsule):
    capsule.open(manifest_sha256=capsule.sealed.manifest_sha256)
    assert hashlib.sha256(capsule.payload()).hexdigest() == capsule.sealed.manifest_sha256
    older = capsule.signed(created="2020-01-01T00:00:00Z")
    open_manifest(older, owner=capsule.owner.public)
    refused(
        "capsule.manifest-mismatch",
        lambda: open_manifest(older, owner=capsule.owner.public, manifest_sha256=capsule.sealed.manifest_sha256),
    )


def test_another_kind_is_refused(capsule):
    capsule.open(kind="model")
    refused("capsule.kind-mismatch", lambda: capsule.open(kind="data"))


@pytest.mark.parametrize("key", [bytes(32), b"", bytes(31), bytes(33)])
def test_a_wrong_key_is_refused_before_anything_is_read(capsule, key):
    class Untouchable:
        def size(self, name):
            raise AssertionError

        read_into = size

    refused(
        "capsule.key-wrong",
        lambda: open_capsule(Untouchable(), capsule.sealed.envelope, key, owner=capsule.owner.public),
    )


# --- objects -------------------------------------------------------------------------------------


def attack(capsule, name: str, change, code: str, *, keyless: str | None = None) -> None:
    """Change one object's bytes; opening says `code`, checking without a key says `keyless`, or finds nothing."""
    store = capsule.store()
    key = capsule.object(name)
    store.objects[key] = change(store.objects[key])
    source = capsule.open(store)
    buffer = bytearray(b"x" * source.size(name))
    refused(code, lambda: source.read_into(name, 0, memoryview(buffer)))
    assert buffer == bytes(len(buffer)), "a refused read leaves nothing behind"
    check = lambda: verify_objects(store, capsule.sealed.envelope, capsule.owner.public, names=store.names())  # noqa: E731
    if keyless:
        refused(keyless, check)
    else:
        check()


@pytest.mark.parametrize("name", ["config.json", "empty", "folder/chunk.bin", "segment.bin", BIG])
@pytest.mark.parametrize("cut", [1, 16, 17])
def test_truncated(capsule, name, cut):
    attack(capsule, name, lambda data: data[:-cut], "capsule.object-truncated", keyless="capsule.object-truncated")


def test_truncated_by_chunks_and_segments(capsule):
    for cut in (CHUNK_BYTES, STEP, len(capsule.store().objects[capsule.object(BIG)])):
        attack(
            capsule,
            BIG,
            lambda data, cut=cut: data[:-cut],
            "capsule.object-truncated",
            keyless="capsule.object-truncated",
        )


@pytest.mark.parametrize("extra", [b"\0", bytes(CHUNK_BYTES)])
def test_appended(capsule, extra):
    attack(capsule, BIG, lambda data: data + extra, "capsule.object-too-long", keyless="capsule.object-too-long")


def test_final_chunk_dropped_and_the_length_kept(capsule):
    # the file is two full chunks: the first one again in place of the final one
    attack(capsule, "folder/chunk.bin", lambda data: data[:CHUNK_BYTES] * 2, "capsule.object-damaged")


def test_chunks_in_another_order(capsule):
    def change(data):
        second, third, fourth = CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES
        return data[:second] + data[third:fourth] + data[second:third] + data[fourth:]

    attack(capsule, BIG, change, "capsule.object-damaged")


def test_segments_in_another_order(capsule):
    attack(
        capsule,
        BIG,
        lambda data: data[STEP : 2 * STEP] + data[:STEP] + data[2 * STEP :],
        "capsule.object-swapped",
        keyless="capsule.object-swapped",
    )


def test_a_segment_of_another_header(capsule):
    """The salt that the manifest pins with another nonce prefix, or in front of other chunks."""
    attack(capsule, BIG, lambda data: data[:33] + bytes(7) + data[40:], "capsule.object-damaged")
    attack(capsule, BIG, lambda data: data[:40] + data[STEP + 40 : 2 * STEP] + data[STEP:], "capsule.object-damaged")


def test_objects_swapped(capsule):
    store = capsule.store()
    one, two = capsule.object("folder/chunk.bin"), capsule.object("folder/other.bin")
    store.objects[one], store.objects[two] = store.objects[two], store.objects[one]
    for name in ("folder/chunk.bin", "folder/other.bin"):
        refused("capsule.object-swapped", lambda name=name: capsule.open(store).read(name))
    refused("capsule.object-swapped", lambda: verify_objects(store, capsule.sealed.envelope, capsule.owner.public))


def test_object_of_an_older_revision(capsule, tmp_path):
    """The same files sealed before, by the same owner, under the same data key."""
    from mitai.capsule import seal

    older = seal(
        capsule.plain, tmp_path / "older", owner=capsule.owner, name="a test", data_key=capsule.sealed.data_key
    )
    then = open_manifest(older.envelope, owner=capsule.owner.public)
    key = next(file.object for file in then.files if file.name == "config.json")
    attack(
        capsule,
        "config.json",
        lambda _: (tmp_path / "older" / key).read_bytes(),
        "capsule.object-swapped",
        keyless="capsule.object-swapped",
    )


def test_an_earlier_encryption_at_the_same_place(capsule, contents):
    """The strongest replay: same key, capsule, object and size, another salt. Only the pinned salt tells."""
    from mitai.capsule import segments
    from mitai.capsule.opening import place_of

    file = next(file for file in capsule.manifest.files if file.name == "config.json")
    changed = contents["config.json"].replace(b"llama", b"other")
    earlier = bytearray(segments.sealed_size(len(changed)))
    segments.seal(capsule.sealed.data_key, place_of(capsule.manifest, file, 0), [changed], memoryview(earlier))
    attack(capsule, "config.json", lambda _: bytes(earlier), "capsule.object-swapped", keyless="capsule.object-swapped")


def test_missing_and_unlisted_objects(capsule):
    store = capsule.store()
    key = capsule.object("config.json")
    content = store.objects.pop(key)
    refused("capsule.object-missing", lambda: capsule.open(store).read("config.json"))
    envelope, owner = capsule.sealed.envelope, capsule.owner.public
    refused("capsule.object-missing", lambda: verify_objects(store, envelope, owner))
    refused("capsule.object-missing", lambda: verify_objects(store, envelope, owner, names=store.names()))
    store.objects |= {key: content, "ab" * 16: b"more"}
    refused("capsule.object-unlisted", lambda: verify_objects(store, envelope, owner, names=store.names()))
    assert isinstance(verify_objects(store, envelope, owner), Manifest)


def test_damage_elsewhere_does_not_spoil_other_segments(capsule, contents):
    store = capsule.store()
    key = capsule.object(BIG)
    data = bytearray(store.objects[key])
    data[-1] ^= 1
    store.objects[key] = bytes(data)
    buffer = bytearray(100)
    capsule.open(store).read_into(BIG, 0, memoryview(buffer))
    assert buffer == contents[BIG][:100]


# --- digests -------------------------------------------------------------------------------------


def test_digests_find_any_changed_bit_without_a_key(digested, contents):
    store = digested.store()
    seen = []
    envelope, owner = digested.sealed.envelope, digested.owner.public
    verify_objects(store, envelope, owner, names=store.names(), progress=lambda *at: seen.append(at))
    total = sum(file.object_size for file in digested.manifest.files)
    assert seen[-1] == (total, total)
    assert digested.open(store).read(BIG) == contents[BIG]
    for position in (HEADER_BYTES, STEP - 1, 2 * STEP + 100):
        damaged = bytearray(store.objects[digested.object(BIG)])
        damaged[position] ^= 4
        bad = digested.store()
        bad.objects[digested.object(BIG)] = bytes(damaged)
        refused("capsule.digest-mismatch", lambda bad=bad: verify_objects(bad, envelope, owner))


def test_digests_hold_against_the_owner(digested):
    """A ciphertext that opens perfectly under the same key, salt and place is still not the one that was signed."""
    import msgspec

    files = msgspec.to_builtins(digested.manifest.files)
    for file in files:
        if file["name"] == "config.json":
            file["digests"] = msgspec.to_builtins(bytes(32))
    envelope = digested.signed(files=files)
    store = digested.store()
    source = open_capsule(store, envelope, digested.sealed.data_key, owner=digested.owner.public)
    refused("capsule.digest-mismatch", lambda: source.read("config.json"))


# --- stores that misbehave -----------------------------------------------------------------------


class Misbehaving:
    """A store that turns after some good answers."""

    def __init__(self, store, answer, after=0):
        self.inner, self.answer, self.left = store, answer, after

    def size(self, name):
        return self.inner.size(name)

    def read_into(self, name, offset, buffer):
        self.left -= 1
        got = self.inner.read_into(name, offset, buffer)
        return got if self.left >= 0 else self.answer(buffer)


def gone(_):
    raise FileNotFoundError


def broken(_):
    raise TimeoutError


def zeros(buffer):
    buffer[:] = bytes(len(buffer))
    return len(buffer)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda buffer: len(buffer) - 1, "capsule.store-lied"),
        (lambda buffer: 0, "capsule.store-lied"),
        (lambda buffer: len(buffer) + 1, "capsule.store-lied"),
        (zeros, "capsule.object-swapped"),
        (gone, "capsule.store-failed"),
        (broken, "capsule.store-failed"),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_store_that_turns(capsule, after, answer, code, workers):
    source = capsule.open(Misbehaving(capsule.store(), answer, after), workers=workers)
    buffer = bytearray(source.size(BIG))
    with pytest.raises(CapsuleError) as caught:
        source.read_into(BIG, 0, memoryview(buffer))
    assert caught.value.code == code
    assert not any(buffer)


def test_a_store_whose_object_vanishes_before_its_size(capsule):
    class Broken:
        def size(self, name):
            raise PermissionError

    refused("capsule.store-failed", lambda: capsule.open(Broken()).read("config.json"))
    refused("capsule.store-failed", lambda: verify_objects(Broken(), capsule.sealed.envelope, capsule.owner.public))


def test_a_file_that_is_truncated_while_it_is_read(capsule, tmp_path):
    import shutil

    shutil.copytree(capsule.folder, tmp_path / "copy")
    path = tmp_path / "copy" / capsule.object(BIG)

    class Cutting(FolderStore):
        def read_into(self, name, offset, buffer):
            if offset >= STEP:
                with path.open("r+b") as file:
                    file.truncate(offset + 10)
            return super().read_into(name, offset, buffer)

    source = capsule.open(Cutting(tmp_path / "copy"), workers=1)
    refused("capsule.store-lied", lambda: source.read(BIG))


def test_segments_are_asked_for_at_the_same_time(capsule, contents):
    """A slow store serves all three segments at once: each first block waits until all three were asked for."""
    inner, together = capsule.store(), threading.Barrier(3, timeout=60)

    class Slow:
        size = inner.size

        def read_into(self, name, offset, buffer):
            together.wait()
            return inner.read_into(name, offset, buffer)

    buffer = bytearray(len(contents[BIG]))
    capsule.open(Slow()).read_file_into(BIG, memoryview(buffer), workers=3)
    assert buffer == contents[BIG]


def test_many_readers_at_once(capsule, contents):
    source = capsule.open(FolderStore(capsule.folder), workers=2)
    failures = []

    def read(turn):
        for name in (list(contents) * 2)[turn : turn + 5]:
            failures.extend([] if source.read(name) == contents[name] else [name])

    threads = [threading.Thread(target=read, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_progress_callback_that_raises_stops_the_read(capsule):
    class StopError(Exception):
        pass

    def stop(done, total):
        raise StopError

    buffer = bytearray(capsule.open().size(BIG))
    for workers in (1, 2):
        with pytest.raises(StopError):
            capsule.open().read_file_into(BIG, memoryview(buffer), workers, stop)
        assert not any(buffer)


def test_chunks_are_smaller_than_segments():
    assert SEALED_BYTES % CHUNK_BYTES == 0
    assert SEGMENT_BYTES > CHUNK_BYTES > HEADER_BYTES
