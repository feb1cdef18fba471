"""Several ranks train as one does: the same losses within rounding, and the same bits on every rank and every time."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from train_rig import conversations, tiny_llama

from mitai.errors import TrainError
from mitai.train.group import Group, require_divisible
from mitai.train.job import Job
from mitai.train.links import KEY_BYTES, SealedLink
from mitai.train.run import run

FULL = """
[job]
name = "t"
method = "sft"
model = "base"
data = ["records"]
[training]
epochs = 2
batch = 4
learning_rate = 0.01
max_length = 48
"""
LORA = FULL.replace("batch = 4", "batch = 3\naccumulation = 2") + "[lora]\nrank = 2\n"
KEPT = "[checkpoints]\nevery_steps = 3\n[evaluation]\nevery_steps = 4\nrows = 4\n"
TWO = "[distributed]\nworkers = 2\n"


def ranks(jobs: list[str]) -> list[list[dict[str, Any]]]:
    """Run jobs on two linked processes; return what each said of each job."""
    ends = socket.socketpair()
    keys = [secrets.token_bytes(KEY_BYTES).hex() for _ in range(2)]
    running = []
    for rank, end in enumerate(ends):
        link = [end.fileno(), *(keys if rank == 0 else keys[::-1])]
        orders = {"rank": rank, "size": 2, "links": [link], "silence_s": 60, "jobs": jobs}
        running.append(
            subprocess.Popen(
                [sys.executable, Path(__file__).with_name("train_rank.py"), json.dumps(orders)],
                stdout=subprocess.PIPE,
                pass_fds=[end.fileno()],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )
        end.close()
    return [[json.loads(line) for line in process.communicate(timeout=90)[0].splitlines()] for process in running]


@pytest.fixture(scope="module")
def done() -> list[list[dict[str, Any]]]:
    """Full twice, the second time from the first state of the former; LoRA with accumulation; one that asks for 3."""
    return ranks([FULL + KEPT + TWO, FULL + KEPT + TWO, LORA + TWO, FULL + TWO.replace("2", "3")])


@pytest.mark.parametrize(("number", "tables"), [(0, FULL + KEPT), (2, LORA)])
def test_losses_are_those_of_one_process(done: list[list[dict[str, Any]]], number: int, tables: str) -> None:
    alone = run(Job.parse(tables), {"base": tiny_llama(), "records": conversations(25)})
    losses = done[0][number]["losses"]
    assert len(losses) > 9
    assert losses == pytest.approx(alone.metrics["losses"], rel=1e-5)


def test_ranks_have_the_same_bits_and_resume_to_them(done: list[list[dict[str, Any]]]) -> None:
    leader, other = done
    for one, two in zip(leader[:3], other[:3], strict=True):
        assert (one["losses"], one["sha256"]) == (two["losses"], two["sha256"])
    whole, resumed = leader[0], leader[1]
    assert whole["states"][0] < resumed["states"][0]  # it began there
    assert (whole["losses"], whole["sha256"]) == (resumed["losses"], resumed["sha256"])
    assert other[0]["states"] == []


def test_another_number_of_ranks_does_not_start(done: list[list[dict[str, Any]]]) -> None:
    assert [said[3]["code"] for said in done] == ["train.ranks"] * 2


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        (LORA + "dropout = 0.1\n", "dropout"),
        (FULL + "[transcript]\nsegment_steps = 2\n", "transcript"),
        (FULL + KEPT + "[early_stopping]\n", "early_stopping"),
        (FULL.replace("batch = 4", "batch = 1"), "as many rows"),
        (FULL.replace("sft", "reward"), "method sft"),
    ],
)
def test_what_cannot_be_divided_is_refused(tables: str, why: str) -> None:
    Job.parse(tables)
    with pytest.raises(TrainError, match=why):
        Job.parse(tables + TWO)
    with pytest.raises(TrainError):
        Job.parse(FULL + TWO.replace("2", "1"))


def test_owners_are_told_how_many_workers_there_are() -> None:
    assert Job.parse(FULL + TWO).declared() == Job.parse(FULL).declared() | {"workers": "2"}


# --- the group alone, its ranks on threads ---------------------------------------------------------------------------


@pytest.fixture
def groups() -> Iterator[list[Group]]:
    """Three ranks."""
    pairs, links = [socket.socketpair() for _ in range(2)], []
    for number, pair in enumerate(pairs):
        there, back = bytes([number]) * KEY_BYTES, bytes([number + 9]) * KEY_BYTES
        links.append((SealedLink(pair[0], there, back, 10.0), SealedLink(pair[1], back, there, 10.0)))
    yield [Group(0, [one for one, _ in links], 3), *(Group(r, [end], 3) for r, (_, end) in enumerate(links, 1))]
    for pair in links:
        for end in pair:
            end.close()


def each(groups: list[Group], work: Callable[[Group], Any]) -> list[Any]:
    def caught(group: Group) -> Any:
        try:
            return work(group)
        except TrainError as error:
            return error.code

    with ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(caught, groups))


def test_all_ranks_get_the_sum_in_the_order_of_ranks(groups: list[Group]) -> None:
    parts = [torch.randn(600_001, generator=torch.Generator().manual_seed(rank)) for rank in range(3)]
    expected = (parts[0] + parts[1]) + parts[2]
    each(groups, lambda group: group.add(parts[group.rank]))
    assert all(torch.equal(part, expected) for part in parts)
    assert each(groups, lambda group: group.share(b"state" * (group.rank == 0))) == [b"state"] * 3
    assert each(groups, lambda group: group.share(b"")) == [b""] * 3


def test_a_gradient_that_only_some_ranks_have_is_added_up_for_all(groups: list[Group]) -> None:
    models = [torch.nn.ModuleList(torch.nn.Linear(2, 1, bias=False) for _ in range(3)) for _ in groups]
    for rank, model in enumerate(models):
        model[rank % 2].weight.grad = torch.full((1, 2), float(rank + 1))
    each(groups, lambda group: group.add_gradients(models[group.rank]))
    for model in models:
        gradients = [None if layer.weight.grad is None else layer.weight.grad.tolist() for layer in model]
        assert gradients == [[[4.0, 4.0]], [[2.0, 2.0]], None]


def test_ranks_that_differ_end_the_job(groups: list[Group]) -> None:
    same = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.tensor(1)}
    assert each(groups, lambda group: group.agree(same)) == [None] * 3
    other = {"a": torch.zeros(3), "b": torch.tensor(1)}
    assert each(groups, lambda group: group.agree(other if group.rank == 2 else same))[0] == "train.ranks-differ"


def test_every_row_is_one_ranks(groups: list[Group]) -> None:
    rows = {name: torch.arange(8).reshape(4, 2) for name in ("input_ids", "labels")}
    parts = [group.part(rows)["labels"].tolist() for group in groups]
    assert parts == [[[0, 1], [6, 7]], [[2, 3]], [[4, 5]]]
    short = {name: value[:2] for name, value in rows.items()}
    assert groups[2].part(short)["labels"].tolist() == [[-100, -100]]
    assert short["labels"].tolist() == [[0, 1], [2, 3]]
    for odd in ({"input_ids": rows["input_ids"]}, rows | {"text": ["a"]}, rows | {"other": torch.zeros(3)}):
        with pytest.raises(TrainError, match="no rows"):
            groups[0].part(odd)


@pytest.mark.parametrize(
    ("config", "layer", "why"),
    [
        ({"attention_dropout": 0.1}, torch.nn.Identity(), "dropout"),
        ({}, torch.nn.Dropout(0.1), "dropout"),
        ({}, torch.nn.BatchNorm1d(2), "normalises"),
        ({"aux": True}, torch.nn.Identity(), "whole batch"),
    ],
)
def test_models_that_cannot_be_divided(config: dict[str, Any], layer: torch.nn.Module, why: str) -> None:
    model: Any = torch.nn.Sequential(layer)
    model.config = SimpleNamespace(to_dict=lambda: config)
    trainer: Any = SimpleNamespace(model=model, aux_loss_enabled="aux" in config)
    with pytest.raises(TrainError, match=why):
        require_divisible(trainer)
