"""Where plain files come from: the one small interface that an engine loads through, sealed or not.

Invariants:

- A name is only ever looked up among `names()`; nothing outside the folder can be reached.
- `read_into` fills the whole buffer or raises.

Example:
    >>> source = FolderSource(Path("model"))  # doctest: +SKIP
    >>> source.read("config.json")  # doctest: +SKIP
    b'{"architectures": ["LlamaForCausalLM"], ...'
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mitai.capsule.manifest import check_file_name
from mitai.errors import CapsuleError

MAX_READ_BYTES = 1 << 30  # `read` returns bytes; larger files go through `read_into`
SKIPPED_FOLDERS = frozenset({".git", ".cache"})  # what git and model hubs keep beside a model; not part of it


class FileSource(Protocol):
    """Files by name: an opened capsule or a plain folder."""

    def names(self) -> tuple[str, ...]:
        """Return every file's name, sorted; `/` separates folders."""
        ...

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        ...

    def read(self, name: str) -> bytes:
        """Return a whole small file (at most 1 GiB)."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the file's bytes from `offset` on."""
        ...


class FolderSource:
    """A plain folder. Links to files are followed (model hubs store them so), links to folders are not."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise CapsuleError("capsule.source-missing", f"there is no folder at {path}")
        self._path = path
        self._sizes = dict(_walk(path))

    def names(self) -> tuple[str, ...]:
        """Return every file's name, sorted."""
        return tuple(self._sizes)

    def size(self, name: str) -> int:
        """Return the size that the file had when the folder was listed."""
        try:
            return self._sizes[name]
        except KeyError:
            raise unknown_file(name) from None

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        buffer = bytearray(bounded(self.size(name)))
        self.read_into(name, 0, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on; raise `CapsuleError` when the file has become shorter."""
        buffer = buffer.cast("B")
        check_range(self.size(name), offset, len(buffer))
        with self.opened(name) as descriptor:
            read_exactly(descriptor, offset, buffer, name)

    def stamp(self, name: str) -> tuple[int, int]:
        """Return size and time of change of a file, as they are now."""
        found = (self._path / name).stat()
        return found.st_size, found.st_mtime_ns

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open a file for several reads; give its descriptor."""
        try:
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise source_changed(name) from None
        except OSError as error:
            raise CapsuleError("capsule.source-unreadable", f"{name!r} can't be read: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class MemorySource:
    """Files in this process's memory alone, by name."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        for name in files:
            check_file_name(name)
        self._files = dict(sorted(files.items()))

    def names(self) -> tuple[str, ...]:
        """Return every file's name, sorted."""
        return tuple(self._files)

    def size(self, name: str) -> int:
        """Return a file's size."""
        return len(self._file(name))

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        return self._file(name)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on."""
        buffer = buffer.cast("B")
        content = self._file(name)
        check_range(len(content), offset, len(buffer))
        buffer[:] = memoryview(content)[offset : offset + len(buffer)]

    def _file(self, name: str) -> bytes:
        try:
            return self._files[name]
        except KeyError:
            raise unknown_file(name) from None


def read_exactly(descriptor: int, offset: int, buffer: memoryview, name: str) -> None:
    """Fill `buffer` from `offset` on; raise `CapsuleError` when the file has become shorter."""
    done = 0
    while done < len(buffer):
        got = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not got:
            raise source_changed(name)
        done += got


def _walk(root: Path) -> list[tuple[str, int]]:
    found = []
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for name in files:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            check_file_name(relative)
            if not path.is_file():
                raise CapsuleError("capsule.source-not-a-file", f"{relative!r} is neither a file nor a folder")
            found.append((relative, path.stat().st_size))
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise CapsuleError("capsule.source-unreadable", f"a folder can't be listed: {error.strerror}") from error


def bounded(size: int) -> int:
    """Return `size`, or raise when a file is too large to be returned as bytes."""
    if size > MAX_READ_BYTES:
        raise CapsuleError("capsule.file-too-large", f"a file of {size} bytes is read with read_into, not read")
    return size


def check_range(size: int, offset: int, length: int) -> None:
    """Raise unless `offset` and `length` lie within a file of `size` bytes."""
    if offset < 0 or offset + length > size:
        raise CapsuleError("capsule.range-invalid", f"bytes {offset} to {offset + length} of a file of {size} bytes")


def unknown_file(name: str) -> CapsuleError:
    """Return the error for a file name that is not there."""
    return CapsuleError("capsule.file-unknown", f"there is no file {name[:200]!r}")


def source_changed(name: str) -> CapsuleError:
    """Return the error for a source file that changed under our hands."""
    return CapsuleError("capsule.source-changed", f"{name!r} changed or went away while it was read")
