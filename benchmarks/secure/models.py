"""The models of `benchmarks/spu/shapes.py` under Hugging Face's names: for our loaders, and for transformers.

SPU computes with the same arrays. `exact` is what transformers makes of them in double precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.spu import shapes
from mitai.mpc.models.bert import Bert
from mitai.mpc.models.config import BertConfig, Gpt2Config, LlamaConfig, parse_config
from mitai.mpc.models.gpt2 import Gpt2
from mitai.mpc.models.llama import Llama

Named = dict[str, np.ndarray]
FAMILIES = {
    "bert": (BertConfig, Bert),
    "gpt2": (Gpt2Config, Gpt2),
    "llama": (LlamaConfig, Llama),
    "qwen2": (LlamaConfig, Llama),
}


class Tensors:
    """Arrays by name, as a folder's."""

    def __init__(self, named: Named) -> None:
        self._named = named

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def __call__(self, name: str) -> np.ndarray:
        """Return one, in double precision."""
        return self._named[name].astype(np.float64)


@dataclass
class Model:
    """A configuration, its tensors, and our model of it."""

    config: dict[str, Any]
    named: Named

    @property
    def ours(self) -> Any:
        """Our model."""
        kind, model = FAMILIES[self.config["model_type"]]
        return model(parse_config(json.dumps(self.config).encode(), kind))

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield what the model's owner shares."""
        return self.ours.arrays(Tensors(self.named))

    def exact(self) -> Any:
        """Return the model of transformers, in double precision."""
        import torch
        import transformers as hf

        family, config = self.config["model_type"], {k: v for k, v in self.config.items() if k != "architectures"}
        kinds = {
            "bert": (hf.BertConfig, hf.BertForSequenceClassification),
            "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel),
            "llama": (hf.LlamaConfig, hf.LlamaForCausalLM),
        }
        settings, model = kinds[family]
        made = model(settings(**config, attn_implementation="eager"))
        state = {name: torch.from_numpy(array) for name, array in self.named.items()}
        missing, unknown = made.load_state_dict(state, strict=False)
        if unknown or set(missing) - {"lm_head.weight"}:
            raise ValueError(f"tensors that don't fit: {unknown} {missing}")
        made.tie_weights()
        return made.double().eval()


def bert(length: int = 128, layers: int = 12) -> tuple[Model, np.ndarray]:
    """Return BERT-base with two classes, and a text."""
    weights, ids = shapes.bert(length, layers=layers)
    named: Named = {}
    put = partial(_put, named)
    put("bert.embeddings.word_embeddings.weight", weights["emb"])
    put("bert.embeddings.token_type_embeddings.weight", np.zeros((2, 768), np.float32))
    put("bert.embeddings.position_embeddings.weight", weights["pos"])
    put("bert.embeddings.LayerNorm", weights["ge"], weights["he"])
    for index, w in enumerate(weights["layers"]):
        layer = f"bert.encoder.layer.{index}"
        for short, name in zip("qkv", ("query", "key", "value"), strict=True):
            put(f"{layer}.attention.self.{name}", w["w" + short].T, w["b" + short])
        put(f"{layer}.attention.output.dense", w["wo"].T, w["bo"])
        put(f"{layer}.attention.output.LayerNorm", w["g1"], w["h1"])
        put(f"{layer}.intermediate.dense", w["w1"].T, w["c1"])
        put(f"{layer}.output.dense", w["w2"].T, w["c2"])
        put(f"{layer}.output.LayerNorm", w["g2"], w["h2"])
    put("bert.pooler.dense", weights["wp"].T, weights["bp"])
    put("classifier", weights["wc"].T, weights["bc"])
    return Model(bert_config(length, layers), named), ids


def bert_config(length: int, layers: int = 12) -> dict[str, Any]:
    """Return BERT-base's configuration."""
    return {
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "num_hidden_layers": layers,
        "max_position_embeddings": length, "layer_norm_eps": 1e-5,
    }  # fmt: skip


def gpt2(length: int = 1, layers: int = 12) -> tuple[Model, np.ndarray]:
    """Return GPT-2 small, and tokens."""
    weights, ids = shapes.gpt2(length, layers=layers)
    named: Named = {}
    put = partial(_put, named)
    put("transformer.wte.weight", weights["emb"])
    put("transformer.wpe.weight", weights["pos"])
    for index, w in enumerate(weights["layers"]):
        layer = f"transformer.h.{index}"
        parts = [np.concatenate([w[kind + short] for short in "qkv"], -1) for kind in "wb"]
        put(f"{layer}.attn.c_attn", *parts)
        put(f"{layer}.attn.c_proj", w["wo"], w["bo"])
        put(f"{layer}.ln_1", w["g1"], w["h1"])
        put(f"{layer}.ln_2", w["g2"], w["h2"])
        put(f"{layer}.mlp.c_fc", w["w1"], w["c1"])
        put(f"{layer}.mlp.c_proj", w["w2"], w["c2"])
    put("transformer.ln_f", weights["gf"], weights["hf"])
    return Model({"model_type": "gpt2", "n_layer": layers, "activation_function": "gelu"}, named), ids


def llama15m(length: int = 32, layers: int = 6) -> tuple[Model, np.ndarray]:
    """Return the 15M Llama, and tokens."""
    weights, ids = shapes.llama15m(length, layers=layers)
    named: Named = {"model.embed_tokens.weight": weights["emb"], "model.norm.weight": weights["gf"]}
    for index, w in enumerate(weights["layers"]):
        layer = f"model.layers.{index}"
        for short in "qkvo":
            _put(named, f"{layer}.self_attn.{short}_proj.weight", w["w" + short].T)
        for short, name in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            _put(named, f"{layer}.mlp.{name}_proj.weight", w[short].T)
        named[f"{layer}.input_layernorm.weight"] = w["g1"]
        named[f"{layer}.post_attention_layernorm.weight"] = w["g2"]
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 288, "intermediate_size": 768,
        "num_hidden_layers": layers, "num_attention_heads": 6, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    }  # fmt: skip
    return Model(config, named), ids


def qwen05b_config() -> dict[str, Any]:
    """Return the shape of Qwen2-0.5B with one layer."""
    return {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 1, "num_attention_heads": 14, "num_key_value_heads": 2, "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }  # fmt: skip


def qwen05b() -> Model:
    """Return Qwen2-0.5B with one layer."""
    config = qwen05b_config()
    width, inner, heads, groups = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    random, size, vocabulary = shapes.Random(5), width // heads, config["vocab_size"]
    named: Named = {"model.embed_tokens.weight": random.normal(vocabulary, width)}
    layer = "model.layers.0"
    for name, rows, columns in (("q", width, width), ("k", groups * size, width), ("v", groups * size, width)):
        _put(named, f"{layer}.self_attn.{name}_proj", random.normal(rows, columns, deviation=0.03), random.normal(rows))
    for name, rows, columns in (("self_attn.o", width, width), ("mlp.gate", inner, width), ("mlp.up", inner, width)):
        _put(named, f"{layer}.{name}_proj.weight", random.normal(rows, columns, deviation=0.03))
    _put(named, f"{layer}.mlp.down_proj.weight", random.normal(width, inner, deviation=0.02))
    for name in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        _put(named, f"{name}.weight", random.normal(width, deviation=0.1, mean=1))
    return Model(config, named)


def _put(named: Named, name: str, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
    if bias is None:
        named[name] = np.ascontiguousarray(weight)
    else:
        named[f"{name}.weight"], named[f"{name}.bias"] = np.ascontiguousarray(weight), bias
