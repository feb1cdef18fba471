"""One forward pass over many conversations: tokens packed side by side, attention kept apart, keys and values cached.

All tokens of a step — one per answering sequence, a chunk of each prompt being read — are one packed row for the
model's linear layers, so that weights are read once. `packed_attention` is what transformers calls in place of its
own attention (its `AttentionInterface`): it writes the new keys and values into the cache and lets each token see its
own sequence only.

The cache is one slab per layer, (rows, kv heads, positions, head size). Answering sequences sit in its first rows,
prompts being read behind them, so that the answering ones are one view and one kernel call. Rows move when a sequence
leaves.

Invariants:

- A query sees positions of its own row only, up to its own position: the mask and the slices say so, and a test
  compares with each sequence alone.
- A row is overwritten before it is read again: nothing of a finished sequence is visible to the next one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "mitai_packed"
_BLOCK = 128  # positions; the slab grows in powers of two of this


@dataclass
class Segment:
    """A piece of a prompt in a step: `count` tokens from `start` of the pack, after `past` cached ones, in `row`."""

    row: int
    start: int
    count: int
    past: int


class KeyValueCache:
    """The keys and values of every sequence in progress, one slab of each per layer."""

    def __init__(self) -> None:
        self._slabs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @staticmethod
    def room(rows: int, positions: int) -> int:
        """Return how many positions the slabs of a layer hold once they have room for `rows` of `positions` each."""
        return _rounded(rows, 1) * _rounded(positions, _BLOCK)

    def slabs(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, rows: int, positions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's slabs with room for `rows` and `positions`, shaped as `key` and `value`."""
        keys, values = self._slabs.get(layer, (None, None))
        if keys is None or values is None:
            keys, values = _grown(None, key, rows, positions), _grown(None, value, rows, positions)
        elif keys.shape[0] < rows or keys.shape[2] < positions:
            keys, values = _grown(keys, key, rows, positions), _grown(values, value, rows, positions)
        else:
            return keys, values
        self._slabs[layer] = keys, values
        return keys, values

    def move(self, source: int, target: int, positions: int) -> None:
        """Copy the first `positions` of row `source` to row `target`, and clear the rest of it."""
        for keys, values in self._slabs.values():
            keys[target, :, :positions] = keys[source, :, :positions]
            values[target, :, :positions] = values[source, :, :positions]
            keys[target, :, positions:] = 0
            values[target, :, positions:] = 0

    def clear(self) -> None:
        """Give the memory back."""
        self._slabs.clear()


def _grown(slab: torch.Tensor | None, like: torch.Tensor, rows: int, positions: int) -> torch.Tensor:
    old_rows, old_positions = (slab.shape[0], slab.shape[2]) if slab is not None else (0, 0)
    rows, positions = max(old_rows, _rounded(rows, 1)), max(old_positions, _rounded(positions, _BLOCK))
    # Zeros, not `empty`: a masked position has weight 0, but 0 × NaN from recycled memory would be NaN.
    grown = torch.zeros(rows, like.shape[1], positions, like.shape[3], dtype=like.dtype)
    if slab is not None:
        grown[:old_rows, :, :old_positions] = slab
    return grown


