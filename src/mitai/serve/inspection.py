"""What an engine has to know of a loaded model: its limits, its end tokens, and whether its attention can be packed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import torch
from transformers import PreTrainedModel

from mitai.errors import ServeError
from mitai.serve import batch
from mitai.serve.adapters import UnroutableError, selected
from mitai.serve.engine import ModelInfo
from mitai.serve.fingerprints import Bits
from mitai.serve.loading import LoadedModel

log = structlog.get_logger(__name__)
_CONTEXT = 2048  # of models that don't say


def describe(loaded: LoadedModel, name: str, max_context: int | None, adapters: tuple[str, ...] = ()) -> ModelInfo:
    """Return what the API tells about a model."""
    config, defaults = loaded.model.config.get_text_config(), loaded.model.generation_config
    own = int(getattr(config, "max_position_embeddings", None) or _CONTEXT)
    temperature, top_p = getattr(defaults, "temperature", None), getattr(defaults, "top_p", None)
    return ModelInfo(
        name=name,
        context_length=min(own, max_context or own),
        vocabulary=_vocabulary(loaded.model),
        has_chat_template=bool(loaded.tokenizer.chat_template),
        architecture=type(loaded.model).__name__,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        adapters=adapters,
    )


def _vocabulary(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    if not isinstance(weight, torch.Tensor):
        raise ServeError("serve.weights-misfit", "the model has no table of input embeddings")
    return weight.shape[0]


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Return the ids that end an answer: of the generation config, the config and the tokenizer."""
    ends: set[int] = set()
    for value in (
        getattr(loaded.model.generation_config, "eos_token_id", None),
        getattr(loaded.model.config, "eos_token_id", None),
        loaded.tokenizer.eos_token_id,
    ):
        ends |= set(value) if isinstance(value, list | tuple) else ({value} if value is not None else set())
    return frozenset(ends)


def bytes_per_token(model: PreTrainedModel) -> int:
    """Return the memory for keys and values of one token in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


class LastHidden:
    """The last hidden states of a model: what the layer that gives logits is called with.

    Args:
        model: Whose.

    Raises:
        ServeError: The model has no such layer.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        head: torch.nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if head is None:
            raise ServeError(
                "serve.fingerprints-unsupported", "this architecture does not show the states that logits come from"
            )
        self._seen: torch.Tensor | None = None
        head.register_forward_pre_hook(self._see)

    def _see(self, _: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self._seen = arguments[0]

    def take(self) -> Bits:
        """Return (rows, hidden) of the pass that has just run, in bits of bfloat16."""
        if self._seen is None:
            raise ServeError("serve.engine-failed", "a pass of the model gave no hidden states")
        seen, self._seen = self._seen, None
        bits: Bits = seen[0].to(torch.bfloat16).view(torch.int16).numpy().view("uint16")
        return bits


def pack(model: PreTrainedModel) -> bool:
    """Try one token: tell whether every layer's attention goes through the interface, and leave it on if so."""
    batch.register()
    before = model.config._attn_implementation
    step = batch.PackedStep(batch.KeyValueCache(), [], [batch.Segment(0, 0, 1, 0)])
    batch.CURRENT.step, batch.CURRENT.layers = step, set()
    try:
        model.set_attn_implementation(batch.NAME)
        zero = torch.zeros(1, 1, dtype=torch.long)
        with torch.inference_mode():
            model(input_ids=zero, position_ids=zero, use_cache=False, logits_to_keep=torch.zeros(1, dtype=torch.long))
        if batch.CURRENT.layers == set(range(model.config.get_text_config().num_hidden_layers)):
            return True
    except Exception as error:  # noqa: BLE001 - any failure of the trial means: run it the plain way
        log.info("model runs unpacked", reason=type(error).__name__, architecture=type(model).__name__)
    finally:
        batch.CURRENT.step = batch.CURRENT.layers = None
    model.set_attn_implementation(before)
    return False


def try_packed(model: PreTrainedModel, adapters: Sequence[str]) -> None:
    """Raise `ServeError` when an adapter changes a layer that does not see every token of a packed pass."""
    step = batch.PackedStep(batch.KeyValueCache(), [], [batch.Segment(0, 0, 2, 0)])
    batch.CURRENT.step = step
    try:
        with torch.inference_mode(), selected([(name, torch.arange(2)) for name in adapters], 2):
            model(
                input_ids=torch.zeros(1, 2, dtype=torch.long),
                position_ids=torch.arange(2)[None],
                use_cache=False,
                logits_to_keep=torch.ones(1, dtype=torch.long),
            )
    except UnroutableError:
        raise ServeError(
            "serve.adapter-misfit",
            "the adapter changes a layer that sees only some of a batch's tokens, such as the last one",
            hint="train it on the layers of attention and of the feed-forward network",
        ) from None
    finally:
        batch.CURRENT.step = None
