"""LoRA adapters on a loaded model: strictly read, and applied per token, so that several share one batch.

An adapter is a folder as peft writes it, `adapter_config.json` and `adapter_model.safetensors` (Hu et al., "LoRA:
Low-Rank Adaptation of Large Language Models", 2021): a linear layer x ↦ Wx becomes x ↦ Wx + s·B(Ax), with
s = alpha / r, or alpha / √r for rank-stabilised LoRA. `docs/spec/openai-api.md`, "Adapters".

Invariants:

- Nothing in an adapter chooses code, a path or a pattern to search by: every member of its configuration is known, and
  either used, or without meaning for answers, or at the value that changes nothing. Other files are not read.
- Its tensors are those of the linear layers that its configuration names, all of them and no other, each with the
  shape that the model's layer asks for.
- A token of a batch sees the adapter of its own request only.

Example:
    >>> put_on(model, {"tiny:support": FolderSource(Path("adapter"))})
    >>> with selected([("tiny:support", None)]):
    ...     model(input_ids)
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch.nn.functional import linear

from mitai.capsule.directio import anonymous
from mitai.capsule.sources import FileSource
from mitai.capsule.tensors import Tensor, parse_shard
from mitai.errors import MitaiError, ParseError, ServeError
from mitai.serve.loading import view

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 4 << 20
MAX_WEIGHTS_BYTES = 8 << 30
_TENSOR = re.compile(r"base_model\.model\.([A-Za-z0-9_.]{1,512})\.lora_(A|B)\.weight")

_Layer = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z", max_length=512)]
_Nothing = Annotated[dict[str, int], Meta(max_length=0)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`adapter_config.json`, every member that peft 0.21 writes; what is not used must be at what changes nothing."""

    peft_type: Literal["LORA"]
    r: Annotated[int, Meta(ge=1, le=4096)]
    lora_alpha: Annotated[float, Meta(gt=0, le=1e6)]
    target_modules: Annotated[tuple[_Layer, ...], Meta(min_length=1, max_length=65536)]  # never a pattern
    use_rslora: bool = False
    # Only about how it was trained, or where its model was found there:
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: Literal["CAUSAL_LM"] | None = None
    inference_mode: bool = True
    init_lora_weights: bool | Literal["gaussian"] = True  # others change the model's own weights
    lora_dropout: float = 0.0
    peft_version: str | None = None
    megatron_core: str | None = None
    qalora_group_size: int | None = None
    # What would make it something else than plain LoRA on whole linear layers:
    alora_invocation_tokens: None = None
    alpha_pattern: _Nothing | None = None
    arrow_config: None = None
    auto_mapping: None = None
    bias: Literal["none"] = "none"
    corda_config: None = None
    ensure_weight_tying: Literal[False] = False
    eva_config: None = None
    exclude_modules: None = None
    fan_in_fan_out: Literal[False] = False
    kasa_config: None = None
    layer_replication: None = None
    layers_pattern: None = None
    layers_to_transform: None = None
    loftq_config: _Nothing | None = None
    lora_bias: Literal[False] = False
    lora_ga_config: None = None
    megatron_config: None = None
    modules_to_save: None = None
    monteclora_config: None = None
    rank_pattern: _Nothing | None = None
    target_parameters: None = None
    trainable_token_indices: None = None
    use_bdlora: Literal[False] | None = None
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    velora_config: None = None

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return float(self.lora_alpha) / (self.r**0.5 if self.use_rslora else self.r)

    def layers(self, names: Iterable[str]) -> set[str]:
        """Return those of a model's layers that it changes: by their whole name, or the end of it."""
        targets = frozenset(self.target_modules)
        return {name for name in names if not targets.isdisjoint(_endings(name))}


