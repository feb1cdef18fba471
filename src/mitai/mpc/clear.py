"""The reference engine: the same fixed-point arithmetic in the clear, by one party, with nothing hidden.

It says what a program computes and how far fixed-point numbers are from floats, and it refuses what a protocol could
not bear: a number outside of the window. It is for tests and for planning; it protects nothing.
"""

from __future__ import annotations

import numpy as np

from mitai.mpc import kernels, noise
from mitai.mpc.engine import Engine, Secret, Shape, Weight
from mitai.mpc.ring import Real, Ring, decode, encode
from mitai.mpc.spline import Octaves, Spline


class ClearWeight(Weight):
    """The matrix itself."""

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        rows, columns = secret.shape
        self.shape = rows, columns


class ClearEngine(Engine):
    """All operations in the clear; `OverflowError` where a number leaves the window."""

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """See `Engine.input`."""
        if values is None:
            raise ValueError(f"no values of {owner}: the reference engine is every party at once")
        bits = self.fraction if fraction is None else fraction
        return Secret(self, (encode(values, bits).reshape(shape),), bits)

    def reveal(self, x: Secret) -> Real:
        """See `Engine.reveal`."""
        return decode(x.parts[0], x.fraction)

    def constant(self, values: Real | float, shape: Shape | None = None, fraction: int | None = None) -> Secret:
        """See `Engine.constant`."""
        array = np.asarray(values, np.float64)
        return self.input(
            "public", array.shape if shape is None else shape, np.broadcast_to(array, shape or array.shape), fraction
        )

    def add_public(self, x: Secret, values: Ring) -> Secret:
        """See `Engine.add_public`."""
        return x.map(lambda part: part + values)

    def truncate(self, x: Secret, fraction: int | None = None) -> Secret:
        """See `Engine.truncate`."""
        bits = x.fraction - (self.fraction if fraction is None else fraction)
        half = (1 << bits) >> 1  # protocols round up or down by chance, and to x on average
        return self._checked(
            x.map(lambda part: ((part.view(np.int64) + half) >> bits).view(np.uint64), x.fraction - bits)
        )

    def multiply(self, x: Secret, y: Secret) -> Secret:
        """See `Engine.multiply`."""
        return self._cut(Secret(self, (x.parts[0] * y.parts[0],), x.fraction + y.fraction))

    def matmul(self, x: Secret, y: Secret) -> Secret:
        """See `Engine.matmul`."""
        return self._cut(Secret(self, (kernels.matmul(x.parts[0], y.parts[0]),), x.fraction + y.fraction))

    def weight(self, w: Secret) -> ClearWeight:
        """See `Engine.weight`."""
        return ClearWeight(w)

    def linear(self, x: Secret, w: Weight, bias: Secret | None = None) -> Secret:
        """See `Engine.linear`."""
        if not isinstance(w, ClearWeight):
            raise TypeError("a weight of another engine")
        rows = x.reshape(-1, x.shape[-1])
        product = self.matmul(rows, w.secret).reshape(*x.shape[:-1], w.shape[1])
        return product if bias is None else product + bias

    def less(self, x: Secret, y: Secret | float) -> Secret:
        """See `Engine.less`."""
        difference = self._checked(x - y)
        return difference.map(lambda part: part >> np.uint64(63), 0)

    def spline(self, x: Secret, table: Spline, within: tuple[float, float] | None = None) -> Secret:
        """See `Engine.spline`."""
        values = self.reveal(self._checked(x))
        if within and values.size and not within[0] <= values.min() <= values.max() <= within[1]:
            raise OverflowError(f"numbers from {values.min():.0f} to {values.max():.0f} are not within {within}")
        return Secret(self, (encode(table(values), self.fraction),), self.fraction)

    def octaves(self, x: Secret, table: Octaves) -> Secret:
        """See `Engine.octaves`."""
        values = self.reveal(x)
        if values.size and values.max() >= 2.0**table.high:
            raise OverflowError(f"{values.max():.0f} is above a table's last octave")
        return Secret(self, (encode(table(values), table.fraction),), table.fraction)

    def upper(self, x: Secret) -> Secret:
        """See `Engine.upper`."""
        values = self.reveal(x)
        if values.size and (values.max() >= 128 or values.min() < -382):
            raise OverflowError(f"a bound on numbers from {values.min():.0f} to {values.max():.0f}")
        largest = np.maximum(values, -128).max(-1, keepdims=True)
        return Secret(self, (encode((np.floor(largest / 4) + 1) * 4, x.fraction),), x.fraction)

    def gumbel(self, shape: Shape) -> Secret:
        """See `Engine.gumbel`."""
        return self.constant(noise.gumbel(shape))

    def _cut(self, x: Secret) -> Secret:
        return self.truncate(x) if x.fraction > self.fraction else x

    def _checked(self, x: Secret) -> Secret:
        bound = 1 << (self.window - 1)
        values = x.parts[0].view(np.int64)
        if values.size and (values.max() >= bound or values.min() < -bound):
            raise OverflowError(f"a number of magnitude {np.abs(self.reveal(x)).max():.0f} is outside of the window")
        return x
