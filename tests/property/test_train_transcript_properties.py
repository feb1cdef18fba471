"""Whatever the records are: each is proven, nothing else is, and no byte of a proof or a transcript can change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import MitaiError
from mitai.identity import Identity
from mitai.train.transcript.commitment import Commitment, MembershipProof
from mitai.train.transcript.document import Asset, Boundary, Data, Segment, Transcript

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES}), min_size=1, max_size=9)
KEY = Identity.from_seed(b"k" * 32)


@given(RECORDS, st.binary(min_size=32, max_size=32), st.data())
def test_each_record_is_proven_and_no_other_value(
    records: list[dict[str, object]], secret: bytes, data: st.DataObject
) -> None:
    made = Commitment.of(secret, ("a", "b"), records)
    row = data.draw(st.integers(0, len(records) - 1))
    columns = data.draw(st.sampled_from([("a",), ("b",), ("a", "b")]))
    proof = made.proof(row, columns, "0" * 64)
    assert MembershipProof.decode(proof.encode()) == proof
    proof.check(made.root, len(records), ("a", "b"), {name: records[row][name] for name in columns})
    other = data.draw(VALUES)
    if repr(other) != repr(records[row][columns[0]]):
        with pytest.raises(MitaiError):
            proof.check(made.root, len(records), ("a", "b"), {**records[row], columns[0]: ["not", other]})


@given(st.data())
def test_no_byte_of_a_proof_can_change(data: st.DataObject) -> None:
    made = Commitment.of(b"s" * 32, ("a",), [{"a": index} for index in range(6)])
    raw = made.proof(4, ("a",), "0" * 64).encode()
    at, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    changed = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
    try:
        proof = MembershipProof.decode(changed)
    except MitaiError:
        return
    if proof.transcript_sha256 == "0" * 64:  # which transcript it is about is compared by `check_membership`
        with pytest.raises(MitaiError):
            proof.check(made.root, 6, ("a",), {"a": 4})


def transcript(ends: list[int]) -> Transcript:
    def boundary(step: int) -> Boundary:
        return Boundary(step=step, weights_sha256="a" * 64, state_sha256="b" * 64)

    return Transcript(
        job="job",
        job_sha256="c" * 64,
        method="sft",
        inputs=(Asset(capsule="base", manifest_sha256="d" * 64),),
        data=Data(columns=("a",), records=1, root="e" * 64),
        seed=0,
        settings={},
        software={},
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T03:04:05Z",
        rows=1,
        passes=0,
        start=boundary(0),
        segments=tuple(Segment(batches_mac="f" * 64, loss=step / 7, end=boundary(step)) for step in ends),
        published=0,
    )


@given(st.lists(st.integers(-1, 9), min_size=1, max_size=5))
def test_a_chain_counts_its_steps_upwards(ends: list[int]) -> None:
    if all(later > earlier for earlier, later in zip([0, *ends], ends, strict=False)):
        made = transcript(ends)
        assert Transcript.decode(made.encode()) == made
        return
    with pytest.raises((MitaiError, ValueError)):
        transcript(ends).encode()


@given(st.data())
def test_no_byte_of_a_signed_transcript_can_change(data: st.DataObject) -> None:
    raw = transcript([1, 3]).sign(KEY)
    at, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    changed = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
    try:
        opened = Transcript.open(changed, KEY.public)
    except MitaiError:
        return
    assert opened == Transcript.open(raw, KEY.public)  # the hint about the key, or spaces of the envelope
