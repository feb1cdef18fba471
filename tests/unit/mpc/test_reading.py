"""BERT behind parties: classes and embeddings of texts, for the client alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from test_sharing import Processes, app_result, free_port
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from mitai.cli import mpc
from mitai.errors import MitaiError
from mitai.mpc.reading import Reading, fitting_reading, reading
from mitai.mpc.setup import Side, configure_here
from mitai.mpc.sharing import SIDES, ShareFolder, split_model
from mitai.mpc.tasks import Question, Walk
from mitai.mpc.text import Text, Tokens
from mpc_rig import Parties, floats, random_model

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "film", "is", "good", "bad", "not"]
SIZES = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 32,
}  # fmt: skip
NAMES = {0: "bad", 1: "dull", 2: "good"}
MODELS = {
    "bert": transformers.BertConfig(**SIZES, num_labels=3, id2label=NAMES),
    "bert-embeddings": transformers.BertConfig(**SIZES),
}


@pytest.fixture(scope="module", params=MODELS)
def bert(request, tmp_path_factory):
    """A tiny BERT's name, the model, and where it was saved with a tokenizer and cut."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_model(request.param, MODELS[request.param], {"": 0.4})
    model.save_pretrained(folder / "model")
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder / "model")
    split_model(folder / "model", folder / "cut")
    return request.param, model, folder / "cut"


def offered(cut, lengths=(8, 16), batch=1):
    return reading(ShareFolder.open(cut / "client"), lengths, batch)


def refused(code, work):
    with pytest.raises(MitaiError) as caught:
        work()
    assert caught.value.code == code


def exact(model, texts):
    """Return what transformers says of texts, each by itself."""
    found = []
    for text in texts:
        types = torch.tensor([text.types or (0,) * len(text.ids)])
        with torch.no_grad():
            result = model(torch.tensor([text.ids]), token_type_ids=types)
        found.append(floats(result.logits[0] if "logits" in result else result.last_hidden_state[0].mean(0)))
    return np.array(found)


@pytest.mark.parametrize("batch", [1, 3])
def test_what_the_client_is_told_is_what_transformers_says(bert, batch):
    _, model, cut = bert
    offer = offered(cut, batch=batch)
    parties, words = Parties(cut, offer), Text.load(cut / "client")
    texts = [words.read("the film is not bad"), words.read("the film", "is good"), Tokens((1, 2))][:batch]
    assert texts[-1].types[-1:] in {(), (0,), (1,)}
    task = fitting_reading(offer, max(len(text.ids) for text in texts), batch)
    assert task.length == 8
    (numbers,) = parties.ask(None, None, offer, Question(task), task.values(texts))
    assert np.abs(numbers - exact(model, texts)).max() < 3e-3
    if batch > 1:  # a batch may be filled up by its client
        (alone,) = parties.ask(None, None, offer, Question(task), task.values(texts[1:2]))
        assert np.abs(alone - exact(model, texts[1:2])).max() < 3e-3


def test_the_command_asks(bert, monkeypatch, capsys):
    name, model, cut = bert
    configure_here(cut, (7801, 7802), prompt_tokens=[8, 16], batch=2)
    parties = Parties(cut, Side.open(cut / "client").offer)
    monkeypatch.setattr("mitai.mpc.clients.ask", parties.ask)
    monkeypatch.setattr("mitai.cli.mpc.forbid_core_dumps", lambda: None)
    mpc.ask(cut / "client", "the film is good", "bad", second="not bad", json=True)
    told = json.loads(capsys.readouterr().out)["texts"]
    words = Text.load(cut / "client")
    expected = exact(model, [words.read(text, "not bad") for text in ("the film is good", "bad")])
    for one, plain in zip(told, expected, strict=True):
        if name == "bert":
            shares = np.exp(plain) / np.exp(plain).sum()
            assert one["label"] == NAMES[int(plain.argmax())]
            assert one["scores"] == pytest.approx(dict(zip(NAMES.values(), shares, strict=True)), abs=2e-3)
        else:
            assert one["embedding"] == pytest.approx(plain.tolist(), abs=3e-3)
    mpc.ask(cut / "client", "the film")
    assert capsys.readouterr().out.strip().count("\n") == 0
    for wrong in ({"temperature": 1.0}, {"max_tokens": 3}, {"plain": True}):
        refused("mpc.not-offered", lambda wrong=wrong: mpc.ask(cut / "client", "the film", **wrong))
    refused("mpc.not-offered", lambda: mpc.ask(cut / "client", "one", "two", "three"))
    refused("mpc.prompt-too-long", lambda: mpc.ask(cut / "client", "good " * 20))


