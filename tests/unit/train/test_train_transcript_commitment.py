"""The Merkle commitment hides records and proves single ones; the signed transcript has one spelling."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from mitai.errors import MitaiError, ParseError, TrainError
from mitai.identity import Identity
from mitai.train.transcript.commitment import Commitment, MembershipProof, find
from mitai.train.transcript.document import Asset, Boundary, Data, Segment, Transcript

SECRET = b"s" * 32
RECORDS: list[dict[str, object]] = [{"prompt": f"q{i}", "completion": "yes" if i % 2 else "no"} for i in range(11)]
COLUMNS = ("prompt", "completion")
DATA = Commitment.of(SECRET, COLUMNS, RECORDS)
SIGNED = "d" * 64


@pytest.mark.parametrize("row", range(11))
def test_a_record_is_proven_by_one_column_or_by_all(row: int) -> None:
    for columns in (("prompt",), COLUMNS):
        proof = MembershipProof.decode(DATA.proof(row, columns, SIGNED).encode())
        proof.check(DATA.root, 11, COLUMNS, {name: RECORDS[row][name] for name in columns})


def test_equal_records_have_unrelated_leaves_and_other_secrets_other_roots() -> None:
    data = Commitment.of(SECRET, ("text",), [{"text": "same"}] * 2)
    assert data.entries[0] != data.entries[1]
    assert Commitment.of(b"t" * 32, COLUMNS, RECORDS).root != DATA.root


def test_a_proof_says_nothing_about_what_it_does_not_open() -> None:
    proof = DATA.proof(3, ("prompt",), SIGNED)
    assert proof.blinds.keys() == {"prompt"}
    blind = proof.blinds["prompt"]  # of no use for the other column
    guess = msgspec.structs.replace(proof, blinds={"completion": blind})
    for value in ("yes", "no"):
        with pytest.raises(TrainError, match="something else"):
            guess.check(DATA.root, 11, COLUMNS, {"completion": value})


def test_order_of_columns_and_records_counts() -> None:
    assert Commitment.of(SECRET, COLUMNS, RECORDS[::-1]).root != DATA.root
    assert Commitment.of(SECRET, COLUMNS[::-1], RECORDS).root != DATA.root


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"row": 4}, "inclusion"),
        ({"row": 12}, "inclusion"),
        ({"path": ()}, "inclusion"),
        ({"columns": (b"x" * 32, b"y" * 32)}, "document"),
        ({"columns": (b"x" * 32,)}, "columns"),
        ({"blinds": {"prompt": b"b" * 32}}, "document"),
        ({"blinds": {"other": b"b" * 32}}, "columns"),
    ],
)
def test_a_changed_proof_is_refused(change: dict[str, object], step: str) -> None:
    proof = msgspec.structs.replace(DATA.proof(3, ("prompt",), SIGNED), **change)
    with pytest.raises(TrainError) as refused:
        proof.check(DATA.root, 11, COLUMNS, {"prompt": "q3"})
    assert refused.value.step == step


def test_another_document_root_or_size_is_refused() -> None:
    proof = DATA.proof(3, ("prompt",), SIGNED)
    for root, size, document in (
        (DATA.root, 11, {"prompt": "q4"}),
        (b"r" * 32, 11, {"prompt": "q3"}),
        (DATA.root, 8, {"prompt": "q3"}),
        (DATA.root, 11, {}),
        (DATA.root, 11, {"prompt": "q3", "completion": "yes"}),
    ):
        with pytest.raises(TrainError):
            proof.check(root, size, COLUMNS, document)


def test_a_record_is_found_by_its_values() -> None:
    assert find(RECORDS, {"prompt": "q5"}) == 5
    assert find(RECORDS, {"completion": "yes"}) == 1
    with pytest.raises(TrainError, match="exactly these values"):
        find(RECORDS, {"prompt": "q5 "})
    with pytest.raises(TrainError):
        find(RECORDS, {})


def test_what_cannot_be_committed_to_is_refused() -> None:
    for secret, columns, records in (
        (b"short", COLUMNS, RECORDS),
        (SECRET, (), []),
        (SECRET, ("a", "a"), []),
        (SECRET, ("prompt",), RECORDS),
        (SECRET, ("n",), [{"n": float("nan")}]),
        (SECRET, ("n",), [{"n": 1 << 60}]),
    ):
        with pytest.raises(TrainError) as refused:
            Commitment.of(secret, columns, records)
        assert refused.value.code == "train.commitment-refused"


def test_a_commitment_shows_neither_secret_nor_records() -> None:
    assert "q3" not in repr(DATA)
    assert SECRET.decode() not in repr(DATA)
    assert dataclasses.fields(DATA)


KEY = Identity.from_seed(b"k" * 32)


def boundary(step: int) -> Boundary:
    return Boundary(step=step, weights_sha256="a" * 64, state_sha256="b" * 64)


EXAMPLE = Transcript(
    job="job",
    job_sha256="c" * 64,
    method="sft",
    inputs=(Asset(capsule="base", manifest_sha256="d" * 64),),
    data=Data(columns=COLUMNS, records=11, root="e" * 64),
    seed=1,
    settings={"learning_rate": "0.1"},
    software={"torch": "2"},
    started="2026-01-02T03:04:05Z",
    finished="2026-01-02T03:05:05Z",
    rows=11,
    passes=1,
    start=boundary(0),
    segments=(
        Segment(batches_mac="f" * 64, loss=1.25, end=boundary(3)),
        Segment(batches_mac="f" * 64, loss=None, end=boundary(4)),
    ),
    published=2,
)


def test_a_transcript_is_signed_and_read_back() -> None:
    assert Transcript.open(EXAMPLE.sign(KEY), KEY.public) == EXAMPLE
    assert EXAMPLE.steps == 4
    with pytest.raises(MitaiError, match="signature"):
        Transcript.open(EXAMPLE.sign(KEY), Identity.generate().public)


@pytest.mark.parametrize(
    "change",
    [
        {"published": 3},
        {"start": boundary(1)},
        {"segments": (Segment(batches_mac="f" * 64, loss=1.0, end=boundary(0)),)},
        {"segments": ()},
        {"inputs": ()},
        {"v": "mitai training transcript v2"},
        {"started": "2026-02-30T00:00:00Z"},
        {"seed": -1},
        {"settings": {"a": "x" * 1025}},
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    fields = msgspec.to_builtins(EXAMPLE) | msgspec.to_builtins(change)
    with pytest.raises(ParseError):
        Transcript.decode(msgspec.json.encode(fields, order="sorted"))


@pytest.mark.parametrize(
    "spell",
    [
        lambda data: data + b" ",
        lambda data: data.replace(b'"passes":1', b'"passes":1.0'),
        lambda data: data.replace(b'"passes":1,', b'"passes":1,"more":2,'),
        lambda data: data.replace(b'"loss":1.25', b'"loss":1.250'),
        lambda data: data[:-1],
        lambda data: b" " * (9 << 20),
    ],
)
def test_another_spelling_is_refused(spell) -> None:
    with pytest.raises(ParseError):
        Transcript.decode(spell(EXAMPLE.encode()))


def test_an_envelope_of_another_kind_or_too_large_is_refused() -> None:
    with pytest.raises(MitaiError):
        Transcript.open(KEY.sign(EXAMPLE.encode(), "application/vnd.mitai.receipt+json").encode(), KEY.public)
    with pytest.raises(ParseError):
        Transcript.open(b" " * (17 << 20), KEY.public)
    with pytest.raises(ParseError):
        MembershipProof.decode(b" " * (65 << 10))
