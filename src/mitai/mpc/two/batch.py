"""A batch of runs, dealt together: the products of all their masks with one weight are one product of matrices.

What lies where follows from the plans and the runs' keys alone, so the dealer and both parties agree on it unsaid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mitai.mpc import kernels
from mitai.mpc.link import Link
from mitai.mpc.ring import Ring
from mitai.mpc.two.pads import ONLINE, PRODUCTS, MaskedWeight, Plan, Product

Uses = list[tuple[int, Product]]  # a run's number, and a product of it with the weight in question

CHUNK = 1 << 20  # corrections travel, and are written, in pieces of this size


def by_weight(plans: Sequence[Plan]) -> list[tuple[MaskedWeight, Uses]]:
    """Return the weights in the order of their first use, each with its uses in all runs."""
    found: dict[int, tuple[MaskedWeight, Uses]] = {}
    for run, plan in enumerate(plans):
        for product in plan.products:
            found.setdefault(id(product.weight), (product.weight, []))[1].append((run, product))
    return list(found.values())


def mask_rows(keys: Sequence[bytes], uses: Uses) -> Ring:
    """Return one side's halves of the masks of these products, below one another."""
    weight = uses[0][1].weight
    drawn = [kernels.prg(keys[run], ONLINE, use.mask_at, use.mask_words) for run, use in uses]
    return _joined(drawn).reshape(-1, weight.shape[0])


def result_rows(keys: Sequence[bytes], uses: Uses) -> Ring:
    """Return party 0's random part of the results of these products, below one another."""
    weight = uses[0][1].weight
    drawn = [kernels.prg(keys[run], PRODUCTS, use.result_at, use.result_words) for run, use in uses]
    return _joined(drawn).reshape(-1, weight.shape[1])


def pieces(size: int) -> Iterator[int]:
    """Return the lengths in which so many bytes travel."""
    for at in range(0, size, CHUNK):
        yield min(CHUNK, size - at)


class Outgoing:
    """Gathers small writes to messages of `CHUNK` bytes."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._message = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Append, and send what is full; the data must not change afterwards."""
        rest = memoryview(data)
        while rest:
            if not self._message and len(rest) >= CHUNK:
                self._link.send(rest[:CHUNK])
                rest = rest[CHUNK:]
                continue
            room = CHUNK - len(self._message)
            self._message += rest[:room]
            rest = rest[room:]
            if len(self._message) == CHUNK:
                self.flush()

    def flush(self) -> None:
        """Send the rest."""
        if self._message:
            self._link.send(memoryview(self._message))
            self._message = bytearray()


def _joined(arrays: list[Ring]) -> Ring:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
