"""A Hugging Face causal-LM folder, sealed or plain, becomes a model in memory; nothing of it is written anywhere.

Follows the layout of `save_pretrained`: `config.json`, `generation_config.json`, `tokenizer.json`,
`tokenizer_config.json`, `chat_template.jinja`, and safetensors, single (`model.safetensors`) or sharded with an index
(github.com/huggingface/safetensors, "Format").

Invariants:

- Only `FileSource` is read: with a capsule, plaintext exists in this process's memory alone. Weights go to anonymous
  memory maps, and the model's parameters are views of them: one copy.
- Code in a folder never runs: only architectures that the installed transformers knows are built, pickles are not read.
- Every tensor that the architecture has must be in the folder, with its shape: nothing is silently left random.

Example:
    >>> loaded = load(FolderSource(Path("models/tiny-llama")))
    >>> loaded.model.config.model_type
    'llama'
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from mitai.capsule.sources import FileSource
from mitai.capsule.tensors import Tensor, parse_shard
from mitai.errors import ServeError
from mitai.serve.prompts import load_tokenizer
from mitai.serve.weights import Progress, begin, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, ready to run."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load(
    source: FileSource,
    *,
    progress: Progress | None = None,
    weights: Future[dict[str, memoryview]] | None = None,
    classifiers: bool = False,
    approximated: bool = False,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        source: The folder.
        progress: Called with (bytes read, bytes in all) of the weights.
        weights: What `mitai.serve.weights.begin` returned for this source, where reading has begun already.
        classifiers: Take a folder whose configuration names the family's sequence classifier too.
        approximated: Take a model that was trained for approximations; the caller puts them in (`is_approximated`).

    Raises:
        ServeError: The folder is not one of a causal language model, or lacks something.
        ParseError: A file of weights is not strict safetensors.
        CapsuleError: A sealed file is damaged.
    """
    config = _config(source)
    if is_approximated(config) and not approximated:
        raise ServeError(
            "serve.approximated",
            "this model was trained for the approximations of secure computation; exact functions give wrong answers",
            hint="compute it with mitai.mpc, or use the model that it was made from",
        )
    weights = weights or begin(source, progress)  # read while Python imports the model's code and builds the tokenizer
    architecture = _architecture(config, classifiers=classifiers)
    tokenizer = load_tokenizer(source)
    model = _model(source, config, architecture, _tensors(weights.result()))
    return LoadedModel(model, tokenizer)


def is_approximated(config: PretrainedConfig) -> bool:
    """Return whether a configuration asks for other functions than its family's (`mpc_approx`)."""
    return getattr(config, "mpc_approx", "exact") != "exact"


def _require(source: FileSource, name: str, hint: str) -> None:
    if name not in source.names():
        raise ServeError("serve.model-file-missing", f"the model folder has no {name}", hint=hint)


# These make transformers fetch and run a "kernel" from the hub, or read weights from elsewhere: the owner's choice of
# code must not become what runs beside the prompts. The engine chooses its attention itself.
_CHOOSES_CODE = frozenset(
    (
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "transformers_weights",
        "use_kernels",
    )
)


def _without_code(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without what chooses code, sub-configurations included."""
    return {
        name: _without_code(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name not in _CHOOSES_CODE
    }


def _config(source: FileSource) -> PretrainedConfig:
    _require(source, "config.json", "give the folder that save_pretrained wrote")
    fields = read_json(source, "config.json")
    if "auto_map" in fields:
        raise ServeError(
            "serve.remote-code-refused",
            "config.json asks to run code from the model folder (auto_map); that is never done",
            hint="use a model whose architecture the installed transformers has",
        )
    fields = _without_code(fields)
    kind = fields.pop("model_type", None)
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise ServeError(
            "serve.architecture-unknown",
            f"transformers {transformers.__version__} has no model type {str(kind)[:60]!r}",
        )
    try:
        config: PretrainedConfig = AutoConfig.for_model(kind, **fields)
    except Exception as error:  # a config class may raise anything on nonsense values
        raise ServeError("serve.config-invalid", f"config.json does not fit model type {kind!r}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ServeError("serve.not-causal-lm", f"a model of type {kind!r} does not generate text")
    return config


def _tensors(weights: dict[str, memoryview]) -> dict[str, torch.Tensor]:
    """Return views of the shards' tensors."""
    shards = (parse_shard(name, buffer) for name, buffer in weights.items())
    return {tensor.name: view(shard.name, tensor) for shard in shards for tensor in shard.tensors}


def view(shard: str, tensor: Tensor) -> torch.Tensor:
    """Return a tensor over the bytes in memory."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ServeError("serve.dtype-unknown", f"{shard} holds tensors of type {tensor.dtype}")
    if not tensor.data.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    flat = torch.frombuffer(tensor.data, dtype=torch.uint8)
    if flat.data_ptr() % dtype.itemsize:
        flat = flat.clone()
    return flat.view(dtype).view(tensor.shape)


def _architecture(config: PretrainedConfig, *, classifiers: bool = False) -> Any:  # noqa: ANN401 - typed loosely
    """Return the model class of a configuration; this imports it."""
    classifier = _classifier(config)
    if classifiers and classifier is not None and config.architectures == [classifier.__name__]:
        return classifier
    architecture: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return architecture[0] if isinstance(architecture, tuple) else architecture


def _classifier(config: PretrainedConfig) -> Any:  # noqa: ANN401 - see `_architecture`
    classes: Any = AutoModelForSequenceClassification._model_mapping
    return classes.get(type(config), None)


def _model(
    source: FileSource,
    config: PretrainedConfig,
    architecture: Any,  # noqa: ANN401 - see `_architecture`
    tensors: dict[str, torch.Tensor],
) -> PreTrainedModel:
    """Build the architecture around the tensors: transformers makes it without memory and puts the tensors in place."""
    with _quiet():
        try:
            model, report = architecture.from_pretrained(
                None, config=config, state_dict=tensors, dtype="auto", output_loading_info=True
            )
        except Exception as error:  # an architecture may raise anything on tensors that do not fit
            raise ServeError("serve.weights-misfit", f"the weights do not fit a {architecture.__name__}") from error
    missing, wrong = sorted(report["missing_keys"]), list(report["mismatched_keys"])
    if missing or wrong or report["error_msgs"]:
        raise ServeError(
            "serve.weights-misfit",
            f"the weights do not fit a {architecture.__name__}: {len(missing)} missing, {len(wrong)} of another shape",
            hint=f"the first missing one is {missing[0]}" if missing else None,
        )
    if "generation_config.json" in source.names():
        fields = read_json(source, "generation_config.json")
        model.generation_config = transformers.GenerationConfig.from_dict(fields)
    if architecture is not _classifier(config) and "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ServeError(
            "serve.architecture-unsupported",
            f"a {architecture.__name__} keeps no keys and values: it can't be served yet",
        )
    ready: PreTrainedModel = model.eval().requires_grad_(requires_grad=False)
    return ready


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings off standard error: a replica logs through structlog."""
    logging: Any = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
