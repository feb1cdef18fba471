"""How arrays lie in one committed array: cut into blocks whose axes are powers of two, without any padding.

An axis of n is cut as n is written in bits: 768 is 512 and 256. So a commitment is no larger than its arrays, and no
place in it is without meaning.

Example:
    >>> layout = Layout.of([(768,), (3, 2)])
    >>> [[(block.start, block.logs, block.offset) for block in blocks] for blocks in layout.blocks]
    [[((0,), (9,), 0), ((512,), (8,), 512)], [((0, 0), (1, 1), 768), ((2, 0), (0, 1), 772)]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from mitai.proof.field import ONE, K, bits, equal
from mitai.proof.operation import Shape
from mitai.proof.verify.claims import places
from mitai.proof.verify.points import Axes


@dataclass(frozen=True)
class Block:
    """A part of an array.

    Attributes:
        start: Its first place, along each axis.
        logs: Its size along each axis.
        offset: Its place in the whole.
    """

    start: tuple[int, ...]
    logs: tuple[int, ...]
    offset: int = 0

    @property
    def log(self) -> int:
        """The log of its size."""
        return sum(self.logs)

    @property
    def within(self) -> tuple[slice, ...]:
        """Where it is in its array."""
        return tuple(slice(at, at + (1 << log)) for at, log in zip(self.start, self.logs, strict=True))

    def part(self, axes: Axes) -> tuple[K, list[K]]:
        """Return, at a point of the array, the weight of this block's value, and the point of that."""
        weight, point = ONE, list[K]()
        for start, log, axis in zip(self.start, self.logs, axes, strict=True):
            above = len(axis) - log
            weight = weight * equal(bits(start >> log, above), axis[:above])
            point += axis[above:]
        return weight, point


@dataclass(frozen=True)
class Layout:
    """The blocks of each array, and the log of the size of the whole."""

    blocks: tuple[tuple[Block, ...], ...]
    log: int

    @staticmethod
    def of(shapes: Sequence[Shape]) -> Layout:
        """Place arrays of these shapes, the largest blocks first."""
        cut = [_cut(shape) for shape in shapes]
        offsets, log = places([block.log for blocks in cut for block in blocks])
        at = iter(offsets)
        placed = (tuple(Block(block.start, block.logs, next(at)) for block in blocks) for blocks in cut)
        return Layout(tuple(placed), log)


def _cut(shape: Shape) -> list[Block]:
    axes = [
        [(size >> log + 1 << log + 1, log) for log in reversed(range(size.bit_length())) if size >> log & 1]
        for size in shape
    ]
    return [Block(tuple(start for start, _ in one), tuple(log for _, log in one)) for one in product(*axes)]
