"""A model's weights and the commitment to them as files, which are mapped: a model may be larger than memory.

| file | what |
| --- | --- |
| `weights.npy` | the weights one after the other, as a program declares them: 4 or 8 bytes a number |
| `narrow.npy`, `wide.npy` | the same as they lie in the commitment: numbers of 4 bytes, then of 8 |
| `tree.npy` | hashes, from the leaves up to the root |
| `code.npy` | the encoded columns, group of rows after group of rows; may be missing |
| `margin.npy`, `salts.npy` | of a commitment that hides: the random coefficients of each row, the salts of leaves |
| `spent` | of such a one: a byte for each time that it was opened |

- Files are written from the first to the last byte, never through a map, so that a full disk is an error and no signal.
- A folder gets its name last: what was interrupted looks like no model that was prepared.

Example:
    >>> write_weights(folder, program, lambda name: [weights[name]])
    >>> root = write_commitment(folder, program)
    >>> prove(program, inputs, read(folder, program))
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof import kernels
from mitai.proof.commitment import Commitment, Progress, code_shape, commit
from mitai.proof.elements import Elements, ends, pieces, with_padding
from mitai.proof.field import Array
from mitai.proof.hiding import HidingCommitment, Leaves, commit_hiding
from mitai.proof.operation import Ints
from mitai.proof.operations import Weight
from mitai.proof.program import Program
from mitai.proof.proving import Weights
from mitai.proof.transcript import HASH_BYTES
from mitai.proof.verify.commitment import Shape
from mitai.proof.verify.hiding import HidingShape
from mitai.proof.verify.layout import Layout

WEIGHTS, NARROW, WIDE, TREE, CODE = "weights.npy", "narrow.npy", "wide.npy", "tree.npy", "code.npy"
MARGIN, SALTS, SPENT = "margin.npy", "salts.npy", "spent"
INT32_BITS = 32
_ELEMENT_BYTES = 8

Kind = TypeVar("Kind", bound=np.generic)
Numbers = Callable[[str], Iterable[Ints]]  # a weight's numbers by its name, flat or not, some at a time


@dataclass(frozen=True)
class Sizes:
    """How many bytes a model takes on disk: its weights, and their code."""

    weights: int
    code: int

    @staticmethod
    def of(program: Program, uses: int = 0) -> Sizes:
        """Return those of a program's model."""
        shape = _shape(_layout(program).log, uses)
        hashes = (3 if uses else 2) * HASH_BYTES << shape.leaves
        return Sizes(2 * _bytes(program) + hashes, _ELEMENT_BYTES << shape.leaves + shape.rows)


@contextmanager
def named_last(out: Path) -> Iterator[Path]:
    """Make a folder, which gets its name when all is in it.

    Raises:
        ProofError: `proof.out-exists`.
    """
    if out.exists():
        raise ProofError("proof.out-exists", f"there is something at {out}", hint="give a folder that is not there yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.unfinished-", dir=out.parent))
    try:
        yield partial
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_weights(folder: Path, program: Program, numbers: Numbers) -> None:
    """Write weights into a folder, as a program declares them.

    Raises:
        ProofError: `proof.disk-full`.
    """
    with disk(), array_file(folder / WEIGHTS, (_bytes(program),), "u1") as put:
        for name, weight in program.weights.items():
            for part in numbers(name):
                put(part.astype(_dtype(weight), copy=False))


def write_commitment(
    folder: Path, program: Program, *, uses: int = 0, code: bool = True, say: Progress = lambda *_: None
) -> bytes:
    """Commit to the weights in a folder, which gets the commitment as well; return the root.

    Args:
        folder: See `write_weights`.
        program: The same.
        uses: How many proofs it hides the weights in; 0 if it does not.
        code: Whether the encoded columns are kept: a proof needs 152 of them, and computes them again otherwise.
        say: Told how much is done.

    Raises:
        ProofError: `proof.disk-full`.
    """
    layout = _layout(program)
    with disk():
        _place([*_arrays(folder, program).values()], layout, folder)
        elements = _elements(folder, layout)
        make = partial(commit_hiding, elements, uses) if uses else partial(commit, elements)
        if code:
            with array_file(folder / CODE, code_shape(_shape(layout.log, uses)), "<u8") as put:
                made = make(lambda part: put(part.astype("<u8", copy=False)), say)
        else:
            made = make(lambda _: None, say)
        levels = made.leaves.levels if isinstance(made, HidingCommitment) else made.levels
        with array_file(folder / TREE, (sum(map(len, levels)), HASH_BYTES), "u1") as put:
            for level in levels:
                put(level)
        if isinstance(made, HidingCommitment):
            _write_hidden(folder, made)
    return made.root


