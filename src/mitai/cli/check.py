"""`mitai check fingerprint` and `mitai check rerun`: kept answers, computed again with the same weights."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from mitai.cli.evidence import read_file
from mitai.cli.options import JsonFlag, PolicyOption, Positive, read_policy
from mitai.cli.output import Output
from mitai.client import receipts
from mitai.client.kept import KeptAnswer
from mitai.errors import ClientError, LedgerError
from mitai.fleet.home import Home
from mitai.ledger.assurance import ReExecution
from mitai.ledger.lots import SEED_BYTES, Lots, needed
from mitai.ledger.receipt import receipt_sha256

if TYPE_CHECKING:
    from mitai.serve.rerun import Rerun

app = App(name="check", help="Compute kept answers again, with the same weights (docs/tiers.md).")

Files = Annotated[tuple[Path, ...], Parameter(help="Answers that `mitai chat --keep` has kept.", negative="")]
Model = Annotated[Path, Parameter(help="The weights that were promised: a Hugging Face folder.")]
Precision = Annotated[
    Literal["float32", "bfloat16"] | None, Parameter(help="What was promised; by default that of the weights.")
]
Limit = Annotated[float | None, Parameter(validator=Number(gte=0, lte=128), help="Instead of the precision's own.")]


@app.command
def fingerprint(
    files: Files,
    *,
    model: Model,
    precision: Precision = None,
    far: Limit = None,
    distance: Limit = None,
    tolerance: Limit = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Say whether answers were computed with these weights, by the fingerprints of their activations.

    Each receipt is checked first, offline. Then prompt and answer are read in one pass, which is much cheaper than
    generating, and compared block by block: other weights, prompts or precisions are refused. So are tokens that the
    weights don't give, as by `mitai check rerun`.

    Example: `mitai check fingerprint ~/.mitai/user/answers/*.json --model my-model`
    """
    from mitai.serve.fingerprints import ALLOWED, Allowed, Fingerprints, check_blocks
    from mitai.serve.rerun import TOLERANCE, check_end, check_tokens

    out, again = Output(json), _rerun(model, precision)
    usual = ALLOWED[again.precision]
    within = TOLERANCE[again.precision] if tolerance is None else tolerance
    allowed = Allowed(usual.far if far is None else far, usual.distance if distance is None else distance)
    rows, told = [], []
    for each in _checked(files, policy):
        if each.fingerprints is None:
            raise ClientError(
                "client.no-fingerprints",
                f"the receipt of {each.name} names no fingerprints",
                hint="those of a replica with `fingerprints = true`; without them: mitai check rerun",
            )
        asked = again.asked(bytes(each.kept.request))
        choices = Fingerprints.decode(each.fingerprints).choices
        if len(choices) != len(each.kept.answers) or len(choices) != len(asked.prompts) * asked.n:
            raise ClientError("client.fingerprints-differ", "there are fingerprints of another number of answers")
        likeness = []
        for at, (choice, said) in enumerate(zip(choices, each.kept.answers, strict=True)):
            _same_text(again.text(choice.tokens), said.text, stops=bool(asked.sampling.stop))
            check_end(choice.tokens, again.ends, asked.sampling, said.finish)
            reading = again.read(asked.prompts[at // asked.n], choice.tokens)
            likeness += check_blocks(choice, reading.hidden, allowed)
            check_tokens(reading, choice.tokens, asked.sampling, within, at % asked.n)
        worst = max(one.far for one in likeness), max(one.distance for one in likeness)
        rows.append((each.name, str(len(likeness)), f"{worst[0]:.1%}", f"{worst[1]:.4f}"))
        told.append({"exchange": each.name, "blocks": len(likeness), "far": worst[0], "distance": worst[1]})
    out.table(("answer", "blocks", f"far (of {allowed.far:.1%})", f"steps (of {allowed.distance:g})"), rows)
    out.say("[green]✔[/] computed with these weights, from these prompts, in this precision")
    out.result({"verdict": "holds", "precision": again.precision, "answers": told})


@app.command
def rerun(
    files: Files,
    *,
    model: Model,
    precision: Precision = None,
    tolerance: Limit = None,
    one_in: Annotated[Positive, Parameter(help="Check one answer in so many, drawn at random.")] = 1,
    seed: Annotated[
        str | None, Parameter(help="The seed that was committed to before, 64 hex digits; by default a fresh one.")
    ] = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Say whether answers are what these weights give, by computing a sample of them again.

    Each receipt is checked first, offline; which are drawn follows from the seed and the receipts alone, so that who
    answered could not know. Each token has to be the likeliest one, or the one that the request's seed draws, but for
    rounding; of tokens that were drawn without a seed only that they are possible is known.

    Example: `mitai check rerun ~/.mitai/user/answers/*.json --model my-model --one-in 20`
    """
    from mitai.serve.fingerprints import Fingerprints
    from mitai.serve.rerun import TOLERANCE, check_end, check_tokens

    out, again = Output(json), _rerun(model, precision)
    within = TOLERANCE[again.precision] if tolerance is None else tolerance
    lots = Lots(_seed(seed), one_in)
    everything = _checked(files, policy)
    rows, told = [], []
    for each in everything:
        if seed is not None and each.promised is not None and each.promised.sample != lots.sample:
            raise LedgerError("ledger.lots-commitment", "its receipt promises another sample than this seed draws")
        if not lots.draws(receipt_sha256(each.kept.proof.bundle.envelope)):
            continue
        asked = again.asked(bytes(each.kept.request))
        if len(each.kept.answers) != len(asked.prompts) * asked.n:
            raise ClientError("client.kept-malformed", "there are more or fewer answers than were asked for")
        known = Fingerprints.decode(each.fingerprints).choices if each.fingerprints is not None else None
        if known is not None and len(known) != len(each.kept.answers):
            raise ClientError("client.fingerprints-differ", "there are fingerprints of another number of answers")
        tokens = equal = drawn = 0
        margin = 0.0
        for at, said in enumerate(each.kept.answers):
            chosen = known[at].tokens if known else again.tokens(said.text, said.finish)
            _same_text(again.text(chosen), said.text, stops=bool(asked.sampling.stop))
            check_end(chosen, again.ends, asked.sampling, said.finish)
            reading = again.read(asked.prompts[at // asked.n], chosen)
            found = check_tokens(reading, chosen, asked.sampling, within, at % asked.n)
            tokens, equal, drawn = tokens + len(chosen), equal + found.equal, drawn + found.drawn
            margin = max(margin, found.margin)
        rows.append((each.name, str(tokens), str(equal), str(drawn), f"{margin:.4f}"))
        told.append({"exchange": each.name, "tokens": tokens, "equal": equal, "unseeded": drawn, "margin": margin})
    out.table(("answer", "tokens", "equal", "without a seed", f"logits short by (of {within:g})"), rows)
    out.say(f"[green]✔[/] {len(rows)} of {len(everything)} answers drawn, and what these weights give")
    if rows:
        share = _found_share(len(rows))
        out.say(f"  had {share:.1%} of all answers been wrong, this would have shown one with 95 %")
    out.result({"verdict": "holds", "precision": again.precision, "kept": len(everything), "answers": told})


@app.command
def commit(
    *,
    one_in: Annotated[Positive, Parameter(help="One answer in so many will be drawn.")],
    json: JsonFlag = False,
) -> None:
    """Draw a seed for `mitai check rerun`, and say what commits to it.

    The commitment goes into a replica's configuration, and so into its receipts. The seed is for who will check, and
    for nobody else until the answers are there.

    Example: `mitai check commit --one-in 20`
    """
    out, lots = Output(json), Lots(_seed(None), one_in)
    out.table(("", ""), [("seed, keep it secret", lots.seed.hex()), ("commitment", lots.sample.commitment)])
    out.say(f"in the replica's configuration: \\[rerun] one_in = {one_in}, commitment = the one above")
    out.result({"seed": lots.seed.hex(), "one_in": one_in, "commitment": lots.sample.commitment})


@dataclass(frozen=True)
class _Checked:
    """A kept answer whose receipt holds, and what the receipt names."""

    name: str
    kept: KeptAnswer
    fingerprints: bytes | None
    promised: ReExecution | None


def _checked(files: tuple[Path, ...], policy: Path | None) -> list[_Checked]:
    """Read kept answers and check their receipts; each exchange is there once."""
    rules = read_policy(Home.default(), policy)
    found: dict[str, _Checked] = {}
    for path in files:
        kept = KeptAnswer.decode(read_file(path))
        receipt, _ = receipts.check(kept.proof, rules)
        found[receipt.exchange] = _Checked(
            receipt.exchange, kept, kept.checked_fingerprints(receipt), receipt.assurance(ReExecution)
        )
    if not found:
        raise ClientError("client.no-answers", "no answers were given", hint="keep some: mitai chat --keep")
    return list(found.values())


def _rerun(folder: Path, precision: str | None) -> Rerun:
    """Load the weights; imports torch."""
    import torch

    from mitai.capsule import FolderSource
    from mitai.serve.fingerprints import ALLOWED
    from mitai.serve.loading import load
    from mitai.serve.rerun import Rerun

    again = Rerun(load(FolderSource(folder)), getattr(torch, precision) if precision else None)
    if again.precision not in ALLOWED:
        raise ClientError(
            "client.precision-unknown",
            f"it is not known how far two computations in {again.precision} may differ",
            hint="say what was promised: --precision float32 or --precision bfloat16",
        )
    return again


def _same_text(computed: str, said: str, *, stops: bool) -> None:
    """Refuse tokens that are not those of the words; a stop string that ended the answer is not in its words."""
    if computed.rstrip("\ufffd") != said and not (stops and computed.startswith(said)):
        raise ClientError("client.answer-differs", "the tokens are not those of the answer's words", step="text")


def _seed(given: str | None) -> bytes:
    if given is None:
        return secrets.token_bytes(SEED_BYTES)
    try:
        return bytes.fromhex(given)
    except ValueError:
        raise ClientError("client.seed-malformed", "a seed is 64 hex digits") from None


def _found_share(drawn: int) -> float:
    """Return the smallest share of wrong answers that so many drawn ones show with 95 %, in steps of 0.1 %."""
    return next((share / 1000 for share in range(1, 1000) if needed(share / 1000, 0.95) <= drawn), 1.0)
