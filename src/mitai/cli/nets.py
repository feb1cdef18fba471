"""`mitai proof` for small networks: what its commands do where a net is meant and not a model of tokens."""

from __future__ import annotations

import json as jsonlib
import time
from pathlib import Path

import msgspec
import numpy as np

from mitai.cli.output import Output, data, hides, left, security
from mitai.errors import ParseError, ProofError
from mitai.proof.graph import Real
from mitai.proof.nets import NetCard, NetResult, Numbers, PreparedNet, check_net, prepare_net

MAX_NUMBERS_BYTES = 1 << 28
COMPARED = 200  # samples
SHOWN = 10  # results


class _Kind(msgspec.Struct):
    v: str = ""


def prepare(output: Output, model: Path, out: Path, samples: Path | None, *, code: bool, uses: int) -> None:
    """Make a net ready out of an ONNX file, and say how near its integers come to it."""
    from mitai.proof.onnx import MAX_ONNX_BYTES, evaluate, read_onnx

    if samples is None:
        raise _unusable("a net is measured with samples of its inputs", "--samples FILE.npy, .csv or .json")
    content = _read(model, MAX_ONNX_BYTES)
    net, arrays = read_onnx(content)
    numbers = read_numbers(samples, net.input)
    card = prepare_net(net, arrays, numbers, out, code=code, uses=uses)
    some = numbers[:: max(1, len(numbers) // COMPARED)][:COMPARED]
    found = PreparedNet.open(out).run(some).reshape(len(some), -1)
    report: dict[str, object] = {}
    try:
        exact = evaluate(content, some)
    except ProofError as error:
        output.say(f"not compared with the ONNX model: {error.message}")
    else:
        far, same = float(np.abs(exact - found).max()), float((exact.argmax(-1) == found.argmax(-1)).mean())
        report = {"samples": len(some), "deviation": far, "agreement": same}
        output.say(f"compared with the ONNX model on {len(some)} samples: results are off by {far:.2g} at most")
        if exact.shape[1] > 1:
            output.say(f"  the largest result is the same one at {same:.1%}")
    output.say(f"The net's identity, for everybody who will verify results:\n\n  [bold]{card.identity}[/]")
    output.result({"model": card.identity, "folder": str(out), **report})


def ask(output: Output, folder: Path, _text: str, out: Path, numbers: Path | None) -> None:
    """Compute the results of a net, and prove them."""
    if numbers is None:
        raise _unusable("a net is asked with numbers", "--input FILE.npy, .csv or .json")
    prepared = PreparedNet.open(folder)
    given = read_numbers(numbers, prepared.card.net.input)
    began = time.monotonic()
    result = prepared.prove(given)
    took = time.monotonic() - began
    encoded = result.encode()
    out.write_bytes(encoded)
    shown = _shown(prepared.card, result.statement()[1])
    output.say(f"results: {shown['results']}")
    output.say(f"[green]✔[/] proven in {took:.2f} s: {data(out)}, {len(encoded) / 1e6:.2f} MB")
    output.say(
        f"  next: mitai proof verify {data(out)} --model {prepared.card.identity}" + left(prepared.weights.left, "net")
    )
    output.result({**shown, "file": str(out), "bytes": len(encoded), "seconds": round(took, 3)})


def verify(output: Output, content: bytes, identity: str, least_bits: int) -> None:
    """Check a file."""
    began = time.monotonic()
    result = NetResult.parse(content)
    bits, numbers = check_net(result, identity, least_bits)
    took = time.monotonic() - began
    output.say(f"[green]✔[/] this net says so; checked in {took:.2f} s, with {security(bits)}\n")
    shown = _shown(NetCard.parse(result.card), numbers)
    for name, value in shown.items():
        output.say(f"{name}: {value}")
    output.result({"verdict": "holds", "bits": round(bits, 1), "model": identity, **shown})


def inspect(output: Output, content: bytes) -> None:
    """Show what a file says of itself."""
    result = NetResult.parse(content)
    card = NetCard.parse(result.card)
    statement, numbers = result.statement()
    facts = {
        "model": card.identity,
        "weights": card.weights,
        "program": statement.program.digest.hex(),
        "steps": [type(step).__name__.lower() for step in card.net.steps],
        "proof": f"{len(result.proof)} bytes",
        **_shown(card, numbers),
    }
    output.say("[yellow]Not checked[/]: mitai proof verify")
    output.table(("", ""), [(name, str(value)) for name, value in facts.items()])
    output.result({"checked": False, **facts})


def is_net(content: bytes) -> bool:
    """Return whether a file, or a card, says that it is a net's."""
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            return decode(content, type=_Kind).v.startswith("mitai proof net")
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return False


def read_numbers(path: Path, shape: tuple[int, ...]) -> Real:
    """Return samples [n, …] out of a file: .npy; .csv, a sample a line; .json, a list of samples. Or one sample.

    Raises:
        ParseError: `proof.numbers-malformed`.
        ProofError: `proof.no-file`.
    """
    content = _read(path, MAX_NUMBERS_BYTES)
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                found = np.load(file, allow_pickle=False)
        elif path.suffix == ".csv":
            found = np.array([line.split(",") for line in content.decode().splitlines() if line.strip()])
        else:
            found = np.array(jsonlib.loads(content))
        numbers: Real = found.astype(np.float64)
    except (ValueError, TypeError, RecursionError, EOFError, OverflowError, MemoryError):
        raise ParseError(
            "proof.numbers-malformed", f"{path} holds no samples", hint="numbers in .npy, .csv or .json"
        ) from None
    size = int(np.prod(shape))
    return numbers.reshape(1, *shape) if numbers.size == size and len(numbers) != 1 else numbers


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ProofError("proof.no-file", f"{path} can't be read ({type(error).__name__})") from None
    if len(content) > most:
        raise ParseError("proof.numbers-malformed", f"{path} is larger than {most >> 20} MiB")
    return content


def _shown(card: NetCard, numbers: Numbers) -> dict[str, object]:
    rows = numbers.outputs[:SHOWN].tolist()
    return {"samples": len(numbers.inputs), "results": rows, "hides": hides(card.uses or 0, "samples and results")}


def _unusable(message: str, hint: str) -> ProofError:
    return ProofError("proof.net-unasked", message, hint=hint)
