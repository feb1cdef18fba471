"""Any folder comes back; any flipped byte of envelope, key or object is refused; parsers raise our errors only."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.capsule import FolderStore, Manifest, MemoryStore, check_file_name, open_capsule, seal, verify_objects
from mitai.capsule.tensors import parse_shard
from mitai.errors import MitaiError, ParseError
from mitai.identity import Identity

OWNER = Identity.generate()
FILES = {"a.json": b"{}", "empty": b"", "folder/b.bin": bytes(range(256)) * 100}


def sealed_in_memory(files, **options):
    with tempfile.TemporaryDirectory() as temporary:
        plain, dest = Path(temporary, "plain"), Path(temporary, "sealed")
        plain.mkdir()
        for name, content in files.items():
            (plain / name).parent.mkdir(parents=True, exist_ok=True)
            (plain / name).write_bytes(content)
        sealed = seal(plain, dest, owner=OWNER, name="n", workers=1, **options)
        return sealed, {name: (dest / name).read_bytes() for name in FolderStore(dest).names()}


SEALED, OBJECTS = sealed_in_memory(FILES)
DIGESTED, DIGESTED_OBJECTS = sealed_in_memory(FILES, digests=True)


def read_all(envelope, key, objects):
    source = open_capsule(MemoryStore(objects), envelope, key, owner=OWNER.public, workers=1)
    return {name: source.read(name) for name in source.names()}


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.text("abc模-. ", min_size=1, max_size=12).filter(lambda name: set(name) - {"."}),
        st.binary(max_size=40_000),
        max_size=5,
    ),
    st.booleans(),
)
def test_any_folder_comes_back(files, digests):
    sealed, objects = sealed_in_memory(files, digests=digests)
    assert read_all(sealed.envelope, sealed.data_key, objects) == files
    verify_objects(MemoryStore(objects), sealed.envelope, OWNER.public, names=objects)


def test_nothing_flipped_opens():
    assert read_all(SEALED.envelope, SEALED.data_key, OBJECTS) == FILES


@settings(max_examples=300)
@given(st.data())
def test_flip_any_byte_of_an_object(data):
    name = data.draw(st.sampled_from(sorted(OBJECTS)))
    position = data.draw(st.integers(0, len(OBJECTS[name]) - 1))
    flipped = bytearray(OBJECTS[name])
    flipped[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MitaiError):
        read_all(SEALED.envelope, SEALED.data_key, {**OBJECTS, name: bytes(flipped)})


@settings(max_examples=300)
@given(st.data())
def test_flip_any_byte_of_an_object_without_a_key(data):
    name = data.draw(st.sampled_from(sorted(DIGESTED_OBJECTS)))
    position = data.draw(st.integers(0, len(DIGESTED_OBJECTS[name]) - 1))
    flipped = bytearray(DIGESTED_OBJECTS[name])
    flipped[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MitaiError):
        verify_objects(
            MemoryStore({**DIGESTED_OBJECTS, name: bytes(flipped)}), DIGESTED.envelope, OWNER.public, workers=1
        )


@settings(max_examples=500)
@given(st.data())
def test_flip_any_byte_of_the_envelope(data):
    """It is refused, or the flip was in the signature's key id, an unsigned hint; then nothing else differs."""
    position = data.draw(st.integers(0, len(SEALED.envelope) - 1))
    flipped = bytearray(SEALED.envelope)
    flipped[position] ^= data.draw(st.integers(1, 255))
    try:
        content = read_all(bytes(flipped), SEALED.data_key, OBJECTS)
    except MitaiError:
        return
    before, after = msgspec.json.decode(SEALED.envelope), msgspec.json.decode(bytes(flipped))
    before["signatures"][0].pop("keyid")
    after["signatures"][0].pop("keyid", None)
    assert {**before, "signatures": after["signatures"]} == after
    assert content == FILES
    assert b"keyid" not in flipped or flipped.rindex(b"keyid") <= position


@given(st.integers(0, 31), st.integers(1, 255))
def test_flip_any_byte_of_the_key(position, flip):
    key = bytearray(SEALED.data_key)
    key[position] ^= flip
    with pytest.raises(MitaiError) as caught:
        read_all(SEALED.envelope, bytes(key), OBJECTS)
    assert caught.value.code == "capsule.key-wrong"


@settings(max_examples=300)
@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_are_no_manifest(data):
    with pytest.raises(ParseError):
        Manifest.decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(Manifest.__struct_fields__), json_values)
def test_arbitrary_values_in_a_manifest(field, value):
    good = msgspec.json.decode(Manifest.decode(_payload()).encode())
    try:
        manifest = Manifest.decode(msgspec.json.encode({**good, field: value}))
    except ParseError:
        return
    assert msgspec.to_builtins(getattr(manifest, field)) == (tuple(value) if isinstance(value, list) else value)


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_arbitrary_names(name):
    try:
        check_file_name(name)
    except ParseError:
        return
    path = Path("/root", name)
    assert path.is_relative_to("/root")
    assert ".." not in path.parts
    assert "\0" not in name
    assert path.relative_to("/root").as_posix() == name


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_as_safetensors(data, framed):
    if framed:
        data = len(data).to_bytes(8, "little") + data
    try:
        shard = parse_shard("x", memoryview(data))
    except ParseError:
        return
    assert sum(len(tensor.data) for tensor in shard.tensors) <= len(data)


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.text(max_size=4),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["U8", "F32", "BF16", "X"]),
                "shape": st.lists(st.integers(-1, 4), max_size=3),
                "data_offsets": st.tuples(st.integers(-1, 40), st.integers(-1, 40)),
            }
        ),
        max_size=3,
    ),
    st.integers(0, 40),
)
def test_tensors_never_overlap_nor_leave_bytes(entries, size):
    header = msgspec.json.encode(entries)
    buffer = memoryview(len(header).to_bytes(8, "little") + header + bytes(size))
    try:
        shard = parse_shard("x", buffer)
    except ParseError:
        return
    assert sum(len(tensor.data) for tensor in shard.tensors) == size


def _payload():
    return msgspec.json.decode(SEALED.envelope, type=_Payload).payload


class _Payload(msgspec.Struct):
    payload: bytes
