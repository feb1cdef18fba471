"""Sealed folders: models and data that are plaintext only in the memory of whoever holds their key.

`seal` encrypts a folder and signs its manifest; `open_capsule` streams it into memory again; `verify_objects` checks
what a host stores without any key. The format is in `docs/spec/capsule.md`.
"""

from mitai.capsule.manifest import (
    MANIFEST_NAME,
    PAYLOAD_TYPE,
    FileEntry,
    Manifest,
    check_file_name,
    open_manifest,
)
from mitai.capsule.opening import CapsuleSource, open_capsule, verify_objects
from mitai.capsule.sealing import Sealed, seal
from mitai.capsule.sources import FileSource, FolderSource, MemorySource
from mitai.capsule.stores import FolderStore, FsspecStore, MemoryStore, ObjectStore
from mitai.capsule.tensors import Shard, Tensor, iter_shards

__all__ = [
    "MANIFEST_NAME",
    "PAYLOAD_TYPE",
    "CapsuleSource",
    "FileEntry",
    "FileSource",
    "FolderSource",
    "FolderStore",
    "FsspecStore",
    "Manifest",
    "MemorySource",
    "MemoryStore",
    "ObjectStore",
    "Sealed",
    "Shard",
    "Tensor",
    "check_file_name",
    "iter_shards",
    "open_capsule",
    "open_manifest",
    "seal",
    "verify_objects",
]