def _endings(name: str) -> Iterator[str]:
    """Give `a.b.c`, `b.c`, `c`."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def parse_settings(data: bytes) -> Settings:
    """Parse `adapter_config.json`; raise `ParseError` on anything that is not supported."""
    if len(data) > MAX_CONFIG_BYTES:
        raise _malformed(f"it has {len(data)} bytes")
    try:
        return msgspec.json.decode(data, type=Settings)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        where = re.search(r"\$(\.[a-z_]{1,64})?|field `[a-z_]{1,64}`", str(error))  # the rest may quote a value
        raise _malformed(f"at {where.group()}" if where else "it is not JSON") from None


def _malformed(why: str) -> ParseError:
    return ParseError(
        "serve.adapter-config-refused",
        f"{CONFIG} asks for something that is not supported: {why}",
        hint="plain LoRA on linear layers is supported, as peft saves it",
    )


# --- Which adapter a token sees -------------------------------------------------------------------------------------


@dataclass
class _Selection(threading.local):
    """Adapters of the forward pass in progress: each with its tokens, or with None for all of them."""

    parts: Sequence[tuple[str, torch.Tensor | None]] = ()
    tokens: int = 0  # in the pass; 0 where no part names any


_SELECTION = _Selection()


@contextmanager
def selected(parts: Sequence[tuple[str, torch.Tensor | None]], tokens: int = 0) -> Iterator[None]:
    """Apply adapters to a forward pass of this thread, of `tokens` packed tokens where parts name some."""
    _SELECTION.parts, _SELECTION.tokens = parts, tokens
    try:
        yield
    finally:
        _SELECTION.parts = ()


def parts_of(owners: Sequence[tuple[str, int]]) -> list[tuple[str, torch.Tensor | None]]:
    """Return the parts of a packed pass from (adapter or "", number of tokens), in the order of the pack."""
    named = {name for name, count in owners if count}
    if len(named) == 1:
        return [(name, None) for name in named if name]
    at: dict[str, list[int]] = {}
    start = 0
    for name, count in owners:
        if name:
            at.setdefault(name, []).extend(range(start, start + count))
        start += count
    return [(name, torch.tensor(indices)) for name, indices in at.items()]


# --- On a model -----------------------------------------------------------------------------------------------------


@dataclass
class _Pair:
    down: torch.Tensor  # (r, in)
    up: torch.Tensor  # (out, r), scaled

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(linear(x, self.down), self.up)


class _Hook:
    """The forward hook of one linear layer."""

    def __init__(self) -> None:
        self.pairs: dict[str, _Pair] = {}

    def __call__(
        self, _module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        (x,) = arguments
        for name, tokens in _SELECTION.parts:
            pair = self.pairs.get(name)
            if pair is None:
                continue
            if tokens is None:
                output = output + pair(x)
            elif x.shape[-2] != _SELECTION.tokens:
                raise UnroutableError
            else:
                output = output.index_add(-2, tokens, pair(x.index_select(-2, tokens)))
        return output


class UnroutableError(Exception):
    """A layer that does not see every token of a pass: its tokens can't be told apart."""


def put_on(model: torch.nn.Module, adapters: Mapping[str, FileSource]) -> None:
    """Put adapters on a model, under their names; each is without effect until it is `selected`.

    Raises:
        ParseError: An adapter's files are malformed, or ask for what is not supported.
        ServeError: An adapter does not fit the model.
        CapsuleError: A sealed file is damaged.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    hooks: dict[str, _Hook] = {}
    for name, source in adapters.items():
        for layer, pair in _read(source, layers).items():
            if layer not in hooks:
                hooks[layer] = _Hook()
                layers[layer].register_forward_hook(hooks[layer])
            hooks[layer].pairs[name] = pair


def _read(source: FileSource, layers: Mapping[str, torch.nn.Linear]) -> dict[str, _Pair]:
    for name, limit in ((CONFIG, MAX_CONFIG_BYTES), (WEIGHTS, MAX_WEIGHTS_BYTES)):
        if name not in source.names() or not 0 < source.size(name) <= limit:
            raise _misfit(f"it has no {name}, or none of a size between 1 and {limit} bytes")
    settings = parse_settings(source.read(CONFIG))
    buffer = memoryview(anonymous(source.size(WEIGHTS)))[: source.size(WEIGHTS)]
    source.read_into(WEIGHTS, 0, buffer)
    found: dict[str, dict[str, Tensor]] = {}
    for tensor in parse_shard(WEIGHTS, buffer).tensors:
        match = _TENSOR.fullmatch(tensor.name)
        if match is None:
            raise _misfit("a tensor is not named as LoRA's are")
        found.setdefault(match[1], {})[match[2]] = tensor
    named = settings.layers(layers)
    if named != found.keys() or any("experts" in layer.split(".") for layer in named):
        raise _misfit(f"it has tensors for {len(found)} layers; its names fit {len(named)} linear layers of the model")
    return {layer: _pair(tensors, layers[layer], settings) for layer, tensors in found.items()}


def _pair(tensors: Mapping[str, Tensor], layer: torch.nn.Linear, settings: Settings) -> _Pair:
    shapes = {"A": (settings.r, layer.in_features), "B": (layer.out_features, settings.r)}
    if {side: tensor.shape for side, tensor in tensors.items()} != shapes:
        raise _misfit("a tensor has another shape than the model's layer and the rank ask for")
    if any(tensor.dtype not in {"F32", "F16", "BF16"} for tensor in tensors.values()):
        raise _misfit("a tensor is not of a floating-point type")
    down, up = (view(WEIGHTS, tensors[side]) for side in "AB")
    if not all(torch.isfinite(each).all() for each in (down, up)):
        raise _misfit("a tensor holds a value that is no number")
    dtype = layer.weight.dtype
    return _Pair(down.to(dtype), (up.float() * settings.scale).to(dtype))


def _misfit(why: str) -> MitaiError:
    return ServeError("serve.adapter-misfit", f"the adapter does not fit the model: {why}")
