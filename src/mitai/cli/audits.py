"""`mitai proof audit` and what belongs to it: answers whose trace is committed to, and checked on demand."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from cyclopts import App, Parameter

from mitai.cli.options import LEAST_BITS, BitsOption, JsonFlag, Positive
from mitai.cli.output import Output, data, printable
from mitai.cli.proof import agreed_on, prompt_and_answer
from mitai.errors import ProofError
from mitai.fleet.home import Home

if TYPE_CHECKING:
    from mitai.proof.audit.check import Report
    from mitai.proof.audit.files import Challenge, Committed
    from mitai.proof.audit.key import AuditKey

_PREPARED = Annotated[Path, Parameter(help="A folder that `mitai proof prepare` made.")]
_FILE = Annotated[Path, Parameter(help="An answer with its trace's root, of `mitai proof ask --commit`.")]


def add_to(app: App) -> None:
    """Add the commands to `mitai proof`."""
    for command in (audit_key, challenge, trace, audit):
        app.command(command)
    app.command(answer, name="audit-answer")


def audit_key(
    folder: _PREPARED,
    out: Annotated[Path, Parameter(help="A file that is not there yet. Whoever makes answers must never see it.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Make a key for audits of a model, from its weights; audits need no weights any more.

    The weights are first found to be those behind the model's identity.
    """
    from mitai.proof.audit.key import make_key
    from mitai.proof.prepared import Prepared

    output = Output(json)
    if out.exists():
        raise ProofError("proof.out-exists", f"there is something at {out}", hint="give a file that is not there yet")
    output.note("Checking the weights …")
    key = make_key(Prepared.open(folder))
    encoded = key.encode()
    with open(out, "xb", opener=_private) as file:
        file.write(encoded)
    output.say(f"[green]✔[/] a secret key for audits of {key.model}: {data(out)}, {len(encoded) / 1e6:.1f} MB")
    output.result({"model": key.model, "file": str(out), "bytes": len(encoded)})


def challenge(
    file: _FILE,
    out: Annotated[Path, Parameter(help="Where the challenge goes.")],
    *,
    model: Annotated[str, Parameter(help="The identity of the model that should have answered.")],
    steps: Annotated[Positive, Parameter(help="How many steps are checked.")] = 20,
    json: JsonFlag = False,
) -> None:
    """Draw which steps of an answer's trace are to be shown, after its root is known and signed.

    Give it to whoever gave the answer, for `mitai proof trace`. It is for one answer and one time.
    """
    from mitai.proof.audit.check import caught, draw, plan_of

    output = Output(json)
    plan = plan_of(_committed(file), model)
    drawn, total = draw(plan, steps), len(plan.steps)
    out.write_bytes(drawn.encode())
    chance = float(caught(total, len(drawn.steps)))
    output.say(f"[green]✔[/] {len(drawn.steps)} of {total} steps: {data(out)}; one false step is found in {chance:.1%}")
    output.result({"file": str(out), "steps": list(drawn.steps), "of": total, "caught": chance})


