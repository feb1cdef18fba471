"""Sealing: what it writes, what it refuses, and that it goes on after being killed at any moment."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mitai.capsule import (
    FolderSource,
    FolderStore,
    MemorySource,
    open_capsule,
    open_manifest,
    seal,
    segments,
    verify_objects,
)
from mitai.capsule.opening import check_new
from mitai.capsule.sealing import JOURNAL_NAME
from mitai.capsule.segments import SEGMENT_BYTES
from mitai.errors import CapsuleError, ParseError
from mitai.identity import Identity

CONTENT = os.urandom(3 * SEGMENT_BYTES + 5)


def refused(code, work, kind=CapsuleError):
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.code == code
    return caught.value


@pytest.fixture
def alice():
    return Identity.generate()


@pytest.fixture
def plain(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "weights").write_bytes(CONTENT)
    (folder / "small").write_bytes(b"small")
    return folder


def opened(folder, sealed, owner):
    return open_capsule(FolderStore(folder), sealed.envelope, sealed.data_key, owner=owner.public)


def test_what_is_written(plain, tmp_path, alice):
    dest = tmp_path / "new" / "sealed"
    seen = []
    sealed = seal(
        plain,
        dest,
        owner=alice,
        name="name",
        kind="data",
        labels={"licence": "MIT"},
        parents=("ab" * 16,),
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        workers=3,
        progress=lambda *at: seen.append(at),
    )
    manifest = open_manifest(sealed.envelope, owner=alice.public, kind="data", manifest_sha256=sealed.manifest_sha256)
    assert (manifest.name, manifest.created, manifest.labels, manifest.parents) == (
        "name", "2026-01-02T03:04:05Z", {"licence": "MIT"}, ("ab" * 16,),
    )  # fmt: skip
    assert {path.name for path in dest.iterdir()} == {"manifest.json", *(file.object for file in manifest.files)}
    assert (dest / "manifest.json").read_bytes() == sealed.envelope
    assert seen[-1] == (len(CONTENT) + 5, len(CONTENT) + 5)
    assert all(stat.S_IMODE((dest / file.object).stat().st_mode) == 0o600 for file in manifest.files)
    assert opened(dest, sealed, alice).read("weights") == CONTENT
    verify_objects(FolderStore(dest), sealed.envelope, alice.public, names=FolderStore(dest).names())


def test_an_empty_folder_is_a_capsule_of_no_files(tmp_path, alice):
    (tmp_path / "plain").mkdir()
    sealed = seal(tmp_path / "plain", tmp_path / "sealed", owner=alice, name="nothing")
    assert opened(tmp_path / "sealed", sealed, alice).names() == ()


def test_two_seals_share_nothing(plain, tmp_path, alice):
    key = bytes(range(32))
    one = seal(plain, tmp_path / "one", owner=alice, name="n", data_key=key)
    two = seal(plain, tmp_path / "two", owner=alice, name="n", data_key=key)
    assert one.data_key == two.data_key == key
    objects = [
        {path.read_bytes()[:64] for path in (tmp_path / name).iterdir() if path.name != "manifest.json"}
        for name in ("one", "two")
    ]
    assert not objects[0] & objects[1]


def test_an_id_follows_from_the_first_key_and_who_sealed(plain, tmp_path, alice):
    mallory, key = Identity.generate(), bytes(range(32))
    one = seal(plain, tmp_path / "one", owner=alice, name="n", data_key=key)
    again = seal(plain, tmp_path / "again", owner=alice, name="other", data_key=key)
    other = seal(plain, tmp_path / "other", owner=alice, name="n")
    theirs = seal(plain, tmp_path / "theirs", owner=mallory, name="n", data_key=key)
    assert one.capsule_id == again.capsule_id
    assert len({one.capsule_id, other.capsule_id, theirs.capsule_id}) == 3
    for sealed, owner in ((one, alice), (other, alice), (theirs, mallory)):
        check_new(open_manifest(sealed.envelope, owner=owner.public), sealed.data_key, owner.public)
    taken = seal(plain, tmp_path / "taken", owner=mallory, name="n", capsule_id=one.capsule_id)
    revised = seal(plain, tmp_path / "revised", owner=alice, name="n", capsule_id=one.capsule_id)
    for sealed, owner in ((taken, mallory), (revised, alice)):
        manifest = open_manifest(sealed.envelope, owner=owner.public)
        refused("capsule.id-foreign", lambda m=manifest, s=sealed, o=owner: check_new(m, s.data_key, o.public))
        assert opened(tmp_path / ("taken" if owner is mallory else "revised"), sealed, owner).names()
    manifest = open_manifest(one.envelope, owner=alice.public)
    refused("capsule.key-wrong", lambda: check_new(manifest, bytes(32), alice.public))


def test_links_and_folders_of_tools(plain, tmp_path, alice):
    (tmp_path / "blob").write_bytes(b"blob")
    (plain / "link").symlink_to(tmp_path / "blob")
    (plain / "folder-link").symlink_to(tmp_path, target_is_directory=True)
    for folder in (".git", ".cache"):
        (plain / folder).mkdir()
        (plain / folder / "x").write_bytes(b"x")
    assert FolderSource(plain).names() == ("link", "small", "weights")
    sealed = seal(plain, tmp_path / "sealed", owner=alice, name="n")
    assert opened(tmp_path / "sealed", sealed, alice).read("link") == b"blob"


def test_a_source_that_is_no_file_is_refused(plain, tmp_path, alice):
    os.mkfifo(plain / "pipe")
    refused("capsule.source-not-a-file", lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n"))
    (plain / "pipe").unlink()
    (plain / "dangling").symlink_to(tmp_path / "nothing")
    refused("capsule.source-not-a-file", lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n"))


def test_hostile_source_names_are_refused(plain, tmp_path, alice):
    (plain / "a\nb").write_bytes(b"")
    refused("capsule.name-invalid", lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n"), ParseError)
    (plain / "a\nb").unlink()
    Path(os.fsdecode(os.fsencode(plain) + b"/\xff")).write_bytes(b"")
    refused("capsule.name-invalid", lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n"), ParseError)


def test_bad_arguments_are_refused_before_anything_is_written(plain, tmp_path, alice):
    dest = tmp_path / "sealed"

    def attempt(**changes):
        return lambda: seal(plain, dest, **{"owner": alice, "name": "n", **changes})

    refused("capsule.source-missing", lambda: seal(tmp_path / "nothing", dest, owner=alice, name="n"))
    refused("capsule.destination-inside-source", lambda: seal(plain, plain / "sealed", owner=alice, name="n"))
    refused("capsule.key-malformed", attempt(data_key=bytes(31)))
    for changes in ({"name": ""}, {"kind": "Model!"}, {"labels": {"": "x"}}, {"parents": ("x",)}):
        refused("capsule.manifest-malformed", attempt(**changes), ParseError)
    assert not list(dest.iterdir())


def test_a_destination_in_use_is_refused(plain, tmp_path, alice):
    dest = tmp_path / "sealed"
    seal(plain, dest, owner=alice, name="n")
    refused("capsule.exists", lambda: seal(plain, dest, owner=alice, name="n"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    refused("capsule.destination-not-empty", lambda: seal(plain, tmp_path / "full", owner=alice, name="n"))
    (tmp_path / "file").write_bytes(b"")
    refused("capsule.io-failed", lambda: seal(plain, tmp_path / "file", owner=alice, name="n"))


def test_too_much_for_one_manifest_is_found_before_the_work(plain, tmp_path, alice, monkeypatch):
    monkeypatch.setattr("mitai.capsule.sealing.MAX_ENVELOPE_BYTES", 1500)
    refused("capsule.too-large", lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n"))


def test_two_at_once_are_refused(plain, tmp_path, alice):
    dest = tmp_path / "sealed"
    codes = []

    def progress(done, total):
        with pytest.raises(CapsuleError) as caught:
            seal(plain, dest, owner=alice, name="n")
        codes.append(caught.value.code)

    seal(plain, dest, owner=alice, name="n", progress=progress)
    assert set(codes) == {"capsule.seal-running"}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(bytes(len(CONTENT))),
        lambda path: path.write_bytes(CONTENT[:-1]),
        lambda path: os.utime(path, (1, 1)),
        Path.unlink,
    ],
)
def test_a_source_that_changes_meanwhile_is_refused(plain, tmp_path, alice, change):
    done = []

    def progress(*at):
        if not done:
            done.append(at)
            change(plain / "weights")

    refused(
        "capsule.source-changed",
        lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n", workers=1, progress=progress),
    )
    assert not (tmp_path / "sealed" / "manifest.json").exists()


def test_a_source_whose_finished_file_goes_away_is_refused(plain, tmp_path, alice):
    def progress(done, total):
        (plain / "small").unlink(missing_ok=True)

    refused(
        "capsule.source-changed",
        lambda: seal(plain, tmp_path / "sealed", owner=alice, name="n", workers=1, progress=progress),
    )


def test_a_source_that_cannot_be_read(plain, tmp_path, alice, monkeypatch):
    source = FolderSource(plain)
    (plain / "small").unlink()
    (plain / "small").symlink_to("small")
    refused("capsule.source-unreadable", lambda: source.read("small"))
    (plain / "small").unlink()
    refused("capsule.source-changed", lambda: source.read("small"))
    refused("capsule.file-unknown", lambda: source.read("../plain/weights"))


def test_a_full_disk_is_an_error_and_resumes(plain, tmp_path, alice, monkeypatch):
    dest = tmp_path / "sealed"
    write, calls = os.pwrite, []

    def failing(descriptor, block, position):
        calls.append(position)
        if len(calls) > 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, block[:100_000], position)  # and short writes

    monkeypatch.setattr(os, "pwrite", failing)
    error = refused("capsule.io-failed", lambda: seal(plain, dest, owner=alice, name="n", workers=1))
    assert "No space left" in error.message
    monkeypatch.setattr(os, "pwrite", write)
    assert opened(dest, seal(plain, dest, owner=alice, name="n"), alice).read("weights") == CONTENT


# --- killed and resumed --------------------------------------------------------------------------

CHILD = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from mitai.capsule import sealing
    from mitai.identity import Identity

    plain, dest, key, where = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def after(target, name, times):
        inner = getattr(target, name)
        left = [times]
        def wrapped(*arguments, **options):
            result = inner(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                die()
            return result
        setattr(target, name, wrapped)

    def before(target, name, times=1):
        inner = getattr(target, name)
        left = [times]
        def wrapped(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                die()
            return inner(*arguments, **options)
        setattr(target, name, wrapped)

    point, _, count = where.partition(":")
    {
        "journal-before": lambda: before(Path, "replace"),
        "journal-after": lambda: after(Path, "replace", 1),
        "write": lambda: after(os, "pwrite", int(count)),
        "sync": lambda: before(os, "fsync", 3),
        "manifest-before": lambda: before(Path, "replace", 2),
        "manifest-after": lambda: after(Path, "replace", 2),
        "journal-removal": lambda: before(Path, "unlink"),
        "never": lambda: None,
    }[point]()
    sealing.seal(plain, dest, owner=Identity.load(key), name="n", workers=2)
    """
)


