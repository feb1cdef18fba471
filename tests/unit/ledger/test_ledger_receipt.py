"""Receipts: every step of the check refuses what it should."""

import json

import msgspec
import pytest

from mitai.errors import LedgerError, MitaiError, ParseError
from mitai.identity import Envelope, Identity
from mitai.ledger.entry import ReceiptEntry, Revocation
from mitai.ledger.log import Log
from mitai.ledger.note import COSIGNATURE, Note, cosign, parse_note, sign_checkpoint, vkey
from mitai.ledger.receipt import (
    CapsuleRef,
    PartyReceipt,
    Receipt,
    ReceiptBundle,
    Usage,
    check_logged,
    receipt_sha256,
    verify_receipt,
)
from mitai.ledger.store import MemoryStore

TIME = "2026-01-02T03:04:05Z"
RECEIPT_KEY, LOG_KEY, WITNESS = (Identity.from_seed(letter * 32) for letter in (b"r", b"l", b"w"))
RECEIPT = Receipt(
    exchange="x-1",
    request_sha256="a" * 64,
    response_sha256="b" * 64,
    model="demo",
    capsules=(CapsuleRef(id="model-1", manifest_sha256="c" * 64),),
    adapters=(CapsuleRef(id="lora-1", manifest_sha256="d" * 64),),
    policies=("e" * 64,),
    usage=Usage(prompt_tokens=3, completion_tokens=4),
    evidence_sha256="f" * 64,
    started=TIME,
    finished="2026-01-02T03:04:06Z",
)
ENVELOPE = RECEIPT.sign(RECEIPT_KEY)
ENTRY = ReceiptEntry(time=TIME, exchange="x-1", receipt_sha256=receipt_sha256(ENVELOPE))


def bundle_of(envelope=ENVELOPE, entry=ENTRY):
    log = Log(MemoryStore(), LOG_KEY, "log.example")
    log.append([b"before"])
    (index,) = log.append([entry.encode()])
    log.append([b"after"] * 5)
    return ReceiptBundle(
        envelope=envelope,
        entry=entry.encode(),
        index=index,
        proof=log.inclusion_proof(index),
        checkpoint=log.checkpoint().decode(),
    )


BUNDLE = bundle_of()
LOG_VKEY = vkey("log.example", LOG_KEY.public)
WITNESS_VKEY = vkey("w.example", WITNESS.public, kind=COSIGNATURE)


def check(bundle=BUNDLE, **more):
    return verify_receipt(bundle, **{"receipt_key": RECEIPT_KEY.public, "ledger_vkey": LOG_VKEY} | more)


def test_a_receipt_holds_offline_out_of_its_file():
    bundle = ReceiptBundle.decode(BUNDLE.encode())
    assert bundle == BUNDLE
    assert check(bundle) == RECEIPT
    assert check(bundle, request_sha256="a" * 64, response_sha256="b" * 64) == RECEIPT


def test_it_does_not_say_of_itself_whether_it_was_simulated():
    assert "simulated" not in RECEIPT.__struct_fields__


@pytest.mark.parametrize(
    ("bundle", "more", "code"),
    [
        (BUNDLE, {"receipt_key": Identity.from_seed(b"o" * 32).public}, "identity.signature-invalid"),
        (BUNDLE, {"request_sha256": "0" * 64}, "ledger.receipt-request"),
        (BUNDLE, {"response_sha256": "0" * 64}, "ledger.receipt-response"),
        (BUNDLE, {"ledger_vkey": vkey("other.example", LOG_KEY.public)}, "ledger.checkpoint-unsigned"),
        (BUNDLE, {"witnesses": [WITNESS_VKEY], "threshold": 1}, "ledger.witnesses-missing"),
        (msgspec.structs.replace(BUNDLE, index=0), {}, "ledger.inclusion-invalid"),
        (msgspec.structs.replace(BUNDLE, index=1 << 40), {}, "ledger.index-out-of-range"),
        (msgspec.structs.replace(BUNDLE, proof=BUNDLE.proof[1:]), {}, "ledger.inclusion-invalid"),
        (msgspec.structs.replace(BUNDLE, envelope=BUNDLE.envelope + b" "), {}, "ledger.receipt-entry"),
        (msgspec.structs.replace(BUNDLE, entry=b"before"), {}, "ledger.entry-malformed"),
        (bundle_of(entry=msgspec.structs.replace(ENTRY, exchange="x-2")), {}, "ledger.receipt-entry"),
        (bundle_of(entry=msgspec.structs.replace(ENTRY, receipt_sha256="0" * 64)), {}, "ledger.receipt-entry"),
        (bundle_of(entry=Revocation(time=TIME, owner="0" * 64, subject="x-1", reason="x")), {}, "ledger.receipt-entry"),
    ],
)
def test_each_step_refuses(bundle, more, code):
    with pytest.raises(MitaiError) as caught:
        check(bundle, **more)
    assert caught.value.code == code


def test_an_entry_of_the_same_receipt_that_was_never_logged():
    unlogged = msgspec.structs.replace(ENTRY, time="2026-01-02T03:04:07Z").encode()
    with pytest.raises(LedgerError, match=r"ledger\.inclusion-invalid"):
        check(msgspec.structs.replace(BUNDLE, entry=unlogged))


def test_a_forged_checkpoint():
    forged = sign_checkpoint("log.example", 7, bytes(32), Identity.generate()).decode()
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        check(msgspec.structs.replace(BUNDLE, checkpoint=forged))
    other = sign_checkpoint("log.example", 7, bytes(32), LOG_KEY).decode()
    with pytest.raises(LedgerError, match=r"ledger\.inclusion-invalid"):
        check(msgspec.structs.replace(BUNDLE, checkpoint=other))


