"""`mitai proof`: answers with a proof that a model of a known identity gave them."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from mitai.cli.options import JsonFlag, Positive
from mitai.cli.output import Output, data, printable
from mitai.errors import ProofError

if TYPE_CHECKING:
    from mitai.proof.answer import Answer
    from mitai.proof.card import ModelCard

app = App(
    name="proof",
    help="""Ask a model, and get a proof that it was this model that answered (docs/proof.md).

`prepare` a model once and tell everybody its identity; `ask` it; anybody can `verify` the answer, without the model and
without trusting any machine.""",
    help_format="markdown",
    help_epilogue="",
)
_TEXTS = (
    "What is confidential computing, and who can read my prompts?",
    "Hello! Please write three sentences about the weather in Paris in April.",
    "什么是机密计算？请用三句话回答。",
    "The quick brown fox jumps over the lazy dog; 17 + 25 = 42, and 3.14159 is about π.",
    "def add(a, b):\n    return a + b\n",
    "Once upon a time there was a small village by the sea, and in it lived an old woman who knew every story.",
)
_RANDOM_TOKENS = 48
_PREPARED = Annotated[Path, Parameter(help="A folder that `mitai proof prepare` made.")]
_FILE = Annotated[Path, Parameter(help="An answer with its proof.")]


@app.command
def prepare(
    model: Annotated[Path, Parameter(help="A model's folder, as save_pretrained writes it: GPT-2, Llama or Qwen2.")],
    out: Annotated[Path, Parameter(help="A folder that is not there yet; it needs some 50 bytes a parameter.")],
    *,
    texts: Annotated[
        Path | None,
        Parameter(help="Texts like those that the model will see, one a line; a few of all kinds by default."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Turn a model into integers, commit to them, and show its identity.

    Its numbers are measured with some texts. A prompt with which they become more than twice as large can't be
    answered; give texts of your own then.
    """
    from mitai.mpc.text import Text
    from mitai.proof.prepared import prepare as make

    output = Output(json)
    words = Text.load(model)
    lines = texts.read_text(encoding="utf-8").splitlines() if texts else list(_TEXTS)
    samples = [words.tokens(line, plain=plain) for line in lines if line.strip() for plain in (True, False)]
    card = make(model, [*samples, *_anything(samples)], out, output.note)
    output.say(f"The model's identity, for everybody who will verify answers:\n\n  [bold]{card.identity}[/]")
    output.result({"model": card.identity, "folder": str(out)})


@app.command
def ask(
    folder: _PREPARED,
    prompt: Annotated[str, Parameter(help="What is asked; `-` reads it from standard input.")],
    *,
    out: Annotated[Path, Parameter(help="Where the answer and its proof go.")] = Path("answer.proof"),
    max_tokens: Annotated[Positive, Parameter(help="How long the answer may be.")] = 32,
    plain: Annotated[bool, Parameter(negative="", help="Go on with the text as it is, without chat template.")] = False,
    json: JsonFlag = False,
) -> None:
    """Ask a model, and prove the answer: the likeliest token after the other.

    The answer comes first, and the proof after it. Whoever has the file sees prompt and answer.
    """
    from mitai.mpc.text import Text
    from mitai.proof.answer import generate, prove_answer
    from mitai.proof.prepared import Prepared

    output = Output(json)
    prepared, words = Prepared.open(folder), Text.load(folder)
    tokens = words.tokens(sys.stdin.read() if prompt == "-" else prompt, plain=plain)
    said: list[int] = []
    told = ""

    def emit(token: int) -> bool:
        nonlocal told
        said.append(token)
        whole = words.words(said)
        output.console.print(printable(whole[len(told) :]), end="", markup=False, soft_wrap=True)
        told = whole
        return not words.ends(token)

    generate(prepared, tokens, max_tokens, emit)
    output.say()
    began = time.monotonic()
    output.note("Proving …")
    encoded = prove_answer(prepared, tokens, said).encode()
    out.write_bytes(encoded)
    took = time.monotonic() - began
    output.say(f"[green]✔[/] proven in {took:.1f} s: {data(out)}, {len(encoded) / 1e6:.1f} MB")
    output.say(f"  next: mitai proof verify {data(out)} --model {prepared.card.identity}")
    output.result({"answer": told, "tokens": said, "file": str(out), "bytes": len(encoded), "seconds": round(took, 2)})


@app.command
def verify(
    file: _FILE,
    *,
    model: Annotated[str, Parameter(help="The identity of the model, as its publisher told you.")],
    tokenizer: Annotated[
        Path | None, Parameter(help="The model's folder or a copy of its tokenizer's files, to show words.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check that the model of this identity gave this answer to this prompt, without weights and without trust."""
    from mitai.proof.answer import check_answer

    output = Output(json)
    answer, card = _read(file)
    began = time.monotonic()
    bits = check_answer(answer, model)
    took = time.monotonic() - began
    output.say(f"[green]✔[/] this model answers so; checked in {took:.1f} s, with {bits:.0f} bits of security\n")
    shown = _shown(answer, card, tokenizer)
    for name, value in shown.items():
        output.say(f"{name}: {data(printable(str(value)))}")
    output.result({"verdict": "holds", "bits": round(bits, 1), "model": card.identity, **shown})


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
    from mitai.proof.cost import cost

    output = Output(json)
    answer, card = _read(file)
    program = card.program(len(answer.prompt), len(answer.answer))
    work = cost(program)
    facts = {
        "model": card.identity,
        "weights": card.weights,
        "program": program.digest.hex(),
        "operations": len(program.operations),
        "parameters": work.weights,
        "multiplications": work.macs + work.products,
        "look-ups": work.lookups,
        "proof": f"{len(answer.proof)} bytes",
        **_shown(answer, card, tokenizer),
    }
    output.say("[yellow]Not checked[/]: mitai proof verify")
    output.table(("", ""), [(name, printable(str(value))) for name, value in facts.items()])
    output.result({"checked": False, **facts})


def _read(file: Path) -> tuple[Answer, ModelCard]:
    from mitai.proof.answer import MAX_ANSWER_BYTES, Answer
    from mitai.proof.card import ModelCard

    try:
        with file.open("rb") as stream:
            encoded = stream.read(MAX_ANSWER_BYTES + 1)
    except OSError as error:
        raise ProofError("proof.no-file", f"{file} can't be read ({type(error).__name__})") from None
    answer = Answer.parse(encoded)
    return answer, ModelCard.parse(answer.card)


def _shown(answer: Answer, card: ModelCard, tokenizer: Path | None) -> dict[str, object]:
    """Return prompt and answer, in words where the model's own tokenizer is at hand."""
    tokens = {"prompt": list(answer.prompt), "answer": list(answer.answer)}
    if tokenizer is None:
        return dict(tokens)
    from mitai.mpc.text import Text

    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    own = folder / "tokenizer.json"
    if not own.exists() or hashlib.sha256(own.read_bytes()).hexdigest() != card.tokenizer:
        raise ProofError("proof.tokenizer-differs", f"the tokenizer in {folder} is not the one that the card names")
    words = Text.load(folder)
    return {name: words.words(ids) for name, ids in tokens.items()}


def _anything(samples: list[list[int]]) -> list[list[int]]:
    """Return tokens in an order that no text has: the same each time, so that a model's identity is."""
    known = sorted({token for sample in samples for token in sample})
    return [[known[(start + 7 * i * i) % len(known)] for i in range(_RANDOM_TOKENS)] for start in range(2)]
