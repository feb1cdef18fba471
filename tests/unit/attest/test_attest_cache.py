"""The memory of what was verified: keyed by bytes, bounded, never beyond its window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mitai.attest.cache import Verified, VerifiedCache
from mitai.errors import AttestError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Work:
    """Counts how often it verifies."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Verified[str]:
        self.calls += 1
        return Verified(f"made {self.calls}", NOW - HOUR, NOW + HOUR)


def test_the_same_bytes_are_verified_once() -> None:
    cache, work = VerifiedCache(), Work()
    assert cache.get("chain", (b"a", b"b"), NOW, work).value == "made 1"
    assert cache.get("chain", (b"a", b"b"), NOW, work).value == "made 1"


@pytest.mark.parametrize(("kind", "inputs"), [("crl", (b"a", b"b")), ("chain", (b"ab", b"")), ("chain", (b"a", b"c"))])
def test_other_bytes_or_another_kind_are_verified_anew(kind: str, inputs: tuple[bytes, ...]) -> None:
    cache, work = VerifiedCache(), Work()
    cache.get("chain", (b"a", b"b"), NOW, work)
    assert cache.get(kind, inputs, NOW, work).value == "made 2"


@pytest.mark.parametrize("now", [NOW - 2 * HOUR, NOW + 2 * HOUR])
def test_nothing_is_remembered_outside_of_its_window(now: datetime) -> None:
    cache, work = VerifiedCache(), Work()
    cache.get("chain", (b"a",), NOW, work)
    assert cache.get("chain", (b"a",), now, work).value == "made 2"


def test_a_refusal_is_not_remembered() -> None:
    cache = VerifiedCache()

    def refuse() -> Verified[str]:
        raise AttestError("attest.test", "no")

    with pytest.raises(AttestError):
        cache.get("chain", (b"a",), NOW, refuse)
    assert cache.get("chain", (b"a",), NOW, Work()).value == "made 1"


def test_the_entry_not_used_for_longest_goes_first() -> None:
    cache, work = VerifiedCache(entries=2), Work()
    for data in (b"a", b"b", b"a", b"c"):
        cache.get("chain", (data,), NOW, work)
    assert work.calls == 3
    cache.get("chain", (b"a",), NOW, work)
    assert work.calls == 3
    cache.get("chain", (b"b",), NOW, work)
    assert work.calls == 4
