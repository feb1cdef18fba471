"""Answers of peers that nobody trusts: read up to a limit and within a time, as they are on the wire.

A body is never decompressed: what a peer compresses although nobody asked could be a few kilobytes that stand for
gigabytes.

Example:
    >>> with httpx2.stream("GET", url, headers=PLAIN) as answer:
    ...     body = bounded(answer, 1 << 20)  # None: it is larger
"""

from __future__ import annotations

import ssl
import time
from functools import cache
from typing import cast

import httpx2

PLAIN = {"accept-encoding": "identity"}


@cache
def tls() -> ssl.SSLContext:
    """Return what every connection of this process checks certificates with; reading the roots takes 20 ms."""
    return httpx2.create_ssl_context()


def bounded(answer: httpx2.Response, limit: int, within_s: float = 120.0) -> bytes | None:
    """Return a streamed answer's body, or None when it is above `limit` bytes.

    Raises:
        httpx2.HTTPError: The connection broke, or the peer sends so slowly that `within_s` is over.
    """
    body, deadline = bytearray(), time.monotonic() + within_s
    for part in cast("httpx2.SyncByteStream", answer.stream):
        body += part
        if len(body) > limit:
            return None
        if time.monotonic() > deadline:
            raise httpx2.ReadTimeout(f"the answer takes longer than {within_s:g} s", request=answer.request)
    return bytes(body)
