"""Writes what the tests of `@mitai/proof` compare themselves with: a small proof, and what the Python package says.

Run from the repository's root: `python web/scripts/fixtures_proofs.py`. Models are random and tiny, and seeded.

`answer.proof` is a file that holds. `verdicts.json` has its identity and `runs`: edits of it, `[at, bytes to drop,
bytes to put (hex), code, step]`. `programs.json` has cards, and for lengths of prompt and answer the digest of the
program, likeliest and drawn. `noise.json` is the noise of an answer.

For tests that compare as they run, it writes a line for each line that it reads:

- `files`: what a file is (hex), or the code of an error;
- `programs`: the digest of a program for `[card, prompt, answer, drawn]` (JSON), or the code of an error;
- `answers FOLDER`: reads nothing, and writes more answers than are worth keeping.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mitai.errors import MitaiError
from mitai.proof.answer import Answer, check_answer, generate, prove_answer
from mitai.proof.card import ModelCard, decoder
from mitai.proof.graph import Graph, Real
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.decoder import Decoder
from mitai.proof.prepared import Prepared
from mitai.proof.proving import commit_weights
from mitai.proof.sampling import Agreed, Sampling, commitment

FOLDER = Path(__file__).parents[1] / "packages/proof/test/fixtures"
EDITS = 24
SAMPLING = Sampling(temperature=900, seed=b"s" * 32, nonce=bytes(range(32)))
LENGTHS = ((1, 1), (3, 2), (17, 9))
LLAMA = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3}
CONFIGS = (
    LLAMA,
    LLAMA | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6},
    LLAMA | {"tie_word_embeddings": True, "rms_norm_eps": 0, "rope_parameters": {"rope_theta": 5e5}},
    LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 16}},
    LLAMA | {"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": True, "hidden_size": 24},
    GPT2,
    GPT2 | {"tie_word_embeddings": False, "n_inner": 20, "activation_function": "gelu", "n_layer": 1},
    GPT2 | {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1, "n_positions": 25},
)


class Everywhere(dict[str, int]):
    """One reach for all names."""

    def __missing__(self, name: str) -> int:
        """Return it."""
        return 3


def made(config: dict[str, object], seed: int) -> Prepared:
    """Return a model of random weights."""
    chance = np.random.default_rng(seed)
    text = json.dumps(config)
    model = decoder(text.encode())
    arrays = dict(random_arrays(model, chance))
    reaches = calibrate(arrays, [sample(model, chance.integers(0, model.vocabulary, 12).tolist())])
    weights = commit_weights(model.measure(Graph(reaches), 1).program(), quantise(model, reaches, arrays))
    card = ModelCard(config=text, reaches=reaches, weights=weights.commitment.root.hex() if weights.commitment else "")
    return Prepared(FOLDER, card, weights)


def random_arrays(model: Decoder, chance: np.random.Generator) -> Iterator[tuple[str, Real]]:
    """Yield weights of a model."""
    for name, weight in model.measure(Graph(Everywhere()), 1).program().weights.items():
        yield name, chance.normal(size=weight.shape) / np.sqrt(weight.shape[-2] if len(weight.shape) > 1 else 1)


def verdict(data: bytes, identity: str) -> tuple[str, str]:
    """Return code and step of the refusal of a file, or nothing."""
    try:
        check_answer(Answer.parse(data), identity)
    except MitaiError as error:
        return error.code, getattr(error, "step", None) or ""
    return "", ""


def digest(card: bytes, prompt: int, answer: int, drawn: bool) -> str:
    """Return the digest of a program, or the code of an error."""
    try:
        return ModelCard.parse(card).program(prompt, answer, drawn=drawn).digest.hex()
    except MitaiError as error:
        return error.code


def main() -> None:
    """Write all files."""
    prepared = made(LLAMA | {"intermediate_size": 10}, 4)
    prompt = [5, 6, 7]
    answer = prove_answer(prepared, prompt, generate(prepared, prompt, 2, lambda _: True)).encode()
    (FOLDER / "answer.proof").write_bytes(answer)
    identity, chance = prepared.card.identity, random.Random(6)
    bits = check_answer(Answer.parse(answer), identity)
    proof = len(answer) - len(Answer.parse(answer).proof)
    places = [*range(1, 60, 7), *(chance.randrange(proof) for _ in range(EDITS // 2))]
    places += [proof + chance.randrange(len(answer) - proof) for _ in range(EDITS)]
    edits = [(at, 1, bytes([answer[at] ^ 1 << chance.randrange(8)])) for at in places]
    edits += [(len(answer) - 1, 1, b""), (len(answer), 0, b"\0"), (0, len(answer), b""), (proof + 400, 32, b"")]
    runs = []
    for at, drop, put in edits:
        runs.append([at, drop, put.hex(), *verdict(answer[:at] + put + answer[at + drop :], identity)])
    (FOLDER / "verdicts.json").write_text(json.dumps({"identity": identity, "bits": bits, "runs": runs}) + "\n")
    cards = [made(config, seed).card for seed, config in enumerate(CONFIGS)]
    programs = [
        {"card": card.encode().decode(), "identity": card.identity}
        | {"digests": [[p, a, d, digest(card.encode(), p, a, d)] for p, a in LENGTHS for d in (False, True)]}
        for card in cards
    ]
    (FOLDER / "programs.json").write_text(json.dumps(programs, indent=1) + "\n")
    noise = SAMPLING.noise(cards[0].identity, prompt, 40).rows(0, 3)
    numbers = {"prompt": prompt, "model": cards[0].identity, "noise": noise.tolist()}
    (FOLDER / "noise.json").write_text(json.dumps(numbers) + "\n")


def files() -> None:
    """Say what files are."""
    for line in sys.stdin:
        try:
            answer = Answer.parse(bytes.fromhex(line))
            found = [*answer.prompt, *answer.answer, len(answer.proof), ModelCard.parse(answer.card).identity]
        except MitaiError as error:
            found = [error.code]
        sys.stdout.write(f"{json.dumps(found)}\n")


def programs() -> None:
    """Say which programs follow from cards."""
    for line in sys.stdin:
        card, prompt, answer, drawn = json.loads(line)
        sys.stdout.write(f"{digest(card.encode(), prompt, answer, drawn)}\n")


def answers(folder: Path) -> None:
    """Write answers of some models, one of them drawn."""
    for number, config, sampling in ((0, CONFIGS[5], None), (1, CONFIGS[4], SAMPLING)):
        prepared, file = made(config, number), folder / f"{number}.proof"
        prompt = [1, 2, 3, 4]
        answer = generate(prepared, prompt, 3, lambda _: True, sampling)
        file.write_bytes(prove_answer(prepared, prompt, answer, sampling).encode())
        agreed = Agreed(SAMPLING.temperature, SAMPLING.nonce, commitment(SAMPLING.seed)) if sampling else None
        bits = check_answer(Answer.parse(file.read_bytes()), prepared.card.identity, agreed)
        how = [agreed.temperature, SAMPLING.nonce.hex(), agreed.commitment] if agreed else None
        said = {"file": file.name, "identity": prepared.card.identity, "bits": bits, "agreed": how}
        sys.stdout.write(f"{json.dumps(said)}\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["files"]:
            files()
        case ["programs"]:
            programs()
        case ["answers", folder]:
            answers(Path(folder))
        case _:
            main()
