"""BERT reads a text, and its class or embedding proves itself: in Python and by `mitai proof`."""

import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig

from mitai import demo_model
from mitai.cli.commands import app
from mitai.errors import MitaiError, ParseError, ProofError
from mitai.proof.card import ModelCard
from mitai.proof.prepared import Prepared, check_prepared, prepare
from mitai.proof.readings import Reading, check_reading, prove_reading
from mpc_rig import random_model

TEXT = [5, 6, 7, 8]
SMALL = {
    "vocab_size": 2560, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module", params=["bert", "bert-embeddings"])
def bert(request, tmp_path_factory):
    """A tiny BERT that classifies, or that gives embeddings, with the demo model's tokenizer."""
    config = BertConfig(**SMALL, id2label={0: "dull", 1: "fair", 2: "fine"})
    model = random_model(request.param, config, {"": 0.15})
    folder = tmp_path_factory.mktemp("bert")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    content = model.config.to_dict() | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(content))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_model.path() / name, folder / name)
    prepare(folder, [TEXT, list(range(40, 60))], folder / "prepared")
    prepared = Prepared.open(folder / "prepared")
    return model, folder, prepared, prove_reading(prepared, TEXT)


def exact(model, text):
    with torch.no_grad():
        found = model(torch.tensor([text]))
    return found.logits[0].argmax().numpy() if "logits" in found else found.last_hidden_state[0].mean(0).numpy()


def test_a_reading_proves_itself(bert):
    model, folder, prepared, reading = bert
    check_prepared(prepared, folder)
    bits, meant = check_reading(Reading.parse(reading.encode()), prepared.card.identity)
    assert bits > 100
    assert np.abs(meant - exact(model, TEXT)).max() < 0.02


def test_nothing_of_it_can_be_changed(bert):
    prepared, reading = bert[2:]
    identity = prepared.card.identity
    last = reading.outputs[:-8] + bytes([reading.outputs[-8] ^ 1]) + reading.outputs[-7:]
    changes = [{"text": (*TEXT[:3], 9)}, {"text": (*TEXT, 9)}, {"text": (*TEXT[:3], 2560)}, {"text": (5,) * 65}]
    changes += [{"outputs": last}, {"outputs": b""}, {"proof": reading.proof[:-1]}]
    changes += [{"card": msgspec.structs.replace(prepared.card, weights="0" * 64).encode()}]
    for other in changes:
        with pytest.raises(MitaiError):
            check_reading(msgspec.structs.replace(reading, **other), identity)
    with pytest.raises(ProofError) as refused:
        check_reading(reading, "0" * 64)
    assert refused.value.code == "proof.model-differs"
    for data in (reading.encode() + b"0", b""):
        with pytest.raises(ParseError):
            Reading.parse(data)


def test_models_that_read_do_not_answer(bert):
    card = bert[2].card
    for ask in (lambda: card.model, lambda: card.program(1, 1)):
        with pytest.raises(ProofError) as refused:
            ask()
        assert refused.value.code == "proof.model-unsupported"
    gpt2 = ModelCard(config='{"model_type": "gpt2"}', reaches={}, weights="0" * 64)
    with pytest.raises(ProofError) as refused:
        gpt2.reading(1)
    assert refused.value.code == "proof.model-unsupported"


@pytest.mark.slow
def test_commands(bert, tmp_path, capsys):
    def run(*words: str) -> dict[str, object]:
        app([*words, "--json"], result_action="return_value")
        return json.loads(capsys.readouterr().out)

    folder, file = str(tmp_path / "prepared"), str(tmp_path / "reading.proof")
    identity = str(run("proof", "prepare", str(bert[1]), folder)["model"])
    told = run("proof", "ask", folder, "A fine day.", "--out", file)
    checked = run("proof", "verify", file, "--model", identity)
    assert checked["verdict"] == "holds"
    what = "label" if "label" in told else "embedding"
    assert told[what] == checked[what] == run("proof", "inspect", file)[what]
    for words in (["--input", file], ["--temperature", "1"]):
        with pytest.raises(ProofError):
            run("proof", "ask", folder, "What?", *words)


@pytest.mark.slow
def test_commands_of_a_hidden_model_that_reads(bert, tmp_path, capsys):
    def run(*words: str) -> dict[str, object]:
        app(["proof", *words, "--json"], result_action="return_value")
        return json.loads(capsys.readouterr().out)

    folder, file = str(tmp_path / "prepared"), str(tmp_path / "reading.proof")
    identity = str(run("prepare", str(bert[1]), folder, "--zk", "--proofs", "1")["model"])
    told = run("ask", folder, "A fine day.", "--out", file)
    for shown in (told, run("verify", file, "--model", identity), run("inspect", file)):
        assert str(shown["hides"]).startswith("weights")
    for code, words in (
        ("proof.uses-spent", ("ask", folder, "A fine day.", "--out", file)),
        ("proof.model-differs", ("verify", file, "--model", bert[2].card.identity)),
    ):
        with pytest.raises(ProofError) as refused:
            run(*words)
        assert refused.value.code == code
    reading = Reading.parse((tmp_path / "reading.proof").read_bytes())
    for uses in (2, msgspec.UNSET):
        card = msgspec.structs.replace(ModelCard.parse(reading.card), uses=uses)
        with pytest.raises(ProofError):
            check_reading(msgspec.structs.replace(reading, card=card.encode()), card.identity)


def test_a_strangers_card_is_looked_at_in_bounded_time(bert, tmp_path):
    reading = bert[3]
    card = ModelCard.parse(reading.card)
    config = json.dumps(json.loads(card.config) | {"num_hidden_layers": 1 << 20})
    (tmp_path / "file").write_bytes(
        msgspec.structs.replace(reading, card=msgspec.structs.replace(card, config=config).encode()).encode()
    )
    with pytest.raises(ProofError) as refused:
        app(["proof", "inspect", str(tmp_path / "file"), "--json"], result_action="return_value")
    assert refused.value.code == "proof.card-too-large"
