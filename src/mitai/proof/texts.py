"""What a model's numbers are measured with, if nobody gives texts: the same each time, so that its identity is.

Example:
    >>> prepare(folder, calibration(Text.load(folder)), out)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mitai.mpc.text import Text

TEXTS = (
    "What is confidential computing, and who can read my prompts?",
    "Hello! Please write three sentences about the weather in Paris in April.",
    "什么是机密计算？请用三句话回答。",
    "The quick brown fox jumps over the lazy dog; 17 + 25 = 42, and 3.14159 is about π.",
    "def add(a, b):\n    return a + b\n",
    "Once upon a time there was a small village by the sea, and in it lived an old woman who knew every story.",
)
_RANDOM_TOKENS = 48


def calibration(words: Text, lines: Sequence[str] = TEXTS, *, reads: bool = False) -> list[list[int]]:
    """Return tokens to measure the numbers of a model with, that answers or reads: of some texts, and in no order."""
    lines = [line for line in lines if line.strip()]
    if reads:
        samples = [list(words.read(line).ids) for line in lines]
    else:
        samples = [words.tokens(line, plain=plain) for line in lines for plain in (True, False)]
    return [*samples, *_anything(samples)]


def _anything(samples: list[list[int]]) -> list[list[int]]:
    """Return tokens in an order that no text has: the same each time, so that a model's identity is."""
    known = sorted({token for sample in samples for token in sample})
    return [[known[(start + 7 * i * i) % len(known)] for i in range(_RANDOM_TOKENS)] for start in range(2)]