def _rounded(count: int, unit: int) -> int:
    """Return the next power of two of `unit`."""
    return unit << (-(-count // unit) - 1).bit_length()


@dataclass
class PackedStep:
    """What attention needs to know about the tokens of one forward pass.

    Attributes:
        cache: Where keys and values are kept.
        lengths: Of each answering row, the position of its new token.
        segments: The pieces of prompts, packed behind the answering rows' tokens.
    """

    cache: KeyValueCache
    lengths: list[int]
    segments: list[Segment]
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answering = len(self.lengths)
        self.reach = max(self.lengths, default=-1) + 1  # positions the longest answering row attends to
        self.rows = max([self.answering, *(segment.row + 1 for segment in self.segments)])
        self.positions = max([self.reach, *(segment.past + segment.count for segment in self.segments)])
        self.row_index = torch.arange(self.answering)
        self.position_index = torch.tensor(self.lengths, dtype=torch.long)
        self.even = len(set(self.lengths)) <= 1

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Return which positions each answering row sees: (rows, 1, 1, positions), or `None` where all see all."""
        if self.even and (window is None or window >= self.reach):
            return None
        if window not in self._masks:
            at = torch.arange(self.reach)
            seen = at <= self.position_index[:, None]
            if window is not None:
                seen &= at > self.position_index[:, None] - window
            self._masks[window] = seen[:, None, None, :]
        return self._masks[window]


class _Current(threading.local):
    step: PackedStep | None = None
    layers: set[int] | None = None


CURRENT = _Current()


class UnpackableError(Exception):
    """The model's attention does something that this one does not know."""


def packed_attention(  # noqa: PLR0917 - transformers calls it so
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - transformers' interface; the step knows who sees what
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attend each packed token to its own sequence.

    Args:
        module: The attention layer; its `layer_idx` names the slab.
        query: (1, heads, tokens, size), already rotated.
        key: (1, kv heads, tokens, size).
        value: (1, kv heads, tokens, value size).
        attention_mask: Not used.
        scaling: Of the dot product.
        sliding_window: How many positions a token sees, itself included; `None` for all.
        others: Anything of an architecture that would change the result is refused.

    Returns:
        (1, tokens, heads, value size), and no weights.
    """
    step, layer = CURRENT.step, getattr(module, "layer_idx", None)
    if step is None or layer is None or any(others.get(name) is not None for name in ("softcap", "s_aux", "head_mask")):
        raise UnpackableError
    if CURRENT.layers is not None:
        if layer in CURRENT.layers:
            raise UnpackableError
        CURRENT.layers.add(layer)
    kv_heads, answering = key.shape[1], step.answering
    group = query.shape[1] // kv_heads
    keys, values = step.cache.slabs(layer, key, value, step.rows, step.positions)
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    if answering:
        keys[step.row_index, :, step.position_index] = key[0, :, :answering].transpose(0, 1)
        values[step.row_index, :, step.position_index] = value[0, :, :answering].transpose(0, 1)
        attended = scaled_dot_product_attention(
            query[0, :, :answering]
            .transpose(0, 1)
            .reshape(answering, kv_heads, group, -1),  # a group's heads as queries
            keys[:answering, :, : step.reach],
            values[:answering, :, : step.reach],
            attn_mask=step.mask(sliding_window),
            scale=scaling,
        )
        output[0, :answering] = attended.reshape(answering, query.shape[1], -1)
    for segment in step.segments:
        if not segment.past:  # whoever had the row before: masked, but 0 × inf would still be NaN
            keys[segment.row] = values[segment.row] = 0
        pack = slice(segment.start, segment.start + segment.count)
        total = segment.past + segment.count
        keys[segment.row, :, segment.past : total] = key[0, :, pack]
        values[segment.row, :, segment.past : total] = value[0, :, pack]
        attended = scaled_dot_product_attention(
            query[0, :, pack].view(kv_heads, group, segment.count, -1),
            keys[segment.row, :, None, :total].expand(-1, group, -1, -1),
            values[segment.row, :, None, :total].expand(-1, group, -1, -1),
            attn_mask=_causal(segment, sliding_window),
            is_causal=_plainly_causal(segment, sliding_window),
            scale=scaling,
        )
        output[0, pack] = attended.flatten(0, 1).transpose(0, 1)
    return output, None


def _plainly_causal(segment: Segment, window: int | None) -> bool:
    return segment.past == 0 and segment.count > 1 and (window is None or window >= segment.count)


def _causal(segment: Segment, window: int | None) -> torch.Tensor | None:
    total = segment.past + segment.count
    if _plainly_causal(segment, window) or (segment.count == 1 and (window is None or window >= total)):
        return None
    at, own = torch.arange(total), torch.arange(segment.past, total)[:, None]
    return (at <= own) & (at > own - window) if window is not None else at <= own


def register() -> None:
    """Make `packed_attention` known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
