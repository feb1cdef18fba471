"""Every parser of the ledger: arbitrary and nearly right bytes give a value or an error of the tree."""

import sys
from pathlib import Path

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import fuzz_ledger_parsers as fuzz

from mitai.identity import Identity
from mitai.ledger.assurance import CommitAndAudit, Fingerprint, Proof, ReExecution, Sample
from mitai.ledger.entry import PartyRegistered, ReceiptEntry
from mitai.ledger.log import Log
from mitai.ledger.note import sign_checkpoint, vkey
from mitai.ledger.receipt import ASSURED_LABEL, Receipt, ReceiptBundle, Usage, receipt_sha256
from mitai.ledger.store import MemoryStore
from mitai.ledger.tiles import encode_bundle
from mitai.ledger.witness import AddCheckpoint

OTHER = Identity.from_seed(b"o" * 32)
TIME = "2026-01-02T03:04:05Z"
CHECKPOINT = sign_checkpoint("log.example", 3, bytes(32), OTHER)
STATEMENT = Receipt(
    exchange="x",
    request_sha256="a" * 64,
    response_sha256="a" * 64,
    model="m",
    capsules=(),
    policies=(),
    usage=Usage(prompt_tokens=0, completion_tokens=0),
    evidence_sha256="a" * 64,
    started=TIME,
    finished=TIME,
)
RECEIPT = STATEMENT.sign(OTHER)
SAMPLE = Sample(one_in=20, commitment="c" * 64)
ASSURED = msgspec.structs.replace(
    STATEMENT,
    v=ASSURED_LABEL,
    evidence_sha256=None,
    assurances=(
        CommitAndAudit(identity="a" * 64, trace="b" * 64, scheme=1),
        Fingerprint(digest="a" * 64, block_tokens=32, top_k=128),
        Proof(identity="b" * 64, promise="sampled", sample=SAMPLE),
        ReExecution(sample=SAMPLE),
    ),
)
ENTRY = ReceiptEntry(time=TIME, exchange="x", receipt_sha256=receipt_sha256(RECEIPT)).encode()
LOG = Log(MemoryStore(), OTHER, "log.example")
LOG.append([ENTRY, b"x"])
SEEDS = {
    "note": CHECKPOINT,
    "signatures": CHECKPOINT.partition(b"\n\n")[2],
    "checkpoint": CHECKPOINT,
    "verifier_key": vkey("log.example", OTHER.public).encode(),
    "bundle": b"\x03" + encode_bundle([b"a", b"", b"ccc"]),
    "path": b"tile/0/x001/234.p/5",
    "entry": PartyRegistered(time=TIME, party="a" * 64, name="Ada").encode(),
    "receipt": RECEIPT,
    "receipt_bundle": ReceiptBundle(
        envelope=RECEIPT,
        entry=ENTRY,
        index=0,
        proof=LOG.inclusion_proof(0),
        checkpoint=LOG.checkpoint().decode(),
    ).encode(),
    "witness_request": AddCheckpoint(1, (bytes(32),), CHECKPOINT).encode(),
    "witness_answer": b"\xff12\n",
    "proofs": bytes(100),
    "receipt_payload": rfc8785.dumps(msgspec.to_builtins(ASSURED)),
}


def feed(name, data):
    fuzz.one_input(bytes([[parser.__name__ for parser in fuzz.PARSERS].index(name)]) + data)


def test_every_parser_has_a_seed():
    assert set(SEEDS) == {parser.__name__ for parser in fuzz.PARSERS}
    fuzz.one_input(b"")


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_and_their_prefixes(name):
    for end in range(len(SEEDS[name]) + 1):
        feed(name, SEEDS[name][:end])


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes(name, data):
    feed(name, data)


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_nearly_right_bytes(name, data):
    seed = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(seed)))
        seed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    feed(name, bytes(seed))
