"""Transformers with random weights of given sizes, what they give in floating point, and an engine that counts."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import torch
from transformers import (
    BertForSequenceClassification,
    BertModel,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
)

from mitai.mpc.clear import ClearEngine
from mitai.mpc.models.bert import Bert
from mitai.mpc.models.config import BertConfig, Gpt2Config, LlamaConfig, parse_config
from mitai.mpc.models.gpt2 import Gpt2
from mitai.mpc.models.llama import Llama
from mitai.mpc.ring import decode
from mitai.mpc.sharing import SIDES, ShareFolder
from mitai.mpc.tasks import Walk
from mitai.mpc.two.local import Local
from mitai.mpc.two.shares import join

FAMILIES = {"bert": (BertConfig, Bert), "gpt2": (Gpt2Config, Gpt2), "llama": (LlamaConfig, Llama)}
TORCH = {
    "bert": BertForSequenceClassification,
    "bert-embeddings": BertModel,
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
}


class Named:
    """A model's tensors by name, as a folder has them."""

    def __init__(self, model):
        self._tensors = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}

    def __contains__(self, name):
        return name in self._tensors

    def __call__(self, name):
        return self._tensors[name]


def random_model(name, config, deviations, seed=1):
    """Return a transformers model with random weights, whose deviation is that of the first name that they contain."""
    generator = torch.Generator().manual_seed(seed)
    model = TORCH[name](config)
    with torch.no_grad():
        for parameter, tensor in model.named_parameters():
            vector = tensor.ndim == 1
            if vector and ("norm" in parameter.lower() or ".ln_" in parameter):
                tensor.normal_(float(parameter.endswith("weight")), 0.1, generator=generator)
            else:
                deviation = next(number for part, number in deviations.items() if part in parameter)
                tensor.normal_(0, 0.02 if vector else deviation, generator=generator)
    return model.eval()


def ours(model, **members):
    """Return our model of the same configuration."""
    config = model.config.to_dict() | {"architectures": [type(model).__name__]} | members
    family = "llama" if config["model_type"] == "qwen2" else config["model_type"]
    kind, program = FAMILIES[family]
    return program(parse_config(json.dumps(config).encode(), kind))


class CountingEngine(ClearEngine):
    """Notes each operation that a protocol talks about, and the shapes of what it takes.

    Truncations within products are noted, since they take a round of their own.
    """

    def __init__(self):
        self.calls = []
        self.depth = 0

    def count(self):
        """Return how often each operation was asked for, but for inputs."""
        return Counter(name for name, *_ in self.calls if name != "input")

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in OPERATIONS:
            return found

        def noted(*secrets, **options):
            if self.depth == 0 or name == "truncate":
                self.calls.append((name, *(getattr(secret, "shape", secret) for secret in secrets)))
            self.depth += 1
            try:
                return found(*secrets, **options)
            finally:
                self.depth -= 1

        return noted


OPERATIONS = {"truncate", "multiply", "matmul", "linear", "less", "spline", "octaves", "upper", "gumbel", "input"}


def floats(array):
    """Return a torch tensor as an array."""
    return array.detach().double().numpy()


def tokens(rows, columns, vocabulary, seed=0):
    """Return random tokens."""
    return np.random.default_rng(seed).integers(1, vocabulary, (rows, columns))


class Told:
    """What `mitai.mpc.clients.Answer` is for whoever listens: numbers, and receipts (none)."""

    def __init__(self, numbers):
        self._numbers, self.receipts, self.keys = iter(numbers), {}, {}

    def __iter__(self):
        return self._numbers


class Parties:
    """Two parties and a dealer with the cut's shares, in this process; `ask` is what `mitai.mpc.clients.ask` does."""

    def __init__(self, cut, offer):
        self.local = Local()
        folders = [ShareFolder.open(cut / role) for role in SIDES[:2]]
        model = [join(*both) for both in zip(*(folder.shares(offer) for folder in folders), strict=True)]
        self.loaded = self.local.do((offer.load,) * 3, {"model": model})

    def ask(self, _credentials, _peers, offer, question, values, **_):
        return Told(self._asked(offer, question, values))

    def _asked(self, offer, question, values):
        walk = Walk()
        asked = walk.answer(offer, question, values)
        told = ([], [], [])
        programs = [question.program(loaded, own.append) for loaded, own in zip(self.loaded, told, strict=True)]
        self.local.do(tuple(programs), {"client": asked})
        ends = (own[-len(walk.emitted) :] for own in told[:2])  # planning emits, too
        for (_, fraction), first, second in zip(walk.emitted, *ends, strict=True):
            yield decode(join(first.parts[0], second.parts[0]), fraction)