def test_with_a_witness():
    note = parse_note(BUNDLE.checkpoint.encode())
    line = cosign(note.text, "w.example", WITNESS, 1)
    cosigned = msgspec.structs.replace(BUNDLE, checkpoint=Note(note.text, (*note.signatures, line)).encode().decode())
    assert check(cosigned, witnesses=[WITNESS_VKEY], threshold=1) == RECEIPT


def test_another_payload_type_or_form_is_no_receipt():
    payload = Envelope.decode(ENVELOPE).payload
    as_command = RECEIPT_KEY.sign(payload, "application/vnd.mitai.command+json").encode()
    with pytest.raises(MitaiError, match=r"identity\.payload-type"):
        check(bundle_of(as_command, msgspec.structs.replace(ENTRY, receipt_sha256=receipt_sha256(as_command))))
    for other in (payload + b" ", payload.replace(b"receipt v1", b"receipt v2"), payload[:-1] + b',"z":1}', b"{}"):
        signed = RECEIPT_KEY.sign(other, "application/vnd.mitai.receipt+json").encode()
        with pytest.raises(ParseError, match=r"ledger\.receipt-malformed"):
            Receipt.open(signed, RECEIPT_KEY.public)
    with pytest.raises(ParseError, match=r"ledger\.receipt-malformed"):
        Receipt.open(b" " * 65537, RECEIPT_KEY.public)


@pytest.mark.parametrize(
    "fields",
    [
        {"exchange": ""},
        {"request_sha256": "A" * 64},
        {"model": "a\nb"},
        {"usage": Usage(prompt_tokens=-1, completion_tokens=0)},
        {"capsules": (CapsuleRef(id="m", manifest_sha256="x"),)},
        {"capsules": (CapsuleRef(id="m", manifest_sha256="c" * 64),) * 65},
        {"started": "2026-01-02"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_out_of_bounds_receipts_are_not_signed(fields):
    with pytest.raises(ParseError, match=r"ledger\.receipt-malformed"):
        msgspec.structs.replace(RECEIPT, **fields).sign(RECEIPT_KEY)


PARTY = PartyReceipt(
    exchange="0" * 32,
    request_sha256="a" * 64,
    response_sha256="b" * 64,
    started=TIME,
    finished=TIME,
    role="p0",
    protocol="2+1",
    version="1",
    parties={"p0": "c" * 64, "dealer": "d" * 64},
    evidence_sha256={"dealer": "e" * 64},
    shares="1" * 32,
    config_sha256="f" * 64,
    approximation="exact",
    task="generate 64 16 nucleus",
    temperature=0.7,
    top_p=1.0,
)


def test_a_partys_receipt_in_the_ledger():
    envelope = PARTY.sign(RECEIPT_KEY)
    assert PartyReceipt.open(envelope, RECEIPT_KEY.public) == PARTY
    entry = ReceiptEntry(time=TIME, exchange=PARTY.exchange, receipt_sha256=receipt_sha256(envelope))
    check_logged(PARTY, bundle_of(envelope, entry), LOG_VKEY)
    with pytest.raises(LedgerError, match=r"ledger\.receipt-entry"):
        check_logged(PARTY, BUNDLE, LOG_VKEY)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 20.5},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"shares": "1" * 31},
        {"parties": {"p0": "x"}},
        {"parties": {f"p{n}": "c" * 64 for n in range(9)}},
        {"evidence_sha256": {"": "c" * 64}},
        {"started": "2026-01-02"},
    ],
    ids=str,
)
def test_out_of_bounds_receipts_of_parties_are_not_signed(fields):
    with pytest.raises((ParseError, ValueError)):
        msgspec.structs.replace(PARTY, **fields).sign(RECEIPT_KEY)


def test_a_date_exists():
    with pytest.raises(ValueError, match="day is out of range"):
        msgspec.structs.replace(RECEIPT, finished="2026-02-30T03:04:04Z")
    payload = Envelope.decode(ENVELOPE).payload.replace(b"2026-01-02", b"2026-02-30")
    with pytest.raises(ParseError, match=r"ledger\.receipt-malformed"):
        Receipt.open(RECEIPT_KEY.sign(payload, "application/vnd.mitai.receipt+json").encode(), RECEIPT_KEY.public)


@pytest.mark.parametrize(
    "change", ["spaces", "version", "no version", "more", "proof", "long", "index", "deep", "bytes"]
)
def test_malformed_bundles(change):
    fields = json.loads(BUNDLE.encode())
    data = {
        "spaces": lambda: json.dumps(fields),
        "version": lambda: json.dumps(fields | {"v": "mitai receipt bundle v2"}, separators=(",", ":")),
        "no version": lambda: json.dumps({k: v for k, v in fields.items() if k != "v"}, separators=(",", ":")),
        "more": lambda: json.dumps(fields | {"z": 1}, separators=(",", ":")),
        "proof": lambda: json.dumps(fields | {"proof": ["AAAA"]}, separators=(",", ":")),
        "long": lambda: json.dumps(fields | {"proof": fields["proof"] * 64}, separators=(",", ":")),
        "index": lambda: json.dumps(fields | {"index": -1}, separators=(",", ":")),
        "deep": lambda: "[" * 100_000,
        "bytes": lambda: " " * ((1 << 20) + 1),
    }[change]()
    with pytest.raises(ParseError, match=r"ledger\.receipt-bundle-malformed"):
        ReceiptBundle.decode(data.encode())


def test_every_changed_byte_of_a_bundle_is_refused():
    data = BUNDLE.encode()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(MitaiError):
            check(ReceiptBundle.decode(bytes(changed)))
