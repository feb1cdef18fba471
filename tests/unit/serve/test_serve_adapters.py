"""LoRA adapters: as peft applies them, each request its own, and nothing that an adapter's files could choose."""

from __future__ import annotations

import asyncio
import json
import shutil

import openai
import pytest
import torch
from safetensors.torch import load_file, save_file
from serve_models import make_model
from serve_platform import Stage, platform
from transformers import AutoModelForCausalLM

from mitai.capsule import FolderSource
from mitai.client.receipts import check, fetch
from mitai.client.transport import EXCHANGE_EXTENSION
from mitai.errors import MitaiError, ParseError
from mitai.serve.adapters import CONFIG, WEIGHTS, parse_settings, parts_of
from mitai.serve.engine import GenerationRequest, Sampling
from mitai.serve.transformers_engine import EngineOptions, TransformersEngine

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft's own use of it
LAYERS = {"llama": ["q_proj", "v_proj", "down_proj"], "bloom": ["query_key_value", "dense_h_to_4h"]}


def make_adapter(folder, model_folder, seed=1, **changes):
    """Write an adapter with peft, its B matrices random too; return the folder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    settings = {"r": 4, "lora_alpha": 32, "target_modules": LAYERS["llama"], "task_type": "CAUSAL_LM"} | changes
    adapted = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.2)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def open_engine(model_folder, **adapters):
    sources = {f"tiny:{name}": FolderSource(folder) for name, folder in adapters.items()}
    return TransformersEngine.load(
        FolderSource(model_folder), name="tiny", options=EngineOptions(threads=1, step_tokens=8), adapters=sources
    )


async def answer(engine, text, adapter="", count=8):
    prompt = engine.tokenize(text)
    request = GenerationRequest([prompt], Sampling(max_tokens=count, temperature=0.0, logprobs=0), adapter=adapter)
    steps = [step async for step in engine.generate(request)]
    return [one.token for step in steps for one in step.logprobs]


def expected(model_folder, adapter_folder, engine, text, count=8):
    """Greedy continuation by plain transformers, with peft's own way of putting the adapter on."""
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    if adapter_folder is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter_folder).eval()
    tokens = engine.tokenize(text)
    begin = len(tokens)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == 0:
                break
    return [engine.tokenizer.decode([token], skip_special_tokens=False) for token in tokens[begin:] if token]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, llama_folder):
    root = tmp_path_factory.mktemp("adapters")
    return {
        "one": make_adapter(root / "one", llama_folder, seed=1),
        "two": make_adapter(root / "two", llama_folder, seed=2, use_rslora=True, r=8, target_modules="all-linear"),
    }


@pytest.mark.parametrize("kind", ["llama", "bloom"])
async def test_a_crowd_with_different_adapters_gets_what_peft_gives_each(tmp_path, kind):
    folder = make_model(tmp_path / "model", kind)
    own = {
        name: make_adapter(tmp_path / name, folder, seed, target_modules=LAYERS[kind], use_rslora=seed == 2)
        for seed, name in enumerate(("one", "two"), start=1)
    }
    engine = open_engine(folder, **own)
    try:
        assert engine._packed is (kind == "llama")
        assert engine.info.adapters == ("tiny:one", "tiny:two")
        asked = [("the quick brown fox " * size, name) for size in (1, 2, 4) for name in ("", "one", "two")]
        answers = await asyncio.gather(*(answer(engine, text, name and f"tiny:{name}") for text, name in asked))
        for (text, name), got in zip(asked, answers, strict=True):
            assert got == expected(folder, own.get(name), engine, text)
        assert len({tuple(each) for each in answers[:3]}) == 3
    finally:
        engine.close()


async def test_embeddings_are_the_adapters_own(llama_folder, adapters):
    engine = open_engine(llama_folder, **adapters)
    try:
        prompts = [engine.tokenize("hello"), engine.tokenize("the lazy dog")]
        plain, one = await engine.embed(prompts), await engine.embed(prompts, "tiny:one")
        assert plain == await engine.embed(prompts)
        assert all(left != right for left, right in zip(plain, one, strict=True))
    finally:
        engine.close()


def test_parts_of_a_pack():
    assert parts_of([]) == []
    assert parts_of([("", 3), ("", 0)]) == []
    assert parts_of([("a", 3), ("a", 1), ("b", 0)]) == [("a", None)]
    parts = parts_of([("a", 1), ("", 2), ("b", 2), ("a", 1)])
    assert {name: at.tolist() for name, at in parts} == {"a": [0, 5], "b": [3, 4]}


# --- a replica -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory, llama_folder):
    with platform(tmp_path_factory.mktemp("platform"), renew_s=0.2) as running, Stage(running) as made:
        made.model = llama_folder
        yield made


