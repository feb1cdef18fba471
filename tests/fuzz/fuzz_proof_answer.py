"""Fuzz: files with answers and their proofs, and cards of models, as they come from strangers.

Run `python tests/fuzz/fuzz_proof_answer.py [libFuzzer options]` with atheris.
"""

import sys

import msgspec

from mitai.errors import MitaiError
from mitai.proof.answer import Answer, check_answer
from mitai.proof.card import ModelCard
from mitai.proof.readings import Reading, check_reading
from mitai.proof.sampling import Agreed, Sampling

CARD = ModelCard(
    config='{"model_type": "llama", "vocab_size": 9, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, '
    '"num_attention_heads": 1}',
    reaches={"table.weight": 2, "logits": 3},
    weights="5a" * 32,
)
SAMPLING = Sampling(temperature=700, seed=b"s" * 32, nonce=b"n" * 32)
ANSWER = Answer(card=CARD.encode(), prompt=(1, 2), answer=(3,), proof=b"\1" * 64)
HIDDEN = msgspec.structs.replace(ANSWER, card=msgspec.structs.replace(CARD, uses=3).encode())
BERT = ModelCard(
    config='{"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, '
    '"num_attention_heads": 1, "max_position_embeddings": 8}',
    reaches={"table.weight": 2},
    weights="5a" * 32,
)
READING = Reading(card=BERT.encode(), text=(1, 2), outputs=bytes(32), proof=b"\1" * 64)
SEEDS = (
    ANSWER.encode(), HIDDEN.encode(), CARD.encode(), READING.encode(),
    msgspec.structs.replace(ANSWER, sampling=SAMPLING).encode(),
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and nothing is accepted: nobody has proven anything."""
    for parse in (Answer.parse, Reading.parse, ModelCard.parse):
        try:
            read = parse(data)
        except MitaiError:
            continue
        assert read.encode() == data
        if isinstance(read, Answer) and len(read.prompt) + len(read.answer) < 8:
            try:
                agreed = Agreed(read.sampling.temperature) if read.sampling else None
                check_answer(read, ModelCard.parse(read.card).identity, agreed)
            except MitaiError:
                continue
            raise AssertionError
        if isinstance(read, Reading):
            try:
                check_reading(read, ModelCard.parse(read.card).identity)
            except MitaiError:
                continue
            raise AssertionError


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
