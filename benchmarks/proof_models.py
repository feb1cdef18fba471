"""Proofs of whole models: time, memory and size, weights committed to before.

Rows, in group `proof`; wall time on all cores, weights random with the true shapes, each model in a process of its own:

- `proof-iris-ols`, `proof-iris-nn-500`, `proof-lenet`: seconds to prove one input, 500 inputs, one picture; beside EZKL
  23.0.5 in an environment of its own, same run (`benchmarks/ezkl`), or as it was recorded on a machine of this kind:
  where it can't be installed, and for the 500 inputs, which take it 16 GB. `cpu_s` is the best run's processor time,
  all cores together.
- `proof-lenet-rss`: the process's largest memory, MB, beside the same.
- `proof-llama15m-s`, `-verify-s`: 32 tokens through a Llama with 288 numbers, 6 layers, 6 heads and 32,000 words; the
  next token comes out. `slowdown` is to the same integers without a proof.
- `proof-llama15m-token-s`: one further token, with the cache as the proof before kept it.
- `proof-gpt2-s`, `-verify-s`, `-token-s`: the same for GPT-2 small, where 6 GB of memory are free.
- `proof-qwen05b-s`, `-verify-s`, `-token-s`: the same for the shape of Qwen2-0.5B, once, without the weights' code;
  only where it is asked for: `python -m benchmarks.proof_models qwen05b`, which takes 8 GB of memory, 12 GB of disk and
  some minutes.
- `proof-noise-s`: what a verifier of an answer that was drawn does besides: noise for 32 tokens of 50,257, its digest,
  and its extension at a point; processor time, on one core.
- `proof-demo-argmax`: at how many places of 100 the demo model's integers choose the token of floating point.

`rss_mb` is the largest memory while proofs are made, of which `mapped_mb` are files that the system may take back;
`commit_rss_mb` the same while weights are committed to, `disk_mb` what a prepared model takes.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from benchmarks.harness import OUT, milliseconds, progress, row, timed
from mitai.mpc.models.config import Gpt2Config, LlamaConfig
from mitai.proof.commitment import Commitment
from mitai.proof.field import K, P
from mitai.proof.graph import Graph, Ints, Real
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.decoder import Decoder
from mitai.proof.models.gpt2 import Gpt2
from mitai.proof.models.llama import Llama
from mitai.proof.models.nets import lenet, linear_model, perceptron
from mitai.proof.program import Program
from mitai.proof.proving import Proof, Weights, commit_weights, prove
from mitai.proof.sampling import Sampling
from mitai.proof.stored import array_file, mapped, read, write_commitment, write_weights
from mitai.proof.verify.points import by_axis, public_value
from mitai.proof.verify.program import verify

RUNS = 3
TOKENS = 32
WORD = 12  # of the small networks
GPT2_FREE_GB = 6
EZKL = "EZKL 23.0.5"
EZKL_FOLDER = Path(__file__).parent / "ezkl"
EZKL_MODELS = {"proof-iris-ols": "iris-ols", "proof-lenet": "lenet"}
EZKL_RECORDED = {  # seconds, MB
    "proof-iris-ols": (0.068, 36.0),
    "proof-iris-nn-500": (265.0, 16200.0),
    "proof-lenet": (71.0, 4900.0),
}
NETS: dict[str, tuple[Callable[[Graph], Graph], tuple[int, int]]] = {
    "proof-iris-ols": (lambda graph: linear_model(graph, 4, 1), (1, 4)),
    "proof-iris-nn-500": (lambda graph: perceptron(graph, (4, 20, 20, 3), 500), (500, 4)),
    "proof-lenet": (lambda graph: lenet(graph, 1), (1, 784)),
}
QWEN05B = LlamaConfig(
    model_type="qwen2",
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LLAMA = LlamaConfig(
    model_type="llama",
    hidden_size=288,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=6,
    tie_word_embeddings=True,
)
RNG = np.random.default_rng(9)


class Everywhere(dict[str, int]):
    """One reach for all names: enough to know the shapes of weights."""

    def __missing__(self, name: str) -> int:
        return 3


def main() -> None:
    """Measure all rows, each model by itself."""
    for name in (*NETS, "llama15m", "gpt2", "noise", "demo"):
        if name == "gpt2" and free_gb() < GPT2_FREE_GB:
            progress(f"gpt2 is left out: less than {GPT2_FREE_GB} GB of memory are free")
            continue
        subprocess.run([sys.executable, "-m", __spec__.name, name], check=True)


def one(name: str) -> None:
    if name in NETS:
        network(name)
    elif name == "demo":
        demo()
    elif name == "noise":
        noise()
    elif name == "qwen05b":
        decoder("proof-qwen05b", Llama(QWEN05B), runs=1, code=False)
    else:
        model = Llama(LLAMA) if name == "llama15m" else Gpt2(Gpt2Config(model_type="gpt2"))
        decoder(f"proof-{name}", model)


def small(name: str) -> tuple[Program, dict[str, Ints], dict[str, Ints]]:
    """Return a net's program, inputs and weights."""
    write, shape = NETS[name]
    arrays = random_weights(write(Graph(Everywhere())).program())
    inputs = {"x": RNG.integers(0, 4096, shape)}
    graph = write(Graph(calibrate(arrays, [(write, inputs)]), word=WORD))
    return graph.program(), inputs, graph.quantised(arrays.items())