def test_a_model_with_adapters_of_another_owner(stage, adapters):
    bob = stage.party("Bob")
    model = stage.publish(stage.model)
    one, two = (
        stage.publish(adapters[name], "adapter", parents=(model.capsule_id,), by=bob) for name in ("one", "two")
    )
    capsules = (model.capsule_id, one.capsule_id, two.capsule_id)
    stage.deploy(*capsules, adapters=["one", "two"])
    exchanges = []
    with stage.http() as (http, session):
        assert [each.id for each in session.appraisal.claims.capsules] == list(capsules)
        extra = session.appraisal.claims.extra
        assert [extra["model"], extra["adapter tiny:one"], extra["adapter tiny:two"]] == ["tiny", *capsules[1:]]
        assert not [name for name in extra if name.startswith("derived ")]  # parents are what Bob says, and nobody else
        http.event_hooks["response"] = [lambda answer: exchanges.append(answer.extensions[EXCHANGE_EXTENSION])]
        client = openai.OpenAI(base_url=f"{stage.running.replica}/v1", api_key="none", http_client=http, max_retries=0)
        listed = client.models.list().data
        assert [(each.id, each.model_extra.get("parent")) for each in listed] == [
            ("tiny", None),
            ("tiny:one", "tiny"),
            ("tiny:two", "tiny"),
        ]
        assert client.models.retrieve("tiny:two").id == "tiny:two"
        asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0}
        texts = {}
        for name, used in (("tiny", []), ("tiny:one", [one]), ("tiny:two", [two])):
            answer = client.chat.completions.create(model=name, **asked)
            texts[name] = answer.choices[0].message.content
            assert answer.model == name
            receipt, _ = check(fetch(http, session, exchanges[-1]), stage.running.policy)
            assert receipt.model == name
            assert [each.id for each in receipt.capsules] == [model.capsule_id]
            assert [each.id for each in receipt.adapters] == [each.capsule_id for each in used]
        assert len(set(texts.values())) == 3
        for unknown in ("tiny:three", "one", "tiny:", "other:one"):
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model=unknown, **asked)
    bob[1].revoke(two.capsule_id)  # one owner of one adapter ends it all
    assert "broker.revoked" in stage.until_withdrawn()["error"]["message"]
    bob[1].close()


def test_an_adapter_that_a_workload_derived(stage, adapters, tmp_path):
    """Its manifest is signed by the workload, it belongs to all owners, and the data's owner ends serving it."""
    bob = stage.party("Bob")
    model = stage.publish(stage.model)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.jsonl").write_text("{}")
    either = "permit (principal, action, resource);"
    stage.owner.set_policy(model.capsule_id, policy=either)
    data = stage.publish(tmp_path / "data", "dataset", by=bob, policy=either)
    sealed = stage.derive(adapters["one"], model.capsule_id, data.capsule_id)
    stage.deploy(model.capsule_id, sealed.capsule_id, adapters=["joint"])
    about = stage.status()["about"]
    assert about[f"derived {sealed.capsule_id}"] == " ".join(sorted((model.capsule_id, data.capsule_id)))
    with stage.client() as client:
        answer = client.chat.completions.create(
            model="tiny:joint", messages=[{"role": "user", "content": "hello"}], max_tokens=4
        )
    assert answer.usage.completion_tokens > 0
    bob[1].revoke(data.capsule_id)
    assert f"capsule {data.capsule_id}" in stage.until_withdrawn()["error"]["message"]
    bob[1].close()


def test_every_owner_of_every_capsule_must_allow(stage, adapters):
    carol = stage.party("Carol")
    model = stage.publish(stage.model)
    adapter = stage.publish(adapters["one"], "adapter", by=carol, policy="forbid (principal, action, resource);")
    status = stage.deploy(model.capsule_id, adapter.capsule_id, adapters=["one"], expect="failed")
    assert status["error"]["code"] == "broker.policy-denied"
    carol[1].close()


def test_an_adapter_is_put_on_the_model_that_it_was_derived_from(stage, adapters):
    model, other = stage.publish(stage.model), stage.publish(stage.model)
    adapter = stage.publish(adapters["one"], "adapter", parents=(other.capsule_id,))
    status = stage.deploy(model.capsule_id, adapter.capsule_id, adapters=["one"], expect="failed")
    assert status["error"]["code"] == "serve.adapter-of-another-model"
    status = stage.deploy(model.capsule_id, other.capsule_id, adapters=["one"], expect="failed")  # no adapter at all
    assert status["error"]["code"] == "capsule.kind-mismatch"
    status = stage.deploy(adapter.capsule_id, expect="failed")  # no model
    assert status["error"]["code"] == "capsule.kind-mismatch"


