"""Named ways to make two answers alike before they are compared; SQuAD's, in parts, and a few more.

Example:
    >>> normalise(" The Answer,  is 42. ", ("lower", "punctuation", "articles", "whitespace"))
    'answer is 42'
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from mitai.train.evaluate.tasks import Normaliser
from mitai.train.rewards import number

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_LETTER = re.compile(r"\b[A-Z]\b")


def _number(text: str) -> str:
    found = number(text)
    return "" if found is None else str(found.normalize())


def _letter(text: str) -> str:
    found = _LETTER.search(text)
    return found[0] if found else ""


NORMALISERS: dict[Normaliser, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "punctuation": lambda text: text.translate(_PUNCTUATION),
    "articles": lambda text: _ARTICLES.sub(" ", text),
    "whitespace": lambda text: " ".join(text.split()),
    "first-line": lambda text: text.lstrip().partition("\n")[0],
    "last-line": lambda text: text.rstrip().rpartition("\n")[2],
    "number": _number,  # the last one, without thousands' commas
    "letter": _letter,  # the first capital that stands alone
}


def normalise(text: str, names: Sequence[Normaliser]) -> str:
    """Apply the normalisers, in order."""
    for name in names:
        text = NORMALISERS[name](text)
    return text
