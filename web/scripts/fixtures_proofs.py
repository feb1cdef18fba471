"""Writes what the tests of `@mitai/proof` compare themselves with: a small proof, and what the Python package says.

Run from the repository's root: `python web/scripts/fixtures_proofs.py`. Models are random and tiny, and seeded.

`answer.proof` is a file that holds. `verdicts.json` has its identity and `runs`: edits of it, `[at, bytes to drop,
bytes to put (hex), code, step]`. `programs.json` has cards, and for lengths of prompt and answer the digest of the
program, likeliest and drawn. `noise.json` is the noise of an answer. `tokenizer.json` is that of the model behind
`answer.proof`; `words.json` has more, and what Hugging Face's `tokenizers` makes of random tokens: of the demo model's,
which is not repeated there, and of others. `work.json` has sizes of look-ups and of openings (logarithms), and the bits
of work before them.

For tests that compare as they run, it writes a line for each line that it reads:

- `files`: what a file is (hex), or the code of an error;
- `programs`: the digest of a program for `[card, prompt, answer, drawn]` (JSON), or the code of an error;
- `answers FOLDER`: reads nothing, and writes more answers than are worth keeping;
- `worked FOLDER`: the same, two answers that need work, as so little may go wrong with them.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mitai.errors import MitaiError
from mitai.proof.answer import Answer, check_answer, generate, prove_answer
from mitai.proof.card import ModelCard, decoder
from mitai.proof.graph import Graph, Real
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.decoder import Decoder
from mitai.proof.prepared import Prepared
from mitai.proof.proving import commit_weights
from mitai.proof.sampling import Agreed, Sampling, commitment
from mitai.proof.verify import soundness
from mitai.proof.verify.commitment import MAX_LOG
from mitai.proof.verify.sizes import before_openings
from mitai.proof.verify.statement import uses_of

FOLDER = Path(__file__).parents[1] / "packages/proof/test/fixtures"
DEMO = Path(__file__).parents[2] / "src/mitai/demo_model/model/tokenizer.json"
EDITS = 24
SEQUENCES = 40
SAMPLING = Sampling(temperature=900, seed=b"s" * 32, nonce=bytes(range(32)))
LENGTHS = ((1, 1), (3, 2), (17, 9))
LLAMA = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3}
# What the answer says; it has markup, and turns the text around it.
WORDS = {5: "Who", 6: "Ġare<b>Ġyou</b>", 7: "?", 17: "âĢ®IĠamĠæĺŁ"}
BYTES = ["Ġ", "Ċ", "ä", "¸", "Ń", "æĺ", "Ł", "ï", "»", "¿", "A", "é", "<", "b", "Ã", "©", "ðŁ", "ĺ", "Ģ"]
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


def made(config: dict[str, object], seed: int, tokenizer: str = "", uses: int = 0) -> Prepared:
    """Return a model of random weights; with uses, they are hidden."""
    chance = np.random.default_rng(seed)
    text = json.dumps(config)
    model = decoder(text.encode())
    arrays = dict(random_arrays(model, chance))
    reaches = calibrate(arrays, [sample(model, chance.integers(0, model.vocabulary, 12).tolist())])
    weights = commit_weights(model.measure(Graph(reaches), 1).program(), quantise(model, reaches, arrays), uses)
    root = weights.commitment.root.hex() if weights.commitment else ""
    digest = hashlib.sha256(tokenizer.encode()).hexdigest() if tokenizer else ""
    card = ModelCard(config=text, reaches=reaches, weights=root, tokenizer=digest, uses=uses or msgspec.UNSET)
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


def made_tokenizer(tokens: list[str], decoder: decoders.Decoder, *, typed: bool = True) -> str:
    """Return a `tokenizer.json` of these tokens, the first of which is special, and of two added ones."""
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([tokens[0], "<|end of turn▁|>"])
    tokenizer.add_tokens([AddedToken("<tool call>")])
    whole = json.loads(tokenizer.to_str())
    if not typed:
        del whole["model"]["type"]
    return json.dumps(whole, ensure_ascii=False)


def words() -> Iterator[dict[str, object]]:
    """Yield tokenizers, and what they make of random tokens."""
    chance = random.Random(7)
    letters = pre_tokenizers.ByteLevel.alphabet()
    some = ["".join(chance.choices(sorted(letters), k=chance.randint(1, 4))) for _ in range(200)]
    bytewise = ["<s>", *dict.fromkeys([*BYTES, "ä中", "a b", "<0x41>", *some])]
    marked = ["<s>", "▁", "▁▁", "▁a", "b▁c▁", "星", "", *(f"<0x{byte:02X}>" for byte in range(256)), "<0x4g>", "<0xe4>"]
    llama = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made = [
        DEMO.read_text(),
        made_tokenizer(bytewise, decoders.ByteLevel()),
        made_tokenizer(bytewise, decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "b")]), typed=False),
        *(made_tokenizer(marked, decoders.Metaspace(prepend_scheme=scheme)) for scheme in ("always", "first", "never")),
        made_tokenizer(marked, decoders.Sequence(llama)),
        made_tokenizer(marked, decoders.Sequence([decoders.ByteFallback(), decoders.Strip("▁", 1, 0)])),
        made_tokenizer(marked, decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
    ]
    for text in made:
        tokenizer = Tokenizer.from_str(text)
        size = tokenizer.get_vocab_size()
        runs = [[chance.randrange(size) for _ in range(chance.randint(1, 12))] for _ in range(SEQUENCES)]
        said = [[run, tokenizer.decode(run, skip_special_tokens=False)] for run in runs]
        yield {"tokenizer": "" if text is made[0] else text, "runs": said}


def main() -> None:
    """Write all files."""
    tokenizer = made_tokenizer([WORDS.get(number, f"Ġ{number}") for number in range(35)], decoders.ByteLevel())
    (FOLDER / "tokenizer.json").write_text(tokenizer)
    (FOLDER / "words.json").write_text(json.dumps(list(words())) + "\n")
    prepared = made(LLAMA | {"intermediate_size": 10}, 4, tokenizer)
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
    (FOLDER / "work.json").write_text(json.dumps(work()) + "\n")


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


def work() -> dict[str, object]:
    """Return sizes, and how much work there is before what is drawn for them."""
    chance = random.Random(9)
    lookups, openings = [], []
    for _ in range(60):
        sizes = [(chance.randint(0, MAX_LOG), chance.randint(0, 16), chance.randint(1, 2)) for _ in range(12)]
        sizes = sizes[: chance.randint(1, 12)]
        before = soundness.work([soundness.lookups(*size) for size in sizes], soundness.LOOKUPS)
        lookups.append({"lookups": sizes, "before": before})
        opened = {source: chance.randint(25, MAX_LOG) for source in ("weight", "hint", "input", "result")}
        if chance.random() < 0.7:  # as with answers: no cache is kept
            del opened["input"], opened["result"]
        uses = chance.choice((0, 0, 1, 2, 64, 4096))
        before = list(before_openings(opened, uses).values())
        pairs = [(log, uses_of(source, uses) if uses else 0) for source, log in opened.items()]
        openings.append({"opened": pairs, "before": before})
    return {"lookups": lookups, "openings": openings}


Case = tuple[dict[str, object], Sampling | None, int]
CASES: tuple[Case, ...] = (
    (CONFIGS[5], None, 0), (CONFIGS[4], SAMPLING, 0), (CONFIGS[6], None, 1), (CONFIGS[1], SAMPLING, 64)
)  # fmt: skip


def worked(folder: Path) -> None:
    """Write answers with work."""
    soundness.LOOKUPS, soundness.OPENINGS = Fraction(1, 1 << 120), Fraction(1, 1 << 108)
    answers(folder, ((CONFIGS[5], None, 0), (CONFIGS[6], None, 2)))


def answers(folder: Path, cases: tuple[Case, ...] = CASES) -> None:
    """Write answers of some models, some of them drawn, some with hidden weights."""
    for number, (config, sampling, uses) in enumerate(cases):
        prepared, file = made(config, number, uses=uses), folder / f"{number}.proof"
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
        case ["worked", folder]:
            worked(Path(folder))
        case _:
            main()
