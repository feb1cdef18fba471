"""States: one encoding, nothing else accepted, all of a trainer in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transcript_rig import Setting

from mitai.errors import TrainError
from mitai.train.transcript.state import MAGIC, State, capture, distance, restore, restore_weights

STATE = State(
    {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    {"w/exp_avg": torch.zeros(2, 3), "w/step": torch.tensor(3.0)},
    {"torch": torch.arange(4, dtype=torch.uint8), "none": torch.empty(0, dtype=torch.float64)},
)
DATA = STATE.encode()


def test_a_state_comes_back_whole() -> None:
    state = State.decode(DATA)
    assert state.encode() == DATA
    assert torch.equal(state.weights["w"], STATE.weights["w"])
    assert state.optimizer["w/step"].shape == ()


@pytest.mark.parametrize("at", range(0, len(DATA), 7))
def test_a_changed_byte_is_another_state_or_none(at: int) -> None:
    changed = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
    try:
        state = State.decode(changed)
    except TrainError:
        return
    assert state.encode() == changed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        DATA[:-1],
        DATA + b"\0",
        DATA.replace(b'"f32"', b'"f99"', 1),
        DATA.replace(b"[2,3]", b"[3,2]"),
        DATA.replace(b'"w"', b'"a"', 1),
        DATA.replace(b"v1\0", b"v2\0", 1),
        MAGIC + (2).to_bytes(4, "big") + b"{}",
        MAGIC + (1 << 31).to_bytes(4, "big") + b"{}",
        MAGIC + (2).to_bytes(4, "big") + b"\xff{",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    if data == DATA.replace(b"[2,3]", b"[3,2]"):  # the same bytes in another shape: another state, not another spelling
        assert State.decode(data).encode() == data
        return
    with pytest.raises(TrainError) as refused:
        State.decode(data)
    assert refused.value.code == "train.state-malformed"


def test_a_trainer_goes_back_to_a_state_with_all_its_randomness() -> None:
    trainer = Setting(steps=2).build()
    trainer.train()
    state = State.decode(capture(trainer).encode())
    drawn = (torch.rand(3), np.random.rand(3))
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.zero_()
    trainer.optimizer.state.clear()
    restore(state, trainer)
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3) == drawn[1]).all()
    restore(state, trainer)
    assert capture(trainer).encode() == state.encode()


@pytest.mark.parametrize("part", ["weights", "optimizer", "random"])
def test_a_state_of_something_else_is_refused(part: str) -> None:
    trainer = Setting(steps=1).build()
    trainer.train()
    state = capture(trainer)
    tensors = getattr(state, part)
    name = next(iter(tensors))
    for changed in (
        {**tensors, "more/step": torch.zeros(())},
        {key: value for key, value in tensors.items() if key != name}
        if part != "optimizer"
        else {"x/y": torch.ones(1)},
        {**tensors, name: torch.zeros(5, 5, 5, dtype=torch.float64)},
    ):
        odd = State(
            **{each: changed if each == part else getattr(state, each) for each in ("weights", "optimizer", "random")}
        )
        with pytest.raises(TrainError) as refused:
            restore(State.decode(odd.encode()), trainer)
        assert refused.value.code == "train.state-misfit"
    restore_weights(state, trainer)


def test_tensors_that_have_no_encoding_are_refused() -> None:
    with pytest.raises(TrainError, match="no tensors of"):
        State({"w": torch.zeros(1, dtype=torch.complex64)}, {}, {}).encode()


def test_distance_is_relative_to_the_movement() -> None:
    start, mine = {"w": torch.zeros(4)}, {"w": torch.ones(4)}
    assert distance(mine, mine, start) == 0
    assert distance(mine, {"w": torch.ones(4) * 1.5}, start) == pytest.approx(0.5)
    assert distance({}, {}, {}) == 0
