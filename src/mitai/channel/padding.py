"""Padding: what an observer learns from a length is a bucket.

Whole messages are padded to Padmé sizes (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
Communication with PURBs", section 4): at most 12 % more, and only O(log log n) bits of the length remain. Pieces of an
event stream are padded with comment lines, which every reader of `text/event-stream` ignores (WHATWG HTML, 9.2.6).

Invariants:

- A padded size never shrinks, and padding it again changes nothing.
- Comments are added only where an event is complete, so that no event is ever changed.
"""

from __future__ import annotations

from typing import Final

MIN_MESSAGE_BYTES: Final = 1024
EVENT_BUCKET_BYTES: Final = 512
_COMMENT_FRAME_BYTES = 3  # ":", and the empty line that ends a comment block


def padded_size(size: int) -> int:
    """Return the bucket of a message of `size` bytes: at least 1 KiB, at most 12 % more."""
    if size <= MIN_MESSAGE_BYTES:
        return MIN_MESSAGE_BYTES
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


def event_comment(size: int) -> bytes:
    """Return the comment that fills a piece of an event stream to its bucket: 512 bytes times a power of two."""
    bucket = EVENT_BUCKET_BYTES
    while bucket < size + _COMMENT_FRAME_BYTES and bucket != size:
        bucket *= 2
    return b"" if bucket == size else b":" + b" " * (bucket - size - _COMMENT_FRAME_BYTES) + b"\n\n"
