"""Receipts with assurances: one spelling of each promise, and none that hardware's verifier takes for hardware."""

import re
from pathlib import Path

import msgspec
import pytest
import rfc8785

from mitai.errors import LedgerError, MitaiError, ParseError
from mitai.identity import Envelope, Identity
from mitai.ledger.assurance import CommitAndAudit, Fingerprint, Proof, ReExecution, Sample, tier
from mitai.ledger.entry import ReceiptEntry
from mitai.ledger.log import Log
from mitai.ledger.lots import Lots, caught, needed
from mitai.ledger.note import vkey
from mitai.ledger.receipt import (
    ASSURED_LABEL,
    RECEIPT_LABEL,
    Receipt,
    ReceiptBundle,
    Usage,
    receipt_sha256,
    verify_assured,
    verify_receipt,
)
from mitai.ledger.store import MemoryStore

KEY, LOG_KEY = Identity.from_seed(b"r" * 32), Identity.from_seed(b"l" * 32)
TIME = "2026-01-02T03:04:05Z"
SAMPLE = Sample(one_in=20, commitment="1" * 64)
ALL = (
    CommitAndAudit(identity="a" * 64, trace="b" * 64, scheme=1),
    Fingerprint(digest="c" * 64, block_tokens=32, top_k=128),
    Proof(identity="d" * 64, promise="sampled", sample=SAMPLE),
    ReExecution(sample=SAMPLE),
)
UNATTESTED = Receipt(
    v=ASSURED_LABEL,
    exchange="x-1",
    request_sha256="a" * 64,
    response_sha256="b" * 64,
    model="demo",
    capsules=(),
    policies=(),
    usage=Usage(prompt_tokens=3, completion_tokens=4),
    evidence_sha256=None,
    started=TIME,
    finished=TIME,
    assurances=ALL,
)
ENVELOPE = UNATTESTED.sign(KEY)


def kept(receipt):
    envelope = receipt.sign(KEY)
    entry = ReceiptEntry(time=TIME, exchange="x-1", receipt_sha256=receipt_sha256(envelope)).encode()
    log = Log(MemoryStore(), LOG_KEY, "log.example")
    (index,) = log.append([entry])
    proof = log.inclusion_proof(index)
    return ReceiptBundle(envelope=envelope, entry=entry, index=index, proof=proof, checkpoint=log.checkpoint().decode())


def hardware(receipt):
    return verify_receipt(kept(receipt), receipt_key=KEY.public, ledger_vkey=vkey("log.example", LOG_KEY.public))


def test_each_tier_is_found_and_no_other():
    for assurance in ALL:
        assert verify_assured(ENVELOPE, type(assurance), receipt_key=KEY.public) == (UNATTESTED, assurance)
    assert [tier(one) for one in ALL] == ["commit-and-audit", "fingerprint", "proof", "re-execution"]
    alone = msgspec.structs.replace(UNATTESTED, assurances=ALL[2:3])
    with pytest.raises(LedgerError, match=r"ledger\.receipt-assurance"):
        verify_assured(alone.sign(KEY), Fingerprint, receipt_key=KEY.public)


def test_hardwares_verifier_refuses_a_service_without_hardware():
    with pytest.raises(LedgerError, match=r"ledger\.receipt-unattested") as caught_error:
        hardware(UNATTESTED)
    assert caught_error.value.step == "envelope"


def test_evidence_and_assurances_stand_side_by_side():
    both = msgspec.structs.replace(UNATTESTED, evidence_sha256="e" * 64)
    assert hardware(both) == both
    assert verify_assured(both.sign(KEY), Proof, receipt_key=KEY.public)[1] == ALL[2]


def test_hardware_alone_is_written_as_before():
    plain = msgspec.structs.replace(UNATTESTED, v=RECEIPT_LABEL, evidence_sha256="e" * 64, assurances=msgspec.UNSET)
    assert hardware(plain) == plain
    assert b"assurances" not in Envelope.decode(plain.sign(KEY)).payload
    assert plain.assurance(Proof) is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"receipt_key": Identity.from_seed(b"o" * 32).public}, "identity.signature-invalid"),
        ({"request_sha256": "0" * 64}, "ledger.receipt-request"),
        ({"response_sha256": "0" * 64}, "ledger.receipt-response"),
    ],
)
def test_each_step_of_an_assured_receipt_refuses(more, code):
    with pytest.raises(MitaiError) as error:
        verify_assured(ENVELOPE, Proof, **{"receipt_key": KEY.public} | more)
    assert error.value.code == code


def changed(**fields):
    return msgspec.to_builtins(UNATTESTED) | fields


def with_proof(**fields):
    proof = {"tier": "proof", "identity": "d" * 64, "promise": "follows", "sample": None}
    return changed(assurances=[proof | fields])


def test_what_the_next_test_changes_is_right_before():
    signed = KEY.sign(rfc8785.dumps(with_proof()), Receipt.payload_type).encode()
    assert Receipt.open(signed, KEY.public).assurance(Proof).promise == "follows"


