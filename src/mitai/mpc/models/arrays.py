"""What goes into a model: its arrays out of a Hugging Face folder, and a prompt's tokens as rows that hide them.

A program names no tensor. It takes one array after the other, of shapes that follow from the public configuration, and
whoever owns the model, or the prompt, gives arrays in the same order (`docs/spec/mpc.md`, "Models").

Invariants:

- Arrays of integers are shared without fraction, all others with the engine's.
- A folder's tensors are read one at a time; nothing of a file is executed.
- A token is one column out of all, or one of some of all: its products with the table cost the same whichever it is.

Example:
    >>> from mitai.mpc.clear import ClearEngine
    >>> table = Arrays(ClearEngine(), "model", [np.eye(3) / 2]).table(3, 3)
    >>> rows = embed(Arrays(ClearEngine(), "client", one_hot(np.array([[2], [0]]), 3)), table, 2)
    >>> rows.engine.reveal(rows)
    array([[0. , 0. , 0.5],
           [0.5, 0. , 0. ]])
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mitai.capsule.tensors import Tensor, parse_shard
from mitai.errors import MpcError
from mitai.mpc.engine import Engine, Secret, Weight, concatenate
from mitai.mpc.nonlinear import read
from mitai.mpc.ring import Real

Columns = NDArray[np.int64]

FINE_BITS = 20  # of fraction of most weights of models that generate: their rounding is what moves logits most
BLOCK_WORDS = 1 << 22  # how many numbers of one-hot rows are in memory at a time


class Arrays:
    """An owner's arrays, taken in the program's order.

    Args:
        engine: This end of the protocol.
        owner: Whose arrays they are: `model` or `client`.
        values: The arrays, where this end is the owner's.
    """

    def __init__(self, engine: Engine, owner: str, values: Iterable[NDArray[np.generic]] | None = None) -> None:
        self.engine = engine
        self._owner = owner
        self._values = None if values is None else iter(values)

    def secret(self, *shape: int, fraction: int | None = None) -> Secret:
        """Take the next array.

        Raises:
            MpcError: `mpc.model-mismatch`: the owner has none, or one of another shape.
        """
        values = None if self._values is None else next(self._values, None)
        if self._values is not None and (values is None or values.shape != shape):
            had = "none" if values is None else f"one of shape {values.shape}"
            raise MpcError(
                "mpc.model-mismatch", f"an array of shape {shape} was expected of the {self._owner}, not {had}"
            )
        return self.engine.input(
            self._owner, shape, None if values is None else values.astype(np.float64, copy=False), fraction
        )

    def weight(self, rows: int, columns: int, fraction: int | None = None) -> Weight:
        """Take the next array as a matrix for products."""
        return self.engine.weight(self.secret(rows, columns, fraction=fraction))

    def table(self, rows: int, columns: int) -> Weight:
        """Take the next array as a matrix for products with integers: with so much fraction that some is cut off.

        What is dropped of a product need not be opened of its factor (`docs/spec/mpc.md`, "Truncation").
        """
        return self.weight(rows, columns, 2 * self.engine.fraction)

    def tied(self, rows: int, columns: int, fold: int) -> tuple[Weight, Weight]:
        """Take the next array [rows · fold, columns] as a folded table, and as the matrix of the head."""
        return self.engine.tied(self.secret(rows * fold, columns, fraction=2 * self.engine.fraction), fold)

    def dense(self, rows: int, columns: int, fraction: int | None = None) -> Dense:
        """Take a matrix, with this fraction, and a bias."""
        return Dense(self.weight(rows, columns, fraction), self.secret(columns))

    def end(self) -> None:
        """Refuse what is left over."""
        if self._values is not None and next(self._values, None) is not None:
            raise MpcError("mpc.model-mismatch", f"the {self._owner} has more arrays than the program takes")


@dataclass(frozen=True)
class Dense:
    """A linear layer."""

    weight: Weight
    bias: Secret

    def __call__(self, x: Secret, onto: Secret | None = None) -> Secret:
        """Apply it to the last axis, and add it to what goes round it: both are cut back as one number."""
        return x.engine.linear(x, self.weight, self.bias if onto is None else onto + self.bias)


def fold_of(tokens: int, hidden: int) -> int:
    """Return how many rows of a table are looked up together: so many that both parts of a look-up are as long."""
    fold = 1
    while tokens >= 2 * fold * fold * hidden:
        fold *= 2
    return fold


def folded(table: Real, fold: int) -> Real:
    """Return a table with rows of zeros up to a multiple of `fold`."""
    return np.concatenate([table, np.zeros((-len(table) % fold, table.shape[1]))])


def one_hot(columns: Columns, width: int, fold: int = 1) -> Iterator[NDArray[np.int64]]:
    """Yield blocks of rows [.., width] that have ones at the given columns [rows, ones], and zeros elsewhere.

    With a fold, a block says which `fold` columns it is, and another one, [.., fold], which of these.
    """
    for block in _blocks(len(columns), width):
        yield _bits(columns[block] // fold, width)
        if fold > 1:
            yield _bits(columns[block] % fold, fold)


def embed(client: Arrays, table: Weight, rows: int, fold: int = 1) -> Secret:
    """Return the rows of a table [width, fold · hidden] that a client names by `one_hot`."""
    width, _ = table.shape

    def taken() -> Iterator[Secret]:
        for block in _blocks(rows, width):
            high = client.secret(block.stop - block.start, width, fraction=0)
            low = client.secret(block.stop - block.start, fold, fraction=0) if fold > 1 else None
            yield look_up(high, low, table)

    return concatenate([*taken()], 0)


def look_up(high: Secret, low: Secret | None, table: Weight) -> Secret:
    """Return rows of a table [width, fold · hidden]: the sum of those with a one in `high`, and of these in `low`."""
    engine = high.engine
    if low is None:
        return engine.linear(high, table)
    n, fold = low.shape
    bits = 2 * engine.fraction
    several = read(engine.linear(read(high, engine.fraction - bits), table), bits)  # which are not cut back yet
    return engine.matmul(low.reshape(n, 1, fold), several.reshape(n, fold, table.shape[1] // fold))[:, 0]


def _bits(columns: Columns, width: int) -> NDArray[np.int64]:
    rows = np.zeros((len(columns), width), np.int64)
    np.put_along_axis(rows, columns, 1, axis=1)
    return rows


def _blocks(rows: int, width: int) -> Iterator[slice]:
    size = max(BLOCK_WORDS // width, 1)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


class Tensors:
    """A model's tensors by name, each read when it is asked for: of a folder, or of files in memory by name.

    Raises:
        ParseError: A file is not strict safetensors.
    """

    def __init__(self, files: Path | Mapping[str, bytes]) -> None:
        self._tensors: dict[str, Tensor] = {}
        for name, view in _shards(files):
            self._tensors.update((tensor.name, tensor) for tensor in parse_shard(name, view).tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __call__(self, name: str) -> Real:
        """Return a tensor's numbers.

        Raises:
            MpcError: `mpc.model-mismatch`: there is no such tensor, or it is not of floating-point numbers.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise MpcError("mpc.model-mismatch", f"the model's folder has no tensor {name}")
        return _floats(tensor)


def _shards(files: Path | Mapping[str, bytes]) -> Iterator[tuple[str, memoryview]]:
    if not isinstance(files, Path):
        yield from ((name, memoryview(files[name])) for name in sorted(files) if name.endswith(".safetensors"))
        return
    for path in sorted(files.glob("*.safetensors")):
        with path.open("rb") as file:
            empty = path.stat().st_size == 0  # which can't be mapped
            yield path.name, memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _floats(tensor: Tensor) -> Real:
    if tensor.dtype == "BF16":  # the upper half of a float32
        halves = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << np.uint32(16)
        return halves.view(np.float32).astype(np.float64).reshape(tensor.shape)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if tensor.dtype not in kinds:
        raise MpcError("mpc.model-mismatch", f"tensor {tensor.name} is of type {tensor.dtype}, not of floating point")
    return np.frombuffer(tensor.data, kinds[tensor.dtype]).astype(np.float64).reshape(tensor.shape)
