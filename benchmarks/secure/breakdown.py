"""Where a run's processor time, bytes and rounds go: each side's operations, by the part of the model they belong to.

Operations of the engine are wrapped while a `Breakdown` is entered. A part of a model (`softmax`, `norms` …) has what
is done within it, and lists it by operation; elsewhere an operation counts by itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.harness import progress
from mitai.mpc.models import attention, bert, gpt2, llama
from mitai.mpc.two import algebra, compare, core, engine, octaves, pads, splines, upper

PARTS = {  # where a name is looked up, and what it is
    (attention, "softmax"): "softmax",
    (bert, "activation"): "activation",
    (gpt2, "activation"): "activation",
    (llama, "activation"): "activation",
    (bert, "rms_norm"): "norms",
    (gpt2, "rms_norm"): "norms",
    (llama, "rms_norm"): "norms",
    (bert, "embed"): "embedding",
}
OPERATIONS = {
    (algebra, "truncate"): "truncation",
    (algebra, "linear"): "linear",
    (algebra, "matmul"): "products of secrets",
    (algebra, "multiply"): "products of secrets",
    (splines, "spline"): "spline",
    (octaves, "octaves"): "octaves",
    (upper, "upper"): "upper",
    (compare, "less"): "less",
}
STAGES = {"prepare": "ahead", "deal": "ahead", "run": "other"}


Label = tuple[str, str, str]


class Breakdown:
    """Counts while it is entered: `cpu_s`, `sent_bytes`, `dealt_bytes` and `rounds` by part."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._own = threading.local()
        self._lock = threading.Lock()
        self._patches = ExitStack()

    def __enter__(self) -> Breakdown:
        for (module, name), label in PARTS.items():
            self._patch(module, name, partial(self._labelled, part=label))
        for (module, name), label in OPERATIONS.items():
            self._patch(module, name, partial(self._labelled, operation=label))
        for kind in (engine.Party, engine.Dealer):
            for name in STAGES.keys() & vars(kind).keys():
                self._patch(kind, name, partial(self._labelled, stage=STAGES[name]))
        self._patch(core.Two, "exchange", self._exchanged)
        self._patch(pads.DealerPads, "given", self._given)
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _patch(self, owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
        self._patches.enter_context(mock.patch.object(owner, name, wrapper(getattr(owner, name))))

    def _labelled(self, function: Any, *, part: str = "", operation: str = "", stage: str = "") -> Any:
        """Return a function whose time counts for a part, or an operation; the outermost of each counts."""

        @wraps(function)
        def measured(*values: Any, **options: Any) -> Any:
            outer = getattr(self._own, "label", None)
            stage_, part_, operation_ = outer or ("", "", "")
            label = stage or stage_, part_ or part, operation_ or operation
            if label == outer:
                return function(*values, **options)
            self._lap(outer)
            self._own.label = label
            try:
                return function(*values, **options)
            finally:
                self._lap(label)
                self._own.label = outer

        return measured

    def _lap(self, label: Label | None) -> None:
        """Count the time since the last lap."""
        now = time.thread_time()
        if label is not None:
            self._count("cpu_s", now - self._own.since)
        self._own.since = now

    def _count(self, what: str, amount: float) -> None:
        stage, part, operation = self._own.label
        names = [part or operation or stage]
        if part:
            names.append(f"{part}: {operation or 'other'}")
        with self._lock:
            for name in names:
                self.parts[name][what] += amount

    def _exchanged(self, function: Any) -> Any:
        @wraps(function)
        def measured(side: Any, *arrays: Any) -> Any:
            before = side.link.traffic.sent_bytes, side.link.traffic.rounds
            result = function(side, *arrays)
            self._count("sent_bytes", side.link.traffic.sent_bytes - before[0])
            self._count("rounds", (side.link.traffic.rounds - before[1]) / 2)
            return result

        return measured

    def _given(self, function: Any) -> Any:
        @wraps(function)
        def measured(dealer: Any, *values: Any, **options: Any) -> Any:
            result = function(dealer, *values, **options)
            self._count("dealt_bytes", 8 * pads.word_count(values[0], values[1]))
            return result

        return measured

    def save(self, path: Path, title: str) -> None:
        """Write it as JSON, and draw it."""
        whats = ("cpu_s", "sent_bytes", "dealt_bytes", "rounds")
        units = ("CPU-seconds, all sides", "MB sent by both parties", "MB dealt", "rounds")
        scales = (1, 1e6, 1e6, 1)
        parts = {label: {w: round(its.get(w, 0.0), 4) for w in whats} for label, its in self.parts.items()}
        path.with_suffix(".json").write_text(json.dumps(parts, indent=1) + "\n")
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        labels = sorted((label for label in parts if ":" not in label), key=lambda label: parts[label]["cpu_s"])
        figure, axes = pyplot.subplots(1, len(whats), figsize=(13, 3.2), layout="constrained", sharey=True)
        for axis, what, unit, scale in zip(axes, whats, units, scales, strict=True):
            axis.barh(labels, [parts[label][what] / scale for label in labels], color="#2a7f62")
            axis.set_xlabel(unit)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
        figure.suptitle(title)
        figure.savefig(path.with_suffix(".png"), dpi=130)
        pyplot.close(figure)
        progress(f"plot: {path.with_suffix('.png')}")
