"""What an owner's model, tokenizer or output can try against the other owners, and a host against all of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from train_rig import MemorySource, conversations, job, lines

from mitai.errors import TrainError
from mitai.identity import Identity
from mitai.serve.loading import load
from mitai.train import child
from mitai.train.data import read
from mitai.train.loop import numbers
from mitai.train.methods import private
from mitai.train.quiet import calm
from mitai.train.relay import Answer, OpenedInput, Order
from mitai.train.run import run
from mitai.train.task import Task

PRIVATE = (
    "[training]\nbatch = 8\nmax_length = 64\n[limits]\nrows = 24\nsteps = 3\n"
    "[private]\nepsilon = 8.0\ndelta = 1e-3\nchunk = 3\n[lora]\nrank = 2\n"
)
SECRET = bytes(range(32))
SPY = "Patient Ann has it."
REFUSING = (
    "{% if 'Ann' in messages[0]['content'] %}{{ raise_exception('found') }}{% endif %}{{ messages[0]['content'] }}"
)
RECORDS = {
    "template": [{"messages": [{"role": "user", "content": SPY}, {"role": "assistant", "content": "Yes."}]}],
    "tokens": [{"messages": [{"role": "user", "content": "<SPY>"}, {"role": "assistant", "content": "Yes."}]}],
    "empty": [{"messages": []}],
}


def with_template(source: MemorySource, template: str) -> MemorySource:
    return MemorySource(
        {name: source.read(name) for name in source.names()} | {"chat_template.jinja": template.encode()}
    )


def with_token(source: MemorySource) -> MemorySource:
    """Return a model of which the tokenizer has a token that the model has not."""
    tokenizer = json.loads(source.read("tokenizer.json"))
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokenizer["added_tokens"].append(token | {"id": 9999, "content": "<SPY>"})
    made = {name: source.read(name) for name in source.names()}
    return MemorySource(made | {"tokenizer.json": json.dumps(tokenizer).encode()})


@pytest.mark.parametrize("kind", RECORDS)
def test_no_record_ends_a_private_run(llama: MemorySource, kind: str) -> None:
    model = with_template(with_token(llama), REFUSING)
    told = []
    for more in (RECORDS[kind], RECORDS["template"][:0]):
        rows = [json.loads(line) for line in conversations(20).read("records.jsonl").splitlines()]
        outcome = run(job(PRIVATE, method="private"), {"base": model, "records": lines(more + rows)}, secret=SECRET)
        told.append({name: value for name, value in outcome.metrics.items() if name != "rows"})
    assert told[0] == told[1]


def test_a_private_run_of_no_record_at_all_ends_as_any_other(llama: MemorySource) -> None:
    model = with_template(llama, "{{ raise_exception('found') }}")
    outcome = run(job(PRIVATE, method="private"), {"base": model, "records": conversations(20)}, secret=SECRET)
    assert outcome.metrics["steps"] == 3


def built(llama: MemorySource) -> private.PrivateTrainer:
    wanted, loaded = job(PRIVATE, method="private"), load(llama)
    rows = Dataset.from_list(read([conversations(24)]).plain())
    with calm():
        return private.trainer(Task(wanted, loaded.model.float().train(), loaded.tokenizer, rows, secret=SECRET))


def test_a_record_without_a_gradient_takes_no_other_along(llama: MemorySource) -> None:
    trainer = built(llama)
    records = [trainer.train_dataset[at] for at in range(3)]
    broken = {"input_ids": [1, 9999, 2], "labels": [1, 9999, 2]}
    found = list(trainer._gradients([records[0], broken, records[1]]))
    assert len(found) == 2
    for record, gradients in zip(records, found, strict=False):
        (alone,) = trainer._gradients([record])
        assert all(one.equal(other) for one, other in zip(gradients, alone, strict=True))
    assert list(trainer._gradients([broken])) == []


def test_a_model_for_shorter_records_is_refused_before_it_sees_any(llama: MemorySource, monkeypatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaModel

    plain = LlamaModel.forward

    def forward(self, input_ids=None, **given):
        if input_ids.shape[1] > 32:
            raise IndexError
        return plain(self, input_ids=input_ids, **given)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    with pytest.raises(TrainError) as error, calm():
        run(job(PRIVATE, method="private"), {"base": llama, "records": conversations(3)}, secret=SECRET)
    assert error.value.code in ("train.method-refused", "train.gradients-mixed")


def test_every_start_of_a_private_job_has_randomness_of_its_own(monkeypatch, tmp_path) -> None:
    """Else a host would start it again on other threads, and average other noise over the same sample."""
    secrets = []

    def run(*_, secret: bytes, **__: object) -> None:
        secrets.append(secret)
        raise TrainError("train.cancelled", "enough seen")

    kinds = {"base": "model", "records": "data"}
    monkeypatch.setattr("mitai.train.run.run", run)
    monkeypatch.setattr(
        "mitai.capsule.open_capsule",
        lambda store, *_, **__: SimpleNamespace(manifest=SimpleNamespace(kind=kinds[store._capsule])),
    )
    relay = SimpleNamespace(send=lambda _: None, ask=lambda _: Answer(data=bytes(32)))
    text = '[job]\nname = "t"\nmethod = "private"\nmodel = "base"\ndata = ["records"]\n' + PRIVATE
    inputs = tuple(OpenedInput(name, b"", b"", "0" * 64, Identity.generate().public.raw) for name in kinds)
    for _ in range(2):
        with pytest.raises(TrainError, match="enough seen"):
            child._work(Order(text, inputs, bytes(32), (), str(tmp_path), str(tmp_path), 0), relay)
    assert len(set(secrets)) == 2
    assert all(len(secret) == 32 for secret in secrets)


def test_what_a_job_states_is_held_or_refused() -> None:
    evaluation = '[evaluate]\n[[evaluate.tasks]]\nkind = "perplexity"\nname = "t"\nprompt = "{text}"\n'
    with pytest.raises(TrainError, match="counts no tokens"):
        job("[limits]\ntokens = 9\n" + evaluation, method="evaluate")
    assert job("[transcript]\n").declared()["transcript"] == "kept"
    assert "transcript" not in job().declared()


def test_what_is_no_number_is_not_told() -> None:
    told = numbers({"loss": float("nan"), "grad_norm": float("inf"), "learning_rate": 0.5, "words": "no"})
    assert told == {"learning_rate": 0.5}


def test_a_continued_adapter_keeps_the_scales_of_its_layers(llama: MemorySource) -> None:
    sources = {"base": llama, "records": conversations(4)}
    first = run(job('[lora]\nrank = 2\ntargets = ["q_proj", "v_proj"]\n'), sources).files
    config = json.loads(first["adapter_config.json"]) | {"alpha_pattern": {"q_proj": 5}}
    changed = MemorySource(first | {"adapter_config.json": json.dumps(config).encode()})
    again = run(job(about='adapter = "first"'), sources | {"first": changed}).files
    assert json.loads(again["adapter_config.json"])["alpha_pattern"] == {"q_proj": 5}
