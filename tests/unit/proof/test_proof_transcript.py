"""Transcripts: everything said is in the challenges, and proofs have one spelling."""

import hashlib

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof.field import K, P
from mitai.proof.transcript import Prover, Transcript, Verifier


def test_challenges_by_hand():
    state = hashlib.sha256(b"mitai proof transcript v1\x00").digest()
    state = hashlib.sha256(state + b"\x00\x05input" + (3).to_bytes(8, "little") + b"abc").digest()
    state = hashlib.sha256(state + b"\x02\x01x" + (8).to_bytes(8, "little") + (1).to_bytes(8, "little")).digest()
    drawn = hashlib.shake_256(b"mitai proof challenges v1\x00" + state).digest(32)
    transcript = Transcript()
    transcript.bind("input", b"abc")
    assert transcript.challenge("x") == K(*(int.from_bytes(drawn[i : i + 16], "little") % P for i in (0, 16)))


def test_everything_matters():
    def drawn(*steps):
        prover = Prover()
        for kind, label, data in steps:
            getattr(prover, kind)(label, data)
        return prover.challenge("x")

    ways = [
        drawn(),
        drawn(("bind", "a", b"")),
        drawn(("bind", "b", b"")),
        drawn(("bind", "a", b"b")),
        drawn(("bind", "ab", b"")),
        drawn(("send_bytes", "a", b"")),
        drawn(("challenges", "a", 1)),
        drawn(("challenges", "a", 2)),
        drawn(("bind", "a", b""), ("bind", "a", b"")),
    ]
    assert len(set(ways)) == len(ways)


def test_places():
    places = Transcript().places("columns", 152, 4)
    assert places == sorted(set(places))
    assert 10 < len(places) <= places[-1] + 1 <= 16
    assert Transcript().places("columns", 3, 0) == [0]


@pytest.mark.parametrize("word", [P, P + 1, 2**64 - 1])
def test_numbers_have_one_spelling(word):
    with pytest.raises(ProofError) as caught:
        Verifier(word.to_bytes(8, "little")).receive("x", 1)
    assert caught.value.code == "proof.malformed"
    assert Verifier((P - 1).to_bytes(8, "little")).receive("x", 1).tolist() == [P - 1]


def test_proofs_have_their_length():
    with pytest.raises(ProofError, match="ends within"):
        Verifier(bytes(7)).receive("x", 1)
    with pytest.raises(ProofError, match="ends within"):
        Verifier(bytes(8)).receive_k("x", 1 << 60)
    with pytest.raises(ProofError, match="1 bytes follow"):
        Verifier(bytes(1)).finish()


def test_numbers_come_back():
    prover = Prover()
    prover.send("a", np.arange(4, dtype=np.uint64))
    prover.send_elements("b", K(1, 2), K(3))
    verifier = Verifier(prover.proof)
    assert verifier.receive("a", 4).tolist() == [0, 1, 2, 3]
    assert verifier.receive_elements("b", 2) == [K(1, 2), K(3)]
    verifier.finish()
    assert prover.challenge("x") == verifier.challenge("x")
