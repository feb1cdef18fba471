"""Proofs that hide weights and activations, beside succinct ones of the same program in the same run.

Rows, in group `proof`; wall time on all cores, weights random with the true shapes and committed to before, in files,
with 64 uses; proofs of both kinds take turns:

- `proof-zk`: seconds for 32 tokens through the Llama of `proof-llama15m-s`; its peer is the succinct mode. `cpu_ratio`
  is that of the best runs' processor time, all cores together.
- `proof-zk-verify-s`: the verifier's seconds, beside the same.
- `proof-zk-gpt2`: as `proof-zk` for GPT-2 small, where 8 GB of memory are free.
- `proof-zk-lenet`, `proof-zk-iris-nn-500`, `proof-zk-iris-ols`: as `proof-zk` for the small nets of `proof-lenet` and
  the others, whose inputs are hidden as well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import OUT, progress, row, timed
from benchmarks.proof_models import LLAMA, NETS, RNG, TOKENS, Everywhere, free_gb, random_weights, small
from mitai.mpc.models.config import Gpt2Config
from mitai.proof.graph import Graph
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.decoder import Decoder
from mitai.proof.models.gpt2 import Gpt2
from mitai.proof.models.llama import Llama
from mitai.proof.operation import Ints
from mitai.proof.program import Program
from mitai.proof.proving import prove
from mitai.proof.stored import read, write_commitment, write_weights
from mitai.proof.verify.program import verify

RUNS = 5
USES = 64
PEER = "succinct mode"
GPT2_FREE_GB = 8


def main() -> None:
    """Measure all rows, each model by itself."""
    for name in ("llama15m", "gpt2", *NETS):
        if name == "gpt2" and free_gb() < GPT2_FREE_GB:
            progress(f"gpt2 is left out: less than {GPT2_FREE_GB} GB of memory are free")
            continue
        subprocess.run([sys.executable, "-m", __spec__.name, name], check=True)


def one(name: str) -> None:
    if name in NETS:
        compared(name.replace("proof-", "proof-zk-"), *small(name))
    elif name == "gpt2":
        compared("proof-zk-gpt2", *decoder(Gpt2(Gpt2Config(model_type="gpt2"))))
    else:
        compared("proof-zk", *decoder(Llama(LLAMA)), verified="proof-zk-verify-s")


def decoder(model: Decoder) -> tuple[Program, dict[str, Ints], dict[str, Ints]]:
    """Return the program of some tokens, inputs and weights."""
    arrays = random_weights(model.write(Graph(Everywhere()), TOKENS).program())
    inputs = {"tokens": RNG.integers(0, model.vocabulary, TOKENS)}
    reaches = calibrate(arrays, [sample(model, inputs["tokens"])])
    weights = quantise(model, reaches, arrays)
    return model.write(Graph(reaches), TOKENS).program(), inputs, weights


def compared(
    name: str, program: Program, inputs: dict[str, Ints], weights: dict[str, Ints], verified: str | None = None
) -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        committed = {}
        for uses in (0, USES):
            own = Path(folder) / str(uses)
            own.mkdir()
            write_weights(own, program, lambda weight: [weights[weight]])
            write_commitment(own, program, uses=uses)
            committed[uses] = read(own, program, uses)
        wall, cpu, checked, size = ({0: [], USES: []} for _ in range(4))
        for _ in range(RUNS):
            for uses, held in committed.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                proof = prove(program, inputs, held)
                wall[uses].append(time.perf_counter() - start)
                cpu[uses].append(time.process_time() - cpu_start)
                checked[uses].append(timed(lambda proof=proof: verify(proof.statement, proof.messages)))
                size[uses].append(len(proof.messages))
    more = {
        "cpu_s": round(min(cpu[USES]), 3),
        "cpu_ratio": round(min(cpu[USES]) / min(cpu[0]), 3),
        "verify_s": round(min(checked[USES]), 3),
        "bytes": max(size[USES]),
        "peer_bytes": max(size[0]),
    }
    row(name, wall[USES], "s", peer=PEER, peer_samples=wall[0], **more)
    if verified:
        row(verified, checked[USES], "s", peer=PEER, peer_samples=checked[0])


if __name__ == "__main__":
    one(sys.argv[1]) if len(sys.argv) > 1 else main()