def test_a_text_changes_no_step(bert):
    """Not its length, not whether it is two texts, and not how many there are."""
    _, _, cut = bert
    offer = offered(cut, (8,), batch=2)
    (task,) = offer.tasks
    shapes = set()
    for texts in ([Tokens((1, 2))], [Tokens((1, 4, 2, 5, 2), (0, 0, 0, 1, 1)), Tokens((1,) * 8)]):
        arrays = Walk().answer(offer, Question(task), task.values(texts))
        shapes.add(tuple(array.shape for array in arrays))
    assert len(shapes) == 1


def test_what_is_offered(bert):
    name, _, cut = bert
    kind = "classify" if name == "bert" else "embed"
    offer = offered(cut, (16, 8, 33), batch=2)
    assert [task.name for task in offer.tasks] == [f"{kind} 16 2", f"{kind} 8 2"]
    assert fitting_reading(offer, 8, 2).length == 8
    assert fitting_reading(offer, 9, 1).length == 16
    refused("mpc.prompt-too-long", lambda: fitting_reading(offer, 17, 1))
    refused("mpc.not-offered", lambda: fitting_reading(offer, 8, 3))
    refused("mpc.model-unsupported", lambda: offered(cut, (33,)))


def test_tokens_of_another_model_are_refused(bert):
    """A number too high would be read as a type."""
    _, _, cut = bert
    (task,) = offered(cut, (8,)).tasks
    for text in (Tokens((1, len(WORDS))), Tokens((1, 2), (0, 2))):
        refused("mpc.no-tokenizer", lambda text=text: task.values([text]))
    refused("mpc.prompt-empty", lambda: task.values([Tokens((1,)), Tokens(())]))


def test_scores_follow_the_kind_of_problem():
    logits = np.array([0.0, 2.0, -2.0])

    def told(count, **members):
        labels = {str(label): name for label, name in NAMES.items() if label < count}
        config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": labels}
        task = Reading(model_of(config | members), 8, 1)
        return task.told(logits[:count])

    assert told(3)["label"] == "dull"
    assert sum(told(3)["scores"].values()) == pytest.approx(1)
    several = told(3, problem_type="multi_label_classification")["scores"]
    assert several == pytest.approx({"bad": 0.5, "dull": 0.8808, "good": 0.1192}, abs=1e-4)
    assert told(1)["scores"] == {"bad": 0.0}
    assert told(2, problem_type="regression")["scores"] == {"bad": 0.0, "dull": 2.0}
    assert list(told(2, id2label=None)["scores"]) == ["LABEL_0", "LABEL_1"]


def model_of(config):
    from mitai.mpc.models.bert import Bert
    from mitai.mpc.models.config import BertConfig, parse_config

    return Bert(parse_config(json.dumps(config).encode(), BertConfig))


@pytest.mark.slow
def test_three_processes_read(bert, capsys):
    _, model, cut = bert
    configure_here(cut, (free_port(), free_port()), prompt_tokens=8)
    processes = Processes(cut, SIDES[:3])
    try:
        for role in SIDES[:2]:
            processes.wait_for(role, "the model is loaded")
        capsys.readouterr()
        app_result("ask", cut / "client", "the film is good", "--second", "bad", "--json")
        (told,) = json.loads(capsys.readouterr().out)["texts"]
    finally:
        processes.kill()
    (plain,) = exact(model, [Text.load(cut / "client").read("the film is good", "bad")])
    if "label" in told:
        assert told["label"] == NAMES[int(plain.argmax())]
    else:
        assert told["embedding"] == pytest.approx(plain.tolist(), abs=3e-3)
