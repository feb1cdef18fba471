"""The manifest's rules: each one broken, each time refused."""

from __future__ import annotations

import msgspec
import pytest

from mitai.capsule import Manifest, check_file_name
from mitai.errors import ParseError

ID, OWNER, CHECK = "0" * 32, "0" * 64, bytes(32)


def entry(**changes):
    fields = {"name": "a", "size": 5, "object": "1" * 32, "object_size": 61, "commitments": bytes(32)}
    return {**fields, **changes}


def encoded(**changes) -> bytes:
    fields = {
        "format": "mitai-capsule",
        "v": 1,
        "suite": "aes256-gcm-hkdf-16x1mib",
        "capsule_id": ID,
        "name": "n",
        "kind": "model",
        "created": "2026-01-02T03:04:05Z",
        "owner": OWNER,
        "key_check": CHECK,
        "files": [entry()],
    }
    return msgspec.json.encode({name: value for name, value in {**fields, **changes}.items() if value is not None})


def refused(code, data):
    with pytest.raises(ParseError) as caught:
        Manifest.decode(data)
    assert caught.value.code == code


def test_a_good_one():
    manifest = Manifest.decode(encoded())
    assert manifest.files[0].digests == b""
    assert Manifest.decode(manifest.encode()) == manifest
    assert b"proof" not in manifest.encode()
    proven = Manifest.decode(encoded(proof_identity="5a" * 32))
    assert (proven.proof_identity, Manifest.decode(proven.encode())) == ("5a" * 32, proven)
    Manifest.decode(encoded(files=[]))
    Manifest.decode(encoded(files=[entry(digests=bytes(32))], parents=[ID], labels={"a": "b"}))


@pytest.mark.parametrize(
    "changes",
    [{"format": "other"}, {"v": 2}, {"v": 0}, {"suite": "aes128-gcm-hkdf-1mib+16mib"}, {"v": 2, "files": "anything"}],
)
def test_unknown_versions(changes):
    refused("capsule.version-unknown", encoded(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"null", b"[]", b"\xff", b"{}", encoded() + b"x", encoded() + encoded(), encoded()[:-1],
        b"[" * 100_000, encoded(v="1"), encoded(v=None), encoded(files=None), encoded(unknown=1),
        encoded(files=[entry(unknown=1)]), encoded(files={}), encoded(files=[entry(size="5")]),
        encoded(files=[entry(size=5.0)]), encoded(name=7), encoded(key_check="?"),
        encoded().replace(b'"n"', b'"\\ud800"'), encoded(proof_identity=5),
    ],
)  # fmt: skip
def test_malformed(data):
    refused("capsule.manifest-malformed", data)


@pytest.mark.parametrize(
    "changes",
    [
        {"capsule_id": "0" * 31},
        {"capsule_id": "A" * 32},
        {"capsule_id": "0" * 32 + "\n"},
        {"owner": "0" * 63},
        {"kind": ""},
        {"kind": "Model"},
        {"kind": "m" * 33},
        {"kind": "model\n"},
        {"name": ""},
        {"name": "n" * 201},
        {"name": "a\nb"},
        {"key_check": bytes(31)},
        {"created": "2026-01-02 03:04:05"},
        {"created": "2026-02-30T00:00:00Z"},
        {"created": ""},
        {"created": "2026-1-2T3:4:5Z"},
        {"created": "２026-01-02T03:04:05Z"},
        {"parents": ["x"]},
        {"parents": [ID, ID]},
        {"parents": [f"{number:032x}" for number in range(257)]},
        {"labels": {str(number): "" for number in range(65)}},
        {"labels": {"": ""}},
        {"proof_identity": ""},
        {"proof_identity": "5A" * 32},
        {"proof_identity": "5a" * 32, "kind": "data"},
        {"labels": {"k" * 65: ""}},
        {"labels": {"k": "v" * 4097}},
        {"files": [entry(object="1" * 31)]},
        {"files": [entry(object="../" + "1" * 29)]},
        {"files": [entry(size=-1)]},
        {"files": [entry(size=(1 << 44) + 1)]},
        {"files": [entry(commitments=b"")]},
        {"files": [entry(commitments=bytes(64))]},
        {"files": [entry(digests=bytes(31))]},
        {"files": [entry(digests=bytes(64))]},
    ],
)
def test_broken_rules(changes):
    refused("capsule.manifest-malformed", encoded(**changes))


def test_too_many_files(monkeypatch):
    monkeypatch.setattr("mitai.capsule.manifest.MAX_FILES", 1)
    refused("capsule.manifest-malformed", encoded(files=[entry(), entry(name="b", object="2" * 32)]))


@pytest.mark.parametrize("size", [60, 62, 0, -1, 1 << 62])
def test_lies_about_sizes(size):
    refused("capsule.size-mismatch", encoded(files=[entry(object_size=size)]))


def test_duplicates():
    Manifest.decode(encoded(files=[entry(), entry(name="b", object="2" * 32)]))
    refused("capsule.duplicate-name", encoded(files=[entry(), entry(object="2" * 32)]))
    refused("capsule.duplicate-name", encoded(files=[entry(), entry(name="b")]))


GOOD_NAMES = [
    "a",
    "a/b.c",
    "模型/权重",
    "..a",
    "a..b",
    "...",
    " a",
    "a" * 255,
    "/".join(["a" * 100] * 10),
    ".hidden",
    "-x",
]
BAD_NAMES = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a\0b", "a\nb", "a\x7fb", "a\\b", "C:\\a",
    "a" * 256, "/".join(["a" * 100] * 11), "\ud800", "a\u2028b", "a\u202eb", "\ufeffa", "模" * 86,
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(name):
    check_file_name(name)
    Manifest.decode(encoded(files=[entry(name=name)]))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_hostile_names(name):
    with pytest.raises(ParseError) as caught:
        check_file_name(name)
    assert caught.value.code == "capsule.name-invalid"
    if name != "\ud800":
        refused("capsule.name-invalid", encoded(files=[entry(name=name)]))
