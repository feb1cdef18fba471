"""Checks that the sections of an appraisal policy share."""

from __future__ import annotations

from typing import Final

from mitai.errors import ParseError

ANY: Final = "any"
POLICY_MALFORMED: Final = "attest.policy-malformed"


def check_hex(name: str, value: str, size: int, *, any_allowed: bool = False) -> None:
    """Raise `ParseError` unless `value` is `size` bytes in lower-case hex, or "any" where that is allowed."""
    if any_allowed and value == ANY:
        return
    try:
        valid = len(bytes.fromhex(value)) == size and value == value.lower() and len(value) == 2 * size
    except ValueError:
        valid = False
    if not valid:
        allowed = f" or {ANY!r}" if any_allowed else ""
        raise ParseError(POLICY_MALFORMED, f"{name} is not {size} bytes in lower-case hex{allowed}")
