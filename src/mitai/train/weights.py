"""Trained weights as files in memory, and adapters back onto their model; safetensors and JSON, nothing else.

An adapter's folder is the one that peft writes and reads: `adapter_config.json`, `adapter_model.safetensors`.

Invariants:

- Nothing is pickled, and an adapter's configuration chooses no code: only LoRA, only the members of `LoraSettings`.
- Every tensor that an adapter's configuration asks for must be there, with its shape, and no other.

Example:
    >>> kind, files = files(trainer.model, base)
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from safetensors.torch import load, save

from mitai.capsule.sources import FileSource
from mitai.errors import TrainError
from mitai.train.state import trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class LoraSettings(msgspec.Struct, frozen=True):
    """What is written and read of a LoRA adapter's configuration; peft's other members keep their defaults."""

    peft_type: Literal["LORA"]
    r: int
    lora_alpha: int
    target_modules: list[str]
    lora_dropout: float = 0.0
    task_type: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM"
    bias: Literal["none"] = "none"
    use_rslora: Literal[False] = False
    use_dora: Literal[False] = False
    modules_to_save: list[Literal["score"]] | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, int] = {}


def files(model: Any, base: FileSource) -> tuple[str, dict[str, bytes]]:  # noqa: ANN401 - peft has no types
    """Return the kind of what was trained, and its files: an adapter's, or the whole model's with its tokenizer."""
    if hasattr(model, "peft_config"):
        return "adapter", _adapter(model)
    model.config.dtype = model.dtype  # in which it is loaded again
    config = model.config.to_json_string(use_diff=False).encode()
    made = {name: base.read(name) for name in _TOKENIZER if name in base.names()}
    made |= {"config.json": config, "model.safetensors": _saved(trainable(model))}
    return "model", made


def _adapter(model: Any) -> dict[str, bytes]:  # noqa: ANN401 - peft has no types
    from peft import get_peft_model_state_dict

    peft = model.peft_config["default"]  # preference methods may keep a frozen copy beside it
    config = LoraSettings(
        peft_type="LORA",
        r=peft.r,
        lora_alpha=peft.lora_alpha,
        target_modules=sorted(peft.target_modules),
        lora_dropout=peft.lora_dropout,
        task_type=peft.task_type,
        modules_to_save=["score"] if peft.task_type == "SEQ_CLS" else None,
        rank_pattern=dict(peft.rank_pattern),
        alpha_pattern=dict(peft.alpha_pattern),
    )
    return {
        CONFIG: msgspec.json.format(msgspec.json.encode(config)),
        WEIGHTS: _saved(get_peft_model_state_dict(model, save_embedding_layers=False)),
    }


def _saved(tensors: dict[str, Any]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})


def with_adapter(model: PreTrainedModel, adapter: FileSource) -> PreTrainedModel:
    """Put a trained adapter onto its model, trainable.

    Raises:
        TrainError: It is no LoRA adapter of ours, or one of another model.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    try:
        if adapter.size(CONFIG) > MAX_CONFIG_BYTES:
            raise ValueError(CONFIG)
        config = msgspec.json.decode(adapter.read(CONFIG), type=LoraSettings)
        tensors = load(adapter.read(WEIGHTS))
        if config.task_type != "CAUSAL_LM" or config.modules_to_save:
            raise ValueError(CONFIG)  # a reward model's
        fields = msgspec.structs.asdict(config)
        put: Any = get_peft_model(model, LoraConfig(**fields))
    except Exception as error:  # peft and safetensors raise all kinds
        raise _unfit("its configuration is not of a kind that is known here") from error
    wanted = get_peft_model_state_dict(put, save_embedding_layers=False)
    if {name: each.shape for name, each in wanted.items()} != {name: each.shape for name, each in tensors.items()}:
        raise _unfit("its tensors are not those of this model")
    set_peft_model_state_dict(put, tensors)
    trained: PreTrainedModel = put
    return trained


def _unfit(why: str) -> TrainError:
    return TrainError("train.adapter-unfit", f"the adapter does not fit: {why}")


def quantised(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with its linear layers in 4 bits (QLoRA's NF4), on the GPU. Not yet run on hardware.

    Raises:
        TrainError: This machine has no GPU, or no bitsandbytes.
    """
    import torch

    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise TrainError(
            "train.no-quantisation",
            "lora.quantised needs an NVIDIA GPU and the package bitsandbytes; this machine lacks one of them",
            hint="train without it: lora.quantised = false",
        )
    layer = importlib.import_module("bitsandbytes").nn.Linear4bit
    ready: Any = model
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and not name.endswith("lm_head"):
            made = layer(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
            )
            made.load_state_dict(module.state_dict())
            model.set_submodule(name, made.requires_grad_(requires_grad=False))
    ready.is_loaded_in_4bit = True
    on_gpu: PreTrainedModel = ready.cuda()  # moving the layers there is what quantises them
    return on_gpu
