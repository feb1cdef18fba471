"""Products and truncation between two parties (`docs/spec/mpc.md`, "Products", "Truncation").

Products are Beaver's: each factor is opened under a mask, and the dealer gives shares of the product of the masks. A
weight is opened once, so a product with it opens only the other factor, and all that does not depend on that factor
has been computed ahead.

A truncation by s bits looks at the low 32 + s bits of a product, so where one follows, no more of a factor is opened.
What a truncation has opened is under a mask as a factor is, and need not be opened again to be multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mitai.mpc import kernels
from mitai.mpc.engine import Secret, Shape
from mitai.mpc.ring import Ring
from mitai.mpc.two.core import Two
from mitai.mpc.two.factors import Factor, factor_of
from mitai.mpc.two.masked import Lift, Opened, Words
from mitai.mpc.two.pads import MaskedWeight

HIGH = np.uint64(32)
FACTOR_BITS = 48  # of a factor that are opened, where they are enough
OPENED_WORDS = 1 << 22  # of a weight that are opened at a time


def truncate(engine: Two, secrets: Sequence[Secret], fraction: int) -> tuple[Secret, ...]:
    """Cut fractions down to so many bits ("Truncation"): one round for all, 4 bytes an element."""
    for x in secrets:
        if not 0 < x.fraction - fraction <= 32:
            raise ValueError(f"a fraction of {x.fraction} bits can't be cut down to {fraction}")
    lifts = [Lift(engine, x.size) for x in secrets]
    if engine.offline:
        results = tuple(engine.blank(x.shape, fraction) for x in secrets)
        seen: Sequence[Words | None] = [None] * len(secrets)
    else:
        seen = engine.open(*(lift.hide(_shifted(engine, x, fraction)) for lift, x in zip(lifts, secrets, strict=True)))
        whole = [lift.whole(c) for lift, c in zip(lifts, seen, strict=True)]
        results = tuple(engine.secret(w.reshape(x.shape), fraction) for w, x in zip(whole, secrets, strict=True))
    for lift, c, result in zip(lifts, seen, results, strict=True):
        engine.opened.keep(result.parts[0], Opened(engine, lift.halves, c))
    return results


def _shifted(engine: Two, x: Secret, fraction: int) -> Words:
    """Return shares, modulo 2^32, of a secret without the last bits of its fraction."""
    share = (x.parts[0].reshape(-1) >> np.uint64(x.fraction - fraction)).astype(np.uint32)
    if engine.role == 0:
        share += np.uint32(1)  # so that rounding has no bias
    return share


def cut(engine: Two, x: Secret) -> Secret:
    """Cut a product's fraction down to the engine's, where it has more."""
    return truncate(engine, (x,), engine.fraction)[0] if x.fraction > engine.fraction else x


def factors(engine: Two, x: Secret, y: Secret) -> tuple[Factor, Factor]:
    """Return two secrets as factors under masks, the same one twice for a square."""
    left = factor_of(engine.factors, engine.pads, x)
    return left, left if y.parts[0] is x.parts[0] else factor_of(engine.factors, engine.pads, y)


def open_factors(engine: Two, fraction: int, *factors: tuple[Secret, Factor]) -> None:
    """Open the masked factors of a product with this fraction, as far as they are not open, in one round.

    6 bytes an element where `cut` drops all that is above; both sides then know the same low 48 bits only.
    """
    bits = FACTOR_BITS if 0 < fraction - engine.fraction <= FACTOR_BITS - 32 else 64
    closed = {id(factor): (x.parts[0], factor) for x, factor in factors if factor.bits < bits}.values()
    for _, factor in closed:
        factor.bits = bits
    if engine.offline:
        return
    shares = [share - factor.mask[0] for share, factor in closed]
    opened = open_low(engine, shares) if bits == FACTOR_BITS else engine.open(*shares)
    for (_, factor), value in zip(closed, opened, strict=True):
        factor.opened = value


def open_low(engine: Two, shares: Sequence[Ring]) -> tuple[Ring, ...]:
    """Open the low 48 bits."""
    halves = [half for share in shares for half in (share.astype(np.uint32), (share >> HIGH).astype(np.uint16))]
    its = iter(engine.exchange(*halves))
    return tuple(
        share + low + (high.astype(np.uint64) << HIGH) for share, low, high in zip(shares, its, its, strict=True)
    )


def masked(engine: Two, x: Secret) -> Secret:
    """Open a factor for good: one round, 8 bytes an element."""
    factor = Factor(engine.pads.random(x.shape, np.uint64))
    open_factors(engine, 0, (x, factor))
    if not engine.offline:
        return Secret(engine, (x.parts[0].view(), factor.mask[0], factor.opened), x.fraction)  # found by itself
    (share,) = engine.blank(x.shape, x.fraction).parts
    further = (share, share) if engine.role in {0, 1} else (factor.whole_mask(),)  # a party that plans has as many
    return Secret(engine, (share, *further), x.fraction)


def multiply(engine: Two, x: Secret, y: Secret) -> Secret:
    """Multiply element by element, one round before the truncation; 6 or 8 bytes an element of each factor.

    What comes out of a truncation is open already: its square takes no round, and other products open the other one.
    """
    fraction = x.fraction + y.fraction
    seen = _seen(engine, x)
    if seen is None and (seen := _seen(engine, y)) is not None:
        x, y = y, x
    if seen is not None:
        if y.parts[0] is x.parts[0]:
            return cut(engine, engine.secret(seen.square(x.parts[0]), fraction))
        factor = factor_of(engine.factors, engine.pads, y)
        open_factors(engine, fraction, (y, factor))
        return cut(engine, engine.secret(seen.times(x.parts[0], factor), fraction))
    shape = np.broadcast_shapes(x.shape, y.shape)
    a, b = factors(engine, x, y)
    c = engine.pads.given(shape, np.uint64, lambda: a.whole_mask() * b.whole_mask())
    open_factors(engine, fraction, (x, a), (y, b))
    if engine.offline:
        return cut(engine, engine.blank(shape, fraction))
    out = a.opened * b.mask[0]
    out += a.mask[0] * b.opened
    out += c
    if engine.role == 0:
        out += a.opened * b.opened
    return cut(engine, engine.secret(out, fraction))


def _seen(engine: Two, x: Secret) -> Opened | None:
    """Return how a truncation has opened a number, unless it is open as a factor, whose products are cheaper."""
    return None if engine.factors.find(x.parts[0]) else engine.opened.find(x.parts[0])


def matmul(engine: Two, x: Secret, y: Secret) -> Secret:
    """Multiply matrices, one round before the truncation; 6 or 8 bytes an element of each factor."""
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-2]:
        raise ValueError(f"no product of shapes {x.shape} and {y.shape}")
    fraction = x.fraction + y.fraction
    shape = *x.shape[:-1], y.shape[-1]
    a, b = factors(engine, x, y)
    c = engine.pads.given(shape, np.uint64, lambda: kernels.matmul(a.whole_mask(), b.whole_mask()))
    open_factors(engine, fraction, (x, a), (y, b))
    if engine.offline:
        return cut(engine, engine.blank(shape, fraction))
    out = kernels.matmul(a.opened, b.mask[0] + b.opened if engine.role == 0 else b.mask[0])
    out += kernels.matmul(a.mask[0], b.opened)
    out += c
    return cut(engine, engine.secret(out, fraction))


def weight(engine: Two, w: Secret) -> MaskedWeight:
    """Open a matrix under a mask that is its own for good; 8 bytes an element, a round for each block."""
    matrices = _masked_matrix(engine, w)
    made = MaskedWeight(w.shape, w.fraction)
    made.take(*map(kernels.pack, matrices))
    engine.made.append(made)
    return made


def tied(engine: Two, w: Secret, fold: int) -> tuple[MaskedWeight, MaskedWeight]:
    """Open a matrix once, and use it and its transpose: as they lie in memory, which takes products somewhat longer."""
    matrices = _masked_matrix(engine, w)
    folded = w.shape[0] // fold, fold * w.shape[1]
    both = MaskedWeight(folded, w.fraction), MaskedWeight(w.shape[::-1], w.fraction)
    both[0].take(*(matrix.reshape(folded) for matrix in matrices))
    both[1].take(*(matrix.T for matrix in matrices))
    engine.made.extend(both)
    return both


def _masked_matrix(engine: Two, w: Secret) -> tuple[Ring, ...]:
    """Return a party's share of W, and W - B; the mask B at the dealer; nothing where only shapes are known."""
    if len(w.shape) != 2:
        raise ValueError(f"a weight is a matrix, and this has the shape {w.shape}")
    b = engine.pads.random(w.shape, np.uint64)
    if engine.offline:
        return (b[0] + b[1],) if len(b) == 2 else ()
    share, opened = w.parts[0], np.empty(w.shape, np.uint64)
    rows = max(OPENED_WORDS // max(w.shape[1], 1), 1)
    for start in range(0, w.shape[0], rows):
        block = slice(start, start + rows)
        (opened[block],) = engine.open(share[block] - b[0][block])
    return share, opened


def linear(engine: Two, x: Secret, w: MaskedWeight, bias: Secret | None) -> Secret:
    """Multiply by a weight, one round before the truncation; 6 or 8 bytes an element of x, and one local product."""
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"no product of shapes {x.shape} and {w.shape}")
    shape, fraction = (*x.shape[:-1], w.shape[1]), x.fraction + w.fraction
    rows = x.reshape(-1, w.shape[0])
    a, z = _product_now(engine, rows.shape[0], w) if w.fresh else engine.pads.product(rows.shape[0], w)
    factor = Factor((a,))
    open_factors(engine, fraction, (rows, factor))
    product = engine.blank(shape, fraction)
    if not engine.offline:
        out = kernels.matmul(factor.opened, w.share)
        out += z
        product = engine.secret(out.reshape(shape), fraction)
    return cut(engine, product if bias is None else product + _raised(bias, fraction))


def _raised(x: Secret, fraction: int) -> Secret:
    """Return a secret with more bits of fraction."""
    if fraction < x.fraction:
        raise ValueError(f"{x.fraction} bits of fraction where there are {fraction}")
    return x.map(lambda part: part << np.uint64(fraction - x.fraction), fraction)


def _product_now(engine: Two, rows: int, w: MaskedWeight) -> tuple[Ring, Ring]:
    """Draw what `Pads.product` gives, for a weight that nothing could be prepared for."""
    a = engine.pads.random((rows, w.shape[0]), np.uint64)
    shape: Shape = (rows, w.shape[1])
    c = engine.pads.given(shape, np.uint64, lambda: kernels.matmul(a[0] + a[1], w.mask))
    return a[0], c if engine.offline else kernels.matmul(a[0], w.opened) + c
