"""How hard proofs are to deceive, by the formulas that their verifier adds up: nothing is proven for it.

Rows, in group `proof`:

- `proof-bits-MODEL`: bits of security of an answer, prompt and all, half of it the answer; one row for each number of
  `tokens`. `without` is what it would be without work, and against a verifier who draws challenges itself; `zk` and
  `zk_without` of proofs that hide, of weights for 64 of them, at most (not all pads are multiplied). `work` is the most
  bits before one challenge, `zk_work` the same, `hashes` how many are expected in all, in either mode.
- `proof-work-s`: processor time of work of so many `bits`, on one core: the mean of some dozen times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import numpy as np

from benchmarks.harness import row
from benchmarks.proof_models import LLAMA, QWEN05B, Everywhere
from mitai.errors import ProofError
from mitai.mpc.models.config import Gpt2Config, LlamaConfig
from mitai.proof.graph import Graph, Ints
from mitai.proof.masked import _Counting, _Steps
from mitai.proof.models.decoder import Decoder
from mitai.proof.models.gpt2 import Gpt2
from mitai.proof.models.llama import Llama
from mitai.proof.operations import Argmax, Input
from mitai.proof.program import Program
from mitai.proof.transcript import HASH_BYTES, Prover
from mitai.proof.verify import soundness
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.commitment import Shape, check_fold
from mitai.proof.verify.hiding import HidingShape
from mitai.proof.verify.statement import Statement

USES = 64
LLAMA7B = LlamaConfig(
    model_type="llama",
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
)
MODELS: dict[str, tuple[Decoder, tuple[int, ...]]] = {
    "llama15m": (Llama(LLAMA), (32, 256)),
    "gpt2": (Gpt2(Gpt2Config(model_type="gpt2")), (32, 64, 128, 256, 512, 1024)),
    "qwen05b": (Llama(QWEN05B), (32, 64, 128, 256, 512, 1024, 2048, 4096)),
    "llama7b": (Llama(LLAMA7B), (32, 128, 512, 2048, 4096)),
}
WORK = (4, 8, 12, 16)


def main() -> None:
    """Print all rows."""
    for name, (model, sizes) in MODELS.items():
        for tokens in sizes:
            bits(name, model, tokens)
    for size in WORK:
        work(size)


def bits(name: str, model: Decoder, tokens: int) -> None:
    program = model.write(Graph(Everywhere()), tokens, answers=tokens // 2, keep=False).program()
    try:
        (plain, work), (hiding, zk_work) = sizes(program), sizes(program, USES)
    except ProofError as error:
        row(f"proof-bits-{name}", [0], "bits", tokens=tokens, refused=error.message)
        return
    with without_work():
        (plain_without, _), (zk_without, _) = sizes(program), sizes(program, USES)
    row(
        f"proof-bits-{name}",
        [plain],
        "bits",
        tokens=tokens,
        without=round(plain_without, 2),
        work=max(work, default=0),
        zk=round(hiding, 2),
        zk_without=round(zk_without, 2),
        zk_work=max(zk_work, default=0),
        hashes=[sum(1 << one for one in each) for each in (work, zk_work)],
    )


def work(size: int) -> None:
    """Measure so many bits of work, for one state after the other."""
    prover, samples = Prover(), []
    for turn in range(200 if size < 12 else 30):
        prover.bind("turn", bytes([turn]))
        start = time.process_time()
        prover.work(size)
        samples.append(time.process_time() - start)
    row("proof-work-s", [sum(samples) / len(samples)], "s", bits=size)


@contextmanager
def without_work() -> Iterator[None]:
    shares = soundness.LOOKUPS, soundness.OPENINGS
    soundness.LOOKUPS = soundness.OPENINGS = Fraction(1)
    yield
    soundness.LOOKUPS, soundness.OPENINGS = shares


def sizes(program: Program, uses: int = 0) -> tuple[float, list[int]]:
    """Return the bits of a program's proof, and of work before each challenge with some, without any numbers."""
    heard = _Heard()
    steps = _Sizes(of_some_numbers(program, uses), heard)
    steps.run()
    if uses:
        shape = HidingShape.of_pads(heard.count)
        factors = shape.factor_rows(heard.count) << shape.positions
        rows = ((2 << shape.rows) + 4 * shape.factor_rows(heard.count) - 1).bit_length()
        heard.error += soundness.joined(heard.count)  # equations, of which there are no more than messages
        heard.error += soundness.hidden(shape.coefficients, shape.leaves, rows, factors + heard.count)
        heard.done.append(max(steps.sizes.before_openings.values()))
    return soundness.bits(heard.error), [one for one in heard.done if one]


class _Heard(_Counting):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[int] = []

    def work(self, bits: int) -> None:
        self.done.append(bits)


class _Sizes(_Steps):
    """The verifier's steps, with errors of openings in either mode."""

    transcript: _Heard

    def opened(self, source: str, claims: Sequence[Claim], log: int) -> None:
        work = self.sizes.before_openings[source]
        if self.statement.uses:
            hiding = HidingShape.of(log, self.statement.uses_of(source))
            positions, error = hiding.positions, (hiding.coefficients, hiding.leaves, hiding.rows)
            chance = soundness.hidden_opening(*error)
        else:
            shape = Shape.of(log)
            positions, chance = shape.positions, soundness.opening(shape.positions, shape.rows)
        check_fold(self.transcript, log, positions, claims, work)
        self.transcript.work(work)
        self.transcript.error += chance / (1 << work)


def of_some_numbers(program: Program, uses: int) -> Statement:
    """Return a statement about a program: of the least numbers that there may be."""

    def least(operation: int) -> Ints:
        value = program.values[operation]
        return np.full(value.shape, value.low, np.int64)

    numbered = list(enumerate(program.operations))
    return Statement(
        program,
        bytes(HASH_BYTES),
        {one.name: least(number) for number, one in numbered if isinstance(one, Input)},
        {output.name: least(output.operand) for output in program.outputs},
        {number: least(number) for number, one in numbered if isinstance(one, Argmax)},
        uses=uses,
    )


if __name__ == "__main__":
    main()
