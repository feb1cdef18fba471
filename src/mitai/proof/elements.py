"""The 2^n elements of F behind a commitment, as small as they are: integers of 4 or 8 bytes, or residues.

They lie in memory or in mapped files, and are read part by part, each as residues.

Example:
    >>> elements = Elements(np.array([-1, 2], np.int32), np.array([1 << 40, 0]))
    >>> elements.log, field.values(elements.part(0, 3)).tolist()
    (2, [-1, 2, 1099511627776])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mitai.proof import field, kernels
from mitai.proof.field import Array, K, Point
from mitai.proof.operation import Ints
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.commitment import Shape
from mitai.proof.verify.layout import Layout

LOG_PART = 18  # of what is read at a time: residues that stay in the cache
LOG_PIECE = 22  # of what is laid out at a time


class Elements:
    """Runs of numbers, one after the other; each but the last is a multiple of the matrix's rows.

    Args:
        runs: Flat arrays: residues (uint64) or signed integers, 2^n in all.
        positions: The log of the matrix's positions, where it is another one than commitments have.
    """

    def __init__(self, *runs: Array | Ints, positions: int | None = None) -> None:
        self._runs = [run for run in runs if len(run)]
        self.log = sum(map(len, runs)).bit_length() - 1
        self.shape = Shape.of(self.log) if positions is None else Shape(positions, self.log - positions)
        self._sums: dict[tuple[int, Point], Array] = {}
        if sum(map(len, runs)) != 1 << self.log or any(len(run) % (1 << self.shape.rows) for run in self._runs):
            raise ValueError("runs of whole positions, 2^n elements in all")

    def cut(self, positions: int) -> Elements:
        """Return the same as a matrix of 2^positions, not fewer than here."""
        return Elements(*self._runs, positions=positions)

    def part(self, start: int, stop: int) -> Array:
        """Return some elements."""
        parts, at = list[Array](), 0
        for run in self._runs:
            own = run[max(start - at, 0) : max(stop - at, 0)]
            if len(own):
                parts.append(kernels.residues(own))
            at += len(run)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def rows(self, first: int, last: int) -> Array:
        """Return some rows of the matrix, (positions, rows)."""
        parts = (kernels.residues(run.reshape(-1, 1 << self.shape.rows)[:, first:last]) for run in self._runs)
        return np.concatenate(list(parts))

    def parts(self, first: int, count: int) -> Iterator[tuple[slice, Array]]:
        """Yield so many positions from the first on, some at a time: which of them, and (some, rows)."""
        rows = 1 << self.shape.rows
        step = max(1 << LOG_PART >> self.shape.rows, 1)
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield slice(start, stop), self.part((first + start) * rows, (first + stop) * rows).reshape(-1, rows)

    def summed(self, first: int, weights: Array) -> Array:
        """Return the weighted sum of positions from the first on, (rows, 2)."""
        total = np.zeros((1 << self.shape.rows, 2), np.uint64)
        for some, part in self.parts(first, len(weights)):
            total = field.add(total, kernels.contract(part[None], weights[some])[0])
        return total

    def combined(self, weights: Array) -> Array:
        """Return the weighted sum of all rows, (positions, 2)."""
        parts = self.parts(0, 1 << self.shape.positions)
        return np.concatenate([kernels.contract(part[:, :, None], weights)[:, 0] for _, part in parts])

    def evaluate(self, offset: int, point: Point) -> K:
        """Return the multilinear extension of 2^len(point) elements from an offset on; `fold` will need its sums."""
        outer = len(point) - self.shape.rows
        if outer < 0:
            return kernels.evaluate(self.part(offset, offset + (1 << len(point))), point)
        sums = self._sums[offset, tuple(point)] = self.summed(
            offset >> self.shape.rows, kernels.equality(point[:outer])
        )
        return field.elements(field.total(field.mul_k(sums, kernels.equality(point[outer:])))[None])[0]

    def fold(self, claims: Sequence[Claim]) -> Iterator[Array]:
        """Yield for each claim its positions, summed up at its point, (rows, 2)."""
        for claim in claims:
            outer = claim.point[: max(len(claim.point) - self.shape.rows, 0)]
            sums = self._sums.pop((claim.offset, tuple(claim.point)), None)
            yield self.summed(claim.offset >> self.shape.rows, kernels.equality(outer)) if sums is None else sums
        self._sums.clear()


def placed(arrays: Sequence[Ints], layout: Layout) -> Elements:
    """Return arrays as they lie in one committed array, in memory."""
    cut, end = ends(arrays, layout)
    narrow, wide = np.zeros(cut, np.int32), np.zeros(end - cut, np.int64)
    at = 0
    for piece in pieces(arrays, layout):
        first = piece[: max(cut - at, 0)]
        narrow[at : at + len(first)] = first
        wide[at + len(first) - cut : at + len(piece) - cut] = piece[len(first) :]
        at += len(piece)
    return with_padding(layout, narrow, wide)


def ends(arrays: Sequence[Ints], layout: Layout) -> tuple[int, int]:
    """Return where numbers of 4 bytes end in a layout, and where all do: at whole positions."""
    rows = 1 << Shape.of(layout.log).rows
    wide = [one for array, one in zip(arrays, layout.blocks, strict=True) if not _is_narrow(array)]
    used = sum(array.size for array in arrays)
    end = -(-used // rows) * rows
    return min([block.offset // rows * rows for blocks in wide for block in blocks], default=end), end


def pieces(arrays: Sequence[Ints], layout: Layout) -> Iterator[Ints]:
    """Yield the numbers of all blocks in the order of their places, flat, some at a time."""
    blocks = [(block, array) for array, own in zip(arrays, layout.blocks, strict=True) for block in own]
    for block, array in sorted(blocks, key=lambda one: one[0].offset):
        inside = array[block.within] if array.ndim else array.reshape(1)
        step = max((len(inside) << LOG_PIECE) // inside.size, 1)
        for start in range(0, len(inside), step):
            yield inside[start : start + step].reshape(-1)


def with_padding(layout: Layout, *runs: Ints) -> Elements:
    """Return elements with the zeros that follow."""
    missing = (1 << layout.log) - sum(map(len, runs))
    return Elements(*runs, np.broadcast_to(np.int32(0), missing))


def _is_narrow(array: Ints) -> bool:
    reach = 1 << 31
    return array.dtype.itemsize <= 4 or bool(array.min() >= -reach and array.max() < reach)
