"""A model made ready for proofs, once: its integers, the commitment to them, and its card, in a folder.

The folder is the prover's: it holds the weights (`mitai.proof.stored`).

- No more than the largest of the weights is in memory, and what a commitment works on at a time.

Example:
    >>> prepare(Path("gpt2"), [[464, 3290], [318]], Path("prepared"))
    >>> Prepared.open(Path("prepared")).card.identity
    '5f1c…'
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from mitai.errors import MpcError, ProofError
from mitai.mpc.models.arrays import Tensors
from mitai.proof.card import ModelCard, family
from mitai.proof.graph import Graph, Real
from mitai.proof.models.bert import Bert
from mitai.proof.models.calibration import calibrate, sample, weight_reaches
from mitai.proof.models.decoder import Decoder
from mitai.proof.program import Program
from mitai.proof.proving import Weights, commit_weights
from mitai.proof.stored import (
    Sizes,
    are_committed,
    array_file,
    disk,
    disk_full,
    mapped,
    named_last,
    read,
    write_commitment,
    write_weights,
)

CARD = "card.json"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    "chat_template.jinja",
)
_FLOAT_BYTES = 8


@dataclass(frozen=True)
class Prepared:
    """A model that answers with proofs."""

    folder: Path
    card: ModelCard
    weights: Weights

    @staticmethod
    def open(folder: Path) -> Prepared:
        """Map a folder.

        Raises:
            ProofError: `proof.prepared-missing`, `proof.prepared-damaged`.
            ParseError: The card is malformed.
        """
        try:
            card = ModelCard.parse((folder / CARD).read_bytes())
            weights = read(folder, card.declared, card.uses or 0)
        except FileNotFoundError:
            raise ProofError(
                "proof.prepared-missing",
                f"{folder} is no model that was prepared",
                hint="see: mitai proof prepare --help",
            ) from None
        except ValueError:
            weights = None
        if weights is None or weights.root is None or weights.root.hex() != card.weights:
            raise ProofError(
                "proof.prepared-damaged", f"the files in {folder} do not belong together", hint="prepare it again"
            )
        return Prepared(folder, card, weights)


def prepare(
    model: Path,
    samples: Sequence[Sequence[int]],
    out: Path,
    say: Callable[[str], None] = lambda _: None,
    *,
    code: bool = True,
    uses: int = 0,
) -> ModelCard:
    """Make a Hugging Face folder ready, in a new folder.

    Args:
        model: GPT-2, Llama, Qwen2 or BERT.
        samples: Tokens of texts like those that the model will see, to measure how large its numbers become.
        out: A folder that is not there yet.
        say: Told what happens.
        code: Whether the encoded weights are kept, which take most of the folder and make proofs quicker.
        uses: How many proofs there may be, which hide weights and activations; 0 for any number of succinct ones.

    Raises:
        MitaiError: The model is not supported, `out` is there already, or there is no room for it.
    """
    if not (model / "config.json").is_file():
        raise MpcError(
            "mpc.model-mismatch", f"{model} has no config.json", hint="a folder as save_pretrained writes it"
        )
    config = (model / "config.json").read_bytes()
    program = family(config)
    with named_last(out) as partial:
        _say_sizes(program, partial, say, code=code, uses=uses)
        whole, reaches = _quantised(program, model, samples, partial, say)
        progress = _percent("committing to the weights", say)
        root = write_commitment(partial, whole, uses=uses, code=code, say=progress)
        card = ModelCard(
            config=config.decode(),
            reaches=reaches,
            weights=root.hex(),
            tokenizer=_tokenizer(model),
            uses=uses or msgspec.UNSET,
        )
        _write_card(partial, model, card)
    return card


def card_of(files: Mapping[str, bytes], samples: Sequence[Sequence[int]]) -> ModelCard:
    """Return the card that `prepare` makes of a model, out of its files in memory; nothing is written.

    Raises:
        MitaiError: The model is not supported.
    """
    program = family(files["config.json"])
    arrays = dict(program.arrays(Tensors(files)))
    reaches = calibrate(arrays, [sample(program, tokens) for tokens in samples])
    graph = program.measure(Graph(reaches), 1)
    weights = commit_weights(graph.program(), graph.quantised(arrays.items()))
    tokenizer = files.get("tokenizer.json")
    return ModelCard(
        config=files["config.json"].decode(),
        reaches=reaches,
        weights=(weights.root or b"").hex(),
        tokenizer=hashlib.sha256(tokenizer).hexdigest() if tokenizer is not None else "",
    )


def check_prepared(prepared: Prepared, model: Path) -> None:
    """Check that what was prepared is the model in a Hugging Face folder: configuration, tokenizer, all weights.

    The weights have to be behind the card's root as well, which takes as long as committing to them.

    Raises:
        ProofError: `proof.prepared-differs`.
        MitaiError: The folder can't be read.
    """
    card = prepared.card
    same = (model / "config.json").read_bytes() == card.config.encode() and _tokenizer(model) == card.tokenizer
    program, left = family(card.config.encode()), set(prepared.weights.arrays)
    graph = program.measure(Graph(card.reaches), 1)
    for name, array in program.arrays(Tensors(model)) if same else ():
        [whole] = graph.quantised([(name, array)]).values()
        same = same and card.reaches[name] == weight_reaches({name: array})[name]  # else all could be rounded away
        same = same and np.array_equal(whole, prepared.weights.arrays[name])
        left.discard(name)
    if not same or left or not are_committed(prepared.weights, card.declared):
        raise ProofError(
            "proof.prepared-differs",
            f"what was prepared in {prepared.folder} is another model than {model}",
            hint="prepare this one: mitai proof prepare",
        )


def _tokenizer(model: Path) -> str:
    file = model / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _quantised(
    program: Decoder | Bert, model: Path, samples: Sequence[Sequence[int]], folder: Path, say: Callable[[str], None]
) -> tuple[Program, dict[str, int]]:
    """Write the weights as integers into a folder; return a program that declares them, and the calibration."""
    say("reading the model …")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        arrays = _floats(program, model, Path(scratch))
        say(f"measuring how large its numbers become, with {len(samples)} texts …")
        reaches = calibrate(arrays, [sample(program, tokens) for tokens in samples])
        graph = program.measure(Graph(reaches), 1)
        whole = graph.program()
        write_weights(folder, whole, lambda name: graph.integers(name, arrays[name]))
    return whole, reaches


def _write_card(folder: Path, model: Path, card: ModelCard) -> None:
    with disk():
        for name in TOKENIZER:
            if (model / name).is_file():
                shutil.copyfile(model / name, folder / name)
        (folder / "config.json").write_text(card.config, encoding="utf-8")
        (folder / CARD).write_bytes(card.encode())


def _floats(program: Decoder | Bert, model: Path, folder: Path) -> dict[str, Real]:
    """Return the model's weights, as files in a folder."""
    arrays: dict[str, Real] = {}
    with disk():
        for name, array in program.arrays(Tensors(model)):
            with array_file(folder / f"{name}.npy", array.shape, "<f8") as put:
                put(array)
            arrays[name] = mapped(folder / f"{name}.npy", np.float64)
    return arrays


def _say_sizes(program: Decoder | Bert, where: Path, say: Callable[[str], None], *, code: bool, uses: int) -> None:
    """Say how much room is needed, and refuse if there is less."""
    rough = program.measure(Graph(defaultdict(int)), 1).program()
    sizes = Sizes.of(rough, uses)
    kept = sizes.code if code else 0
    say(f"the prepared model takes {_gigabytes(sizes.weights + kept)}, {_gigabytes(kept)} of them its weights' code")
    scratch = sum(_FLOAT_BYTES * prod(weight.shape) for weight in rough.weights.values())
    needed, free = sizes.weights + max(scratch, kept), shutil.disk_usage(where).free
    if free < needed:
        raise disk_full(f"{_gigabytes(needed)} are needed and {_gigabytes(free)} are free")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _percent(what: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return what says how much is done, at each tenth."""

    def progress(done: int, of: int) -> None:
        if done * 10 // of > (done - 1) * 10 // of:
            say(f"{what}: {100 * done // of} %")

    return progress
