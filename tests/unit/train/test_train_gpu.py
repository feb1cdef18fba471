"""What only a GPU can show: 4-bit bases (QLoRA), and every method there."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from test_train_methods import FAST, LORA, PREFERENCES, QUESTIONS, SECRET, TABLES, training
from train_rig import conversations, job, tiny_llama

from mitai.train.run import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_an_adapter_over_four_bits(llama, method):
    records = PREFERENCES if method == "dpo" else conversations(24)
    wanted = job(FAST + TABLES.get(method, "") + LORA + "quantised = true\n", method=method)
    outcome = run(wanted, {"base": llama, "records": records})
    losses = outcome.metrics["losses"]
    assert outcome.kind == "adapter"
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("more", [LORA, ""], ids=["lora", "whole"])
@pytest.mark.parametrize("method", TABLES)
def test_methods_run_there(llama, method, more):
    data = {"dpo": PREFERENCES, "reward": PREFERENCES, "grpo": QUESTIONS}
    inputs = {"base": llama, "records": data.get(method, conversations(24)), "teacher": tiny_llama(seed=1)}
    wanted = job(training(method) + TABLES[method] + more, method=method)
    assert run(wanted, inputs, secret=SECRET).kind == ("adapter" if more else "model")
