"""A model made ready for proofs, once: its integers, the commitment to them, and its card, in a folder.

The folder is the prover's: it holds the weights. Large files are mapped, not read.

Example:
    >>> prepare(Path("gpt2"), [[464, 3290], [318]], Path("prepared"))
    >>> Prepared.open(Path("prepared")).card.identity
    '5f1c…'
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mitai.errors import MpcError, ProofError
from mitai.mpc.models.arrays import Tensors
from mitai.proof.card import ModelCard, decoder
from mitai.proof.commitment import Commitment
from mitai.proof.graph import Graph
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.proving import Weights, commit_weights, weights_of

CARD, ARRAY, CODE, TREE = "card.json", "array.npy", "code.npy", "tree.npy"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


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
            array, code, hashes = (np.load(folder / name, mmap_mode="r") for name in (ARRAY, CODE, TREE))
        except FileNotFoundError:
            raise ProofError(
                "proof.prepared-missing",
                f"{folder} is no model that was prepared",
                hint="see: mitai proof prepare --help",
            ) from None
        except ValueError:
            raise _damaged(folder) from None
        levels, at, size = [], 0, len(code)
        while size:
            levels.append(hashes[at : at + size])
            at, size = at + size, size // 2
        if at != len(hashes) or levels[-1].tobytes().hex() != card.weights:
            raise _damaged(folder)
        commitment = Commitment(levels[-1].tobytes(), array, code, levels)
        return Prepared(folder, card, weights_of(card.program(1, 1), commitment))


def prepare(
    model: Path, samples: Sequence[Sequence[int]], out: Path, say: Callable[[str], None] = lambda _: None
) -> ModelCard:
    """Make a Hugging Face folder ready, in a new folder.

    Args:
        model: GPT-2, Llama or Qwen2.
        samples: Tokens of texts like those that the model will see, to measure how large its numbers become.
        out: A folder that is not there yet.
        say: Told what happens.

    Raises:
        MitaiError: The model is not supported, or `out` is there already.
    """
    if not (model / "config.json").is_file():
        raise MpcError(
            "mpc.model-mismatch", f"{model} has no config.json", hint="a folder as save_pretrained writes it"
        )
    if out.exists():
        raise ProofError("proof.out-exists", f"there is something at {out}", hint="give a folder that is not there yet")
    config = (model / "config.json").read_bytes()
    program = decoder(config)
    say("reading the model …")
    arrays = dict(program.arrays(Tensors(model)))
    say(f"measuring how large its numbers become, with {len(samples)} texts …")
    reaches = calibrate(arrays, [sample(program, tokens) for tokens in samples])
    weights = quantise(program, reaches, arrays)
    del arrays
    say("committing to the weights …")
    commitment = commit_weights(program.measure(Graph(reaches), 1).program(), weights).commitment
    if commitment is None:
        raise ProofError("proof.model-unsupported", "the model has no weights")
    card = ModelCard(
        config=config.decode(),
        reaches=reaches,
        weights=commitment.root.hex(),
        tokenizer=_tokenizer(model),
    )
    try:
        _write(out, model, card, commitment)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return card


def check_prepared(prepared: Prepared, model: Path) -> None:
    """Check that what was prepared is the model in a Hugging Face folder: configuration, tokenizer, all weights.

    Raises:
        ProofError: `proof.prepared-differs`.
        MitaiError: The folder can't be read.
    """
    card = prepared.card
    same = (model / "config.json").read_bytes() == card.config.encode() and _tokenizer(model) == card.tokenizer
    graph, left = card.model.measure(Graph(card.reaches), 1), set(prepared.weights.arrays)
    for name, array in card.model.arrays(Tensors(model)) if same else ():
        [whole] = graph.quantised([(name, array)]).values()
        same = same and np.array_equal(whole, prepared.weights.arrays[name])
        left.discard(name)
    if not same or left:
        raise ProofError(
            "proof.prepared-differs",
            f"what was prepared in {prepared.folder} is another model than {model}",
            hint="prepare this one: mitai proof prepare",
        )


def _tokenizer(model: Path) -> str:
    file = model / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _write(out: Path, model: Path, card: ModelCard, commitment: Commitment) -> None:
    out.mkdir(mode=0o700, parents=True)
    np.save(out / ARRAY, commitment.array)
    np.save(out / CODE, commitment.code)
    np.save(out / TREE, np.concatenate(commitment.levels))
    for name in _TOKENIZER:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)
    (out / "config.json").write_text(card.config, encoding="utf-8")
    (out / CARD).write_bytes(card.encode())


def _damaged(folder: Path) -> ProofError:
    return ProofError(
        "proof.prepared-damaged", f"the files in {folder} do not belong together", hint="prepare it again"
    )
