"""What each row must reach, and the plot of how far it is from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import progress


@dataclass(frozen=True)
class Bar:
    """A bar on a row's `value` or `ratio`; `least` is true where more is better."""

    text: str
    key: str
    bound: float
    least: bool


def _least(text: str, bound: float, key: str = "ratio") -> Bar:
    return Bar(text, key, bound, least=True)


def _most(text: str, bound: float, key: str = "value") -> Bar:
    return Bar(text, key, bound, least=False)


BARS = {
    "channel-throughput": _least("≥ 0.98 of plaintext HTTP", 0.98),
    "channel-ttft-ms": _most("≤ 5 ms added to the first token", 5.0),
    "channel-bulk": _least("≥ 0.5 of raw AES-256-GCM", 0.5),
    "channel-small-us": _most("≤ 300 µs added to 1 KiB", 300.0),
    "capsule-seal": _least("≥ 0.5 of raw AES-256-GCM", 0.5),
    "capsule-open": _least("≥ 0.5 of raw AES-256-GCM", 0.5),
    "capsule-open-pyrage": _least("≥ 15 × pyrage", 15.0),
    "serve-coldstart-time": _most("≤ 1.10 × the plain folder", 1.10, "ratio"),
    "serve-coldstart-rss": _most("≤ 1.10 × the plain folder", 1.10, "ratio"),
    "fingerprint-serve": _most("≤ 1 % of the engine's time", 0.01, "share"),
    "attest-tdx-ms": _most("≤ 4 ms", 4.0),
    "attest-sgx-ms": _most("≤ 4 ms", 4.0),
    "attest-snp-ms": _most("≤ 2.5 ms", 2.5),
    "attest-nitro-ms": _most("≤ 7 ms", 7.0),
    "attest-gpu-ms": _most("≤ 35 ms", 35.0),
    **{f"attest-{tee}-cached-ms": _most("≤ 1 ms", 1.0) for tee in ("tdx", "sgx", "snp", "nitro", "gpu")},
    "broker-release": _least("≥ 200 a second", 200.0, "value"),
    "broker-scale": _least("≥ 0.8 of the rate at 100 capsules", 0.8),
    "broker-policy-ms": _most("≤ 1 ms with 5 owners", 1.0),
    "broker-policy-scale": _most("≤ 1.10 × the time with 100 policies", 1.10, "ratio"),
    "broker-failover-errors-s": _most("≤ 2 s", 2.0),
    "broker-failover-lost": _most("none", 0.5),
    "broker-rotation-pause-s": _most("≤ 1 s", 1.0),
    "train-sft-time": _most("≤ 1.03 × trl in plaintext", 1.03, "ratio"),
    "train-sft-rss": _most("≤ 1.05 × trl in plaintext", 1.05, "ratio"),
    "train-transcript": _most("≤ 0.15 of the training", 0.15, "ratio"),
    "train-checkpoint": _most("≤ 1.05 × a step, every 50 steps", 1.05, "ratio"),
    "ledger-append-ms": _most("≤ 1 ms", 1.0),
    "ledger-proof-ms": _most("≤ 5 ms", 5.0),
    "mpc-bert-total": _most("≤ 1/10 of SPU", 0.1, "ratio"),
    "mpc-bert-online": _most("≤ 1/20 of SPU", 0.05, "ratio"),
    "mpc-bert-online-bytes": _most("≤ 1/10 of SPU's", 0.1, "ratio"),
    "mpc-bert-offline-bytes": _most("≤ 1/2 of SPU's", 0.5, "ratio"),
    "mpc-bert-error": _most("≤ SPU's", 1.0, "ratio"),
    "mpc-bert-rounds": _most("≤ 400", 400.0),
    "mpc-bert-memory-mb": _most("≤ 3 GB a party", 3000.0),
    "mpc-gpt2-token": _most("≤ 1/20 of SPU", 0.05, "ratio"),
    "mpc-gpt2-argmax": _least("≥ 99 % as in floating point", 99.0, "value"),
    "mpc-distillation": _most("≤ 1 point lost", 1.0),
    "mpc-llama15m": _most("≤ 1/15 of SPU", 1 / 15, "ratio"),
    "proof-iris-ols": _most("≤ 1/5 of EZKL", 0.2, "ratio"),
    "proof-iris-nn-500": _most("≤ 1/100 of EZKL", 0.01, "ratio"),
    "proof-lenet": _most("≤ 1/100 of EZKL", 0.01, "ratio"),
    "proof-lenet-rss": _most("≤ 1/10 of EZKL's", 0.1, "ratio"),
    "proof-llama15m-s": _most("≤ 10 s", 10.0),
    "proof-llama15m-verify-s": _most("≤ 1 s", 1.0),
    "proof-gpt2-s": _most("≤ 30 s", 30.0),
    "proof-gpt2-verify-s": _most("≤ 2 s", 2.0),
    "proof-gpt2-token-s": _most("≤ 3 s", 3.0),
    "proof-noise-s": _most("≤ 0.3 s", 0.3),
    "proof-zk": _most("≤ 2 x the succinct mode", 2.0, "ratio"),
    "proof-demo-argmax": _least("≥ 99 % as in floating point", 99.0, "value"),
    "audit-commit": _most("≤ 1.2 × the integers unaudited", 1.2, "ratio"),
    "audit-commit-qwen05b": _most("≤ 1.2 × the integers unaudited", 1.2, "ratio"),
    "web-verify-ms": _most("≤ 100 ms", 100.0),
    "web-ttft-ms": _most("≤ 20 ms added to the first token", 20.0),
    "web-weight-kb": _most("≤ 300 kB", 300.0),
}


def margin(row: dict[str, object]) -> float:
    """Return by what factor a row clears its bar; below 1 it misses it."""
    bar = BARS[str(row["name"])]
    measured = max(float(str(row[bar.key])), 1e-9)
    return measured / bar.bound if bar.least else bar.bound / measured


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Draw how far each row is from its bar, on a logarithmic scale; rows without a bar are left out."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row["name"] in BARS and row[BARS[str(row["name"])].key] is not None]
    if not shown:
        return
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.42 * len(shown)), layout="constrained")
    for place, row in enumerate(reversed(shown)):
        factor, bar = margin(row), BARS[str(row["name"])]
        axes.barh(place, factor - 1, left=1, color="#2a7f62" if factor >= 1 else "#b3362b", height=0.6)
        axes.text(max(factor, 1) * 1.05, place, f"{row[bar.key]} ({bar.text})", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [str(row["name"]) for row in reversed(shown)])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, *(margin(row) for row in shown)) * 0.8, max(margin(row) for row in shown) * 12)
    axes.set_xlabel("× better than the bar (1 = just reached)")
    axes.set_title("Measured against what was promised")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)
    progress(f"plot: {path}")
