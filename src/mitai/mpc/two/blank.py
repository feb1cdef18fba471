"""Arrays of which only the shape counts: what the dealer computes with, and everybody while planning.

A blank array stands for numbers that are not there. It takes no memory, and arithmetic with it takes no time: the
result of an operation with a blank operand is a blank of the result's shape.

Example:
    >>> (blank((3, 1)) + np.ones((1, 4), np.uint64)).sum(axis=0).shape
    (4,)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.kernels import Word

Shape = tuple[int, ...]
ZERO = bytes(8)


class Blank(np.ndarray[Shape, np.dtype[np.uint64]]):
    """Zeros of any shape in eight bytes."""

    def __array_ufunc__(
        self,
        ufunc: np.ufunc,
        method: str,
        *inputs: NDArray[Any],
        **options: Any,  # noqa: ANN401  # as numpy has it
    ) -> NDArray[np.uint64]:
        if method == "__call__" and ufunc.signature is None:
            return blank(np.broadcast_shapes(*(np.shape(operand) for operand in inputs)))
        if method != "reduce":
            raise TypeError(f"{ufunc.__name__}.{method} of a blank array")
        axis, keep = options.get("axis", 0), options.get("keepdims", False)
        shape = inputs[0].shape
        axes = {a % len(shape) for a in (range(len(shape)) if axis is None else np.atleast_1d(axis))}
        return blank(tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes))

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:  # noqa: ANN401  # as numpy has it
        result = super().__array_function__(func, types, args, kwargs)
        return blank(result.shape) if isinstance(result, np.ndarray) else result


def blank(shape: Shape, dtype: type[Word] = np.uint64) -> NDArray[Word]:  # type: ignore[assignment]
    """Return a blank array."""
    return np.ndarray.__new__(Blank, shape, dtype, ZERO, 0, (0,) * len(shape))  # type: ignore[arg-type]
