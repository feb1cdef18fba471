"""Small networks whose results are proven: card, folder, file (docs/spec/proof-nets.md).

What `card`, `prepared` and `answer` are for models that generate: numbers go in, and numbers or classes come out.

Invariants:

- What is checked follows from the card that the verifier trusts and the numbers that it sees, not from the file alone.
- Numbers are integers here; what they stand for follows from the card.

Example:
    >>> prepare_net(net, arrays, samples, Path("prepared"))
    >>> result = PreparedNet.open(Path("prepared")).prove(samples[:5])
    >>> check_net(NetResult.parse(result.encode()), model="5f1c…")
    101.4
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.errors import ParseError, ProofError
from mitai.proof.card import MAX_CARD_BYTES, Reach
from mitai.proof.graph import Graph, Real
from mitai.proof.models.calibration import calibrate
from mitai.proof.models.net import Net, lying
from mitai.proof.operations import Argmax
from mitai.proof.proving import Weights, prove
from mitai.proof.stored import are_committed, named_last, read, write_commitment, write_weights
from mitai.proof.verify.hiding import MAX_USES
from mitai.proof.verify.program import verify
from mitai.proof.verify.soundness import LEAST_BITS
from mitai.proof.verify.statement import Statement
from mitai.wire import parse_json

LABEL = b"mitai proof net v1\0"
CARD = "card.json"
MAX_RESULT_BYTES = 1 << 28
MAX_SAMPLES = 1 << 16
MAX_WORK = 1 << 26  # numbers that one step of a program looks at, for all samples
SURE = 6  # reaches below this are measured well in fine steps; beyond, a function's argument may have been clipped

Bytes = Annotated[bytes, msgspec.Meta(max_length=MAX_RESULT_BYTES)]


class NetCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """What everybody may know of a network.

    Attributes:
        v: The format.
        net: Its steps.
        reaches: How large its numbers become, by name, as calibration found.
        weights: Root of the commitment to its weights, in hex.
        uses: How many proofs its commitment hides it in; absent where proofs are succinct ones, which hide nothing.
    """

    v: Literal["mitai proof net v1"] = "mitai proof net v1"
    net: Net
    reaches: dict[str, Reach]
    weights: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    uses: Annotated[int, msgspec.Meta(ge=1, le=MAX_USES)] | msgspec.UnsetType = msgspec.UNSET

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.json.encode(self, order="sorted")

    @staticmethod
    def parse(data: bytes) -> NetCard:
        """Read an encoded card.

        Raises:
            ParseError: `proof.card-malformed`.
        """
        card = parse_json(data, NetCard, MAX_CARD_BYTES, "proof.card-malformed", "this is no card of a net")
        if card.encode() != data:
            raise ParseError("proof.card-malformed", "the card is not in its one encoding")
        return card

    @cached_property
    def identity(self) -> str:
        """SHA-256 over label and encoding, in hex."""
        return hashlib.sha256(LABEL + self.encode()).hexdigest()

    def graph(self, n: int) -> Graph:
        """Return the program of so many samples, with its fractions.

        Raises:
            ProofError: They are too many, or the card's parts do not fit together.
        """
        if not 1 <= n <= MAX_SAMPLES or n * self.net.work > MAX_WORK:
            raise ProofError("proof.statement-invalid", "there are too many samples for one proof, or none")
        try:
            return self.net.write(Graph(self.reaches), n)
        except (ValueError, OverflowError):  # shifts by less than nothing, numbers that are no integers
            raise ProofError("proof.program-invalid", "no program follows from the reaches of the card") from None


class NetResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that proves itself.

    Attributes:
        v: The format.
        card: The net's, as it is encoded.
        inputs: Of all samples, as they lie: little-endian, 2 bytes each.
        outputs: Results or classes: little-endian, 8 bytes each.
        proof: All messages.
    """

    v: Literal["mitai proof net result v1"] = "mitai proof net result v1"
    card: Annotated[bytes, msgspec.Meta(max_length=MAX_CARD_BYTES)]
    inputs: Bytes
    outputs: Bytes
    proof: Bytes

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def parse(data: bytes) -> NetResult:
        """Read a file.

        Raises:
            ParseError: `proof.answer-malformed`.
        """
        if len(data) > MAX_RESULT_BYTES:
            raise ParseError("proof.answer-malformed", f"{len(data)} bytes are too many for a result with its proof")
        try:
            result = msgspec.msgpack.decode(data, type=NetResult)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ParseError("proof.answer-malformed", "these bytes are no result with a proof") from None
        if result.encode() != data:
            raise ParseError("proof.answer-malformed", "the result is not in its one encoding")
        return result

    def statement(self) -> tuple[Statement, Numbers]:
        """Return what has to be proven, and the numbers that it is about.

        Raises:
            ParseError: The card is malformed.
            ProofError: The file's parts do not fit together.
        """
        card = NetCard.parse(self.card)
        shape = lying(card.net.shapes[0])
        size = 2 * int(np.prod(shape))
        if not self.inputs or len(self.inputs) % size:
            raise ProofError("proof.statement-invalid", "the inputs are no whole samples")
        n = len(self.inputs) // size
        graph = card.graph(n)
        program = graph.program()
        [output] = program.outputs
        wanted = program.values[output.operand].shape
        if len(self.outputs) != 8 * int(np.prod(wanted)):
            raise ProofError("proof.statement-invalid", "the outputs are not as many as the net has")
        x = np.frombuffer(self.inputs, "<i2").astype(np.int64).reshape(n, *shape)
        y = np.frombuffer(self.outputs, "<i8").astype(np.int64).reshape(wanted)
        choices = {k: y for k, operation in enumerate(program.operations) if isinstance(operation, Argmax)}
        root = bytes.fromhex(card.weights) if program.weights else None
        statement = Statement(program, root, {"x": x}, {output.name: y}, choices, uses=card.uses or 0)
        return statement, Numbers(
            np.ldexp(x.astype(np.float64), -graph.fractions["x"]),
            np.ldexp(y.astype(np.float64), -graph.fractions[output.name]),
        )


