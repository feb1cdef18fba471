"""Comparison with what is public in wide digits: long ladders for few numbers, or for a narrow range, but no round.

Follows `docs/spec/mpc.md`, "Comparison". A ladder is what `compare` has for a digit of six bits, but longer: bit i says
whether the mask's digit is above i, and a party reads it at the public number's digit.

Example:
    >>> steps(np.array([0, 3, 70], np.uint32), bits=7)[:, 0].tolist()
    [0, 7, 18446744073709551615]
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.ring import Ring
from mitai.mpc.two.bits import Planes, pack
from mitai.mpc.two.blank import blank
from mitai.mpc.two.masked import Opened, Words

WORDS_AT_ONCE = 1 << 16  # of ladders, which fit into a cache; ladders have up to 2^15 bits
LAST = np.uint64(63)
ONE = np.uint64(1)


def steps(digits: Words, bits: int) -> Ring:
    """Return ladders of digits [n] as words [n, 2^bits / 64]: bit i says whether the digit is above i."""
    words, own = np.arange(1 << bits - 6, dtype=np.uint32), (digits >> np.uint32(6))[:, None]
    rest = (ONE << (digits & np.uint32(63)).astype(np.uint64)) - ONE
    made: Ring = (words == own) * rest[:, None]  # a place in memory must not depend on a digit
    made -= words < own
    return made


def read(opened: Opened, bounds: tuple[int, ...], *, top: int, bits: int) -> Planes:
    """Compare the digits of masks that end below the bit `top` with those of opened numbers less public bounds.

    Returns:
        Shares of planes [3, bounds, bytes]: whether the mask's digit is above the number's, whether it is equal, and
        the bit `top` of the mask, plus that of the number.
    """
    engine, n = opened.engine, opened.size
    shape = 3, len(bounds), -(-n // 8)
    planes = blank(shape, np.uint8) if engine.offline else np.empty(shape, np.uint8)
    step = WORDS_AT_ONCE >> bits - 6
    for at in range(0, n, step):
        some = opened.part(at, min(step, n - at))
        words = engine.pads.given((some.size, 1 << bits - 6), np.uint64, partial(_ladders, some, top, bits), xor=True)
        if not engine.offline:
            planes[:, :, at // 8 : (at + step) // 8] = pack(_read(some, bounds, words, top, bits))
    return planes


def _ladders(opened: Opened, top: int, bits: int) -> Ring:
    """Return the ladders of the masks' digits; no digit is above the last place, so the bit `top` stands there."""
    r = opened.mask()
    made = steps(r >> np.uint32(top - bits) & np.uint32((1 << bits) - 1), bits)
    made[:, -1] |= (r >> np.uint32(top)).astype(np.uint64) << LAST
    return made


def _read(opened: Opened, bounds: tuple[int, ...], words: Ring, top: int, bits: int) -> NDArray[np.uint8]:
    first, last = opened.engine.role == 0, np.uint32((1 << bits) - 1)
    c = opened.c - np.array([[bound % (1 << 32)] for bound in bounds], np.uint32)
    digits = c >> np.uint32(top - bits) & last
    rows = np.arange(opened.size)

    def at(places: Words) -> NDArray[np.uint8]:
        found: Ring = words[rows, places >> np.uint32(6)] >> (places & np.uint32(63)).astype(np.uint64)
        return (found & ONE).astype(np.uint8)

    above = at(digits) * (digits != last)
    before = np.where(digits == 0, np.uint8(first), at(digits - np.uint32(1) & last))
    signs = np.broadcast_to((words[:, -1] >> LAST).astype(np.uint8), c.shape)
    if first:
        signs = signs ^ (c >> np.uint32(top) & np.uint32(1)).astype(np.uint8)
    return np.stack([above, above ^ before, signs])
