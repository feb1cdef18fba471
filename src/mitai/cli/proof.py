"""`mitai proof`: answers with a proof that a model of a known identity gave them."""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from mitai.cli.capsule import CapsuleOption, OwnerOption, read_manifest
from mitai.cli.options import LEAST_BITS, BitsOption, JsonFlag, Positive
from mitai.cli.output import Output, data, hides, left, printable, security
from mitai.errors import ProofError

if TYPE_CHECKING:
    from mitai.proof.answer import Answer
    from mitai.proof.card import ModelCard
    from mitai.proof.sampling import Agreed, Sampling

app = App(
    name="proof",
    help="""Ask a model, and get a proof that it was this model that answered (docs/proof.md).

`prepare` a model once and tell everybody its identity; `ask` it; anybody can `verify` the answer, without the model and
without trusting any machine.""",
    help_format="markdown",
    help_epilogue="",
)
_PREPARED = Annotated[Path, Parameter(help="A folder that `mitai proof prepare` made.")]
_FILE = Annotated[Path, Parameter(help="An answer with its proof.")]


@app.command
def prepare(
    model: Annotated[
        Path,
        Parameter(help="A folder of save_pretrained: GPT-2, Llama, Qwen2, BERT; or a small net's ONNX file."),
    ],
    out: Annotated[Path, Parameter(help="A folder that is not there yet; it needs 40 to 75 bytes a parameter.")],
    *,
    texts: Annotated[
        Path | None,
        Parameter(help="Texts like those that the model will see, one a line; a few of all kinds by default."),
    ] = None,
    samples: Annotated[Path | None, Parameter(help="Of a net: inputs as it will see, .npy, .csv or .json.")] = None,
    code: Annotated[
        bool,
        Parameter(help="Keep the weights' code; without it 9 bytes a parameter are enough, and proofs take longer."),
    ] = True,
    zk: Annotated[bool, Parameter(negative="", help="Its proofs hide weights and all numbers but the answer.")] = False,
    proofs: Annotated[Positive, Parameter(help="With --zk: how many proofs there may be, up to 4096.")] = 64,
    json: JsonFlag = False,
) -> None:
    """Turn a model into integers, commit to them, and show its identity.

    Its numbers are measured with some texts. A prompt with which they become more than twice as large can't be
    answered; give texts of your own then. A net is measured with samples, and compared with the ONNX model on them.

    With --zk, whoever reads proofs learns nothing of the weights. When all are made the model is prepared again, with
    another identity. Don't restore the folder from a backup: its proofs are counted in it.
    """
    from mitai.cli.readings import reads
    from mitai.mpc.text import Text
    from mitai.proof.prepared import prepare as make
    from mitai.proof.texts import TEXTS, calibration

    output = Output(json)
    if model.is_file():
        from mitai.cli import nets

        nets.prepare(output, model, out, samples, code=code, uses=proofs if zk else 0)
        return
    words = Text.load(model)
    lines = texts.read_text(encoding="utf-8").splitlines() if texts else TEXTS
    config = model / "config.json"
    measured = calibration(words, lines, reads=config.is_file() and reads(config.read_bytes()))
    card = make(model, measured, out, output.note, code=code, uses=proofs if zk else 0)
    output.say(f"The model's identity, for everybody who will verify answers:\n\n  [bold]{card.identity}[/]")
    output.result({"model": card.identity, "folder": str(out)})