@dataclass(frozen=True)
class Numbers:
    """What a file's integers stand for: inputs as they lie, [samples, …], and results [samples, …] or classes."""

    inputs: Real
    outputs: Real


def check_net(result: NetResult, model: str, least_bits: int = LEAST_BITS) -> tuple[float, Numbers]:
    """Check that the net of this identity gives these results for these inputs, with so many bits of security.

    Returns:
        The security in bits, and the numbers.

    Raises:
        ProofError: `proof.model-differs`: it is another net's. Or the first check of the proof that does not hold.
        ParseError: The card is malformed.
    """
    identity = NetCard.parse(result.card).identity
    if identity != model:
        raise ProofError(
            "proof.model-differs",
            f"the result is of net {identity}, not of the one that was asked for",
            step="model",
            hint="ask whoever publishes the net for its identity",
        )
    statement, numbers = result.statement()
    return verify(statement, result.proof, least_bits), numbers


@dataclass(frozen=True)
class PreparedNet:
    """A net that answers with proofs."""

    card: NetCard
    weights: Weights

    @staticmethod
    def open(folder: Path) -> PreparedNet:
        """Map a folder, and look whether its weights are those that its card names.

        Raises:
            ProofError: `proof.prepared-missing`, `proof.prepared-damaged`.
            ParseError: The card is malformed.
        """
        try:
            card = NetCard.parse((folder / CARD).read_bytes())
            program = card.graph(1).program()
            if not program.weights:
                return PreparedNet(card, Weights({}, None))
            weights = read(folder, program, card.uses or 0)
        except FileNotFoundError:
            raise ProofError(
                "proof.prepared-missing",
                f"{folder} is no net that was prepared",
                hint="see: mitai proof prepare --help",
            ) from None
        except ValueError:
            weights = None
        if weights is None or (weights.root or b"").hex() != card.weights or not are_committed(weights, program):
            raise ProofError(
                "proof.prepared-damaged", f"the files in {folder} do not belong together", hint="prepare it again"
            )
        return PreparedNet(card, weights)

    def prove(self, samples: Real) -> NetResult:
        """Compute the results of samples [n, …], and prove them.

        Raises:
            ProofError: `proof.out-of-range`: a number is larger than the net has room for, or no number.
                `proof.uses-spent`.
        """
        x = _lie(self.card.net, samples)
        graph = self.card.graph(len(samples))
        program = graph.program()
        ends = program.inputs["x"]
        whole = np.rint(np.ldexp(x, graph.fractions["x"]))
        if not np.all((whole >= ends.low) & (whole <= ends.high)):
            raise ProofError(
                "proof.out-of-range",
                "a number is larger than the net has room for",
                hint="calibrate the net with inputs like this one",
            )
        inputs = whole.astype(np.int64)
        proof = prove(program, {"x": inputs}, self.weights)
        [output] = proof.statement.outputs.values()
        return NetResult(
            card=self.card.encode(),
            inputs=inputs.astype("<i2").tobytes(),
            outputs=output.astype("<i8").tobytes(),
            proof=proof.messages,
        )

    def run(self, samples: Real) -> Real:
        """Return what the results stand for, without a proof."""
        graph = self.card.graph(len(samples))
        x = np.rint(np.ldexp(_lie(self.card.net, samples), graph.fractions["x"])).astype(np.int64)
        [(name, output)] = graph.program().run({"x": x}, self.weights.arrays).outputs.items()
        return np.asarray(output * 0.5 ** graph.fractions[name])


