"""Secure computation: transformers of true shapes with random weights, beside SecretFlow-SPU with the same weights.

`ratio` is ours to SPU's, and smaller is better. Values are processor seconds of all sides together, the dealer and what
is done ahead included, one thread a side; weights are shared and masked before, as SPU's are shared before. SPU runs
once, before ours; where it can't be installed its recorded figures stand in, and `peer` says so.

Rows, in group `mpc` (`2+1` unless said otherwise):

- `mpc-bert-total`, `-online`: BERT-base, 128 tokens, two classes. `dealer_s` and `offline_s` are the rest.
- `mpc-bert-online-bytes`, `-offline-bytes`: MB that both parties send in a run, and that the dealer sends ahead, beside
  all that SPU sends.
- `mpc-bert-error`: the largest of any logit against floating point in double precision (transformers).
- `mpc-bert-rounds`: how often a party waits for the other one, beside SPU's sends a party.
- `mpc-bert-memory-mb`: the largest a party's process gets, from loading the model on; `mpc-bert-wall-1ms`, `-20ms`:
  seconds from input to result between two network namespaces, 1 Gbit/s, that round-trip time. Beside an estimate of
  SPU's: what its bytes and sends, each half a round trip, take by themselves there; `network_s` is the same of ours.
  Skipped where namespaces are not allowed (root).
- `mpc-gpt2-token`: GPT-2 small, one token with 64 cached, of 16 tokens whose randomness is dealt at once.
- `mpc-gpt2-argmax`: on how many of 200 random prompts of 8 tokens the next word is that of floating point.
- `mpc-llama15m`: 32 tokens of the 15M Llama. `same_argmax` says whether the next token is that of floating point.
- `mpc-bert-3pc`, `mpc-bert-malicious`: BERT-base with three parties and no dealer, and with twins of all sides.
- `mpc-qwen05b-token`: one token with 64 cached in Qwen2-0.5B's shape, each side a process. `party_gb` is the largest
  that party 0 gets, with all that a party has; as all sides share this machine, the others have one layer in memory and
  use it 24 times. Skipped with less than 14 GB free. `wall_s`: from one token to the next. `projected_7b_s` is the
  value for 7e9 parameters, beside what PUMA has published for a token of LLaMA-7B: seconds, not processor seconds, on
  128 threads.

`python -m benchmarks.mpc bert gpt2 …` runs some: bert, gpt2, llama, parties, qwen. Where time and bytes go, by part of
the model, is in `benchmarks/out/mpc-….json` and `.png`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import OUT, progress, row
from benchmarks.secure import apart, models, network, spu
from benchmarks.secure.breakdown import Breakdown
from benchmarks.secure.sides import Cost, Sides, ThreeSides, TwinSides
from benchmarks.spu import shapes
from mitai.mpc.generate import begin, prompts
from mitai.mpc.models.arrays import Arrays, embed, one_hot
from mitai.mpc.models.decoder import Cache

LENGTH, CACHED, TOKENS, RUNS = 128, 64, 16, 3
PROMPTS, PROMPT_LENGTH, PROMPT_BATCH = 200, 8, 25
QWEN_LAYERS, QWEN_HEADS, QWEN_GB = 24, 14, 14  # so much memory for all sides
PUMA_7B_S = 200.0  # LLaMA-7B, 8 tokens in and one out, 128 threads, as published


def main() -> None:
    """Measure the wanted rows."""
    parts: dict[str, Callable[[], None]] = {
        "bert": bert, "gpt2": gpt2, "llama": llama, "parties": parties, "qwen": qwen,
    }  # fmt: skip
    for name in sys.argv[1:] or parts:
        progress(f"-- {name}")
        parts[name]()


def compare(name: str, samples: list[float], unit: str, peer: spu.Peer, theirs: float | None, **more: object) -> None:
    """Print a row beside SPU."""
    row(name, samples, unit, peer=peer.name, peer_samples=None if theirs is None else [theirs], **more)


def seconds(cost: Cost) -> dict[str, object]:
    """Return a cost's parts, for a row."""
    return {
        "dealer_s": round(cost.dealer_s, 3),
        "offline_s": [round(value, 3) for value in cost.offline_s],
        "online_s": [round(value, 3) for value in cost.online_s],
    }


# --- BERT ---


