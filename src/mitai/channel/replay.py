"""Replay refusal: a sealed request is accepted once.

Follows RFC 9458 section 6.5.1: the encapsulated key, which is unique to a request, is remembered for as long as the
request's sealed date would be accepted. EHBP seals no date: there it is remembered while the server's key lives.

Invariants:

- Nothing is forgotten that could still be accepted: when the memory is full, requests are refused.
- Time never goes back: a clock that is set forward and back again (a host controls it) opens no second chance.
- Another process has other keys, so that nothing needs to be remembered across a restart.

Example:
    >>> cache = ReplayCache(window_s=120)
    >>> cache.admit(b"enc", date_s=1000, now=1010)
    >>> cache.admit(b"enc", date_s=1000, now=1011)
    Traceback (most recent call last):
    mitai.errors.ReplayError: this request was seen before [channel.replayed]
"""

from __future__ import annotations

import hashlib
import re
from calendar import timegm
from datetime import UTC, datetime
from typing import Final
from weakref import WeakKeyDictionary

from mitai.errors import ChannelError, ReplayError

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_IMF_FIXDATE = re.compile(
    rb"(?:%s), (\d\d) (%s) (\d{4}) (\d\d):(\d\d):(\d\d) GMT" % ("|".join(_DAYS).encode(), "|".join(_MONTHS).encode())
)
DEFAULT_WINDOW_S: Final = 120.0
DEFAULT_CAPACITY: Final = 500_000  # about 100 MB, and 2,000 requests a second over twice the window


def format_date(now: float) -> bytes:
    """Return a `date` field (RFC 9110 section 5.6.7)."""
    t = datetime.fromtimestamp(int(now), UTC)
    return f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month - 1]} {t.year:04} {t:%H:%M:%S} GMT".encode()


def parse_date(value: bytes) -> float:
    """Return the seconds of a `date` field; raise `ReplayError` if it is none."""
    match = _IMF_FIXDATE.fullmatch(value)
    try:
        if match is None:
            raise ValueError
        day, month, year, hour, minute, second = match.groups()
        moment = datetime(
            int(year), _MONTHS.index(month.decode()) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC
        )
    except ValueError:
        raise ReplayError("channel.date", "the sealed request has no proper date") from None
    return timegm(moment.timetuple())


class ReplayCache:
    """Remembers encapsulated keys.

    Args:
        window_s: How far a request's date may be from now, either way.
        capacity: Requests remembered at once, and requests remembered for each EHBP key.
    """

    def __init__(self, window_s: float = DEFAULT_WINDOW_S, capacity: int = DEFAULT_CAPACITY) -> None:
        self._window_s = window_s
        self._capacity = capacity
        self._latest = 0.0
        self._seen: dict[bytes, float] = {}  # digest of an encapsulated key → when it may be forgotten; oldest first
        self._seen_by_key: WeakKeyDictionary[object, set[bytes]] = WeakKeyDictionary()

    def admit(self, enc: bytes, *, date_s: float, now: float) -> None:
        """Admit a dated request once; raise `ReplayError`, or `ChannelError` when the memory is full."""
        now = self._latest = max(now, self._latest)
        if abs(now - date_s) > self._window_s:
            raise ReplayError(
                "channel.date",
                f"the request is dated {date_s - now:+.0f} s from now, outside the window of {self._window_s:.0f} s",
                hint="set the clock of this device",
            )
        self._forget(now)
        digest = hashlib.sha256(enc).digest()
        if digest in self._seen:
            raise _replayed()
        if len(self._seen) >= self._capacity:
            raise _full()
        self._seen[digest] = now + 2 * self._window_s  # its date is at most one window ahead of now

    def admit_for_life(self, key: object, enc: bytes) -> None:
        """Admit an undated request once in the life of `key`; raise like `admit`."""
        seen = self._seen_by_key.setdefault(key, set())
        digest = hashlib.sha256(enc).digest()
        if digest in seen:
            raise _replayed()
        if len(seen) >= self._capacity:
            raise _full()
        seen.add(digest)

    def _forget(self, now: float) -> None:
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] >= now:
                return
            del self._seen[oldest]


def _replayed() -> ReplayError:
    return ReplayError("channel.replayed", "this request was seen before")


def _full() -> ChannelError:
    return ChannelError(
        "channel.replay-cache-full", "the server can remember no further requests now", hint="try again in some minutes"
    )