def network(name: str) -> None:
    program, inputs, arrays = small(name)
    samples, more, _ = proven(program, inputs, commit_weights(program, arrays))
    memory = memory_mb()
    peer, seconds, megabytes = ezkl(name)
    row(name, samples, "s", peer=peer, peer_samples=[seconds], **more)
    if name == "proof-lenet":
        row("proof-lenet-rss", [memory], "MB", peer=peer, peer_samples=[megabytes])


def noise() -> None:
    drawn = Sampling(temperature=800, seed=bytes(32), nonce=bytes(32))
    point = [K(*map(int, pair)) for pair in RNG.integers(0, P, (21, 2), np.uint64)]

    def check() -> None:
        rows = drawn.noise("00" * 32, [1], 50257).rows(0, TOKENS)
        hashlib.sha256(rows.tobytes())
        public_value(rows, by_axis(point, rows.shape))

    measure = milliseconds(check, calls=1)
    row("proof-noise-s", [measure() / 1000 for _ in range(RUNS)], "s")


def ezkl(name: str) -> tuple[str, float, float]:
    """Return what EZKL is called, its seconds and its MB."""
    recorded = f"{EZKL}, recorded", *EZKL_RECORDED[name]
    if name not in EZKL_MODELS:
        return recorded
    progress(f"EZKL proves {EZKL_MODELS[name]}, which may take some minutes …")
    installed = subprocess.run([EZKL_FOLDER / "setup"], capture_output=True, text=True, check=False)
    if installed.returncode:
        progress("EZKL can't be installed here")
        return recorded
    with tempfile.TemporaryDirectory() as folder:
        command = [installed.stdout.strip(), str(EZKL_FOLDER / "peer.py"), EZKL_MODELS[name], folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        progress(done.stderr.strip())
        return recorded
    told = json.loads(done.stdout)
    return EZKL, told["s"], told["rss_mb"]


def decoder(name: str, model: Decoder, tokens: int = TOKENS, runs: int = RUNS, *, code: bool = True) -> None:
    with tempfile.TemporaryDirectory(dir=out_folder()) as folder:
        made = prepared(model, tokens, Path(folder), code=code)
        program = model.write(Graph(made.reaches), tokens).program()
        plain = min(timed(lambda: program.run(made.inputs, made.weights.arrays)) for _ in range(RUNS))
        forget_peak()
        samples, more, proof = proven(program, made.inputs, made.weights, runs=runs)
        slowdown = round(min(samples) / plain)
        more |= {"rss_mb": peak_mb("VmHWM"), "mapped_mb": peak_mb("RssFile"), "tokens": tokens, **made.facts}
        row(f"{name}-s", samples, "s", slowdown=slowdown, **more)
        row(f"{name}-verify-s", [more["verify_s"]], "s")
        inputs = {"tokens": proof.run.outputs["token"], "cache": proof.run.outputs["cache"]}
        step = model.write(Graph(made.reaches), 1, tokens).program()
        samples, more, _ = proven(step, inputs, made.weights, proof.kept, runs=runs)
        row(f"{name}-token-s", samples, "s", **more)


@dataclass(frozen=True)
class Made:
    """A model with random weights in files, and tokens that it was calibrated with."""

    reaches: dict[str, int]
    weights: Weights
    inputs: dict[str, Ints]
    facts: dict[str, float]


def prepared(model: Decoder, tokens: int, folder: Path, *, code: bool = True) -> Made:
    """Make and commit to weights: in files, as they may be larger than memory."""
    inputs = {"tokens": RNG.integers(0, model.vocabulary, tokens)}
    reaches, program = quantised(model, inputs, folder)
    forget_peak()
    start = time.perf_counter()
    write_commitment(folder, program, code=code)
    facts = {
        "commit_s": round(time.perf_counter() - start, 2),
        "commit_rss_mb": peak_mb("VmHWM"),
        "disk_mb": round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20),
        "parameters": sum(prod(weight.shape) for weight in program.weights.values()),
    }
    return Made(reaches, read(folder, program), inputs, facts)


