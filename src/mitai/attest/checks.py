"""A verifier as a numbered checklist: every refusal names its step, every pass leaves a line.

Invariants:

- Whatever a parser or a check inside a step raises leaves the step as an `AttestError` that names the step.
- A step is listed as passed only when its block ended without an error.

Example:
    >>> checks = Checklist()
    >>> with checks.step("nonce") as say:
    ...     say("ours")
    >>> checks.passed
    (('1 nonce', 'ours'),)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mitai.errors import AttestError, ParseError


class Checklist:
    """Collects the steps that passed, in order."""

    def __init__(self) -> None:
        self._passed: list[tuple[str, str]] = []

    @property
    def passed(self) -> tuple[tuple[str, str], ...]:
        """Return (step, detail) of every step that passed."""
        return tuple(self._passed)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Run a block as the next step; it gets a function that sets the step's detail."""
        label = f"{len(self._passed) + 1} {name}"
        details: list[str] = []
        try:
            yield details.append
        except (ParseError, AttestError) as error:
            refusal = AttestError(error.code, error.message, step=label, hint=error.hint)
            refusal.passed = self.passed
            raise refusal from error
        self._passed.append((label, "; ".join(details)))


class Reader:
    """A cursor over bytes that refuses to read past the end; `what` and `code` speak for the format."""

    def __init__(self, data: bytes, what: str, code: str) -> None:
        self._data = data
        self._what = what
        self._code = code
        self.offset = 0

    @property
    def left(self) -> int:
        """Return how many bytes are unread."""
        return len(self._data) - self.offset

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if size > self.left:
            raise ParseError(self._code, f"{self._what} ends {size - self.left} bytes early")
        start, self.offset = self.offset, self.offset + size
        return self._data[start : self.offset]

    def u16(self) -> int:
        """Return the next little-endian 16-bit number."""
        number: int = struct.unpack("<H", self.take(2))[0]
        return number

    def u32(self) -> int:
        """Return the next little-endian 32-bit number."""
        number: int = struct.unpack("<I", self.take(4))[0]
        return number

    def rest(self) -> bytes:
        """Return everything unread."""
        return self.take(self.left)

    def end(self) -> None:
        """Refuse unread bytes."""
        if self.left:
            raise ParseError(self._code, f"{self._what} is followed by {self.left} bytes that do not belong to it")