class BertProgram:
    """BERT-base, as programs of sides; without its weights."""

    def __init__(self) -> None:
        self.ours = models.Model(models.bert_config(LENGTH), {}).ours

    def load(self, engine: Any, _: object) -> Any:
        """Take the weights."""
        return self.ours.load(Arrays(engine, "model"))

    def infer(self, engine: Any, weights: Any) -> Any:
        """Return the logits."""
        return engine.reveal(self.ours.classify(weights, Arrays(engine, "client"), batch=1, length=LENGTH))


class Bert(BertProgram):
    """BERT-base and a text, with what their owners share."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self._ids = models.bert(LENGTH)

    def text(self) -> Iterator[np.ndarray]:
        """Return the client's inputs."""
        return self.ours.prompts([self._ids.tolist()], LENGTH)

    def exact(self) -> np.ndarray:
        """Return the logits in floating point."""
        import torch

        return self.model.exact()(torch.from_numpy(self._ids[None])).logits.detach().numpy()


def bert() -> None:
    """BERT-base in `2+1`, in threads and then over a network."""
    peer, subject, sides = spu.measure("bert", LENGTH), Bert(), Sides()
    state = sides.do(subject.load, model=subject.model.arrays)
    loaded, exact, costs, errors = sides.reset(), subject.exact(), [], []
    for turn in range(RUNS + 1):  # the first makes tables
        logits = sides.do(subject.infer, state, client=subject.text)[0]
        costs.append(sides.reset())
        errors.append(float(np.abs(logits - exact).max()))
        progress(f"run {turn}: {costs[-1].total_s:.2f} s")
    with Breakdown() as parts:
        sides.do(subject.infer, state, client=subject.text)
    parts.save(OUT / "mpc-bert", "BERT-base, 128 tokens, 2+1")
    last, costs = costs[-1], costs[1:]
    more = {**seconds(last), "load_s": round(loaded.total_s, 3)}
    compare("mpc-bert-total", [cost.total_s for cost in costs], "CPU-s", peer, peer.cpu_s, **more)
    compare("mpc-bert-online", [sum(cost.online_s) for cost in costs], "CPU-s", peer, peer.cpu_s)
    compare("mpc-bert-online-bytes", [sum(last.sent_bytes) / 1e6], "MB", peer, peer.sent_bytes / 1e6)
    compare("mpc-bert-offline-bytes", [last.dealt_bytes / 1e6], "MB", peer, peer.sent_bytes / 1e6)
    compare("mpc-bert-error", errors, "logit", peer, peer.max_error)
    compare("mpc-bert-rounds", [max(last.rounds)], "rounds", peer, peer.sends)
    del state, sides
    shaped(subject, peer)


def shaped(subject: Bert, peer: spu.Peer) -> None:
    """BERT-base between two namespaces."""
    rtts = (0.001, 0.02)
    try:
        runs = network.measure(subject, rtts)
    except network.NotAllowedError as error:
        progress(f"mpc-bert-wall-…: skipped: {error}")
        return
    for rtt, run in zip(rtts, runs, strict=True):
        theirs = network.least_s(peer.sent_bytes / 3, peer.sends, rtt)
        more = {
            "rounds": run["rounds"],
            "network_s": round(network.least_s(run["sent_bytes"], run["rounds"], rtt), 2),
        }
        compare(f"mpc-bert-wall-{round(rtt * 1000)}ms", [run["wall_s"]], "s", peer, theirs, **more)
    row("mpc-bert-memory-mb", [runs[-1]["memory_mb"]], "MB")


# --- models that generate ---


class Token:
    """One token with a random cache, of a decoder."""

    def __init__(self, model: models.Model, token: int, cache: np.ndarray) -> None:
        self.model, self.ours = model, model.ours
        self._token, self._cache = token, cache  # [layers, keys and values, groups, places, size]

    def load(self, engine: Any, _: object) -> Any:
        """Take weights and cache, which is masked for good, as steps leave it."""
        layers, both, groups, places, size = self._cache.shape
        weights, client = self.ours.load(Arrays(engine, "model")), Arrays(engine, "client")
        kept = tuple(engine.masked(client.secret(1, both * groups, places, size)) for _ in range(layers))
        return weights, Cache(kept, places), client.secret(1, places, fraction=0)

    def before(self) -> Iterator[np.ndarray]:
        """Return the cache and what of it is padding: nothing."""
        _, both, groups, places, size = self._cache.shape
        yield from self._cache.astype(np.float64).reshape(-1, 1, both * groups, places, size)
        yield np.zeros((1, places), np.int64)

    def infer(self, engine: Any, state: Any) -> Any:
        """Return the next token's logits."""
        weights, cache, hidden = state
        rows = embed(Arrays(engine, "client"), self.ours.table(weights), 1, self.ours.fold)
        return engine.reveal(self.ours.step(weights, rows.reshape(1, 1, -1), cache, hidden).logits)

    def text(self) -> Iterator[np.ndarray]:
        """Return the token, and its place where the model asks for it."""
        places = [self.ours.vocabulary + self._cache.shape[3]] if self.ours.positions else []
        return one_hot(np.array([[self._token, *places]]), self.ours.width, self.ours.fold)


