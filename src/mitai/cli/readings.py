"""`mitai proof` for models that read: what its commands do where BERT is meant and not a model that answers."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from mitai.cli.output import Output, data, hides, left, printable, security
from mitai.errors import MitaiError, ProofError
from mitai.proof.card import MAX_INSPECTED, ModelCard, family
from mitai.proof.graph import Real
from mitai.proof.models.bert import Bert
from mitai.proof.models.blocks import written
from mitai.proof.prepared import Prepared
from mitai.proof.readings import Reading, check_reading, prove_reading

SHOWN = 8  # numbers of an embedding


class _Kind(msgspec.Struct):
    v: str = ""


def ask(output: Output, folder: Path, text: str, out: Path, numbers: Path | None) -> None:
    """Read a text, and prove its class or embedding."""
    if numbers:
        raise ProofError("proof.net-unasked", "--input is for nets; BERT is asked with a text")
    from mitai.mpc.text import Text

    prepared, words = Prepared.open(folder), Text.load(folder)
    began = time.monotonic()
    reading = prove_reading(prepared, words.read(text).ids)
    took = time.monotonic() - began
    encoded = reading.encode()
    out.write_bytes(encoded)
    shown = _shown(prepared.card, reading.statement()[1])
    _say(output, shown)
    output.say(f"[green]✔[/] proven in {took:.1f} s: {data(out)}, {len(encoded) / 1e6:.1f} MB")
    output.say(
        f"  next: mitai proof verify {data(out)} --model {prepared.card.identity}"
        + left(prepared.weights.left, "model")
    )
    output.result({**shown, "file": str(out), "bytes": len(encoded), "seconds": round(took, 2)})


def verify(output: Output, content: bytes, identity: str, least_bits: int) -> None:
    """Check a file."""
    reading = Reading.parse(content)
    began = time.monotonic()
    bits, meant = check_reading(reading, identity, least_bits)
    took = time.monotonic() - began
    output.say(f"[green]✔[/] this model reads so; checked in {took:.1f} s, with {security(bits)}\n")
    shown = {"text": list(reading.text), **_shown(ModelCard.parse(reading.card), meant)}
    _say(output, shown)
    output.result({"verdict": "holds", "bits": round(bits, 1), "model": identity, **shown})


def inspect(output: Output, content: bytes) -> None:
    """Show what a file says of itself."""
    reading = Reading.parse(content)
    card = ModelCard.parse(reading.card)
    if written(card.reader.config.num_hidden_layers, len(reading.text), 0) > MAX_INSPECTED:
        raise ProofError(
            "proof.card-too-large",
            "the model is too large for its program to be written down for a card that nobody checked",
            hint="mitai proof verify asks for the model's identity first",
        )
    statement, meant = reading.statement()
    facts = {
        "model": card.identity,
        "weights": card.weights,
        "program": statement.program.digest.hex(),
        "proof": f"{len(reading.proof)} bytes",
        "text": list(reading.text),
        **_shown(card, meant),
    }
    output.say("[yellow]Not checked[/]: mitai proof verify")
    output.table(("", ""), [(name, printable(str(value))) for name, value in facts.items()])
    output.result({"checked": False, **facts})


def is_reading(content: bytes) -> bool:
    """Return whether a file is of a reading, or a card is of a model that reads."""
    try:
        return msgspec.msgpack.decode(content, type=_Kind).v.startswith("mitai proof reading")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        return reads(ModelCard.parse(content).config.encode())
    except MitaiError:
        return False


def reads(config: bytes) -> bool:
    """Return whether a configuration is of a model that reads."""
    return isinstance(family(config), Bert)


def _say(output: Output, shown: dict[str, object]) -> None:
    for name, value in shown.items():
        output.say(f"{name}: {printable(str(value))}")


def _shown(card: ModelCard, meant: Real) -> dict[str, object]:
    config, hidden = card.reader.config, {"hides": hides(card.uses or 0, "text and result")}
    if not config.labels:
        return {"embedding": meant[:SHOWN].round(4).tolist(), "width": len(meant), **hidden}
    label = int(meant[0])
    return {"class": label, "label": (config.id2label or {}).get(str(label), f"LABEL_{label}"), **hidden}
