"""Event logs: replay, padding, malformed logs."""

from __future__ import annotations

import hashlib
import struct

import pytest

from attest_lab import WORKLOAD
from mitai.attest.eventlog import MAX_EVENT_LOG_BYTES, check_replay, parse_event_log, replay, replay_rtmrs
from mitai.attest.sim import event_log, measure

LOG = event_log(WORKLOAD)
HEADER = measure._header_event()


def spec(
    algorithms: list[tuple[int, int]], vendor: bytes = b"", signature: bytes = b"Spec ID Event03\0", kind: int = 3
):
    data = signature + bytes(8) + struct.pack("<I", len(algorithms))
    data += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms) + bytes([len(vendor)]) + vendor
    return struct.pack("<II20sI", 0, kind, bytes(20), len(data)) + data


def event(register: int, *digests: tuple[int, bytes], kind: int = 6, data: bytes = b"x") -> bytes:
    head = struct.pack("<III", register, kind, len(digests))
    return head + b"".join(struct.pack("<H", a) + d for a, d in digests) + struct.pack("<I", len(data)) + data


def test_replay_is_extension_by_hash():
    digest = hashlib.sha384(b"measured").digest()
    rtmrs = replay_rtmrs(HEADER + event(4, (12, digest)) + event(4, (12, digest)))
    once = hashlib.sha384(bytes(48) + digest).digest()
    assert rtmrs == (bytes(48), bytes(48), bytes(48), hashlib.sha384(once + digest).digest())


def test_informative_events_do_not_count():
    assert replay(HEADER + event(1, kind=3)) == {}


@pytest.mark.parametrize("padding", [b"\xff" * 8, b"\xff" * 100, bytes(8), bytes(4096)])
def test_padding(padding):
    assert replay_rtmrs(LOG + padding) == replay_rtmrs(LOG)


def test_several_algorithms():
    header = spec([(4, 20), (11, 32), (12, 48)], vendor=b"vendor")
    log = header + event(1, (4, b"a" * 20), (11, b"b" * 32), (12, b"c" * 48))
    assert replay(log, 11, "sha256") == {1: hashlib.sha256(bytes(32) + b"b" * 32).digest()}
    assert replay(log) == {1: hashlib.sha384(bytes(48) + b"c" * 48).digest()}


@pytest.mark.parametrize(
    "log",
    [
        b"",
        HEADER[:-1],
        LOG[:-1],
        LOG + b"\xff" * 7,
        LOG + b"\xff" * 8 + b"\xfe",
        LOG + bytes(8) + b"\1",
        spec([(12, 48)], signature=b"Spec ID Event02\0"),
        spec([(12, 48)], kind=4),
        spec([]),
        spec([(number, 48) for number in range(9)]),
        HEADER[:28] + struct.pack("<I", 34) + HEADER[32:] + b"\0",
        HEADER + event(1, (11, bytes(32))),
        HEADER + event(1, (12, bytes(48)), (12, bytes(48))),
        spec([(11, 32), (12, 48)]) + event(1, (12, bytes(48)), (12, bytes(48))),
        spec([(11, 32)]) + event(1, (11, bytes(32))),
        spec([(12, 32)]) + event(1, (12, bytes(32))),
        HEADER + event(0, (12, bytes(48))),
        HEADER + event(5, (12, bytes(48))),
        HEADER + event(1),
        HEADER + event(1, (12, bytes(48)))[:-1] + b"",
        LOG + bytes(MAX_EVENT_LOG_BYTES),
    ],
)
def test_malformed(refused, log):
    with refused("attest.event-log-malformed"):
        replay_rtmrs(log)


def test_mismatch(refused):
    rtmrs = list(replay_rtmrs(LOG))
    check_replay(LOG, rtmrs)
    for number in range(4):
        with refused("attest.event-log-mismatch") as refusal:
            check_replay(LOG, [bytes(48) if n == number else rtmr for n, rtmr in enumerate(rtmrs)])
        assert f"RTMR[{number}]" in refusal.value.message


def test_events_are_readable():
    events = list(parse_event_log(LOG))
    assert [e.register for e in events] == [1, 2, 3, 4]
    assert WORKLOAD.name.encode() in events[3].data
