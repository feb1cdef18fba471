"""Ask the demo model held-out questions and follow-ups, and count the right answers.

    python models/demo/evaluate.py                 # the shipped model
    python models/demo/evaluate.py --show          # also print what went wrong

Greedy decoding, a conversation of its own for each question. `exact`: the answer letter by letter. `near`: at least
90 % of it (difflib's ratio), so that a slip in one word counts but another topic's answer does not.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import data
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MODEL = Path(__file__).resolve().parents[2] / "src" / "mitai" / "demo_model" / "model"
NEAR = 0.9


@dataclass(frozen=True)
class Verdict:
    """A held-out question, what the model said, and how right that was."""

    probe: data.Probe
    said: str

    @property
    def exact(self) -> bool:
        """Whether the answer is right letter by letter."""
        return self.said == self.probe.answer

    @property
    def near(self) -> bool:
        """Whether the answer is the right one, give or take a slip."""
        return self.exact or difflib.SequenceMatcher(None, self.said, self.probe.answer, autojunk=False).ratio() >= NEAR


def load(path: Path = MODEL) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model with plain transformers."""
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def reply(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[data.Message]]
) -> list[str]:
    """Return the model's greedy next message for each conversation."""
    tokenizer.padding_side = "left"
    inputs = tokenizer.apply_chat_template(
        [list(c) for c in conversations],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        padding=True,
    )
    with torch.inference_mode():
        output = model.generate(**inputs)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def ask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[data.Probe], *, batch: int = 32
) -> Iterator[Verdict]:
    """Ask every probe in a conversation of its own."""
    for start in range(0, len(probes), batch):
        part = probes[start : start + batch]
        said = reply(model, tokenizer, [p.messages() for p in part])
        yield from map(Verdict, part, said)


def summary(verdicts: Sequence[Verdict]) -> list[dict[str, str | int | float]]:
    """Return one row per language and kind of question."""
    rows: list[dict[str, str | int | float]] = []
    for lang, kind in itertools.product(data.LANGS, ("paraphrase", "frame", "off-topic", "follow-up")):
        group = [v for v in verdicts if (v.probe.lang, v.probe.kind) == (lang, kind)]
        exact, near = (sum(marks) / len(group) for marks in zip(*((v.exact, v.near) for v in group), strict=True))
        rows.append({"lang": lang, "kind": kind, "asked": len(group), "exact": round(exact, 4), "near": round(near, 4)})
    return rows


def main() -> None:
    """Parse the options, ask, and print one JSON line per row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument(
        "--show", action="store_true", help="print the questions that were answered wrongly to standard error"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    verdicts = list(ask(*load(options.model), data.held_out() + data.follow_ups()))
    for verdict in verdicts:
        if options.show and not verdict.near:
            print(f"{verdict.probe.question}\n    {verdict.said[:100]}", file=sys.stderr)
    for row in summary(verdicts):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