def trace(
    folder: _PREPARED,
    file: _FILE,
    out: Annotated[Path, Parameter(help="Where the trace goes.")],
    *,
    challenge: Annotated[Path | None, Parameter(help="The auditor's; all steps are shown without.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show an auditor the trace of an answer, or those steps of it that were drawn.

    It is computed again, from prompt and answer. Whoever has it sees the model's activations.
    """
    from mitai.proof.audit.trace import respond
    from mitai.proof.prepared import Prepared

    output = Output(json)
    parts = respond(Prepared.open(folder), _committed(file), _challenge(challenge))
    try:
        with open(out, "wb", opener=_private) as stream:
            size = sum(stream.write(part) for part in parts)
    except ProofError:
        out.unlink()
        raise
    output.say(f"[green]✔[/] the trace: {data(out)}, {size / 1e6:.1f} MB")
    output.result({"file": str(out), "bytes": size})


def audit(
    file: _FILE,
    *,
    key: Annotated[Path, Parameter(help="The auditor's key, of the model that should have answered.")],
    trace: Annotated[Path, Parameter(help="What the server showed: `mitai proof trace`.")],
    challenge: Annotated[Path | None, Parameter(help="What it was asked for; all steps without.")] = None,
    temperature: Annotated[float, Parameter(help="At which the answer was to be drawn; 0: not drawn.")] = 0,
    nonce: Annotated[str | None, Parameter(help="That was given with the prompt.")] = None,
    commitment: Annotated[str | None, Parameter(help="To the seed, from before the prompt was given.")] = None,
    tokenizer: Annotated[
        Path | None, Parameter(help="The model's folder or a copy of its tokenizer's files, to show words.")
    ] = None,
    bits: BitsOption = LEAST_BITS,
    json: JsonFlag = False,
) -> None:
    """Check an answer by its trace, without the model's weights.

    All steps: the answer is the model's. Some steps: what is false in one step is found as often as it says. The root
    that is shown has to be the one that the server signed, or told, before it knew of the audit.
    """
    from mitai.proof.audit.check import Auditor

    output = Output(json)
    began = time.monotonic()
    committed = _committed(file)
    auditor = Auditor(committed, _key(key), agreed_on(temperature, nonce, commitment))
    with _opened(trace) as stream:
        report = auditor.check(_challenge(challenge), stream, bits)
    _tell(output, committed, report, began, tokenizer)


def answer(
    which: Annotated[
        str | None, Parameter(help="A receipt's id, how it begins, or its file; the newest by default.")
    ] = None,
    *,
    key: Annotated[Path, Parameter(help="The auditor's key, of the model that should have answered.")],
    steps: Annotated[Positive | None, Parameter(help="How many steps are drawn and checked; all by default.")] = None,
    client: Annotated[
        Path | None, Parameter(help="Whose folder says where the service is, and which key it has; else this home's.")
    ] = None,
    bits: BitsOption = LEAST_BITS,
    json: JsonFlag = False,
) -> None:
    """Audit an answer of a service of proofs: ask for its trace, and check that.

    The receipt, as `mitai chat` kept it, was signed with the answer, before the service could know of any audit.

    Example: `mitai proof audit-answer --key auditor.key`
    """
    from mitai.cli.evidence import read_file
    from mitai.cli.user import receipt_path
    from mitai.proof.service.audits import audit_answer
    from mitai.proof.service.client import Service
    from mitai.proof.service.receipts import Kept

    output, home = Output(json), Home.default()
    began = time.monotonic()
    path = receipt_path(home, which, sorted(home.receipts.glob("*.json"), key=lambda path: path.stat().st_mtime))
    folder = client or home.proof_client
    with closing(Service(folder)) as service:
        found = audit_answer(service, Kept.parse(read_file(path)), _key(key), steps, bits)
    words = folder if (folder / "tokenizer.json").exists() else None
    _tell(output, found.committed, found.report, began, words)


def _tell(output: Output, committed: Committed, report: Report, began: float, tokenizer: Path | None) -> None:
    """Tell what an audit found, and about which answer."""
    from mitai.proof.card import ModelCard

    card = ModelCard.parse(committed.card)
    whole = report.checked == report.steps
    verdict = "this model answers so" if whole else f"nothing false in {report.checked} of {report.steps} steps"
    chance = "" if whole else f"; one false step is found in {report.caught:.1%}"
    output.say(f"[green]✔[/] {verdict}; checked in {time.monotonic() - began:.1f} s, {report.bits:.0f} bits{chance}")
    told = {"verdict": "holds" if whole else "nothing found", "model": card.identity, "bits": round(report.bits, 1)}
    words = prompt_and_answer(committed.unproven, card, tokenizer)
    shown = {"root": committed.root.hex(), **words}
    for name, value in shown.items():
        output.say(f"{name}: {data(printable(str(value)))}")
    output.result({**told, **shown, "steps": report.steps, "checked": report.checked, "caught": report.caught})


def _key(file: Path) -> AuditKey:
    from mitai.proof.audit.key import MAX_KEY_BYTES, AuditKey

    return AuditKey.parse(_read(file, MAX_KEY_BYTES))


def _committed(file: Path) -> Committed:
    from mitai.proof.audit.files import MAX_COMMITTED_BYTES, Committed

    return Committed.parse(_read(file, MAX_COMMITTED_BYTES))


def _challenge(file: Path | None) -> Challenge | None:
    from mitai.proof.audit.files import MAX_CHALLENGE_BYTES, Challenge

    return Challenge.parse(_read(file, MAX_CHALLENGE_BYTES)) if file else None


def _read(file: Path, limit: int) -> bytes:
    """Return a file's bytes, and no more than one above the limit."""
    with _opened(file) as stream:
        return stream.read(limit + 1)


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise ProofError("proof.no-file", f"{file} can't be read ({type(error).__name__})") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