def killed(plain, dest, key, where):
    result = subprocess.run(
        [sys.executable, "-c", CHILD, plain, dest, key, where], capture_output=True, timeout=120, check=False
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


@pytest.mark.parametrize(
    "where",
    [
        "journal-before", "journal-after", "write:1", "write:2", "write:3", "write:4", "write:5",
        "sync", "manifest-before", "manifest-after", "journal-removal",
    ],
)  # fmt: skip
def test_killed_and_resumed(plain, tmp_path, alice, where):
    dest, key = tmp_path / "sealed", tmp_path / "alice.pem"
    alice.save(key)
    killed(plain, dest, key, where)
    left = {path.name: path.read_bytes() for path in dest.iterdir()}
    assert ("manifest.json" in left) == (where in {"manifest-after", "journal-removal"})
    sealed = seal(plain, dest, owner=alice, name="n")
    for content in left.values():
        assert sealed.data_key not in content
        assert CONTENT[:32] not in content
    if where != "journal-before":
        assert msgspec.json.decode(left[JOURNAL_NAME])["capsule_id"] == sealed.capsule_id
    source = opened(dest, sealed, alice)
    assert source.read("weights") == CONTENT
    assert source.read("small") == b"small"
    assert {path.name for path in dest.iterdir() if path.suffix != ".tmp"} == {
        "manifest.json", *(file.object for file in source.manifest.files),
    }  # fmt: skip
    verify_objects(FolderStore(dest), sealed.envelope, alice.public, names=FolderStore(dest).names())


def test_killed_again_and_again_at_any_moment(plain, tmp_path, alice):
    """A real process, killed from outside after a growing time, resumed by the next one until it ends."""
    dest, key = tmp_path / "sealed", tmp_path / "alice.pem"
    alice.save(key)
    wait_s = 0.25
    while True:
        process = subprocess.Popen([sys.executable, "-c", CHILD, plain, dest, key, "never"], stderr=subprocess.PIPE)
        try:
            _, error = process.communicate(timeout=wait_s)
            # killed between the last step and its exit, the one before has left a finished capsule
            assert process.returncode == 0 or b"capsule.exists" in error, error.decode()
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            wait_s *= 1.15
    manifest = open_manifest((dest / "manifest.json").read_bytes(), owner=alice.public)
    assert [file.size for file in manifest.files] == [5, len(CONTENT)]
    verify_objects(FolderStore(dest), (dest / "manifest.json").read_bytes(), alice.public)


@pytest.fixture
def unfinished(plain, tmp_path, alice):
    """A destination where the last segment is missing, and what lay there."""
    dest, key = tmp_path / "sealed", tmp_path / "alice.pem"
    alice.save(key)
    killed(plain, dest, key, "sync")
    return dest


def weights(dest):
    return max((path for path in dest.iterdir() if path.name != JOURNAL_NAME), key=lambda path: path.stat().st_size)


def test_finished_segments_are_kept(unfinished, plain, alice):
    before = weights(unfinished).read_bytes()
    sealed = seal(plain, unfinished, owner=alice, name="n")
    assert weights(unfinished).read_bytes() == before
    assert opened(unfinished, sealed, alice).read("weights") == CONTENT


@pytest.mark.parametrize("position", [0, 30, 100_000, -1])
def test_damaged_segments_are_sealed_again_with_another_salt(unfinished, plain, alice, position):
    path = weights(unfinished)
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[position] ^= 1
    path.write_bytes(bytes(damaged) + b"more than belongs there")
    sealed = seal(plain, unfinished, owner=alice, name="n")
    after = path.read_bytes()
    assert len(after) == len(before)
    changed = [
        after[start + 1 : start + 33] != before[start + 1 : start + 33] for start in map(segments.offset, range(4))
    ]
    assert changed == ([True, False, False, False] if position >= 0 else [False, False, False, True])
    assert opened(unfinished, sealed, alice).read("weights") == CONTENT


def test_a_source_that_changed_in_between_is_sealed_as_it_is_now(unfinished, plain, alice):
    changed = CONTENT[:SEGMENT_BYTES] + bytes([CONTENT[SEGMENT_BYTES] ^ 1]) + CONTENT[SEGMENT_BYTES + 1 :]
    (plain / "weights").write_bytes(changed)
    before = weights(unfinished).read_bytes()
    sealed = seal(plain, unfinished, owner=alice, name="n")
    after = weights(unfinished).read_bytes()
    assert opened(unfinished, sealed, alice).read("weights") == changed
    assert after[:33] == before[:33]
    assert sum(a != b for a, b in zip(after[::4096], before[::4096], strict=True)) > SEGMENT_BYTES // 5000


def test_resuming_with_digests(plain, tmp_path, alice):
    dest = tmp_path / "sealed"

    class StopError(Exception):
        pass

    def stop(done, total):
        if done > SEGMENT_BYTES:
            raise StopError

    with pytest.raises(StopError):
        seal(plain, dest, owner=alice, name="n", digests=True, progress=stop, workers=1)
    sealed = seal(plain, dest, owner=alice, name="n", digests=True)
    assert all(file.digests for file in open_manifest(sealed.envelope, owner=alice.public).files)
    verify_objects(FolderStore(dest), sealed.envelope, alice.public)


def test_resuming_something_else_is_refused(unfinished, plain, tmp_path, alice):
    def attempt(**changes):
        return lambda: seal(plain, unfinished, **{"owner": alice, "name": "n", **changes})

    for changes in (
        {"name": "other"},
        {"kind": "data"},
        {"digests": True},
        {"labels": {"a": "b"}},
        {"proof_identity": "5a" * 32},
    ):
        refused("capsule.resume-mismatch", attempt(**changes))
    refused("capsule.resume-mismatch", attempt(owner=Identity.generate()))
    refused("capsule.resume-mismatch", attempt(data_key=bytes(32)))
    (plain / "more").write_bytes(b"")
    refused("capsule.resume-mismatch", attempt())


def test_a_hostile_journal_is_refused(unfinished, plain, alice):
    path = unfinished / JOURNAL_NAME
    good = path.read_bytes()
    journal = msgspec.json.decode(good)

    def changed(**changes):
        path.write_bytes(msgspec.json.encode({**journal, **changes}))

    def attempt():
        seal(plain, unfinished, owner=alice, name="n")

    for bad in (b"", b"{}", b"\xff", good + b"x", good[:-1]):
        path.write_bytes(bad)
        refused("capsule.journal-malformed", attempt)
    changed(v=2)
    refused("capsule.version-unknown", attempt)
    outside = [{**file, "object": "../../outside"} for file in journal["files"]]
    changed(files=outside)
    refused("capsule.object-name-invalid", attempt)
    changed(capsule_id="../x")
    refused("capsule.object-name-invalid", attempt)
    for wrapped in ("", "AAAA", "A" * 80):
        changed(wrapped_key=wrapped)
        refused("capsule.journal-malformed", attempt)
    changed(capsule_id="00" * 16)
    refused("capsule.journal-malformed", attempt)


def test_an_object_that_is_a_link_is_not_followed(unfinished, plain, tmp_path, alice):
    path = weights(unfinished)
    path.unlink()
    path.symlink_to(tmp_path / "victim")
    refused("capsule.io-failed", lambda: seal(plain, unfinished, owner=alice, name="n"))
    assert not (tmp_path / "victim").exists()


def test_a_manifest_of_another_capsule_beside_the_journal_is_refused(unfinished, plain, tmp_path, alice):
    other = seal(plain, tmp_path / "other", owner=alice, name="n")
    (unfinished / "manifest.json").write_bytes(other.envelope)
    refused("capsule.key-wrong", lambda: seal(plain, unfinished, owner=alice, name="n"))


def test_a_manifest_of_another_capsule_with_the_same_key_is_refused(plain, tmp_path, alice):
    key = bytes(range(32))
    other = seal(plain, tmp_path / "other", owner=alice, name="n", data_key=key, capsule_id="0" * 32)
    dest = tmp_path / "sealed"
    with pytest.raises(KeyboardInterrupt):
        seal(plain, dest, owner=alice, name="n", data_key=key, progress=interrupt)
    (dest / "manifest.json").write_bytes(other.envelope)
    refused("capsule.resume-mismatch", lambda: seal(plain, dest, owner=alice, name="n", data_key=key))


def interrupt(done, total):
    raise KeyboardInterrupt


def test_files_in_memory_are_sealed_from_there(tmp_path, alice):
    files = {"weights": CONTENT, "folder/small": b"small", "empty": b""}
    parents = ("a" * 32, "b" * 32)
    sealed = seal(MemorySource(files), tmp_path / "sealed", owner=alice, name="n", kind="adapter", parents=parents)
    source = opened(tmp_path / "sealed", sealed, alice)
    assert {name: source.read(name) for name in source.names()} == files
    assert source.manifest.parents == ("a" * 32, "b" * 32)
    assert not any(b"small" in path.read_bytes() for path in (tmp_path / "sealed").iterdir())


def test_a_source_in_memory_stays_within_its_files():
    source = MemorySource({"b": b"12345", "a": b""})
    assert source.names() == ("a", "b")
    assert (source.size("b"), source.read("b")) == (5, b"12345")
    refused("capsule.file-unknown", lambda: source.read("c"))
    refused("capsule.range-invalid", lambda: source.read_into("b", 3, memoryview(bytearray(3))))
    with pytest.raises(ParseError):
        MemorySource({"../up": b""})
