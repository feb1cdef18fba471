"""DP-SGD: what a step really does to its records' gradients, what is told of it, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch.nn import functional
from train_rig import Kept, MemorySource, conversations, job, lines

from mitai.capsule.sources import FileSource
from mitai.errors import TrainError
from mitai.serve.loading import load
from mitai.train.data import read
from mitai.train.methods import private
from mitai.train.quiet import calm
from mitai.train.run import run
from mitai.train.task import Task

LORA = "[lora]\nrank = 4\nalpha = 16\n"
WHOLE = ""
TRAINING = "[training]\nbatch = 8\nmax_length = 64\nlearning_rate = 1e-2\n"
LIMITS = "[limits]\nrows = 24\nsteps = 3\n"
PRIVATE = "[private]\nepsilon = 8.0\ndelta = 1e-3\nclip = 0.1\nchunk = 3\n"
TABLES = TRAINING + LIMITS + PRIVATE
SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def _quiet():
    with calm():
        yield


def built(llama: FileSource, more: str = LORA, secret: bytes = SECRET) -> private.PrivateTrainer:
    wanted = job(TABLES + more, method="private")
    loaded = load(llama)
    model = loaded.model.float().train()
    if not more:
        model.requires_grad_(requires_grad=True)
    rows = Dataset.from_list(read([conversations(24)]).plain())
    made = private.trainer(Task(wanted, model, loaded.tokenizer, rows, secret=secret))
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:  # which begins as zero, so that lora_A would have no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture(scope="module", params=[LORA, WHOLE], ids=["lora", "whole"])
def trainer(llama, request):
    with calm():
        return built(llama, request.param)


def parameters(trainer):
    return [each for each in trainer.model.parameters() if each.requires_grad]


def length(tensors):
    return float(torch.stack([each.double().square().sum() for each in tensors]).sum().sqrt())


def records(trainer, *indices):
    return [trainer.train_dataset[index] for index in indices]


def twin(trainer, llama):
    """Return the same model without opacus' hooks."""
    model = load(llama).model.float().train()
    model.requires_grad_(requires_grad=True)
    if hasattr(trainer.model, "peft_config"):
        model = get_peft_model(model, trainer.model.peft_config["default"])
    model.load_state_dict(trainer.model.state_dict())
    return model


def test_gradients_are_those_of_single_records(trainer, llama):
    together = trainer.gradients(records(trainer, 0, 1, 2, 3))
    model = twin(trainer, llama)
    trained = [each for each in model.parameters() if each.requires_grad]
    for number in range(4):
        row = trainer.train_dataset[number]
        tokens = torch.tensor([row["input_ids"]])
        logits = model(input_ids=tokens).logits[0, :-1]
        loss = functional.cross_entropy(logits, torch.tensor(row["labels"])[1:], ignore_index=-100)
        alone = torch.autograd.grad(loss, trained)
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[number], one, rtol=1e-3, atol=1e-5)


def test_no_record_adds_more_than_the_clipping_bound(trainer):
    clip = trainer.plan.clip
    lengths = []
    for index in range(12):
        gradients = trainer.gradients(records(trainer, index))
        lengths.append(length(gradients))
        assert length(private.clipped_sum(gradients, clip)) <= clip
    assert max(lengths) > clip  # so something was clipped
    short = private.clipped_sum(gradients, 1e9)
    torch.testing.assert_close(short[0], gradients[0][0].double())  # and what is short enough stays


def test_one_record_more_changes_the_sum_by_at_most_the_bound(trainer):
    clip, chosen = trainer.plan.clip, records(trainer, *range(6))
    with_it = private.clipped_sum(trainer.gradients(chosen), clip)
    without = private.clipped_sum(trainer.gradients(chosen[1:]), clip)
    change = length([one - other for one, other in zip(with_it, without, strict=True)])
    assert 0 < change <= clip


