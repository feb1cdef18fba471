"""One sealed capsule for many tests: every file size that is a boundary of chunks and segments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from mitai.capsule import FolderStore, Manifest, MemoryStore, Sealed, open_capsule, open_manifest, seal
from mitai.capsule.manifest import PAYLOAD_TYPE
from mitai.capsule.segments import SEGMENT_BYTES
from mitai.identity import Envelope, Identity

CONTENTS = {
    "config.json": b'{"model_type": "llama"}',
    "empty": b"",
    "folder/chunk.bin": os.urandom((2 << 20) - 72),  # two full chunks
    "folder/other.bin": os.urandom((2 << 20) - 72),
    "model.safetensors": os.urandom(2 * SEGMENT_BYTES + 70_000),
    "segment.bin": os.urandom(SEGMENT_BYTES),
    "模型.txt": "密态".encode(),
}


@dataclass
class Capsule:
    """A sealed folder, and all that is needed to open or to attack it."""

    plain: Path
    folder: Path
    owner: Identity
    sealed: Sealed

    @property
    def manifest(self) -> Manifest:
        return open_manifest(self.sealed.envelope, owner=self.owner.public)

    def object(self, name: str) -> str:
        return next(file.object for file in self.manifest.files if file.name == name)

    def store(self) -> MemoryStore:
        folder = FolderStore(self.folder)
        return MemoryStore({name: (self.folder / name).read_bytes() for name in folder.names()})

    def open(self, store=None, **options):
        store = self.store() if store is None else store
        return open_capsule(store, self.sealed.envelope, self.sealed.data_key, owner=self.owner.public, **options)

    def signed(self, **changes) -> bytes:
        """An envelope by the same owner over a changed manifest."""
        fields = {**msgspec.to_builtins(self.manifest), **changes}
        return self.owner.sign(msgspec.json.encode(fields), PAYLOAD_TYPE).encode()

    def payload(self) -> bytes:
        return Envelope.decode(self.sealed.envelope).payload


def write_plain(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make(folder: Path, *, digests: bool = False) -> Capsule:
    plain = write_plain(folder / "plain", CONTENTS)
    owner = Identity.generate()
    sealed = seal(plain, folder / "sealed", owner=owner, name="a test", digests=digests, labels={"licence": "MIT"})
    return Capsule(plain, folder / "sealed", owner, sealed)


@pytest.fixture(scope="session")
def capsule(tmp_path_factory):
    return make(tmp_path_factory.mktemp("capsule"))


@pytest.fixture(scope="session")
def digested(tmp_path_factory):
    return make(tmp_path_factory.mktemp("digested"), digests=True)


@pytest.fixture
def contents():
    return CONTENTS
