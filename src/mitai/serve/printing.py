"""Fingerprints while an engine answers: what is collected of each answer, and what is kept for who asks.

Invariants:

- What is collected is a copy of numbers that the model computes anyway: nothing of an answer changes.
- Memory is bounded: one block of hidden states for each sequence that answers, and the newest files.
- Who asks for a file must know its exchange id, as with receipts (`mitai.serve.receipts`).

Example:
    >>> printer = Printer()
    >>> printer.add(17, np.zeros(256, np.uint16))
    >>> book = PrintBook()
    >>> book.keep("41a0", [printer.choice()])
    >>> [promise.top_k for promise in book.assurances("41a0")]
    [128]
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from mitai.errors import ServeError
from mitai.ledger.assurance import AnyAssurance
from mitai.serve.fingerprints import BLOCK_TOKENS, Bits, Choice, Fingerprints, assurance, encode

KEEP_BYTES = 64 << 20


class Printer:
    """What is collected of one answer."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._rows = np.empty((0, 0), dtype=np.uint16)
        self._blocks: list[bytes] = []

    def add(self, token: int, row: Bits) -> None:
        """Take the hidden states (hidden) from which a token was chosen, bits of bfloat16."""
        if not self._tokens:
            self._rows = np.empty((BLOCK_TOKENS, len(row)), dtype=np.uint16)
        at = len(self._tokens) % BLOCK_TOKENS
        self._rows[at] = row
        self._tokens.append(token)
        if at == BLOCK_TOKENS - 1:
            self._blocks.append(encode(self._rows))

    def choice(self) -> Choice:
        """Return all of it, once the answer is complete."""
        left = len(self._tokens) % BLOCK_TOKENS
        last = (encode(self._rows[:left]),) if left else ()
        return Choice(tuple(self._tokens), (*self._blocks, *last))


class PrintBook:
    """The newest files of a replica, by exchange.

    Args:
        keep_bytes: How much of them is held.
    """

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self._left = keep_bytes
        self._files: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, exchange: str, choices: Sequence[Choice]) -> None:
        """Make the file of an exchange; the oldest files go where there is no more room."""
        file = Fingerprints.of(choices).encode()
        self._left += len(self._files.pop(exchange, b"")) - len(file)
        self._files[exchange] = file
        while self._left < 0:
            self._left += len(self._files.popitem(last=False)[1])

    def assurances(self, exchange: str) -> tuple[AnyAssurance, ...]:
        """Return what the receipt of an exchange says of its file, if there is one."""
        file = self._files.get(exchange)
        return (assurance(file),) if file is not None else ()

    def file(self, exchange: str) -> bytes:
        """Return a file; raise `ServeError` when there is none."""
        if exchange not in self._files:
            raise ServeError("serve.fingerprints-unknown", "there are no fingerprints of that exchange here")
        return self._files[exchange]
