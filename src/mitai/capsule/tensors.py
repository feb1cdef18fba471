"""Safetensors read lazily: one decrypted shard in memory at a time, tensors as views into it.

Follows the safetensors format (github.com/huggingface/safetensors, README, "Format"): 8 bytes of header length, a JSON
header, data.

Invariants:

- Every tensor's bytes lie within the data, none overlap, none are left over, and each length fits its type and shape.
- The header has at most 100 MB.
- No copy is made: a view keeps its shard's memory alive, and the memory goes back to the system with the last view.

Example:
    >>> for shard in iter_shards(source):  # doctest: +SKIP
    ...     for tensor in shard.tensors:
    ...         print(tensor.name, tensor.dtype, tensor.shape)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from mitai.capsule.directio import anonymous
from mitai.capsule.sources import FileSource
from mitai.errors import ParseError

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "C64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

_Natural = Annotated[int, msgspec.Meta(ge=0)]


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A header entry: type, shape, and the first and past-the-last byte within the data."""

    dtype: str
    shape: tuple[_Natural, ...]
    data_offsets: tuple[_Natural, _Natural]


@dataclass(frozen=True)
class Tensor:
    """A tensor's bytes as they lie in the shard: little-endian, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview = field(repr=False)


@dataclass(frozen=True)
class Shard:
    """One safetensors file in memory."""

    name: str
    metadata: dict[str, str]
    tensors: tuple[Tensor, ...]


def iter_shards(source: FileSource, names: Sequence[str] | None = None) -> Iterator[Shard]:
    """Read one shard after another into memory of its own; let go of one before asking for the next.

    Args:
        source: An opened capsule or a plain folder.
        names: Files to read, all `*.safetensors` when not given.

    Raises:
        CapsuleError: A file could not be read or authenticated.
        ParseError: A file is not strict safetensors.
    """
    chosen = [name for name in source.names() if name.endswith(".safetensors")] if names is None else names
    for name in chosen:
        yield _read_shard(source, name)


def _read_shard(source: FileSource, name: str) -> Shard:
    size = source.size(name)
    buffer = memoryview(anonymous(size))[:size]
    source.read_into(name, 0, buffer)
    return parse_shard(name, buffer)


def parse_shard(name: str, buffer: memoryview) -> Shard:
    """Return the tensors of one safetensors file as views into `buffer`."""
    length = header_size(bytes(buffer[:8]), len(buffer))
    data = buffer[8 + length :]
    metadata, entries = parse_header(bytes(buffer[8 : 8 + length]), len(data))
    tensors = tuple(
        Tensor(tensor, info.dtype, info.shape, data[info.data_offsets[0] : info.data_offsets[1]])
        for tensor, info in entries.items()
    )
    return Shard(name, metadata, tensors)


def header_size(prefix: bytes, file_size: int) -> int:
    """Return the header's length from the first 8 bytes of a file of `file_size` bytes."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) != 8 or length > MAX_HEADER_BYTES or 8 + length > file_size:
        raise _malformed("the header's length is not within the file or above 100 MB")
    return length


def parse_header(header: bytes, data_size: int) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """Return metadata and entries, in the order of their data, of a header whose data has `data_size` bytes."""
    if not header.startswith(b"{"):
        raise _malformed("the header does not start with a brace")
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(raw.pop("__metadata__", b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(entry, type=TensorInfo) for name, entry in raw.items()}
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError("capsule.safetensors-malformed", "a safetensors header is not of the format") from error
    ordered = dict(sorted(entries.items(), key=lambda item: item[1].data_offsets))
    position = 0
    for info in ordered.values():
        begin, end = info.data_offsets
        if begin != position or end < begin:
            raise _malformed("tensors overlap or leave a gap")
        if info.dtype not in DTYPE_BYTES or len(info.shape) > MAX_DIMENSIONS:
            raise _malformed("a tensor has an unknown type or too many dimensions")
        if math.prod(info.shape) * DTYPE_BYTES[info.dtype] != end - begin:
            raise _malformed("a tensor's length does not fit its type and shape")
        position = end
    if position != data_size:
        raise _malformed("the data is longer or shorter than its tensors")
    return metadata, ordered


def _malformed(why: str) -> ParseError:
    return ParseError("capsule.safetensors-malformed", f"not a strict safetensors file: {why}")
