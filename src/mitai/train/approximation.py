"""MPCFormer's Quad and 2Quad in torch: what `mitai.mpc` computes of a model whose configuration says `mpc_approx`.

GELU and SiLU become x^2/8 + x/4 + 1/2, softmax becomes (x + c)^2 divided by its sum (Li et al., ICLR 2023,
arXiv:2211.01452, section 3.1; `docs/spec/training-methods.md`, "Approximation").

Invariants:

- The functions and their constants are those of `mitai.mpc.nonlinear`.
- A model that was trained with them is never computed without: `load` puts them into it, and a replica refuses it.

Example:
    >>> approximate(model).config.mpc_approx
    'mpcformer'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from mitai.errors import TrainError
from mitai.mpc.nonlinear import QUAD_SHIFT
from mitai.serve import loading
from mitai.serve.loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mitai.capsule.sources import FileSource

ATTENTION = "mitai-2quad"
_ACTIVATIONS = {"bert": "intermediate_act_fn", "gpt2": "act", "llama": "act_fn", "qwen2": "act_fn"}


def load(source: FileSource, *, classifiers: bool = False) -> LoadedModel:
    """Load a model as `mitai.serve.loading.load` does, with its approximations in it where its configuration has some.

    Args:
        source: The folder.
        classifiers: Take a folder of a sequence classifier too.

    Raises:
        TrainError: `train.no-approximation`: its configuration asks for others.
    """
    loaded = loading.load(source, classifiers=classifiers, approximated=True)
    if loading.is_approximated(loaded.model.config):
        if loaded.model.config.mpc_approx != "mpcformer":
            raise TrainError("train.no-approximation", "the model was made for approximations that are not known here")
        approximate(loaded.model)
    return loaded


def approximate(model: PreTrainedModel) -> PreTrainedModel:
    """Put Quad and 2Quad into a model, and say so in its configuration; return it.

    Raises:
        TrainError: `train.no-approximation`: secure computation does not have this family.
    """
    config: Any = model.config
    if config.model_type not in _ACTIVATIONS:
        raise TrainError(
            "train.no-approximation",
            f"there are no approximations for a model of type {config.model_type!r}",
            hint=f"one of: {', '.join(_ACTIVATIONS)}",
        )
    ending = "." + _ACTIVATIONS[config.model_type]
    for name in [name for name, _ in model.named_modules() if name.endswith(ending)]:
        model.set_submodule(name, Quad())
    model.set_attn_implementation(ATTENTION)
    config.mpc_approx = "mpcformer"
    return model


class Quad(torch.nn.Module):
    """x^2/8 + x/4 + 1/2 (`mitai.mpc.nonlinear.quad_gelu`)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the value for each element."""
        return x * (x / 8 + 0.25) + 0.5


def two_quad(scores: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return (scores + 5)^2 divided by its sum over the last axis, of what counts (`mitai.mpc.nonlinear.quad_softmax`).

    A row where nothing counts gives zeros.
    """
    squares = (scores + QUAD_SHIFT).square()
    if counts is not None:
        squares = squares * counts
    return squares / squares.sum(-1, keepdim=True).clamp_min(torch.finfo(squares.dtype).tiny)


def _attention(  # noqa: PLR0917 - transformers' interface
    module: Any,  # noqa: ANN401 - each family has its own
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Attend with 2Quad; arguments and result as transformers' `AttentionInterface` has them."""
    shared = query.shape[1] // key.shape[1]  # heads of queries with the same keys
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    shares = two_quad(scores, None if attention_mask is None else attention_mask >= 0)
    dropped = torch.nn.functional.dropout(shares, dropout, module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), shares


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