@pytest.mark.parametrize(
    "fields",
    [
        changed(v="mitai receipt v1"),
        changed(v="mitai receipt v1", evidence_sha256="e" * 64),
        changed(v="mitai receipt v3"),
        changed(assurances=[]),
        changed(assurances=None),
        changed(assurances=changed()["assurances"][::-1]),
        changed(assurances=changed()["assurances"][:1] * 2),
        {name: value for name, value in changed().items() if name != "assurances"},
        {name: value for name, value in changed().items() if name != "evidence_sha256"},
        {name: value for name, value in changed(v="mitai receipt v1").items() if name != "assurances"},
        changed(evidence_sha256=""),
        with_proof(tier="hardware"),
        with_proof(tier="Proof"),
        with_proof(more=1),
        with_proof(identity="D" * 64),
        with_proof(promise="sampled"),
        with_proof(sample={"one_in": 2, "commitment": "1" * 64}),
        with_proof(promise="sampled", sample={"one_in": 0, "commitment": "1" * 64}),
        with_proof(promise="sampled", sample={"one_in": (1 << 32) + 1, "commitment": "1" * 64}),
        with_proof(promise="sampled", sample={"one_in": 2, "commitment": ""}),
        with_proof(promise="sampled", sample={"one_in": 2}),
        changed(assurances=[{"tier": "fingerprint", "digest": "c" * 64, "block_tokens": 0, "top_k": 1}]),
        changed(assurances=[{"tier": "fingerprint", "digest": "c" * 64, "block_tokens": 32}]),
        changed(assurances=[{"tier": "commit-and-audit", "identity": "c" * 64, "trace": "c" * 64, "scheme": 0}]),
        changed(assurances=[{"tier": "re-execution", "sample": None}]),
    ],
)
def test_malformed(fields):
    signed = KEY.sign(rfc8785.dumps(fields), Receipt.payload_type).encode()
    with pytest.raises(ParseError, match=r"ledger\.receipt-malformed"):
        Receipt.open(signed, KEY.public)


def flipped(data):
    return (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data)))


def test_every_changed_byte_of_what_is_signed_is_refused():
    signed = Envelope.decode(ENVELOPE)
    for other in flipped(signed.payload):
        with pytest.raises(MitaiError, match=r"identity\.signature-invalid"):
            verify_assured(msgspec.structs.replace(signed, payload=other).encode(), Proof, receipt_key=KEY.public)


def test_every_changed_byte_of_an_envelope_is_refused_or_says_the_same_in_other_bytes():
    same = 0
    for other in flipped(ENVELOPE):
        try:
            assert verify_assured(other, Proof, receipt_key=KEY.public) == (UNATTESTED, ALL[2])
            same += 1
        except MitaiError:
            continue
    assert same <= 66  # the letters of the key id, which is a hint, and spare bits of base64


def test_lots_draw_their_share_and_nobody_else_could_know():
    lots = Lots(b"s" * 32, one_in=20)
    tickets = [f"{number:064x}" for number in range(20_000)]
    drawn = [ticket for ticket in tickets if lots.draws(ticket)]
    assert 900 < len(drawn) < 1100
    other = Lots(b"t" * 32, one_in=20)
    assert sum(map(other.draws, drawn)) < 100
    assert all(map(Lots(b"s" * 32, one_in=1).draws, tickets[:100]))
    assert "ss" not in repr(lots)


def test_a_seed_is_opened_as_it_was_committed_to():
    lots = Lots(b"s" * 32, one_in=20)
    assert Lots.open(lots.sample, b"s" * 32) == lots
    for sample, seed in (
        (lots.sample, b"t" * 32),
        (msgspec.structs.replace(lots.sample, one_in=21), b"s" * 32),
        (msgspec.structs.replace(lots.sample, commitment="0" * 64), b"s" * 32),
    ):
        with pytest.raises(LedgerError, match=r"ledger\.lots-commitment"):
            Lots.open(sample, seed)
    for seed, one_in in ((b"s", 2), (b"s" * 32, 0), (b"s" * 32, (1 << 32) + 1)):
        with pytest.raises(LedgerError, match=r"ledger\.lots-invalid"):
            Lots(seed, one_in)


def test_what_a_sample_catches():
    assert caught(0, 20) == 0
    assert caught(1, 1) == 1
    assert caught(1, 20) == pytest.approx(0.05)
    tickets = [[f"{100 * trial + at:064x}" for at in range(30)] for trial in range(1000)]
    lots = Lots(b"s" * 32, one_in=20)
    measured = sum(any(map(lots.draws, cheats)) for cheats in tickets) / 1000
    assert measured == pytest.approx(caught(30, 20), abs=0.05)
    for share, confidence in ((0.01, 0.99), (0.5, 0.5), (0.3, 0.999), (0.999, 0.1)):
        n = needed(share, confidence)
        assert 1 - (1 - share) ** n >= confidence
        assert n == 1 or 1 - (1 - share) ** (n - 1) < confidence


def test_the_table_of_samples_in_the_docs():
    text = (Path(__file__).parents[3] / "docs" / "tiers.md").read_text()
    rows = re.findall(r"^\| (half of all|one in a?\s?\w+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    shares = {"half of all": 0.5, "one in ten": 0.1, "one in a hundred": 0.01, "one in a thousand": 0.001}
    assert {name for name, *_ in rows} == set(shares)
    for name, *shown in rows:
        assert [int(number.replace(",", "")) for number in shown] == [needed(shares[name], c) for c in (0.95, 0.999)]
