"""What the reference safetensors library writes, we read; what it refuses, we refuse."""

from __future__ import annotations

import json

import pytest

from mitai.capsule import FolderSource, iter_shards
from mitai.capsule.tensors import parse_shard
from mitai.errors import ParseError

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors")
reference = pytest.importorskip("safetensors.numpy")


def test_files_of_the_library(tmp_path):
    arrays = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b.weight": np.arange(5, dtype=np.int64),
        "half": np.ones((2, 2), np.float16),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.uint8),
        "scalar": np.array(1.5),
    }
    reference.save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "np"})
    (shard,) = iter_shards(FolderSource(tmp_path))
    assert shard.metadata == {"format": "np"}
    types = {"F32": np.float32, "I64": np.int64, "F16": np.float16, "BOOL": np.bool_, "U8": np.uint8, "F64": np.float64}
    found = {t.name: np.frombuffer(t.data, types[t.dtype]).reshape(t.shape) for t in shard.tensors}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name] == array).all()
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize(
    "entries",
    [
        {"t": {"dtype": "U8", "shape": [4], "data_offsets": [0, 5]}},
        {"t": {"dtype": "U8", "shape": [5], "data_offsets": [0, 4]}},
        {"t": {"dtype": "NO", "shape": [4], "data_offsets": [0, 4]}},
        {"t": {"dtype": "U8", "shape": [3], "data_offsets": [1, 4]}},
        {"t": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}},
    ],
)
def test_what_the_library_refuses(entries):
    header = json.dumps(entries).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    with pytest.raises(safetensors.SafetensorError):
        reference.load(data)
    with pytest.raises(ParseError):
        parse_shard("x", memoryview(data))