@pytest.mark.parametrize(
    ("capsules", "names"),
    [(["a"], ["x"]), (["a", "b"], []), (["a", "b", "c"], ["x", "x"]), (["a", "a"], ["x"]), (["a", "b"], ["x:y"])],
)
def test_adapters_have_names_of_their_own(stage, capsules, names):
    answer = stage.running.deploy("a", capsules=capsules, adapters=names)
    assert answer.status_code == 400


# --- files of strangers ----------------------------------------------------------------------------------------------


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def test_what_peft_writes_and_what_training_writes_is_read(adapters):
    settings = parse_settings((adapters["two"] / CONFIG).read_bytes())
    assert settings.scale == pytest.approx(32 / 8**0.5)
    assert parse_settings(json.dumps(PLAIN).encode()).scale == 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"r": 0},
        {"r": 10**9},
        {"r": "4"},
        {"lora_alpha": 0},
        {"lora_alpha": -1},
        {"target_modules": ".*"},
        {"target_modules": "all-linear"},
        {"target_modules": []},
        {"target_modules": ["(a+)+$"]},
        {"target_modules": ["../x"]},
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "os"}},
        {"bias": "all"},
        {"use_dora": True},
        {"lora_bias": True},
        {"fan_in_fan_out": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 9}},
        {"alpha_pattern": {"q_proj": 9}},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [1]},
        {"layers_to_transform": [0]},
        {"target_parameters": ["x"]},
        {"task_type": "SEQ_CLS"},
        {"unknown": None},
        {"loftq_config": {"loftq_bits": 4}},
    ],
)
def test_what_is_not_plain_lora_is_refused(changes):
    with pytest.raises(ParseError) as refused:
        parse_settings(json.dumps(PLAIN | changes).encode())
    assert refused.value.code == "serve.adapter-config-refused"
    assert "Evil" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 99999, b"\xff", b"{" + b" " * (5 << 20)])
def test_what_is_no_configuration_is_refused(data):
    with pytest.raises(ParseError):
        parse_settings(data)


def changed(tensors, change):
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    return change(dict(tensors), name)


def without(tensors, name):
    del tensors[name]
    return tensors


def replaced(make):
    return lambda tensors, name: tensors | {name: make(tensors[name]).contiguous()}


@pytest.mark.parametrize(
    "change",
    [
        without,
        lambda tensors, name: {key: value for key, value in tensors.items() if ".layers.0." not in key},
        lambda tensors, name: tensors | {"base_model.model.model.norm.lora_A.weight": torch.zeros(4, 64)},
        lambda tensors, name: tensors | {name.replace(".0.", ".00."): tensors[name].clone()},
        lambda tensors, name: tensors | {"model.layers.0.mlp.up_proj.weight": torch.zeros(1)},
        lambda tensors, name: tensors | {name + ".evil": tensors[name].clone()},
        replaced(lambda tensor: tensor[:, 1:]),
        replaced(lambda tensor: tensor[1:]),
        replaced(lambda tensor: tensor.T),
        replaced(lambda tensor: tensor.int()),
        replaced(lambda tensor: tensor.double()),
        replaced(lambda tensor: tensor * float("nan")),
        replaced(lambda tensor: tensor + float("inf")),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, llama_folder, adapters, change):
    shutil.copytree(adapters["one"], tmp_path / "adapter")
    file = tmp_path / "adapter" / WEIGHTS
    save_file(changed(load_file(file), change), file)
    with pytest.raises(MitaiError) as refused:
        open_engine(llama_folder, one=tmp_path / "adapter")
    assert refused.value.code == "serve.adapter-misfit"


def test_an_adapter_of_another_model_or_without_files_is_refused(tmp_path, llama_folder, adapters):
    wide = make_model(tmp_path / "wide", "llama", hidden_size=96)
    with pytest.raises(MitaiError) as refused:
        open_engine(wide, one=adapters["one"])
    assert refused.value.code == "serve.adapter-misfit"
    for name in (CONFIG, WEIGHTS):
        folder = tmp_path / f"no-{name}"
        shutil.copytree(adapters["one"], folder)
        (folder / name).unlink()
        with pytest.raises(MitaiError) as refused:
            open_engine(llama_folder, one=folder)
        assert refused.value.code == "serve.adapter-misfit"


def test_a_layer_that_does_not_see_every_token_is_refused(tmp_path):
    folder = make_model(tmp_path / "model", "qwen2")  # its output layer is one of its own
    adapter = make_adapter(tmp_path / "adapter", folder, target_modules=["q_proj", "lm_head"])
    with pytest.raises(MitaiError) as refused:
        open_engine(folder, one=adapter)
    assert refused.value.code == "serve.adapter-misfit"
    assert "only some of a batch's tokens" in refused.value.message
