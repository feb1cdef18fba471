"""MPCFormer's approximations: torch computes what secure computation computes, and a model learns to live with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from train_rig import Kept, MemorySource, conversations, job, lines, tiny_llama
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, LlamaConfig

from mitai import demo_model
from mitai.errors import ServeError, TrainError
from mitai.mpc import nonlinear
from mitai.mpc.clear import ClearEngine
from mitai.mpc.generate import generate, prompts
from mitai.mpc.models.arrays import Arrays, Tensors
from mitai.mpc.models.bert import Bert
from mitai.mpc.models.config import BertConfig as SecureConfig
from mitai.mpc.models.config import parse_config
from mitai.mpc.sampling import Sampling
from mitai.serve import loading
from mitai.train.approximation import Quad, approximate, load, two_quad
from mitai.train.run import run
from mpc_rig import Named, ours, random_model

SMALL = {
    "vocab_size": 101, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip
FAST = "[training]\nbatch = 4\nepochs = 6\nmax_length = 32\nlearning_rate = 3e-3\n"
RECORDS = lines([{"text": f"What is {n}?", "pair": f"Number {n * n}."} for n in range(24)])


def tiny_bert(**members: object) -> MemorySource:
    """Return a random BERT of two layers that classifies pairs, with the demo model's tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        **SMALL | {"vocab_size": 2560, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
        max_position_embeddings=32, num_labels=3, initializer_range=0.3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **members,
    )  # fmt: skip
    config.architectures = ["BertForSequenceClassification"]
    tensors = {name: each.contiguous() for name, each in BertForSequenceClassification(config).state_dict().items()}
    folder = demo_model.path()
    files = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    files["config.json"] = config.to_json_string().encode()
    return MemorySource(files | {"model.safetensors": save(tensors, {"format": "pt"})})


def loud_llama() -> MemorySource:
    """Return a random Llama with matrices so large that its functions matter."""
    source = tiny_llama()
    tensors = tensors_of(source.read("model.safetensors"))
    louder = {name: each * 10 if each.ndim == 2 else each for name, each in tensors.items()}
    files = {name: source.read(name) for name in source.names()}
    return MemorySource(files | {"model.safetensors": save(louder, {"format": "pt"})})


@pytest.fixture(scope="module")
def bert() -> MemorySource:
    return tiny_bert()


def approximated(source: MemorySource, more: str = FAST, records: MemorySource = RECORDS, **options):
    return run(job(more, method="approximate"), {"base": source, "records": records}, **options)


# --- the functions ---


def test_quad_is_that_of_secure_computation():
    x = np.linspace(-250, 250, 4001)
    engine = ClearEngine()
    wanted = engine.reveal(nonlinear.quad_gelu(engine.constant(x)))
    assert np.abs(Quad()(torch.tensor(x)).numpy() - wanted).max() < 5e-3


@pytest.mark.parametrize("masked", [False, True])
def test_two_quad_is_that_of_secure_computation(masked):
    rng = np.random.default_rng(3)
    scores, counts = rng.normal(0, 4, (40, 32)), rng.random((40, 32)) < 0.7
    counts[0] = False
    engine = ClearEngine()
    mask = counts if masked else None
    wanted = engine.reveal(nonlinear.quad_softmax(engine.constant(scores), mask))
    found = two_quad(torch.tensor(scores), torch.tensor(counts) if masked else None).numpy()
    assert np.abs(found - wanted).max() < 2e-4
    assert not masked or (found[~counts] == 0).all()


def test_a_bert_answers_as_in_secure_computation():
    model = random_model("bert", BertConfig(**SMALL, num_labels=3), {"": 0.15})
    texts, types = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]], [[0, 0, 1, 1], [0] * 7]
    ids, kinds, counts = (torch.zeros(2, 7, dtype=torch.long) for _ in range(3))
    for row, (text, kind) in enumerate(zip(texts, types, strict=True)):
        ids[row, : len(text)], kinds[row, : len(text)], counts[row, : len(text)] = torch.tensor(
            [text, kind, [1] * len(text)]
        )
    exact = model(ids, counts, kinds).logits
    found = approximate(model)(ids, counts, kinds).logits
    assert (found - exact).abs().max() > 0.1
    engine, program = ClearEngine(), ours(model)
    weights = program.load(Arrays(engine, "model", program.arrays(Named(model))))
    client = Arrays(engine, "client", program.prompts(texts, 16, types))
    wanted = engine.reveal(program.classify(weights, client, batch=2, length=16))
    assert np.abs(found.detach().numpy() - wanted).max() < 2e-3


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (
            "gpt2",
            GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=101, n_positions=64, bos_token_id=0, eos_token_id=0),
        ),
        ("llama", LlamaConfig(**SMALL, num_key_value_heads=2)),
    ],
)
def test_a_decoder_speaks_as_in_secure_computation(name, config):
    model = random_model(name, config, {"": 0.1})
    text = torch.tensor([[5, 6, 7, 8, 9]])
    exact = model(text).logits
    found = approximate(model)(text).logits
    assert (found - exact).abs().max() > 0.1
    wanted = model.generate(text, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 5:].tolist()
    engine, program = ClearEngine(), ours(model)
    weights = program.load(Arrays(engine, "model", program.arrays(Named(model))))
    client = Arrays(engine, "client", prompts(program, text.tolist(), 8, 6))
    steps = generate(program, weights, client, batch=1, length=8, tokens=6, sampling=Sampling())
    assert [int(engine.reveal(step)[0]) for step in steps] == wanted