@app.command
def ask(
    folder: _PREPARED,
    prompt: Annotated[str, Parameter(help="What is asked; `-` reads it from standard input.")] = "",
    *,
    numbers: Annotated[
        Path | None, Parameter(name="--input", help="What a net is asked: one sample or more, .npy, .csv or .json.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="Where the answer goes: answer.proof, or answer.committed.")] = None,
    max_tokens: Annotated[Positive, Parameter(help="How long the answer may be.")] = 32,
    temperature: Annotated[float, Parameter(help="0 takes the likeliest tokens; above it, to 2, they are drawn.")] = 0,
    seed: Annotated[Path | None, Parameter(help="A fresh seed of `mitai proof seed`; it is used up.")] = None,
    nonce: Annotated[str | None, Parameter(help="Of who asks, 64 hexadecimal digits; random by default.")] = None,
    plain: Annotated[bool, Parameter(negative="", help="Go on with the text as it is, without chat template.")] = False,
    commit: Annotated[bool, Parameter(negative="", help="No proof, but a root, for `mitai proof audit`.")] = False,
    json: JsonFlag = False,
) -> None:
    """Ask a model, and prove the answer: the likeliest token after the other, or one that was drawn.

    The answer comes first, and the proof after it. Whoever has the file sees prompt and answer. BERT reads the prompt,
    and says its class or embedding.
    """
    from mitai.mpc.text import Text
    from mitai.proof.answer import generate, prove_answer
    from mitai.proof.prepared import Prepared

    output = Output(json)
    if other := _other(folder):
        if commit or temperature:
            raise ProofError("proof.audit-unsupported", "what nets and BERT say is proven, neither audited nor drawn")
        text = sys.stdin.read() if prompt == "-" else prompt
        other.ask(output, folder, text, out or Path("answer.proof"), numbers)
        return
    if numbers:
        raise ProofError("proof.net-unasked", "--input is for nets")
    prepared, words = Prepared.open(folder), Text.load(folder)
    tokens = words.tokens(sys.stdin.read() if prompt == "-" else prompt, plain=plain)
    sampling = _sampling(temperature, seed, nonce)
    said: list[int] = []
    told = ""

    def emit(token: int) -> bool:
        nonlocal told
        said.append(token)
        whole = words.words(said)
        output.console.print(printable(whole[len(told) :]), end="", markup=False, soft_wrap=True)
        told = whole
        return not words.ends(token)

    generate(prepared, tokens, max_tokens, emit, sampling)
    output.say()
    if commit:
        from mitai.proof.audit.trace import commit as committed

        file = out or Path("answer.committed")
        root = committed(prepared, tokens, said, sampling)
        file.write_bytes(root.encode())
        output.say(f"[green]✔[/] committed: {data(file)}\n  root: {root.root.hex()}")
        output.result({"answer": told, "tokens": said, "file": str(file), "root": root.root.hex()})
        return
    file = out or Path("answer.proof")
    began = time.monotonic()
    output.note("Proving …")
    encoded = prove_answer(prepared, tokens, said, sampling).encode()
    file.write_bytes(encoded)
    took = time.monotonic() - began
    output.say(f"[green]✔[/] proven in {took:.1f} s: {data(file)}, {len(encoded) / 1e6:.1f} MB")
    drawn = f" --temperature {temperature:g} --nonce {sampling.nonce.hex()}" if sampling else ""
    output.say(
        f"  next: mitai proof verify {data(file)} --model {prepared.card.identity}{drawn}"
        + left(prepared.weights.left, "model")
    )
    output.result({"answer": told, "tokens": said, "file": str(file), "bytes": len(encoded), "seconds": round(took, 2)})


@app.command
def seed(
    out: Annotated[Path, Parameter(help="A file that is not there yet.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Make a secret seed for one answer that is drawn, and show the commitment to it.

    Whoever asks gets the commitment first, and gives prompt and nonce then; so neither side chooses what is drawn.
    """
    from mitai.proof.sampling import SEED_BYTES, commitment

    output = Output(json)
    fresh = secrets.token_bytes(SEED_BYTES)
    try:
        with open(out, "x", opener=lambda path, flags: os.open(path, flags, 0o600), encoding="ascii") as file:
            file.write(fresh.hex())
    except FileExistsError:
        raise ProofError("proof.out-exists", f"there is something at {out}", hint="each answer has its own") from None
    output.say(f"The commitment, for whoever asks, before the prompt is known:\n\n  [bold]{commitment(fresh)}[/]")
    output.result({"commitment": commitment(fresh), "file": str(out)})


@app.command
def verify(
    file: _FILE,
    *,
    model: Annotated[str | None, Parameter(help="The identity of the model, as its publisher told you.")] = None,
    capsule: CapsuleOption = None,
    owner: OwnerOption = None,
    temperature: Annotated[float, Parameter(help="At which the answer was to be drawn; 0: not drawn.")] = 0,
    nonce: Annotated[str | None, Parameter(help="That you gave with the prompt.")] = None,
    commitment: Annotated[str | None, Parameter(help="To the seed, that you had before you gave the prompt.")] = None,
    tokenizer: Annotated[
        Path | None, Parameter(help="The model's folder or a copy of its tokenizer's files, to show words.")
    ] = None,
    bits: BitsOption = LEAST_BITS,
    json: JsonFlag = False,
) -> None:
    """Check that the model of this identity gave this answer to this prompt, without weights and without trust.

    The identity comes from whoever publishes the model, or out of the manifest that the owner of a capsule signed.
    """
    from mitai.proof.answer import check_answer

    output = Output(json)
    if (model is None) == (capsule is None):
        raise ProofError("proof.model-unnamed", "the model is named by --model, or by --capsule", hint="give one")
    identity = model or _of_capsule(capsule, owner)
    if other := _other(file):
        if temperature or nonce or commitment:
            raise _unusable("what nets and BERT say is not drawn", "leave --temperature, --nonce and --commitment out")
        other.verify(output, _content(file), identity, bits)
        return
    answer, card = _read(file)
    began = time.monotonic()
    found = check_answer(answer, identity, agreed_on(temperature, nonce, commitment), bits)
    took = time.monotonic() - began
    output.say(f"[green]✔[/] this model answers so; checked in {took:.1f} s, with {security(found)}\n")
    shown = _shown(answer, card, tokenizer)
    for name, value in shown.items():
        output.say(f"{name}: {data(printable(str(value)))}")
    if temperature and not (nonce and commitment):
        output.say("[yellow]Not known[/]: that nobody chose what was drawn; give --nonce and --commitment")
    output.result({"verdict": "holds", "bits": round(found, 1), "model": card.identity, **shown})


@app.command
def inspect(
    file: _FILE,
    *,
    tokenizer: Annotated[
        Path | None, Parameter(help="The model's folder or a copy of its tokenizer's files, to show words.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show what an answer's file says of itself. Nothing of it is checked."""
    from mitai.proof.card import MAX_INSPECTED
    from mitai.proof.cost import cost

    output = Output(json)
    if other := _other(file):
        other.inspect(output, _content(file))
        return
    answer, card = _read(file)
    facts: dict[str, object] = {"model": card.identity, "weights": card.weights}
    if card.model.written(len(answer.prompt) + len(answer.answer)) <= MAX_INSPECTED:
        program = card.program(len(answer.prompt), len(answer.answer))
        work = cost(program)
        facts |= {
            "program": program.digest.hex(),
            "operations": len(program.operations),
            "parameters": work.weights,
            "multiplications": work.macs + work.products,
            "look-ups": work.lookups,
        }
    else:
        facts |= {"program": "too large to be written down for a card that nobody checked"}
    facts |= {
        "proof": f"{len(answer.proof)} bytes",
        **_shown(answer, card, tokenizer),
    }
    output.say("[yellow]Not checked[/]: mitai proof verify")
    output.table(("", ""), [(name, printable(str(value))) for name, value in facts.items()])
    output.result({"checked": False, **facts})


@app.command(name="audit-session")
def audit_session(
    file: Annotated[Path, Parameter(help="A session's file, as `mitai chat --sample` keeps it.")],
    *,
    model: Annotated[str, Parameter(help="The identity of the model, as its publisher told you.")],
    key: Annotated[str, Parameter(help="The id of the service's key, as whoever runs it told you.")],
    proofs: Annotated[
        Path | None, Parameter(help="Where the proofs are, EXCHANGE.proof; by default beside the file.")
    ] = None,
    fetch: Annotated[
        bool, Parameter(negative="", help="First show the seed to the service here, and fetch proofs that are missing.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check a sample of a service's answers: that the seed drew them, that the service signed them, that they hold.

    The seed was committed to before the first answer, and shown after the last one: the service could not know which
    answers it would have to prove. Exit status 1 when a drawn answer has no proof that holds.
    """
    from mitai.cli import proven

    proven.audit_session(Output(json), file, model, key, proofs or file.parent, fetch=fetch)


def _other(path: Path) -> ModuleType | None:
    """Return what does the work for a file, or a prepared folder, of a model that does not answer in words."""
    from mitai.cli import nets, readings

    file = path / "card.json" if path.is_dir() else path
    if not file.is_file():
        return None
    content = _content(file)
    return nets if nets.is_net(content) else readings if readings.is_reading(content) else None


def _content(file: Path) -> bytes:
    from mitai.proof.answer import MAX_ANSWER_BYTES

    try:
        with file.open("rb") as stream:
            return stream.read(MAX_ANSWER_BYTES + 1)
    except OSError as error:
        raise ProofError("proof.no-file", f"{file} can't be read ({type(error).__name__})") from None


def _read(file: Path) -> tuple[Answer, ModelCard]:
    from mitai.proof.answer import Answer
    from mitai.proof.card import ModelCard

    answer = Answer.parse(_content(file))
    return answer, ModelCard.parse(answer.card)


def _of_capsule(capsule: Path | None, owner: str | None) -> str:
    manifest, _ = read_manifest(capsule or Path(), owner)
    if not manifest.proof_identity:
        raise ProofError(
            "proof.model-unnamed", "the capsule's manifest names no identity for proofs", hint="mitai seal --proof"
        )
    return manifest.proof_identity


def _sampling(temperature: float, seed: Path | None, nonce: str | None) -> Sampling | None:
    from mitai.proof.sampling import SEED_BYTES, Sampling

    agreed = agreed_on(temperature, nonce, None)
    if agreed is None:
        if seed:
            raise _unusable("a seed is for answers that are drawn", "give a --temperature above 0")
        return None
    return Sampling(
        temperature=agreed.temperature,
        seed=_spent(seed) if seed else secrets.token_bytes(SEED_BYTES),
        nonce=agreed.nonce or secrets.token_bytes(SEED_BYTES),
    )


def agreed_on(temperature: float, nonce: str | None, commitment: str | None) -> Agreed | None:
    """Return what was agreed on; nothing at temperature 0."""
    from mitai.proof.sampling import MOST_TEMPERATURE, Agreed

    thousandths = round(temperature * 1000) if math.isfinite(temperature) else -1
    if not 0 <= thousandths <= MOST_TEMPERATURE or (temperature and not thousandths):
        raise _unusable("a temperature is 0, or from 0.001 to 2", "thousandths are the finest step")
    if not thousandths:
        if nonce or commitment:
            raise _unusable("nonce and commitment are for answers that are drawn", "give the --temperature, too")
        return None
    for name, value in (("nonce", nonce), ("commitment", commitment)):
        if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
            raise _unusable(f"the {name} is not 64 hexadecimal digits", "in lower case")
    return Agreed(thousandths, bytes.fromhex(nonce) if nonce else None, commitment)


def _spent(file: Path) -> bytes:
    """Return a seed, and see to it that it is used once."""
    try:
        text = file.read_text(encoding="ascii")
        file.unlink()
    except (OSError, UnicodeError) as error:
        raise ProofError("proof.no-file", f"{file} can't be read ({type(error).__name__})") from None
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise _unusable(f"{file} is no seed", "mitai proof seed makes one")
    return bytes.fromhex(text)


def _unusable(message: str, hint: str) -> ProofError:
    return ProofError("proof.sampling-unusable", message, hint=hint)


def _shown(answer: Answer, card: ModelCard, tokenizer: Path | None) -> dict[str, object]:
    """Return prompt and answer, what the proof hides, and how the answer was drawn."""
    hidden = hides(card.uses or 0, "prompt and answer")
    return {**prompt_and_answer(answer, card, tokenizer), "hides": hidden, **_drawn(answer)}


def prompt_and_answer(answer: Answer, card: ModelCard, tokenizer: Path | None) -> dict[str, object]:
    """Return both, in words where the model's own tokenizer is at hand."""
    tokens = {"prompt": list(answer.prompt), "answer": list(answer.answer)}
    if tokenizer is None:
        return {**tokens}
    from mitai.mpc.text import Text

    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    own = folder / "tokenizer.json"
    if not own.exists() or hashlib.sha256(own.read_bytes()).hexdigest() != card.tokenizer:
        raise ProofError("proof.tokenizer-differs", f"the tokenizer in {folder} is not the one that the card names")
    words = Text.load(folder)
    return {name: words.words(ids) for name, ids in tokens.items()}


def _drawn(answer: Answer) -> dict[str, object]:
    from mitai.proof.sampling import commitment

    if not (sampling := answer.sampling):
        return {}
    return {
        "temperature": sampling.temperature / 1000,
        "nonce": sampling.nonce.hex(),
        "commitment": commitment(sampling.seed),
    }
