"""Writes what the tests of `@mitai/proof` compare themselves with for proofs that hide (docs/spec/proof-zk.md).

Run from the repository's root, after `fixtures_proofs.py`: `python web/scripts/fixtures_hidden.py`. The model is that
of `answer.proof`, with a hiding commitment. What hides is random, so each run writes another proof.

`hidden.proof` is a file that holds. `hidden.json` has its identity and `bits`, and

- `runs`: edits of its proof, `[message, at, bytes to drop, bytes to put (hex), code, step]`;
- `confused`: code and step of files whose proof, or whose card's uses, are another's;
- `shapes`: `[log of the size, uses, log of a row's size, of rows, random coefficients, log of leaves]`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import msgspec
from fixtures_proofs import FOLDER, LLAMA, made

from mitai.errors import MitaiError
from mitai.proof.answer import Answer, check_answer, claimed, generate, prove_answer
from mitai.proof.card import ModelCard
from mitai.proof.verify.hiding import HidingShape
from mitai.proof.verify.masked import MaskedVerifier
from mitai.proof.verify.program import hear

USES = 2
OF_A_KIND = 3  # so many messages of each label are damaged


class Listener(MaskedVerifier):
    """A verifier that writes down where messages are."""

    def __init__(self, proof: bytes, uses: int) -> None:
        self.heard: list[tuple[str, int, int]] = []
        super().__init__(proof, uses)

    def receive_bytes(self, label: str, size: int) -> bytes:
        """Hear bytes."""
        if size:
            self.heard.append((label, self._at, size))
        return super().receive_bytes(label, size)


def verdict(answer: Answer, identity: str | None = None) -> tuple[str, str]:
    """Return code and step of the refusal of an answer, or nothing; the model is the card's unless it is said."""
    try:
        check_answer(answer, identity or ModelCard.parse(answer.card).identity)
    except MitaiError as error:
        return error.code, getattr(error, "step", None) or ""
    return "", ""


def edits(answer: Answer, chance: random.Random) -> Iterator[tuple[str, int, int, bytes]]:
    """Yield a message's name and an edit of the proof: bits of all kinds of messages, and ends that are others."""
    listener = Listener(answer.proof, USES)
    hear(claimed(answer, ModelCard.parse(answer.card).identity), listener)
    walked = len(listener.heard)
    listener.finish()
    for last in (False, True):
        heard = listener.heard[walked:] if last else listener.heard[:walked]
        for label in sorted({label for label, _, _ in heard}):
            of = [(at, size) for one, at, size in heard if one == label]
            for at, size in chance.sample(of, min(len(of), OF_A_KIND)):
                place = at + chance.randrange(size)
                yield label, place, 1, bytes([answer.proof[place] ^ 1 << chance.randrange(8)])
    label, at, _ = next(one for one in listener.heard if one[0] == "round")
    yield f"{label} beyond the field", at, 8, b"\xff" * 8
    end = len(answer.proof)
    yield "end", end, 0, b"\0"
    yield "end", end - 1, 1, b""
    yield "end", end // 2, end - end // 2, b""
    yield "end", 0, end, b""


def confused(hidden: Answer, succinct: Answer) -> Iterator[tuple[str, str]]:
    """Yield verdicts: each one's proof in the other's file; the right proof for cards of other uses, and of none."""
    yield verdict(msgspec.structs.replace(hidden, proof=succinct.proof))
    yield verdict(msgspec.structs.replace(succinct, proof=hidden.proof))
    card = ModelCard.parse(hidden.card)
    for uses in (USES - 1, USES + 1, msgspec.UNSET):
        yield verdict(msgspec.structs.replace(hidden, card=msgspec.structs.replace(card, uses=uses).encode()))


def main() -> None:
    """Write both files."""
    succinct = Answer.parse((FOLDER / "answer.proof").read_bytes())
    prepared = made(LLAMA | {"intermediate_size": 10}, 4, uses=USES)
    prompt = [*succinct.prompt]
    answer = prove_answer(prepared, prompt, generate(prepared, prompt, 2, lambda _: True))
    (FOLDER / "hidden.proof").write_bytes(answer.encode())
    identity, chance = prepared.card.identity, random.Random(8)
    runs = []
    for label, at, drop, put in edits(answer, chance):
        damaged = msgspec.structs.replace(answer, proof=answer.proof[:at] + put + answer.proof[at + drop :])
        runs.append([label, at, drop, put.hex(), *verdict(damaged, identity)])
    shapes = []
    for log, uses in ((log, uses) for log in range(35) for uses in (1, 2, 64, 1000, 4096)):
        shape = HidingShape.of(log, uses)
        shapes.append([log, uses, shape.positions, shape.rows, shape.margin, shape.leaves])
    told = {
        "identity": identity,
        "bits": check_answer(answer, identity),
        "runs": runs,
        "confused": [*confused(answer, succinct)],
        "shapes": shapes,
    }
    (FOLDER / "hidden.json").write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