def test_a_gradient_that_is_no_number_counts_as_none():
    gradients = [torch.tensor([[3.0, 4.0], [float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]])]
    (total,) = private.clipped_sum(gradients, 1.0)
    torch.testing.assert_close(total, torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_noise_has_the_planned_deviation(trainer):
    plan, taken = trainer.plan, records(trainer, 0, 1, 2, 3)
    total = [torch.zeros_like(each, dtype=torch.float64) for each in parameters(trainer)]
    for at in (0, 3):
        for whole, part in zip(
            total, private.clipped_sum(trainer.gradients(taken[at : at + 3]), plan.clip), strict=True
        ):
            whole += part
    own = trainer.randomness
    drawn = []
    for number in range(40):
        trainer.randomness = private.Randomness(bytes([number]) * 32, "00" * 32)
        assert trainer.training_step(trainer.model, {"records": taken}) == 0
        found = [
            each.grad.double() * plan.batch - whole for each, whole in zip(parameters(trainer), total, strict=True)
        ]
        drawn.append(torch.cat([each.flatten() for each in found]))
    trainer.randomness = own
    noise = torch.stack(drawn)
    count = noise.numel()
    assert abs(noise.std() / (plan.clip * plan.noise_multiplier) - 1) < 5 / (2 * count) ** 0.5 + 1e-3
    assert abs(noise.mean()) < 5 * noise.std() / count**0.5
    between = torch.corrcoef(noise[:, :2000])
    assert between.fill_diagonal_(0).abs().max() < 6 / between_columns(noise) ** 0.5


def between_columns(noise):
    return min(2000, noise.shape[1])


def test_a_step_without_records_is_noise_alone(trainer):
    trainer.training_step(trainer.model, {"records": []})
    plan, grads = trainer.plan, torch.cat([each.grad.flatten() for each in parameters(trainer)])
    assert abs(grads.std() * plan.batch / (plan.clip * plan.noise_multiplier) - 1) < 0.1


def test_the_same_step_gets_the_same_noise_and_any_other_sum_another(trainer):
    def step(*indices):
        trainer.training_step(trainer.model, {"records": records(trainer, *indices)})
        return torch.cat([each.grad.flatten() for each in parameters(trainer)])

    first, again, other = step(0, 1), step(0, 1), step(0)
    assert torch.equal(first, again)
    plan = trainer.plan
    # What is left of two sums' difference is two records' worth only if the noise were shared; it is not.
    assert (first - other).norm() * plan.batch > plan.clip * plan.noise_multiplier * (len(first) ** 0.5)


def test_the_plan_ends(trainer):
    trainer.state.global_step = trainer.plan.steps
    with pytest.raises(TrainError) as error:
        trainer.training_step(trainer.model, {"records": []})
    trainer.state.global_step = 0
    assert error.value.code == "train.plan-exceeded"


def test_nothing_is_evaluated(trainer):
    with pytest.raises(TrainError) as error:
        trainer.evaluate()
    assert error.value.code == "train.private-evaluation"


def test_a_model_that_mixes_records_is_refused(llama, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: plain(self, x) + plain(self, x).mean(0, keepdim=True))
    with pytest.raises(TrainError) as error:
        built(llama)
    assert error.value.code == "train.gradients-mixed"


def test_numbers_and_logs_are_the_same_whatever_the_records_are(llama):
    told = []
    for rows in (conversations(24), lines([{"text": "quite another text " * (3 + row)} for row in range(24)])):
        numbers: list[dict[str, float]] = []
        kept = Kept()
        wanted = job(TABLES + LORA + "[checkpoints]\nevery_steps = 1\n", method="private")
        outcome = run(wanted, {"base": llama, "records": rows}, secret=SECRET, report=numbers.append, states=kept)
        told.append((numbers, outcome.metrics, outcome.files["metrics.json"], list(kept.all)))
    assert told[0] == told[1]
    assert told[0][1]["losses"] == [0.0] * 3
    assert set(told[0][0][0]) == {"step", "steps", "tokens", "loss", "learning_rate", "epoch"}


def test_steps_that_take_none_are_steps(llama):
    table = TABLES.replace("batch = 8", "batch = 1").replace("steps = 3", "steps = 12")
    wanted, inputs = job(table + LORA, method="private"), {"base": llama, "records": conversations(4)}
    taken = [private.Randomness(SECRET, wanted.sha256()).sample(step, 4, 1 / 24) for step in range(12)]
    assert [] in taken
    assert run(wanted, inputs, secret=SECRET).metrics["steps"] == 12


def test_the_secret_decides_and_is_needed(llama):
    wanted, inputs = job(TABLES + LORA, method="private"), {"base": llama, "records": conversations(24)}
    made = [run(wanted, inputs, secret=secret).files for secret in (SECRET, SECRET, bytes(32))]
    assert made[0] == made[1] != made[2]
    with pytest.raises(TrainError) as error:
        run(wanted, inputs)
    assert error.value.code == "train.secret-too-short"


def test_records_beyond_those_stated_are_not_left_out(llama):
    wanted = job(TABLES + LORA, method="private")
    with pytest.raises(TrainError) as error:
        run(wanted, {"base": llama, "records": conversations(25)}, secret=SECRET)
    assert error.value.code == "train.too-many-rows"
    assert run(wanted, {"base": llama, "records": conversations(20)}, secret=SECRET).metrics["steps"] == 3


def test_no_transcript_of_a_private_run(llama):
    wanted = job(TABLES + LORA, method="private")
    with pytest.raises(TrainError) as error:
        run(wanted, {"base": llama, "records": conversations(24)}, secret=SECRET, observers={"notes": object()})
    assert error.value.code == "train.not-observed"


@pytest.mark.slow
def test_a_generous_budget_still_learns(llama):
    records = lines([{"text": "the quick brown fox"} for _ in range(200)])
    table = (
        "[training]\nbatch = 100\nepochs = 10\nmax_length = 64\nlearning_rate = 2e-2\nschedule = 'constant'\n"
        "[limits]\nrows = 200\nsteps = 20\n[private]\nepsilon = 20.0\ndelta = 1e-3\nclip = 1.0\nchunk = 50\n"
    )
    made = run(job(table, method="private"), {"base": llama, "records": records}, secret=SECRET)
    losses = []
    for source in (llama, MemorySource(made.files)):
        loaded = load(source)
        tokens = torch.tensor([loaded.tokenizer("the quick brown fox")["input_ids"]])
        losses.append(float(loaded.model(tokens, labels=tokens).loss))
    assert losses[1] < losses[0] - 0.5


REFUSED = {
    "rows": TABLES.replace("rows = 24\n", ""),
    "steps": TABLES.replace("steps = 3\n", ""),
    "batch": TABLES.replace("rows = 24", "rows = 7"),
    "epochs": TABLES.replace("batch = 8", "batch = 8\nepochs = 2"),
    "tokens": TABLES.replace("[limits]", "[limits]\ntokens = 9"),
    "evaluation": TABLES + "[evaluation]\nevery_steps = 1\nrows = 2\n",
    "packing": TABLES + "packing = true\n",
    "accumulation": TABLES.replace("batch = 8", "batch = 8\naccumulation = 2"),
    "precision": TABLES.replace("batch = 8", 'batch = 8\nprecision = "bfloat16"'),
    "dropout": TABLES + LORA + "dropout = 0.1\n",
    "epsilon": TABLES.replace("8.0", "21.0"),
    "delta": TABLES.replace("1e-3", "0.0"),
    "no table": TRAINING + LIMITS,
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_jobs_that_would_promise_too_much(text):
    with pytest.raises(TrainError) as error:
        job(text, method="private")
    assert error.value.code == "train.job-malformed"


def test_the_broker_is_told_the_whole_cost():
    told = job(TABLES, method="private").declared()
    assert told == {
        "method": "private",
        "epochs": "1",
        "steps": "3",
        "rows": "24",
        "epsilon_micros": "8000000",
        "delta_nanos": "1000000",
        "chunk": "3",
    }


def test_a_delta_that_gives_away_a_record_is_refused(llama):
    wanted = job(TABLES.replace("1e-3", "5e-2"), method="private")
    with pytest.raises(TrainError) as error:
        run(wanted, {"base": llama, "records": conversations(24)}, secret=SECRET)
    assert error.value.code == "train.delta-too-large"