def prepare_net(
    net: Net, arrays: Mapping[str, Real], samples: Real, out: Path, *, code: bool = True, uses: int = 0
) -> NetCard:
    """Make a net ready, in a new folder.

    Args:
        net: Which.
        arrays: Its weights by name, as its program takes them.
        samples: Inputs like those that it will see [n, …], to measure how large its numbers become.
        out: A folder that is not there yet.
        code: Whether the encoded weights are kept, as of models.
        uses: How many proofs there may be, which hide weights and results of steps; 0 for any number of succinct ones.

    Raises:
        ProofError: `proof.net-invalid`, `proof.out-exists`.
    """
    with named_last(out) as partial:
        reaches = _measure(net, arrays, samples)
        graph = net.write(Graph(reaches), 1)
        program, root = graph.program(), bytes(32)
        if program.weights:
            write_weights(partial, program, lambda name: graph.integers(name, arrays[name]))
            root = write_commitment(partial, program, uses=uses, code=code)
        elif uses:
            raise ProofError(
                "proof.net-invalid", "the net has no weights, so there is nothing to hide", hint="leave out --zk"
            )
        card = NetCard(net=net, reaches=reaches, weights=root.hex(), uses=uses or msgspec.UNSET)
        (partial / CARD).write_bytes(card.encode())
    return card


def _measure(net: Net, arrays: Mapping[str, Real], samples: Real) -> dict[str, int]:
    """Return all reaches: in fine steps, or in whole ones if numbers are so large that fine ones would be clipped."""
    x = _lie(net, samples)
    count = max(1, min(len(x), MAX_WORK // net.work))

    def found(fraction: int) -> dict[str, int]:
        def write(graph: Graph) -> Graph:
            graph.rough_fraction = fraction
            return net.write(graph, count)

        parts = [x[start : start + count] for start in range(0, len(x) - count + 1, count)]
        return calibrate(arrays, [(write, {"x": np.rint(np.ldexp(part, fraction)).astype(np.int64)}) for part in parts])

    fine = found(8)
    return fine if max(reach for name, reach in fine.items() if name not in arrays) <= SURE else found(0)


def _lie(net: Net, samples: Real) -> Real:
    """Return samples [n, …] as they lie in programs.

    Raises:
        ProofError: `proof.input-mismatch`.
    """
    if (
        samples.ndim < 1
        or not len(samples)
        or samples[0].size != int(np.prod(net.input))
        or not np.isfinite(samples).all()
    ):
        shape = " × ".join(map(str, net.input))
        raise ProofError("proof.input-mismatch", f"samples are finite numbers, {shape} each")
    shaped = samples.astype(np.float64).reshape(len(samples), *net.input)
    return shaped if len(net.input) == 1 else shaped.reshape(len(samples), net.input[0], -1).transpose(0, 2, 1)