def _write_hidden(folder: Path, made: HidingCommitment) -> None:
    with array_file(folder / MARGIN, made.margin.shape, "<u8") as put:
        put(made.margin.astype("<u8", copy=False))
    with array_file(folder / SALTS, made.leaves.salts.shape, "u1") as put:
        put(made.leaves.salts)
    (folder / SPENT).touch(0o600, exist_ok=False)


def read(folder: Path, program: Program, uses: int = 0) -> Weights:
    """Map what was written for a program with these weights, and for as many uses.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files do not belong together.
    """
    layout = _layout(program)
    elements = _elements(folder, layout)
    shape = code_shape(_shape(layout.log, uses))
    hashes = mapped(folder / TREE, np.uint8)
    levels, at, size = [], 0, shape[1]
    while size:
        levels.append(hashes[at : at + size])
        at, size = at + size, size // 2
    code = CodeFile.of(folder / CODE, shape) if (folder / CODE).exists() else None
    if hashes.shape != (at, HASH_BYTES):
        raise ValueError("files of another model")
    arrays = _arrays(folder, program)
    if not uses:
        if (folder / SPENT).exists():  # the sizes alone may be those of a model that nothing hides
            raise ValueError("files of a model that proofs have to hide")
        return Weights(arrays, Commitment(levels[-1].tobytes(), elements, levels, code))
    (folder / SPENT).stat()
    hiding = HidingShape.of(layout.log, uses)
    margin, salts = mapped(folder / MARGIN, np.uint64), mapped(folder / SALTS, np.uint8)
    if margin.shape != (hiding.margin, 1 << hiding.rows) or salts.shape != (shape[1], HASH_BYTES):
        raise ValueError("files of another model")
    leaves = Leaves(salts, levels)
    counted = Counted(elements.cut(hiding.positions), margin, leaves, uses, code, spent_file=folder / SPENT)
    return Weights(arrays, counted, uses)


def are_committed(weights: Weights, program: Program) -> bool:
    """Return whether weights are those behind their root, which is computed again.

    The files say so of themselves (`read`), and may be damaged, or somebody else's. They may be larger than memory.
    """
    commitment, at, layout = weights.commitment, 0, _layout(program)
    if commitment is None or commitment.again() != weights.root:
        return False
    for piece in pieces([weights.arrays[name] for name in program.weights], layout):
        if not np.array_equal(kernels.residues(piece), commitment.elements.part(at, at + len(piece))):
            return False
        at += len(piece)
    return True


@dataclass
class Counted(HidingCommitment):
    """One whose uses are counted in a file: a byte each, which is there before anything of a proof leaves.

    Attributes:
        spent_file: It must be there: who loses it does not know what is left.
    """

    spent_file: Path = Path(SPENT)

    @property
    def left(self) -> int:
        """How many more there are.

        Raises:
            ProofError: `proof.uses-uncounted`.
        """
        with _counting():
            return max(self.uses - self.spent_file.stat().st_size, 0)

    def spend(self) -> None:
        """Count a use, for all processes and across crashes.

        Raises:
            ProofError: `proof.uses-spent`, `proof.uses-uncounted`.
        """
        with _counting():
            descriptor = os.open(self.spent_file, os.O_WRONLY | os.O_APPEND)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self.spent = os.fstat(descriptor).st_size
                super().spend()
                os.write(descriptor, b".")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _counting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProofError(
            "proof.uses-uncounted",
            f"what hides the model can't be counted as used ({type(error).__name__}), so nothing is proven",
            hint="see that its folder is there, that it can be written, and that the disk has room",
        ) from None