def test_other_families_have_none():
    from transformers import BloomConfig, BloomForCausalLM

    with pytest.raises(TrainError) as error:
        approximate(BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=8, n_layer=1, n_head=2)))
    assert error.value.code == "train.no-approximation"


# --- the method ---


@pytest.mark.parametrize("layers", [1.0, 0.0])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_layers_or_answers_come_near_those_of_the_exact_model(bert, family, layers):
    source = bert if family == "bert" else loud_llama()
    losses: list[float] = []
    more = FAST + f"[approximate]\nlayers = {layers}\n"
    outcome = approximated(source, more, report=lambda numbers: losses.append(numbers["loss"]))
    assert len(losses) == 36
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    config = json.loads(outcome.files["config.json"])
    assert (outcome.kind, config["mpc_approx"]) == ("model", "mpcformer")
    assert config["architectures"] == json.loads(source.read("config.json")).get("architectures")


@pytest.mark.parametrize("step", [4, 8])
def test_resumed_it_ends_the_same(bert, step):
    more = FAST.replace("= 6", "= 2") + "[checkpoints]\nevery_steps = 4\n"
    kept = Kept()
    whole = approximated(bert, more, states=kept)  # of 12 steps, 8 are by layers
    again = approximated(bert, more, states=Kept(kept.all[step]))
    assert (again.files, again.metrics) == (whole.files, whole.metrics)


def test_accumulated_batches_have_the_loss_of_one(bert):
    losses: list[list[float]] = [[], []]
    for found, batch in zip(losses, ("batch = 4\n", "batch = 2\naccumulation = 2\n"), strict=True):
        more = FAST.replace("batch = 4\n", batch).replace("= 6", "= 1") + "[approximate]\nlayers = 0.0\n"
        approximated(bert, more, report=lambda numbers, found=found: found.append(numbers["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_held_out_texts_are_evaluated_by_their_answers(bert):
    numbers: list[dict[str, float]] = []
    more = FAST + "[evaluation]\nevery_steps = 10\n"
    wanted = job(more, method="approximate", about='evaluation = ["held"]')
    run(wanted, {"base": bert, "records": RECORDS, "held": RECORDS}, report=numbers.append)
    found = [each["eval_loss"] for each in numbers if "eval_loss" in each]
    assert len(found) >= 3
    assert found[-1] < 0.5 * found[0]


def test_what_was_made_is_computed_with_its_approximations_only(bert):
    made = MemorySource(approximated(bert, FAST.replace("= 6", "= 1")).files)
    loaded = load(made, classifiers=True).model
    ids = torch.tensor([[5, 6, 7]])
    exact = BertForSequenceClassification(BertConfig(**json.loads(made.read("config.json")))).eval()
    exact.load_state_dict(tensors_of(made.read("model.safetensors")))
    assert (exact(ids).logits - loaded(ids).logits).abs().max() > 1e-2
    assert torch.equal(approximate(exact)(ids).logits, loaded(ids).logits)
    with pytest.raises(ServeError) as error:
        loading.load(made)
    assert error.value.code == "serve.approximated"
    with pytest.raises(TrainError) as error:
        approximated(made)
    assert error.value.code == "train.approximated"
    with pytest.raises(TrainError) as error:
        load(tiny_bert(mpc_approx="linear"), classifiers=True)
    assert error.value.code == "train.no-approximation"


def test_what_was_made_answers_alike_in_secure_computation(bert, tmp_path):
    files = approximated(bert, FAST.replace("= 6", "= 1")).files
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    program = Bert(parse_config(files["config.json"], SecureConfig))
    engine, ids = ClearEngine(), [[5, 6, 7, 8], [9, 10]]
    weights = program.load(Arrays(engine, "model", program.arrays(Tensors(tmp_path))))
    client = Arrays(engine, "client", program.prompts(ids, 16))
    found = engine.reveal(program.classify(weights, client, batch=2, length=16))
    student = load(MemorySource(files), classifiers=True).model
    wanted = np.concatenate([student(torch.tensor([each])).logits.numpy() for each in ids])
    assert np.abs(found - wanted).max() < 2e-3


def test_a_classifier_is_no_language_model(bert):
    with pytest.raises(ServeError) as error:
        run(job(method="sft"), {"base": bert, "records": conversations(4)})
    assert error.value.code == "serve.weights-misfit"


@pytest.mark.parametrize("records", [conversations(4), lines([{"text": [{"role": "user", "content": "a"}]}])])
def test_records_that_are_no_texts_are_refused(bert, records):
    with pytest.raises(TrainError) as error:
        approximated(bert, records=records)
    assert error.value.code == "train.columns-unfit"


def test_texts_without_tokens_are_left_out(bert):
    llama = tiny_llama()
    assert approximated(llama, FAST, lines([{"text": ""}, {"text": "a"}] * 4)).metrics["steps"] == 6
    with pytest.raises(TrainError) as error:
        approximated(llama, FAST, lines([{"text": ""}]))
    assert error.value.code == "train.no-rows"


@pytest.mark.parametrize(
    "more",
    [
        "[lora]\n",
        "[training]\ngradient_checkpointing = true\n",
        '[training]\nprecision = "bfloat16"\n',
        "[early_stopping]\n[evaluation]\nevery_steps = 1\nrows = 1\n",
        "[approximate]\nlayers = 1.5\n",
        '[approximate]\nkind = "linear"\n',
        "[distill]\n",
    ],
)
def test_what_does_not_go_together(more):
    with pytest.raises(TrainError) as error:
        job(more, method="approximate")
    assert error.value.code == "train.job-malformed"


def test_an_adapter_is_not_continued():
    with pytest.raises(TrainError, match="all weights"):
        job(method="approximate", about='adapter = "first"')
