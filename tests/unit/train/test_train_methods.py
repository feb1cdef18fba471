"""DPO, GRPO, reward models, distillation: each improves what it should, resumes to the same, refuses what is unfit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load
from train_rig import Kept, MemorySource, conversations, job, lines, tiny_llama

from mitai.errors import TrainError
from mitai.train.methods import grpo
from mitai.train.run import run
from mitai.train.sandbox import Limits

LORA = "[lora]\nrank = 4\nalpha = 16\n"
WHOLE = ""
FAST = "[training]\nbatch = 4\nepochs = 3\nmax_length = 96\nlearning_rate = 2e-2\n"


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


PREFERENCES = lines(
    [
        {"prompt": said("user", f"q {n}?"), "chosen": said("assistant", "yes"), "rejected": said("assistant", "no way")}
        for n in range(16)
    ]
)
PLAIN_PREFERENCES = lines([{"prompt": f"q {n}? ", "chosen": "yes", "rejected": "no way"} for n in range(16)])
QUESTIONS = lines([{"prompt": f"q {n}?", "answer": str(n)} for n in range(16)])
PROGRAM = (
    b"def reward(answer, record):\n    return 1 - abs(len(answer) - 12) / 12 if record['answer'] != '3' else 1 / 0\n"
)

TABLES = {
    "dpo": '[dpo]\ntemplate = "chatml"\n',
    "reward": '[reward]\ntemplate = "chatml"\n',
    "distill": '[distill]\nteacher = "teacher"\ntemplate = "chatml"\n',
    "grpo": '[grpo]\ngenerations = 4\nmax_answer = 6\n[[grpo.rewards]]\nname = "length"\ntarget = 12\n',
    "private": '[limits]\nrows = 24\nsteps = 6\n[private]\nepsilon = 8.0\ndelta = 1e-3\ntemplate = "chatml"\n',
}
SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def sources(llama: MemorySource) -> dict[str, dict[str, MemorySource]]:
    teacher = tiny_llama(seed=1)
    data = {"dpo": PREFERENCES, "reward": PREFERENCES, "grpo": QUESTIONS}
    return {
        method: {"base": llama, "records": data.get(method, conversations(24)), "teacher": teacher} for method in TABLES
    }


def training(method: str) -> str:
    return FAST.replace("epochs = 3", "epochs = 1") if method in ("private", "grpo") else FAST


@pytest.mark.slow
@pytest.mark.parametrize("more", [LORA, WHOLE], ids=["lora", "whole"])
@pytest.mark.parametrize("method", TABLES)
def test_resumed_it_ends_the_same(sources, method, more):
    wanted = job(training(method) + TABLES[method] + more + "[checkpoints]\nevery_steps = 2\n", method=method)
    kept = Kept()
    whole = run(wanted, sources[method], states=kept, secret=SECRET)
    assert whole.kind == ("adapter" if more else "model")
    for step in (2, 4):
        again = run(wanted, sources[method], states=Kept(kept.all[step]), secret=SECRET)
        assert (again.files, again.metrics) == (whole.files, whole.metrics)
    other = job(training(method) + TABLES[method] + more, method=method, about="seed = 1")
    assert run(other, sources[method], secret=SECRET).files != whole.files


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_continued_adapter_and_its_reference_resume_to_the_same(sources, method):
    first = run(job(FAST + TABLES["dpo"] + LORA, method="dpo"), sources["dpo"]).files
    inputs = sources[method] | {"first": MemorySource(first)}
    table = TABLES[method].replace("[grpo]", "[grpo]\nbeta = 0.1") + "[checkpoints]\nevery_steps = 2\n"
    wanted = job(training(method) + table, method=method, about='adapter = "first"')
    kept = Kept()
    whole = run(wanted, inputs, states=kept)
    assert run(wanted, inputs, states=Kept(kept.all[4])).files == whole.files


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("more", [LORA, WHOLE], ids=["lora", "whole"])
def test_dpo_prefers_the_chosen(sources, more, loss):
    numbers: list[dict[str, float]] = []
    wanted = job(FAST + f'[dpo]\nloss = "{loss}"\n' + more, method="dpo")
    run(wanted, sources["dpo"] | {"records": PLAIN_PREFERENCES}, report=numbers.append)
    assert numbers[0]["rewards/margins"] == 0.0  # the reference is what the run began from
    assert numbers[-1]["rewards/margins"] > 0.05
    assert numbers[-1]["rewards/accuracies"] == 1.0


def test_dpo_continues_an_adapter_against_a_copy_of_it(sources):
    adapter = MemorySource(run(job(FAST + TABLES["dpo"] + LORA, method="dpo"), sources["dpo"]).files)
    numbers: list[dict[str, float]] = []
    wanted = job(FAST + TABLES["dpo"], method="dpo", about='adapter = "first"')
    outcome = run(wanted, sources["dpo"] | {"first": adapter}, report=numbers.append)
    assert numbers[0]["rewards/margins"] == 0.0
    assert numbers[-1]["rewards/margins"] > 0.005
    before, after = load(adapter.read("adapter_model.safetensors")), load(outcome.files["adapter_model.safetensors"])
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("more", [LORA, WHOLE], ids=["lora", "whole"])
def test_a_reward_model_learns_which_is_preferred(sources, more):
    numbers: list[dict[str, float]] = []
    outcome = run(job(FAST + TABLES["reward"] + more, method="reward"), sources["reward"], report=numbers.append)
    assert numbers[-1]["accuracy"] == 1.0
    assert numbers[-1]["margin"] > max(0.1, numbers[0]["margin"])
    if more:
        config = json.loads(outcome.files["adapter_config.json"])
        assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
        assert any("score" in name for name in load(outcome.files["adapter_model.safetensors"]))
    else:
        config = json.loads(outcome.files["config.json"])
        assert config["architectures"] == ["LlamaForSequenceClassification"]
        assert load(outcome.files["model.safetensors"])["score.weight"].shape == (1, 8)


def test_a_reward_models_adapter_is_not_taken_for_a_language_models(sources):
    made = run(job(FAST + TABLES["reward"] + LORA, method="reward"), sources["reward"]).files
    wanted = job(FAST + TABLES["dpo"], method="dpo", about='adapter = "scored"')
    with pytest.raises(TrainError) as error:
        run(wanted, sources["dpo"] | {"scored": MemorySource(made)})
    assert error.value.code == "train.adapter-unfit"


@pytest.mark.parametrize("table", ["", 'divergence = "reverse"\n', "temperature = 2.0\n"])
def test_a_student_comes_to_speak_as_its_teacher(sources, table):
    numbers: list[dict[str, float]] = []
    run(job(FAST + TABLES["distill"] + table, method="distill"), sources["distill"], report=numbers.append)
    assert numbers[-1]["divergence"] < 0.7 * numbers[0]["divergence"]


def test_a_student_learns_from_the_records_too(sources):
    numbers: list[dict[str, float]] = []
    run(job(FAST + TABLES["distill"] + "hard = 0.5\n", method="distill"), sources["distill"], report=numbers.append)
    assert numbers[-1]["hard_loss"] < numbers[0]["hard_loss"] - 0.5
    assert numbers[0]["loss"] == pytest.approx(numbers[0]["divergence"] / 2 + numbers[0]["hard_loss"] / 2)


def test_a_teacher_with_another_tokenizer_is_refused(sources):
    teacher = sources["distill"]["teacher"]
    files = {name: teacher.read(name) for name in teacher.names()}
    vocabulary = json.loads(files["tokenizer.json"])
    vocabulary["normalizer"] = {"type": "Lowercase"}
    files["tokenizer.json"] = json.dumps(vocabulary).encode()
    with pytest.raises(TrainError) as error:
        run(job(FAST + TABLES["distill"], method="distill"), sources["distill"] | {"teacher": MemorySource(files)})
    assert error.value.code == "train.tokenizers-differ"


def test_a_teacher_is_an_input_of_the_job():
    assert ("teacher", "teacher", "model") in job(TABLES["distill"], method="distill").inputs()


REWARDED = "[training]\nbatch = 16\nepochs = 4\nmax_length = 64\nlearning_rate = 5e-2\nschedule = 'constant'\n"


@pytest.mark.slow
@pytest.mark.parametrize("measured", [True, False], ids=["measured", "program"])
def test_grpo_raises_the_reward(sources, measured):
    table = "[grpo]\ngenerations = 8\nmax_answer = 6\n[[grpo.rewards]]\n"
    if measured:
        table += 'name = "length"\ntarget = 12\n'
    else:
        digest = hashlib.sha256(PROGRAM).hexdigest()
        table += f'name = "code"\ncapsule = "records"\nfile = "reward.py"\nsha256 = "{digest}"\n'
    records = MemorySource({"records.jsonl": QUESTIONS.read("records.jsonl"), "reward.py": PROGRAM})
    numbers: list[dict[str, float]] = []
    wanted = job(REWARDED + table, method="grpo")
    run(wanted, sources["grpo"] | {"records": records}, report=numbers.append)
    rewards = [each["reward"] for each in numbers]
    assert sum(rewards[-4:]) > 1.2 * sum(rewards[:4])
    assert wanted.declared().get("reward_code") == (None if measured else hashlib.sha256(PROGRAM).hexdigest())


def test_grpo_in_conversations_holds_to_the_adapter_that_it_began_from(sources):
    rows = [{"prompt": said("user", f"q {n}?"), "answer": str(n)} for n in range(8)]
    inputs = sources["grpo"] | {"records": lines(rows)}
    settings = FAST.replace("epochs = 3", "epochs = 1")
    table = TABLES["grpo"].replace("[grpo]", '[grpo]\ntemplate = "chatml"\nbeta = 0.1')
    numbers: list[dict[str, float]] = []
    first = run(job(settings + table + LORA, method="grpo"), inputs, report=numbers.append)
    assert numbers[0]["kl"] == 0.0
    assert numbers[-1]["kl"] > 0.0
    numbers.clear()
    inputs["first"] = MemorySource(first.files)
    second = run(job(settings + table, method="grpo", about='adapter = "first"'), inputs, report=numbers.append)
    assert numbers[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # of the adapter, not of the base
    weights = [load(each.files["adapter_model.safetensors"]) for each in (first, second)]
    assert weights[0].keys() == weights[1].keys()


def test_grpo_counts_the_tokens_of_prompts_and_answers(sources):
    wanted = job(FAST + TABLES["grpo"], method="grpo")
    tokens = run(wanted, sources["grpo"]).metrics["tokens"]
    assert tokens > 16 * 3 * 4 * 6  # rows, epochs, generations, most of them of the greatest length
    limited = job(FAST + f"[limits]\ntokens = {tokens - 1}\n" + TABLES["grpo"], method="grpo")
    with pytest.raises(TrainError) as error:
        run(limited, sources["grpo"])
    assert error.value.code == "train.tokens-exceeded"


def test_grpo_leaves_out_prompts_without_room_for_an_answer(sources):
    rows = [{"prompt": "a b c d e f g h " * 40}, {"prompt": "short?"}]
    outcome = run(job(FAST + TABLES["grpo"], method="grpo"), sources["grpo"] | {"records": lines(rows)})
    assert outcome.metrics["steps"] == 3  # one prompt, three epochs


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (b"def reward(answer, record):\n    return 'much'\n", "train.reward-not-a-number"),
        (b"def reward(answer, record):\n    return True\n", "train.reward-not-a-number"),
        (b"def reward(answer, record):\n    while True: pass\n", "train.sandbox-program"),
        (b"import socket\ndef reward(answer, record):\n    return 1\n", "train.sandbox-program"),
        (b"\xff", "train.reward-program-unfit"),
    ],
    ids=["text", "truth", "endless", "import", "binary"],
)
def test_a_program_that_is_no_reward(sources, program, code, monkeypatch):
    monkeypatch.setattr(grpo, "PROGRAM_LIMITS", Limits(wall_s=0.5, cpu_s=1))
    digest = hashlib.sha256(program).hexdigest()
    table = (
        "[grpo]\ngenerations = 4\nmax_answer = 6\n[[grpo.rewards]]\n"
        f'name = "code"\ncapsule = "records"\nfile = "reward.py"\nsha256 = "{digest}"\n'
    )
    records = MemorySource({"records.jsonl": QUESTIONS.read("records.jsonl"), "reward.py": program})
    wanted = job(FAST + "[limits]\nsteps = 1\n" + table, method="grpo")
    with pytest.raises(TrainError) as error:
        run(wanted, sources["grpo"] | {"records": records})
    assert error.value.code == code


@pytest.mark.parametrize("change", ["digest", "file", "capsule"])
def test_a_program_is_the_one_that_the_job_states(sources, change):
    digest = hashlib.sha256(b"other" if change == "digest" else PROGRAM).hexdigest()
    name = "missing.py" if change == "file" else "reward.py"
    capsule = "base" if change == "capsule" else "records"
    table = (
        "[grpo]\ngenerations = 4\nmax_answer = 6\n[[grpo.rewards]]\n"
        f'name = "code"\ncapsule = "{capsule}"\nfile = "{name}"\nsha256 = "{digest}"\n'
    )
    records = MemorySource({"records.jsonl": QUESTIONS.read("records.jsonl"), "reward.py": PROGRAM})
    with pytest.raises(TrainError) as error:
        run(job(FAST + table, method="grpo"), sources["grpo"] | {"records": records})
    assert error.value.code == ("train.job-malformed" if change == "capsule" else "train.reward-program-unfit")


SECRET_WORDS = "the patient's name is Ada"


@pytest.mark.parametrize("method", TABLES)
@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": SECRET_WORDS}],
        [{"prompt": 3, "chosen": SECRET_WORDS, "rejected": SECRET_WORDS, "completion": 4, "answer": "1"}],
        [
            {
                "prompt": SECRET_WORDS,
                "chosen": said("assistant", SECRET_WORDS),
                "rejected": SECRET_WORDS,
                "completion": said("assistant", SECRET_WORDS),
            }
        ],
    ],
    ids=["missing", "numbers", "mixed"],
)
def test_unfit_records_are_refused_and_not_quoted(sources, method, rows, capfd, recwarn):
    if method == "grpo" and isinstance(rows[0]["prompt"], str):
        pytest.skip("a prompt is all that GRPO needs")
    with pytest.raises(TrainError) as error:
        run(
            job(training(method) + TABLES[method], method=method),
            sources[method] | {"records": lines(rows)},
            secret=SECRET,
        )
    assert error.value.code == "train.columns-unfit"
    out = capfd.readouterr()
    assert SECRET_WORDS not in str(error.value) + str(error.value.hint) + out.out + out.err
    assert not recwarn.list


@pytest.mark.parametrize("method", ["dpo", "distill"])
def test_what_libraries_warn_of_is_not_told(sources, method, capfd, caplog):
    # Tokens join across the boundary: trl would quote the end of the prompt.
    row = {"prompt": SECRET_WORDS[:-6], "chosen": SECRET_WORDS[-6:], "rejected": "no", "completion": SECRET_WORDS[-6:]}
    run(job(FAST + TABLES[method], method=method), sources[method] | {"records": lines([row] * 4)})
    out = capfd.readouterr()
    assert out.out + out.err + caplog.text == ""


@pytest.mark.parametrize("method", ["dpo", "reward", "distill"])
def test_conversations_need_a_chat_template(sources, method):
    base = sources[method]["base"]
    files = {name: base.read(name) for name in base.names()}
    settings = json.loads(files["tokenizer_config.json"])
    settings.pop("chat_template", None)
    files["tokenizer_config.json"] = json.dumps(settings).encode()
    table = TABLES[method].replace('template = "chatml"\n', "")
    with pytest.raises(TrainError) as error:
        run(job(FAST + table, method=method), sources[method] | {"base": MemorySource(files)})
    assert error.value.code == "train.no-chat-template"


def test_a_reward_reads_columns_that_are_there(sources):
    table = '[grpo]\ngenerations = 4\nmax_answer = 6\n[[grpo.rewards]]\nname = "exact"\ncolumn = "label"\n'
    with pytest.raises(TrainError) as error:
        run(job(FAST + table, method="grpo"), sources["grpo"])
    assert error.value.code == "train.columns-unfit"


def test_a_reward_reads_no_column_of_a_name_that_is_taken(sources):
    table = '[grpo]\ngenerations = 4\nmax_answer = 6\n[[grpo.rewards]]\nname = "exact"\ncolumn = "{}"\n'
    rows = lines([{"prompt": f"q {n}?", "completions": "a", "tools": "b", "label": "c"} for n in range(4)])
    inputs = sources["grpo"] | {"records": rows}
    assert run(job(FAST + table.format("label"), method="grpo"), inputs).metrics["steps"] == 12
    with pytest.raises(TrainError) as error:
        run(job(FAST + table.format("completions"), method="grpo"), inputs)
    assert error.value.code == "train.columns-unfit"


def test_an_unsupported_architecture_has_no_score():
    from transformers import BloomConfig, BloomForCausalLM, PretrainedConfig

    from mitai.train.methods.reward import with_score

    model = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=8, n_layer=1, n_head=2))
    assert with_score(model).score.out_features == 1
    model.base_model_prefix = "other"
    with pytest.raises(TrainError, match="no head"):
        with_score(model)
    model.config = PretrainedConfig()
    with pytest.raises(TrainError, match="no head"):
        with_score(model)


UNFIT = {
    "ipo with smoothing": ("dpo", '[dpo]\nloss = "ipo"\nlabel_smoothing = 0.1\n'),
    "a group in parts": ("grpo", TABLES["grpo"].replace("= 4", "= 3", 1)),
    "groups not of a batch": ("grpo", FAST.replace("batch = 4", "batch = 2\naccumulation = 2") + TABLES["grpo"]),
    "no room for a prompt": ("grpo", TABLES["grpo"].replace("max_answer = 6", "max_answer = 64")),
    "beta without an adapter": ("grpo", TABLES["grpo"].replace("[grpo]", "[grpo]\nbeta = 0.1")),
    "stopping by a loss of nothing": ("grpo", TABLES["grpo"] + "[early_stopping]\n"),
    "two programs": (
        "grpo",
        TABLES["grpo"]
        + 2 * f'[[grpo.rewards]]\nname = "code"\ncapsule = "records"\nfile = "x"\nsha256 = "{"ab" * 32}"\n',
    ),
    "no rewards": ("grpo", "[grpo]\nrewards = []\n"),
    "no teacher": ("distill", ""),
    "the student as teacher": ("distill", '[distill]\nteacher = "base"\n'),
    "another's table": ("dpo", "[reward]\n"),
}


@pytest.mark.parametrize(("method", "table"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_go_together(method, table):
    held_out = "[evaluation]\nevery_steps = 1\nrows = 2\n" if method == "grpo" else ""
    with pytest.raises(TrainError) as error:
        job(table + held_out, method=method)
    assert error.value.code == "train.job-malformed"


def test_a_reward_model_begins_anew():
    with pytest.raises(TrainError, match="head is new"):
        job(TABLES["reward"], method="reward", about='adapter = "first"')


def test_what_goes_together():
    assert job(TABLES["grpo"].replace("[grpo]", "[grpo]\nbeta = 0.1") + LORA, method="grpo").options.beta == 0.1
    held_out = "[evaluation]\nevery_steps = 1\nrows = 2\n"
    assert job(TABLES["grpo"] + held_out, method="grpo").evaluation.rows == 2


AUDITED = """
import os, sys
import test_train_methods as those
from train_rig import conversations, job, tiny_llama

seen = set()

def audit(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        if (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.add("write")
    elif event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "pickle.find_class"):
        seen.add(event)

records = {"dpo": those.PREFERENCES, "reward": those.PREFERENCES, "grpo": those.QUESTIONS}
inputs = {"base": tiny_llama(), "teacher": tiny_llama(seed=1)}
sys.addaudithook(audit)
open(os.devnull, "w").close()
assert seen == {"write"}
for method, table in those.TABLES.items():
    seen.clear()
    wanted = job(those.training(method) + table + those.LORA, method=method)
    those.run(wanted, inputs | {"records": records.get(method, conversations(24))}, secret=those.SECRET)
    assert not seen, (method, seen)
"""


@pytest.mark.slow
def test_nothing_is_written_sent_started_or_unpickled():
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", AUDITED], check=True, timeout=240, cwd=folder)