@dataclass(frozen=True)
class CodeFile:
    """A code (groups of rows, leaves, rows of a group) in a file, which is read column by column."""

    path: Path
    start: int
    shape: tuple[int, int, int]

    @staticmethod
    def of(path: Path, shape: tuple[int, int, int]) -> CodeFile:
        """Return that in a file.

        Raises:
            ValueError: It is of another shape.
        """
        if mapped(path, np.uint64).shape != shape:
            raise ValueError("files of another model")
        return CodeFile(path, path.stat().st_size - prod(shape) * _ELEMENT_BYTES, shape)

    def __getitem__(self, key: tuple[slice, Sequence[int]], /) -> Array:
        """Return columns of some groups, (groups, places, rows of a group)."""
        some, places = key
        _, leaves, width = self.shape
        groups = range(self.shape[0])[some]
        out = np.empty((len(groups), len(places), width), np.uint64)
        with self.path.open("rb", buffering=0) as file:
            for row, group in zip(out, groups, strict=True):
                for column, place in zip(row, places, strict=True):
                    file.seek(self.start + (group * leaves + place) * width * _ELEMENT_BYTES)
                    column[:] = np.frombuffer(file.read(width * _ELEMENT_BYTES), "<u8")
        return out


def _place(arrays: Sequence[Ints], layout: Layout, folder: Path) -> None:
    """Write arrays as they lie in the commitment, and zeros up to its next position."""
    cut, end = ends(arrays, layout)
    with (
        array_file(folder / NARROW, (cut,), "<i4") as put_narrow,
        array_file(folder / WIDE, (end - cut,), "<i8") as put_wide,
    ):
        at = 0
        for piece in chain(pieces(arrays, layout), [np.zeros(end - sum(array.size for array in arrays), np.int64)]):
            first = max(cut - at, 0)
            put_narrow(piece[:first].astype("<i4", copy=False))
            put_wide(piece[first:].astype("<i8", copy=False))
            at += len(piece)


@contextmanager
def disk() -> Iterator[None]:
    """Say what it means if the disk is full.

    Raises:
        ProofError: `proof.disk-full`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full("a write failed") from None


def disk_full(why: str) -> ProofError:
    """Return the error."""
    return ProofError(
        "proof.disk-full",
        f"there is no room for the model's files: {why}",
        hint="free some, or leave out the weights' code: mitai proof prepare --no-code",
    )


@contextmanager
def array_file(path: Path, shape: tuple[int, ...], dtype: str) -> Iterator[Callable[[NDArray[np.generic]], object]]:
    """Write a new file as numpy does, part after part: what is given puts a part there."""
    with path.open("xb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda part: file.write(np.ascontiguousarray(part).data)


def mapped(path: Path, kind: type[Kind]) -> NDArray[Kind]:
    """Return an array of a kind of numbers in a file, which is read where it is used.

    Raises:
        ValueError: There is something else in it.
    """
    try:
        array: NDArray[Kind] = np.asarray(np.load(path, mmap_mode="r"))
    except EOFError:
        raise ValueError(f"{path.name} is empty") from None
    if array.dtype != kind:
        raise ValueError(f"{path.name} has other numbers")
    return array


def _arrays(folder: Path, program: Program) -> dict[str, Ints]:
    whole, at = mapped(folder / WEIGHTS, np.uint8), 0
    arrays: dict[str, Ints] = {}
    for name, weight in program.weights.items():
        size = prod(weight.shape) * _dtype(weight).itemsize
        arrays[name] = whole[at : at + size].view(_dtype(weight)).reshape(weight.shape)
        at += size
    if whole.shape != (at,):
        raise ValueError("files of another model")
    return arrays


def _elements(folder: Path, layout: Layout) -> Elements:
    return with_padding(layout, mapped(folder / NARROW, np.int32), mapped(folder / WIDE, np.int64))


def _shape(log: int, uses: int) -> Shape | HidingShape:
    return HidingShape.of(log, uses) if uses else Shape.of(log)


def _layout(program: Program) -> Layout:
    return Layout.of([weight.shape for weight in program.weights.values()])


def _dtype(weight: Weight) -> np.dtype[np.signedinteger]:
    return np.dtype("<i4" if weight.bits <= INT32_BITS else "<i8")


def _bytes(program: Program) -> int:
    return sum(prod(weight.shape) * _dtype(weight).itemsize for weight in program.weights.values())