def quantised(model: Decoder, inputs: dict[str, Ints], folder: Path) -> tuple[dict[str, int], Program]:
    """Write random weights into a folder, as integers."""
    n = inputs["tokens"].size
    with tempfile.TemporaryDirectory(dir=folder) as floats:
        arrays = {}
        for name, weight in model.write(Graph(Everywhere()), n).program().weights.items():
            file = Path(floats) / f"{name}.npy"
            with array_file(file, weight.shape, "<f8") as put:
                put(random_weight(name, weight.shape))
            arrays[name] = mapped(file, np.float64)
        reaches = calibrate(arrays, [sample(model, inputs["tokens"])])
        graph = model.write(Graph(reaches), n)
        write_weights(folder, graph.program(), lambda name: graph.integers(name, arrays[name]))
        return reaches, graph.program()


def demo() -> None:
    """Compare the demo model with itself in floating point, at all places of its answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mitai import demo_model
    from mitai.mpc.models.arrays import Tensors
    from mitai.mpc.models.config import parse_config
    from mitai.proof.models.accuracy import accuracy

    folder = demo_model.path()
    model = Llama(parse_config((folder / "config.json").read_bytes(), LlamaConfig))
    arrays = dict(model.arrays(Tensors(folder)))
    exact, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in demo_model.questions():
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        answers.append(exact.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0].tolist())
    randoms = RNG.integers(0, model.vocabulary, (64, 64)).tolist()
    reaches = calibrate(arrays, [sample(model, tokens) for tokens in answers[:6] + randoms[:4]])
    weights = quantise(model, reaches, arrays)

    def compared(tokens: list[int]) -> tuple[list[int], Real, Real]:
        graph = model.write(Graph(reaches), len(tokens), reveal="all")
        logits = graph.program().run({"tokens": np.array(tokens)}, weights).outputs["logits"]
        with torch.no_grad():
            right = exact(torch.tensor([tokens])).logits[0].double().numpy()
        return tokens, right, logits * 0.5 ** graph.fractions["logits"]

    found, other = accuracy(map(compared, answers[6:])), accuracy(map(compared, randoms[4:]))
    more = {"places": found.places, "perplexity": found.perplexity, "exact_perplexity": found.exact_perplexity}
    row(
        "proof-demo-argmax",
        [100 * found.agreement],
        "%",
        **more,
        random_tokens=100 * other.agreement,
        random_places=other.places,
    )


def proven(
    program: Program, inputs: dict[str, Ints], weights: Weights, given: Commitment | None = None, runs: int = RUNS
) -> tuple[list[float], dict[str, float], Proof]:
    """Return the seconds of each proof, what there is to say besides, and the last proof."""
    samples, cpu, verified = [], [], []
    for _ in range(runs):
        start, cpu_start = time.perf_counter(), time.process_time()
        proof = prove(program, inputs, weights, given)
        samples.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        verified.append(timed(lambda proof=proof: verify(proof.statement, proof.messages)))
    more = {"cpu_s": round(min(cpu), 3), "verify_s": round(min(verified), 3), "bytes": len(proof.messages)}
    return samples, more, proof


def random_weights(program: Program) -> dict[str, Real]:
    return {name: random_weight(name, weight.shape) for name, weight in program.weights.items()}


def random_weight(name: str, shape: tuple[int, ...]) -> Real:
    rows = shape[-2] if len(shape) > 1 else 1
    rows = 4 if name in ("table.weight", "positions.weight") else rows  # of a few numbers that are not small
    weight = RNG.standard_normal(shape)
    weight /= np.sqrt(rows)
    return weight


def out_folder() -> Path:
    """Return where large files may lie: a temporary folder may be in memory."""
    OUT.mkdir(exist_ok=True)
    return OUT


def forget_peak() -> None:
    """Let the largest memory from now on be counted."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb(what: str) -> int:
    """Return a figure of this process's memory: `VmHWM` is the largest since `forget_peak`, with mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024)


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def free_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


if __name__ == "__main__":
    one(sys.argv[1]) if len(sys.argv) > 1 else main()
