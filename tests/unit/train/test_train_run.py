"""SFT from inputs in memory to files in memory: the same twice, the same after a resumption, watched on the way."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import safetensors.torch
import torch
from train_rig import Kept, MemorySource, job, lines

from mitai import demo_model
from mitai.capsule import FolderSource
from mitai.errors import TrainError
from mitai.serve.adapters import put_on
from mitai.serve.loading import load
from mitai.train.run import run
from mitai.train.state import State
from mitai.train.task import NOWHERE

LORA = "[lora]\nrank = 2\nalpha = 4\ndropout = 0.1\n"


class Notes:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.steps: list[list[Any]] = []

    def begin(self, trainer: Any, step: int) -> None:
        self.began.append(step)

    def step(self, step: int, samples: tuple[int, ...], loss: float) -> None:
        self.steps.append([step, list(samples), loss])

    def state(self) -> dict[str, Any]:
        return {"steps": list(self.steps)}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]

    def end(self, trainer: Any) -> dict[str, bytes]:
        return {"notes.json": repr(self.steps).encode()}


@pytest.mark.slow
@pytest.mark.parametrize("more", [LORA, ""])
def test_resumed_at_any_step_ends_the_same(inputs: dict[str, MemorySource], more: str) -> None:
    tables = "[checkpoints]\nevery_steps = 1\n[evaluation]\nevery_steps = 2\nrows = 4\n[early_stopping]\npatience = 3\n"
    wanted = job("[training]\nbatch = 4\nepochs = 2\naccumulation = 2\nlearning_rate = 1e-2\n" + tables + more)
    kept = Kept()
    whole = run(wanted, inputs, states=kept, observers={"notes": Notes()})
    assert list(kept.all) == [1, 2, 3, 4, 5]  # of 6: 20 rows in 5 batches, two of which make a step
    assert whole.kind == ("adapter" if more else "model")
    for state in kept.all.values():
        notes = Notes()
        again = run(wanted, inputs, states=Kept(state), observers={"notes": notes})
        assert notes.began == [State.decode(state).step]
        assert (again.files, again.metrics) == (whole.files, whole.metrics)
    assert run(wanted, inputs, observers={"notes": Notes()}).files == whole.files


def test_each_epoch_takes_every_row_once(inputs: dict[str, MemorySource]) -> None:
    notes = Notes()
    run(job("[training]\nbatch = 5\nepochs = 2\n" + LORA), inputs, observers={"notes": notes})
    for first in (0, 5):
        rows = [row for _, samples, _ in notes.steps[first : first + 5] for row in samples]
        assert sorted(rows) == list(range(24))
    assert [len(samples) for _, samples, _ in notes.steps] == [5, 5, 5, 5, 4] * 2


def test_limits_hold(inputs: dict[str, MemorySource]) -> None:
    outcome = run(job("[limits]\nsteps = 3\nrows = 10\n[training]\nbatch = 2\nepochs = 9\n" + LORA), inputs)
    assert (outcome.metrics["steps"], outcome.metrics["rows"]) == (3, 10)
    with pytest.raises(TrainError) as caught:
        run(job("[limits]\ntokens = 100\n" + LORA), inputs)
    assert caught.value.code == "train.tokens-exceeded"


def test_what_is_declared_bounds_rows_of_evaluation_too(inputs: dict[str, MemorySource]) -> None:
    inputs["held"] = inputs["records"]
    read: list[int] = []

    class Held(Notes):
        def begin(self, trainer: Any, step: int) -> None:
            read.append(len(trainer.eval_dataset))

    tables = "[limits]\nrows = 8\n[evaluation]\nevery_steps = 1\nrows = 20\n"
    run(job(tables + LORA, about='evaluation = ["held"]'), inputs, observers={"held": Held()})
    assert read == [8]


WATCHED: list[str] | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if WATCHED is None:
        return
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        WATCHED.append(str(args[0]))
    if event in {"os.mkdir", "os.rename", "socket.connect", "subprocess.Popen", "os.posix_spawn"}:
        WATCHED.append(f"{event} {args[0]}")


sys.addaudithook(_watch)


@pytest.mark.parametrize("more", [LORA, ""])
def test_nothing_is_written_connected_or_started(
    inputs: dict[str, MemorySource], more: str, capfd: pytest.CaptureFixture[str]
) -> None:
    global WATCHED
    run(job("[limits]\nsteps = 1\n" + LORA), inputs)  # what is imported late is imported
    capfd.readouterr()
    WATCHED = []
    try:
        run(job("[limits]\nsteps = 3\n[evaluation]\nevery_steps = 1\nrows = 4\n" + more), inputs)
    finally:
        seen, WATCHED = WATCHED, None
    assert set(seen) <= {"/dev/null", f"os.mkdir {NOWHERE}"}  # a folder that is there, and takes no files
    assert capfd.readouterr() == ("", "")


def test_what_is_made_can_be_served(inputs: dict[str, MemorySource]) -> None:
    inputs["base"] = FolderSource(demo_model.path())  # in bfloat16, with tied weights
    adapter = run(job("[limits]\nsteps = 1\n" + LORA), inputs)
    put_on(load(inputs["base"]).model, {"joint": MemorySource(adapter.files)})
    whole = run(job("[limits]\nsteps = 1\n"), inputs)
    served = load(MemorySource(whole.files)).model
    assert served.dtype == torch.float32
    weights = safetensors.torch.load(whole.files["model.safetensors"])
    assert all(torch.equal(served.state_dict()[name], tensor) for name, tensor in weights.items())
    assert "lm_head.weight" not in weights


def test_early_stopping_gives_the_best_weights(inputs: dict[str, MemorySource]) -> None:
    settings = '[training]\nbatch = 4\nlearning_rate = 1e-2\nschedule = "constant"\n'
    held_out = "[evaluation]\nevery_steps = 1\nrows = 4\n"
    stopping = "[early_stopping]\npatience = 2\nmin_delta = 1e5\n"  # only the first is good enough
    stopped = run(job(settings + LORA + held_out + stopping), inputs)
    assert stopped.metrics["steps"] == 3
    first = run(job(settings + LORA + held_out + "[limits]\nsteps = 1\n"), inputs)
    assert stopped.files["adapter_model.safetensors"] == first.files["adapter_model.safetensors"]


def test_quantisation_without_its_hardware_says_so(inputs: dict[str, MemorySource]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainError) as caught:
        run(job(LORA + "quantised = true\n"), inputs)
    assert caught.value.code == "train.no-quantisation"


def test_an_adapter_is_continued(inputs: dict[str, MemorySource]) -> None:
    first = run(job("[training]\nbatch = 4\nlearning_rate = 1e-2\n" + LORA), inputs)
    inputs["first"] = MemorySource(first.files)
    again = run(job("[training]\nbatch = 4\nlearning_rate = 1e-2\n", about='adapter = "first"'), inputs)
    assert again.kind == "adapter"
    assert again.metrics["losses"][0] < first.metrics["losses"][0]
    for name, damage in (("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"x")):
        inputs["first"] = MemorySource(first.files | {name: damage})
        with pytest.raises(TrainError) as caught:
            run(job(about='adapter = "first"'), inputs)
        assert caught.value.code == "train.adapter-unfit"


def test_cancelled_between_two_steps(inputs: dict[str, MemorySource]) -> None:
    seen: list[dict[str, float]] = []
    with pytest.raises(TrainError) as caught:
        run(job(LORA), inputs, report=seen.append, cancelled=lambda: len(seen) == 2)
    assert caught.value.code == "train.cancelled"
    assert [each["step"] for each in seen] == [1, 2]


def test_an_error_of_the_method_says_nothing_of_the_data(inputs: dict[str, MemorySource]) -> None:
    inputs["records"] = lines([{"prompt": "my secret", "completion": [{"role": "user", "content": "x"}]}])
    with pytest.raises(TrainError) as caught:
        run(job(LORA), inputs)
    assert "secret" not in caught.value.diagnostics()
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ("", {"text": "continued pre-training takes text"}),
        ("[sft]\npacking = true\n", {"text": "several of these share one row"}),
        ('[sft]\nloss = "completion"\n', {"prompt": "one and one is", "completion": " two"}),
        (
            '[sft]\nloss = "assistant"\ntemplate = "chatml"\n',
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        ),
    ],
)
def test_kinds_of_records(inputs: dict[str, MemorySource], options: str, row: dict[str, object]) -> None:
    inputs["records"] = lines([row] * 8)
    outcome = run(job(LORA + options), inputs)
    assert outcome.metrics["losses"][0] > 0
