"""The weights of a model folder, read into memory without torch: reading can begin before the engine is imported.

Invariants:

- Weights go to anonymous memory maps, whole shards each; nothing of them is written anywhere.
- Only safetensors are read; an index may name no file that is not in the folder.

Example:
    >>> weights = begin(source)  # in a thread; import the engine meanwhile
    >>> load(source, weights=weights)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from mitai.capsule.directio import anonymous
from mitai.capsule.segments import SEGMENT_BYTES
from mitai.capsule.sources import FileSource
from mitai.errors import ServeError

Progress = Callable[[int, int], None]  # (bytes read, bytes in all)
MAX_JSON_BYTES = 256 << 20  # tokenizer.json of the largest vocabularies is some 30 MB
READ_BYTES = 4 * SEGMENT_BYTES  # one read: whole segments of a capsule, so that each is opened once


def begin(source: FileSource, progress: Progress | None = None) -> Future[dict[str, memoryview]]:
    """Read all shards in a thread; the result is each shard's bytes by its file name."""
    reader = ThreadPoolExecutor(1, "mitai-weights")
    weights = reader.submit(_read, source, progress or (lambda _done, _total: None))
    reader.shutdown(wait=False)
    return weights


def _read(source: FileSource, progress: Progress) -> dict[str, memoryview]:
    """Read all shards into anonymous memory; a capsule decrypts each read on several threads."""
    shards = _shards(source)
    total = sum(map(source.size, shards))
    done = 0
    weights: dict[str, memoryview] = {}
    for name in shards:
        size = source.size(name)
        if not size:
            raise ServeError("serve.weights-missing", f"{name} is empty")
        weights[name] = buffer = memoryview(anonymous(size))[:size]
        for at in range(0, size, READ_BYTES):
            piece = buffer[at : at + READ_BYTES]
            source.read_into(name, at, piece)
            done += len(piece)
            progress(done, total)
    return weights


def _shards(source: FileSource) -> list[str]:
    names = set(source.names())
    index = "model.safetensors.index.json"
    if index in names:
        shards = sorted({str(name) for name in dict(read_json(source, index).get("weight_map", {})).values()})
        missing = [name for name in shards if name not in names]
        if missing or not shards:
            raise ServeError("serve.shard-missing", f"{index} names {len(missing) or 'no'} files that are not there")
        return shards
    if "model.safetensors" in names:
        return ["model.safetensors"]
    pickled = any(re.fullmatch(r"pytorch_model.*\.(bin|pt|pth)", name) for name in names)
    raise ServeError(
        "serve.weights-missing",
        "the model folder has no model.safetensors" + (" (pickled weights are never read)" if pickled else ""),
        hint="convert the weights to safetensors",
    )


def read_json(source: FileSource, name: str) -> dict[str, Any]:
    """Return a JSON object of the folder; raise `ServeError` on anything else."""
    if source.size(name) > MAX_JSON_BYTES:
        raise ServeError("serve.model-file-too-large", f"{name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        value = msgspec.json.decode(source.read(name))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ServeError("serve.model-file-malformed", f"{name} of the model folder is not JSON") from error
    if not isinstance(value, dict):
        raise ServeError("serve.model-file-malformed", f"{name} of the model folder is not a JSON object")
    return value
