"""What tests of training need: sources in memory, a tiny random Llama, records, and job files."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mitai.train.job import Job
from mitai.train.state import State


class MemorySource:
    """Files in memory, as an opened capsule shows them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._files))

    def size(self, name: str) -> int:
        return len(self._files[name])

    def read(self, name: str) -> bytes:
        return self._files[name]

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._files[name][offset : offset + len(buffer)]


class Kept:
    """States in memory, every one of them."""

    def __init__(self, newest: bytes | None = None) -> None:
        self.all: dict[int, bytes] = {}
        self._newest = newest

    def save(self, state: State) -> None:
        self.all[state.step] = state.encode()

    def newest(self) -> State | None:
        return State.decode(self._newest) if self._newest else None


def lines(rows: Sequence[object]) -> MemorySource:
    """Return a data set of JSON lines."""
    return MemorySource({"records.jsonl": b"\n".join(json.dumps(row).encode() for row in rows)})


def conversations(count: int) -> MemorySource:
    """Return so many short conversations."""
    return lines(
        [
            {
                "messages": [
                    {"role": "user", "content": f"What is {i}?"},
                    {"role": "assistant", "content": f"Number {i}."},
                ]
            }
            for i in range(count)
        ]
    )


def tiny_llama(seed: int = 0) -> MemorySource:
    """Return a random Llama of some 40,000 parameters, with the demo model's tokenizer."""
    import torch
    from safetensors.torch import save
    from transformers import LlamaConfig, LlamaForCausalLM

    from mitai import demo_model

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2560, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    model = LlamaForCausalLM(config)
    folder = demo_model.path()
    tokenizer = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return MemorySource(
        tokenizer
        | {"config.json": config.to_json_string().encode(), "model.safetensors": save(tensors, {"format": "pt"})}
    )


def job(more: str = "", *, method: str = "sft", data: str = '["records"]', about: str = "") -> Job:
    """Return a short job on the model `base` and the data `records`; `more` is further tables."""
    text = f'[job]\nname = "t"\nmethod = "{method}"\nmodel = "base"\ndata = {data}\n{about}\n'
    training = "" if "[training]" in more else "[training]\nbatch = 4\nmax_length = 64\n"
    return Job.parse(text + training + more)
