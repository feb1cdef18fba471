"""What it costs to start from a sealed model: time and memory until the engine has answered its first token.

The shape of Qwen2-0.5B in bfloat16 (988 MB), random weights, files warm in the page cache. Each start is a fresh
process: from its first instruction (imports, tokenizer, weights, engine thread) to the first token of a short answer.

- ours: the capsule, decrypted and authenticated on its way into memory;
- peer: the plain folder through transformers' own `from_pretrained`, under the same engine;
- `own_plain`: the plain folder through our loader, for comparison.

`serve-coldstart-time` in seconds, `serve-coldstart-rss` in MiB of peak resident memory.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.harness import progress, row

if TYPE_CHECKING:
    from mitai.capsule import FileSource
    from mitai.serve.loading import LoadedModel

RUNS = 5
PEER = "the plain folder through transformers' from_pretrained"


def start(kind: str, folder: Path, began: float) -> None:
    """Load, answer one token, print seconds since `began` and peak memory; runs in a process of its own."""
    loaded = _load(kind, folder)
    from mitai.serve.engine import GenerationRequest, Sampling
    from mitai.serve.transformers_engine import TransformersEngine

    engine = TransformersEngine(loaded, name="bench")

    async def first() -> None:
        request = GenerationRequest([engine.tokenize("Hello")], Sampling(max_tokens=1, temperature=0))
        async for _ in engine.generate(request):
            pass

    asyncio.run(first())
    seconds = time.time() - began
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had before exec
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    engine.close()
    print(msgspec.json.encode([seconds, peak_mib]).decode(), flush=True)


def _load(kind: str, folder: Path) -> LoadedModel:
    if kind == "stock":
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from mitai.serve.loading import LoadedModel

        model = AutoModelForCausalLM.from_pretrained(folder / "plain", dtype="auto")
        return LoadedModel(model, AutoTokenizer.from_pretrained(folder / "plain"))
    source = _source(kind, folder)
    from mitai.serve.weights import begin

    weights = begin(source)  # as a replica does: reading goes on while the engine is imported
    from mitai.serve.loading import load

    return load(source, weights=weights)


def _source(kind: str, folder: Path) -> FileSource:
    from mitai.capsule import MANIFEST_NAME, FolderSource, FolderStore, open_capsule
    from mitai.identity import PublicKey

    if kind == "plain":
        return FolderSource(folder / "plain")
    owner = PublicKey((folder / "owner.pub").read_bytes())
    envelope = (folder / "sealed" / MANIFEST_NAME).read_bytes()
    key = (folder / "data.key").read_bytes()
    return open_capsule(FolderStore(folder / "sealed"), envelope, key, owner=owner, kind="model")


def prepare(folder: Path) -> None:
    """Write the plain model and seal it."""
    from benchmarks.models import qwen2_half_billion
    from mitai.capsule import seal
    from mitai.identity import Identity

    qwen2_half_billion(folder / "plain")
    owner = Identity.generate()
    sealed = seal(folder / "plain", folder / "sealed", owner=owner, name="bench", kind="model")
    (folder / "owner.pub").write_bytes(owner.public.raw)
    (folder / "data.key").write_bytes(sealed.data_key)


def fresh(kind: str, folder: Path) -> tuple[float, float]:
    """Start a process of that kind; return seconds and peak MiB."""
    command = [sys.executable, "-m", "benchmarks.serve", "--start", kind, str(folder), str(time.time())]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seconds, peak_mib = msgspec.json.decode(answer.stdout.splitlines()[-1], type=tuple[float, float])
    progress(f"{kind:>7}: {seconds:.2f} s, {peak_mib:.0f} MiB")
    return seconds, peak_mib


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", nargs=3, metavar=("KIND", "FOLDER", "BEGAN"), help="(internal) one start")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    if arguments.start:
        kind, folder, began = arguments.start
        start(kind, Path(folder), float(began))
        return
    with tempfile.TemporaryDirectory() as name:
        progress("making and sealing a random model of 988 MB …")
        prepare(Path(name))
        samples: dict[str, list[tuple[float, float]]] = {"sealed": [], "stock": [], "plain": []}
        for turn in range(arguments.runs + 1):
            for kind, collected in samples.items():
                sample = fresh(kind, Path(name))
                if turn:
                    collected.append(sample)
    for at, (what, unit) in enumerate((("time", "s"), ("rss", "MiB"))):
        ours, stock, plain = ([sample[at] for sample in samples[kind]] for kind in ("sealed", "stock", "plain"))
        own = statistics.median(plain)
        row(
            f"serve-coldstart-{what}", ours, unit, peer=PEER, peer_samples=stock,
            own_plain=round(own, 3), ratio_to_own_plain=round(statistics.median(ours) / own, 4),
        )  # fmt: skip


if __name__ == "__main__":
    main()