def tokens(sides: Sides, subject: Token, state: Any) -> Cost:
    """Return what 16 tokens take whose randomness is dealt at once."""
    sides.reset()
    for ready in sides.prepare([subject.infer] * TOKENS, state):
        sides.play(subject.infer, state, ready, client=subject.text)
    cost = sides.reset()
    progress(f"{cost.total_s / TOKENS:.3f} s a token")
    return cost


def by_token(cost: Cost) -> dict[str, object]:
    """Return what a row says of one token."""
    return {
        "online_s": round(sum(cost.online_s) / TOKENS, 4),
        "sent_mb": round(sum(cost.sent_bytes) / TOKENS / 1e6, 3),
        "dealt_mb": round(cost.dealt_bytes / TOKENS / 1e6, 3),
        "rounds": max(cost.rounds) // TOKENS,
    }


def gpt2() -> None:
    """GPT-2 small: tokens with a cache, and prompts."""
    peer, sides = spu.measure("gpt2-token", CACHED), Sides()
    model, ids = models.gpt2()
    subject = Token(model, int(ids[0]), shapes.gpt2_cache(CACHED))
    state = sides.do(subject.load, model=model.arrays, client=subject.before)
    tokens(sides, subject, state)  # makes tables
    costs = [tokens(sides, subject, state) for _ in range(RUNS)]
    with Breakdown() as parts:
        tokens(sides, subject, state)
    parts.save(OUT / "mpc-gpt2", "GPT-2 small, 16 tokens with 64 cached, 2+1")
    more = {**by_token(costs[-1]), "peer_mb": round(peer.sent_bytes / 1e6, 1)}
    compare("mpc-gpt2-token", [cost.total_s / TOKENS for cost in costs], "CPU-s", peer, peer.cpu_s, **more)
    weights = [each[0] for each in state]
    same = agreement(sides, model, weights, shapes.Random(3).tokens(PROMPTS * PROMPT_LENGTH, model.ours.vocabulary))
    row("mpc-gpt2-argmax", [100 * same], "%", prompts=PROMPTS, length=PROMPT_LENGTH)


def agreement(sides: Sides, model: models.Model, weights: list[Any], ids: np.ndarray) -> float:
    """Return for what share of prompts the next token is that of floating point."""
    import torch

    exact, ours, same = model.exact(), model.ours, []
    for batch in ids.reshape(-1, PROMPT_BATCH, PROMPT_LENGTH):
        logits = sides.do(
            partial(first_logits, ours, batch=PROMPT_BATCH, length=PROMPT_LENGTH),
            weights,
            client=partial(prompts, ours, batch.tolist(), PROMPT_LENGTH, 1),
        )[0]
        with torch.no_grad():
            wanted = exact(torch.from_numpy(batch)).logits[:, -1].numpy()
        same += (logits.argmax(-1) == wanted.argmax(-1)).tolist()
        progress(f"{sum(same)} of {len(same)} prompts: the same token; error {np.abs(logits - wanted).max():.4f}")
    return statistics.mean(same)


def first_logits(ours: Any, engine: Any, weights: Any, *, batch: int, length: int) -> Any:
    """Return the logits after prompts."""
    return engine.reveal(begin(ours, weights, Arrays(engine, "client"), batch=batch, length=length).logits)


