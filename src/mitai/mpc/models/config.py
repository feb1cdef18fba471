"""The public part of a model: a Hugging Face `config.json`, read strictly where it says what is computed.

Members that have no influence on inference are ignored; one that asks for a function that is not here is refused.

Example:
    >>> parse_config(b'{"model_type": "gpt2", "vocab_size": 100, "n_layer": 2}', Gpt2Config).n_layer
    2
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from mitai.errors import MpcError
from mitai.wire import parse_json

MAX_CONFIG_BYTES = 1 << 20

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Small = Annotated[float, msgspec.Meta(ge=0, le=1)]
Factor = Annotated[float, msgspec.Meta(ge=1, le=1e9)]
Approximation = Literal["exact", "mpcformer"]


class _Family(msgspec.Struct, frozen=True, kw_only=True):
    """Members of our own, beside those of Hugging Face.

    Attributes:
        mpc_approx: `mpcformer`: Quad and 2Quad instead of GELU (SiLU) and softmax, for a model distilled for them.
        mpc_reach: Attention scores are within ± this; a power of two.
    """

    mpc_approx: Approximation = "exact"
    mpc_reach: Literal[128, 256, 512, 1024] = 128

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise MpcError("mpc.model-unsupported", f"the model's configuration asks for {what}")


class BertConfig(_Family, frozen=True, kw_only=True):
    """BERT, with a head that classifies, or with none."""

    model_type: Literal["bert"]
    vocab_size: Size = 30522
    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    layer_norm_eps: Small = 1e-12
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: bool = False
    architectures: list[str] = []
    id2label: dict[str, str] | None = None  # Hugging Face leaves it out where there are two
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None

    def __post_init__(self) -> None:
        self._require(self.hidden_size % self.num_attention_heads == 0, "heads that do not divide its width")
        self._require(not self.is_decoder, "a BERT that generates")

    @property
    def labels(self) -> int:
        """How many classes there are; 0 for a model that gives embeddings."""
        if "BertForSequenceClassification" not in self.architectures:
            return 0
        return 2 if self.id2label is None else len(self.id2label)


class Gpt2Config(_Family, frozen=True, kw_only=True):
    """GPT-2."""

    model_type: Literal["gpt2"]
    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Size = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: Literal["gelu", "gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    layer_norm_epsilon: Small = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        self._require(self.n_embd % self.n_head == 0, "heads that do not divide its width")
        self._require(self.scale_attn_weights, "attention without scaling")
        self._require(not self.scale_attn_by_inverse_layer_idx, "attention scaled by layer")
        self._require(not self.add_cross_attention, "cross-attention")


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """How positions turn queries and keys."""

    rope_type: Literal["default", "llama3"] = "default"
    rope_theta: Factor | None = None
    factor: Factor = 1.0
    low_freq_factor: Factor = 1.0
    high_freq_factor: Factor = 4.0
    original_max_position_embeddings: Size = 8192


class LlamaConfig(_Family, frozen=True, kw_only=True):
    """Llama and Qwen2, which is a Llama with biases of queries, keys and values."""

    model_type: Literal["llama", "qwen2"]
    vocab_size: Size = 32000
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: Small = 1e-6
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    rope_theta: Factor = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        self._require(self.num_attention_heads % self.groups == 0, "heads of queries that those of keys do not divide")
        self._require(self.head_size > 0 and self.head_size % 2 == 0, "heads of odd size, or of none")
        self._require(not self.mlp_bias and not self.attention_bias, "biases that are not Qwen2's")
        self._require(not self.use_sliding_window, "a sliding window")
        self._require(self.rope.low_freq_factor < self.rope.high_freq_factor, "frequencies that are not in order")

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """The length of one head's vectors."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rope(self) -> Rope:
        """How positions turn queries and keys, as old and new configurations say it."""
        rope = self.rope_parameters or self.rope_scaling or Rope()
        return rope if rope.rope_theta is not None else msgspec.structs.replace(rope, rope_theta=self.rope_theta)


def require_approximation(own: str, wanted: Approximation) -> None:
    """Check that a model was made for the functions that somebody wants it to be computed with.

    Args:
        own: What its configuration says (`mpc_approx`).
        wanted: What is wanted.

    Raises:
        MpcError: `mpc.approximation`.
    """
    if own != wanted:
        what = "exact functions" if own == "exact" else "MPCFormer's approximations"
        raise MpcError(
            "mpc.approximation",
            f"the model was trained for {what}, and its answers would be wrong with others",
            hint="a training job with the method `approximate` makes a model for approximations out of an exact one, "
            "whose config.json says so (docs/mpc.md)",
        )


Config = TypeVar("Config", bound=_Family)
AnyConfig = BertConfig | Gpt2Config | LlamaConfig


def parse_config(data: bytes, kind: type[Config]) -> Config:
    """Read a `config.json`.

    Raises:
        ParseError: `mpc.model-unsupported`: it is of another family, or malformed.
        MpcError: `mpc.model-unsupported`: it asks for a function that is not here.
    """
    return parse_json(data, kind, MAX_CONFIG_BYTES, "mpc.model-unsupported", "the model's configuration is not usable")
