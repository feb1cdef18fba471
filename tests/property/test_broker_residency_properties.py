"""Properties of auditors' statements: what is signed is what is read, of these machines, in this time only."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.broker.residency import Residency, read_residency, sign_residency
from mitai.errors import MitaiError
from mitai.identity import Identity

AUDITOR = Identity.from_seed(b"\2" * 32)
KINDS = st.sampled_from(["amd-chip", "intel-ppid", "simulated"])
MACHINES = st.builds("{}:{}".format, KINDS, st.binary(min_size=16, max_size=64).map(bytes.hex))
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
PLACES = st.sampled_from(["DE", "FR", "US"])
ZONES = st.sampled_from(["", "hall 3", "eu-central-1"])


@given(st.lists(MACHINES, min_size=1, max_size=4, unique=True), MACHINES, MOMENTS, MOMENTS, MOMENTS, PLACES, ZONES)
def test_a_statement_says_what_was_signed(
    machines: list[str], other: str, begin: datetime, end: datetime, now: datetime, country: str, zone: str
) -> None:
    said = Residency(country, begin, end, zone)
    try:
        found = read_residency(sign_residency(said, machines, AUDITOR))
    except MitaiError:
        assert end <= begin
        return
    assert begin < end
    expected = {f"{AUDITOR.key_id}={country}"} | ({f"{AUDITOR.key_id}={country}/{zone}"} if zone else set())
    for machine in (*machines, other):
        valid = machine in machines and begin <= now < end
        assert set(found.facts(machine, now)) == (expected if valid else set())


DOCUMENT = sign_residency(
    Residency("DE", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC), "hall 3"),
    ["amd-chip:" + "a1" * 64, "simulated:" + "b2" * 16],
    AUDITOR,
)


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, change: int) -> None:
    changed = bytearray(DOCUMENT)
    changed[position] ^= change
    with pytest.raises(MitaiError):
        read_residency(bytes(changed))


@given(st.binary(max_size=300) | st.integers(0, len(DOCUMENT)).map(lambda end: DOCUMENT[:end] + DOCUMENT[end // 2 :]))
def test_any_bytes_are_a_statement_or_refused(data: bytes) -> None:
    with suppress(MitaiError):  # nothing else is raised
        assert read_residency(data).auditor == AUDITOR.key_id
