"""Where encrypted objects lie: anything that tells a size and returns bytes. A store is never trusted.

Invariants:

- Object names are 32 hex digits (`docs/spec/capsule.md`); a store refuses any other, so that none can point elsewhere.
- What a store returns is checked by whoever asked: a store may be slow, lie, return too little or too much, or vanish.

Example:
    >>> store = FolderStore(Path("sealed"))  # doctest: +SKIP
    >>> source = open_capsule(store, envelope, data_key, owner=alice.public)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mitai.capsule import directio
from mitai.errors import CapsuleError

_OBJECT_NAME = re.compile(r"[0-9a-f]{32}\Z")


class ObjectStore(Protocol):
    """Objects by name. Errors are `CapsuleError` or `OSError`; a short answer is found by the reader."""

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on and return the bytes read; may be called from several threads at once."""
        ...


class FolderStore:
    """Objects as files of one folder, read past the page cache unless they lie in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> tuple[str, ...]:
        """Return the names of all objects."""
        return tuple(sorted(path.name for path in self._path.iterdir() if _OBJECT_NAME.match(path.name)))

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        try:
            return self._file(name).stat().st_size
        except FileNotFoundError:
            raise missing(name) from None

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; fewer bytes only at the end of the object."""
        try:
            descriptor = os.open(self._file(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise missing(name) from None
        try:
            return directio.read_into(descriptor, buffer, offset)
        finally:
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        return self._path / checked(name)


class MemoryStore:
    """Objects in memory, for tests and small capsules."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = {} if objects is None else objects

    def names(self) -> tuple[str, ...]:
        """Return the names of all objects."""
        return tuple(sorted(self.objects))

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        return len(self._object(name))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; fewer bytes only at the end of the object."""
        return filled(buffer, self._object(name)[offset : offset + len(buffer)])

    def _object(self, name: str) -> bytes:
        try:
            return self.objects[checked(name)]
        except KeyError:
            raise missing(name) from None


class FsspecStore:
    """Objects under any fsspec URL: `s3://bucket/prefix`, `https://host/path`, `memory://x`, `file:///folder`."""

    def __init__(self, url: str, **options: object) -> None:
        import fsspec

        with _failures("the listing"):
            self._system, self._root = fsspec.core.url_to_fs(url, **options)

    def names(self) -> tuple[str, ...]:
        """Return the names of all objects, where the file system can list."""
        with _failures("the listing"):
            listed = [str(path).rpartition("/")[2] for path in self._system.ls(self._root, detail=False)]
        return tuple(sorted(name for name in listed if _OBJECT_NAME.match(name)))

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        path = self._path(name)
        with _failures(name):
            return int(self._system.size(path))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; an answer of more bytes is refused."""
        path = self._path(name)
        with _failures(name):
            return filled(buffer, self._system.cat_file(path, start=offset, end=offset + len(buffer)))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{checked(name)}"


def filled(buffer: memoryview, content: bytes) -> int:
    """Copy a store's answer into `buffer`; raise `ValueError` when it is longer."""
    buffer[: len(content)] = content
    return len(content)


def checked(name: str) -> str:
    """Return an object's name, or raise when it is not of the form that capsules use."""
    if not _OBJECT_NAME.match(name):
        raise CapsuleError("capsule.object-name-invalid", "an object's name is 32 lower-case hex digits")
    return name


def missing(name: str) -> CapsuleError:
    """Return the error for an object that is not in the store."""
    return CapsuleError("capsule.object-missing", f"the store has no object {name}")


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn whatever a file system's driver raises into `CapsuleError`."""
    try:
        yield
    except FileNotFoundError:
        raise missing(what) from None
    except Exception as error:  # each driver has its own exceptions
        raise CapsuleError(
            "capsule.store-failed", f"the store failed on {what}: {type(error).__name__}", step="read"
        ) from error