def llama() -> None:
    """32 tokens of the 15M Llama."""
    import torch

    length = 32
    peer, sides = spu.measure("llama15m", length), Sides()
    model, ids = models.llama15m(length)
    ours = model.ours

    infer = partial(first_logits, ours, batch=1, length=length)
    state = sides.do(lambda engine, _: ours.load(Arrays(engine, "model")), model=model.arrays)
    costs = []
    for _ in range(RUNS + 1):
        sides.reset()
        logits = sides.do(infer, state, client=lambda: prompts(ours, [ids.tolist()], length, 1))[0][0]
        costs.append(sides.reset())
    exact = model.exact()(torch.from_numpy(ids[None])).logits[0, -1].detach().numpy()
    last = costs[-1]
    more = {
        **seconds(last), "sent_mb": round(sum(last.sent_bytes) / 1e6, 1), "dealt_mb": round(last.dealt_bytes / 1e6, 1),
        "peer_mb": round(peer.sent_bytes / 1e6, 1), "rounds": max(last.rounds),
        "max_error": round(float(np.abs(logits - exact).max()), 4), "peer_max_error": peer.max_error,
        "same_argmax": bool(logits.argmax() == exact.argmax()),
    }  # fmt: skip
    compare("mpc-llama15m", [cost.total_s for cost in costs[1:]], "CPU-s", peer, peer.cpu_s, **more)


def qwen_token(*, numbers: bool) -> tuple[Token, int]:
    """Return a token in the shape of Qwen2-0.5B with one layer, with numbers or without; and how many layers it has."""
    model = models.qwen05b() if numbers else models.Model(models.qwen05b_config(), {})
    groups, size = model.config["num_key_value_heads"], model.config["hidden_size"] // QWEN_HEADS
    return Token(model, 7, shapes.Random(2).normal(1, 2, groups, CACHED, size, deviation=0.6)), QWEN_LAYERS


def qwen() -> None:
    """One token in the shape of Qwen2-0.5B, each side a process."""
    if available_gb() < QWEN_GB:
        progress(f"mpc-qwen05b-token: skipped: needs {QWEN_GB} GB")
        return
    *parties, dealer = apart.measure(TOKENS)
    used = sum(side["ahead_s"] + side.get("online_s", 0.0) for side in (*parties, dealer)) / TOKENS
    config = models.qwen05b_config()
    width, inner, table = (
        config["hidden_size"],
        config["intermediate_size"],
        config["vocab_size"] * config["hidden_size"],
    )
    layer = width * (2 * width + 2 * config["num_key_value_heads"] * width // QWEN_HEADS + 3 * inner)
    multiplied = 2 * table + QWEN_LAYERS * layer
    more = {
        "wall_s": round(max(side["wall_s"] for side in parties) / TOKENS, 3),
        "ahead_s": round(sum(side["ahead_s"] for side in (*parties, dealer)) / TOKENS, 3),
        "sent_mb": round(sum(side["sent_bytes"] for side in parties) / TOKENS / 1e6, 1),
        "dealt_mb": round(dealer["dealt_bytes"] / TOKENS / 1e6, 1), "rounds": parties[0]["rounds"] // TOKENS,
        "vocabulary": config["vocab_size"], "parameters_m": round((multiplied - table) / 1e6),
        "party_gb": round(parties[0]["memory_gb"], 1), "projected_7b_s": round(used * 7e9 / multiplied, 1),
        "puma_7b_s": PUMA_7B_S,
    }  # fmt: skip
    row("mpc-qwen05b-token", [used], "CPU-s", **more)


def available_gb() -> float:
    """Return how much memory is free here; enough where that is not told."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return QWEN_GB
    return int(text.split("MemAvailable:")[1].split()[0]) / 1e6


# --- other settings ---


def parties() -> None:
    """BERT-base with three parties, and with twins."""
    peer, subject = spu.measure("bert", LENGTH), Bert()
    exact = subject.exact()
    for name, kind in (("mpc-bert-3pc", ThreeSides), ("mpc-bert-malicious", TwinSides)):
        sides = kind()
        state = sides.do(subject.load, model=subject.model.arrays)
        for _ in range(2):  # the first makes tables
            logits = sides.do(subject.infer, state, client=subject.text)[0]
        last = sides.cost
        more = {
            "sent_mb": round(last.sent_bytes / 1e6), "rounds": last.rounds,
            "by_side_s": [round(s, 2) for s in last.cpu_s], "max_error": round(float(np.abs(logits - exact).max()), 5),
        }  # fmt: skip
        compare(name, [sum(last.cpu_s)], "CPU-s", peer, peer.cpu_s, **more)
        del state, sides


if __name__ == "__main__":
    main()
