"""Remembers what was verified, so that the next evidence of the same machine costs only its own signature.

Invariants:

- A key is the digest of every byte that went into the verification and of what it was verified as; nothing else is
  looked up, so an entry can't vouch for other bytes.
- An entry answers only inside its own window of validity; outside of it, it is verified again (and fails).
- Bounded: the entry that was not used for longest goes first. Safe to share between threads.

Example:
    >>> cache.get("snp chain", (chain_pem, crl), now, lambda: Verified(ark, not_before, not_after))
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

T = TypeVar("T")
BEGINNING = datetime.min.replace(tzinfo=UTC)  # and
NO_END = datetime.max.replace(tzinfo=UTC)  # of what has no window of validity


@dataclass(frozen=True, slots=True)
class Verified(Generic[T]):
    """What a verification gave, and when it holds."""

    value: T
    not_before: datetime
    not_after: datetime


class VerifiedCache:
    """Verified chains, revocation lists, reference manifests … by the digest of their bytes."""

    def __init__(self, entries: int = 1024) -> None:
        self._limit = entries
        self._entries: OrderedDict[bytes, Verified[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, kind: str, inputs: tuple[bytes, ...], now: datetime, make: Callable[[], Verified[T]]) -> Verified[T]:
        """Return what `make` verified from these inputs, now or earlier; errors of `make` are not remembered."""
        digest = hashlib.sha256(kind.encode())
        for data in inputs:
            digest.update(hashlib.sha256(data).digest())
        key = digest.digest()
        with self._lock:
            known = self._entries.get(key)
            if known is not None:
                self._entries.move_to_end(key)
        if known is not None and known.not_before <= now <= known.not_after:
            return known
        made = make()
        with self._lock:
            self._entries[key] = made
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        return made
