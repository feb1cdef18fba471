"""What a judge model said, read strictly: a rating or a preference in the agreed form at the very end, or nothing.

The form is that of MT-Bench (Zheng et al., "Judging LLM-as-a-Judge", 2023). A judged answer may try to steer its
judge by what it says; what it can not do is to be read as the judge's verdict, for only the judge's own words are read.

Example:
    >>> rating("Clear and correct. Rating: [[8]]", scale=10)
    8
    >>> rating("Rating: [[8]] or [[9]]", scale=10)
"""

from __future__ import annotations

import re
from typing import Literal

Side = Literal["A", "B", "C"]  # C: neither is better
_BRACKETS = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_RATING = re.compile(r"Rating: \[\[([1-9][0-9]{0,2})\]\]\s*\Z")
_BETTER = re.compile(r"Better: \[\[([ABC])\]\]\s*\Z")


def rating(words: str, scale: int) -> int | None:
    """Return the rating, 1 to `scale`; None unless the words end in one and hold no other."""
    found = _RATING.search(words)
    if found is None or len(_BRACKETS.findall(words)) != 1 or int(found[1]) > scale:
        return None
    return int(found[1])


def preference(words: str) -> Side | None:
    """Return which answer is better; None unless the words end in that and hold no other."""
    found = _BETTER.search(words)
    if found is None or len(_BRACKETS.findall(words)) != 1:
        return None
    side: Side = "A" if found[1] == "A" else "B" if found[1] == "B" else "C"
    return side


def outcome(first: Side | None, swapped: Side | None) -> tuple[float, bool]:
    """Return what two judgements, the second with the answers swapped, say: win 1, tie 0.5, loss 0; and if they agree.

    Where they do not agree, or one can't be read, it is a tie.
    """
    if (first, swapped) == ("A", "B"):
        return 1.0, True
    if (first, swapped) == ("B", "A"):
        return 0.0, True
    return 0.5, (first, swapped) == ("C", "C")
