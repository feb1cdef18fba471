"""Ledger entries: one encoding each, bounded, nothing unknown."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from mitai.errors import ParseError
from mitai.ledger.entry import (
    Approval,
    CapsuleRegistered,
    Denial,
    Deployment,
    Export,
    PartyRegistered,
    PolicySet,
    ReceiptEntry,
    Release,
    Revocation,
    decode,
    utc,
)
from mitai.ledger.tiles import MAX_ENTRY_BYTES

TIME = "2026-01-02T03:04:05Z"
D = "0123456789abcdef" * 4
ENTRIES = [
    PartyRegistered(time=TIME, party=D, name="Ada & 艾达"),
    CapsuleRegistered(time=TIME, capsule="model-1", kind="model", name="Llama", owners=(D,), manifest_sha256=D),
    PolicySet(time=TIME, capsule="model-1", owner=D, policy_sha256=D, version=3, command_sha256=D),
    Release(
        time=TIME,
        release="r1",
        capsules=("model-1", "lora:2"),
        workload="mitai-serve",
        purpose="inference",
        evidence_sha256=D,
        recipient_sha256=D,
        policies=(D, D),
        simulated=True,
        reasons=("permit: owner's rule 1",),
    ),
    Denial(time=TIME, capsules=("model-1",), code="broker.policy-denied", reasons=("expired",)),
    Deployment(time=TIME, deployment="d1", capsules=("model-1",), workload="mitai-serve", state="started"),
    Revocation(time=TIME, owner=D, subject="capsule:model-1", reason="contract ended"),
    Approval(time=TIME, owner=D, request="export-1", approved=False, subject_sha256=D),
    Export(time=TIME, export="export-1", capsule="model-1", owners=(D,), approvals=(D,), recipient=D),
    ReceiptEntry(time=TIME, exchange="x1", receipt_sha256=D),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_round_trip_in_canonical_form(entry):
    data = entry.encode()
    assert decode(data) == entry
    fields = json.loads(data)
    assert list(fields) == sorted(fields)
    assert fields["v"] == "mitai ledger entry v1"
    assert len(data) <= MAX_ENTRY_BYTES
    with pytest.raises(ParseError, match=r"ledger\.entry-malformed"):
        decode(json.dumps(fields).encode())  # spaces
    with pytest.raises(ParseError, match=r"ledger\.entry-malformed"):
        decode(json.dumps(dict(reversed(fields.items())), separators=(",", ":"), ensure_ascii=False).encode())
    for name in fields:
        without = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(ParseError, match=r"ledger\.entry-malformed"):
            decode(json.dumps(without, separators=(",", ":"), ensure_ascii=False).encode())


def changed(**fields):
    base = json.loads(ENTRIES[-1].encode()) | fields
    return json.dumps(base, separators=(",", ":"), sort_keys=True).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"v": "mitai ledger entry v2"},
        {"v": 1},
        {"type": "gossip"},
        {"type": None},
        {"time": "2026-13-02T03:04:05Z"},
        {"time": "2026-01-02T03:04:05+00:00"},
        {"time": "2026-01-02T03:04:05Z\n"},
        {"time": "2026-01-02 03:04:05Z"},
        {"exchange": ""},
        {"exchange": "a b"},
        {"exchange": "x" * 129},
        {"exchange": "x\n"},
        {"receipt_sha256": D.upper()},
        {"receipt_sha256": D[:-1]},
        {"receipt_sha256": D + "\n"},
        {"prompt": "hello"},
    ],
    ids=str,
)
def test_anything_else_is_refused(fields):
    decode(changed())
    with pytest.raises(ParseError, match=r"ledger\.entry-malformed"):
        decode(changed(**fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 60_000,
        b"x" * 65_536,
        ENTRIES[0].encode() + b"\n",
        b'{"v":"\\ud800"}',
    ],
    ids=lambda data: data[:12],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(ParseError, match=r"ledger\.entry-malformed"):
        decode(data)


@pytest.mark.parametrize(
    "entry",
    [
        PartyRegistered(time=TIME, party="me", name="x"),
        PartyRegistered(time=TIME, party=D, name="a\x1b[2Jb"),
        PartyRegistered(time=TIME, party=D, name="x" * 257),
        PolicySet(time=TIME, capsule="m", owner=D, policy_sha256=D, version=-1),
        PolicySet(time=TIME, capsule="m", owner=D, policy_sha256=D, version=1 << 53),
        Denial(time=TIME, capsules=("m",) * 257, code="x", reasons=()),
        Denial(time=TIME, capsules=("m",), code="x", reasons=("r",) * 9),
        Denial(time=TIME, capsules=("m",), code="x", reasons=("r" * 513,)),
        Denial(time=TIME, capsules=("m",), code="x", reasons=("\ud800",)),
    ],
    ids=repr,
)
def test_out_of_bounds_fields_are_not_written(entry):
    with pytest.raises(ParseError, match=r"ledger\.entry-malformed"):
        entry.encode()


def test_the_largest_entry_fits():
    wide = "\U0001f512"  # four bytes a character
    largest = Release(
        time=TIME,
        release="r" * 128,
        capsules=("c" * 128,) * 256,
        workload=wide * 256,
        purpose=wide * 256,
        evidence_sha256=D,
        recipient_sha256=D,
        policies=(D,) * 64,
        simulated=False,
        reasons=(wide * 512,) * 8,
    )
    assert len(largest.encode()) <= MAX_ENTRY_BYTES
    assert decode(largest.encode()) == largest


def test_times_are_cut_to_the_second_in_utc():
    assert utc(datetime(2026, 1, 2, 3, 4, 5, 999, UTC)) == TIME
    assert utc(datetime(2026, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))) == TIME
