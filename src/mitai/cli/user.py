"""`mitai verify`, `mitai chat`, `mitai receipt`: what a user of a model does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx2
from cyclopts import Parameter

from mitai.attest import Appraisal, Policy
from mitai.cli.output import SIMULATED, JsonFlag, Output, marked, printable
from mitai.client import LedgerMemory, Proof, Session, receipts, session_client
from mitai.client import chat as chats
from mitai.errors import ClientError, ParseError
from mitai.fleet.home import Home, write_private

DEFAULT_URL = "http://127.0.0.1:8700"
UrlArgument = Annotated[str | None, Parameter(help="The gateway's address; by default that of the local platform.")]
PolicyOption = Annotated[
    Path | None, Parameter(help="Appraisal policy (TOML); by default `$MITAI_HOME/user/policy.toml`.")
]


def verify(url: UrlArgument = None, *, policy: PolicyOption = None, json: JsonFlag = False) -> None:
    """Verify the machine that would answer, and show every check.

    Asks for fresh evidence over a nonce of our own and appraises it under your policy. Nothing else is sent.
    Exit status 1 and the failed step when it does not hold.
    """
    out, home = Output(json), Home.default()
    appraisal = Session(platform_url(home, url), read_policy(home, policy)).appraisal
    out.table(
        ("check", "what it found"), [(marked(f"[green]✔[/] {step}"), detail) for step, detail in appraisal.checks]
    )
    out.say()
    out.table(("", ""), [(name, "0" if value.strip("0") == "" else value) for name, value in appraisal.summary()])
    out.say()
    _say_verdict(out, appraisal)
    out.result(
        {
            "verdict": "verified",
            "simulated": appraisal.simulated,
            "checks": [{"step": step, "detail": detail} for step, detail in appraisal.checks],
            **dict(appraisal.summary()),
        }
    )


def chat(
    url: UrlArgument = None,
    *,
    message: Annotated[str | None, Parameter(name=["--message", "-m"], help="Ask this one thing and end.")] = None,
    model: Annotated[str | None, Parameter(help="Which model; by default the first that is served.")] = None,
    system: Annotated[str | None, Parameter(help="A system message, before all others.")] = None,
    max_tokens: int = 300,
    temperature: float = 0.0,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Talk to the model in private. Answers stream; each comes with a receipt.

    The machine is verified first, anew after ten minutes or when its keys have changed; if it does not hold, nothing is
    sent. Without `--message` a conversation starts: an empty line or Ctrl-D ends it. With `--json` one object per
    answer is printed.
    """
    out, home = Output(json), Home.default()
    session = Session(platform_url(home, url), read_policy(home, policy), cache=home.sessions)
    with session_client(session) as http:
        name = model or _first_model(http)
        out.note(f"verified: {_brief(session.appraisal)}; model {name}")
        if session.appraisal.simulated:
            out.say(SIMULATED)
        messages = [{"role": "system", "content": system}] if system else []
        for question in [message] if message is not None else _questions(out):
            messages.append({"role": "user", "content": question})
            answer = chats.chat(http, messages, name, max_tokens=max_tokens, temperature=temperature)
            for piece in answer:
                if not json:
                    sys.stdout.write(printable(piece))
                    sys.stdout.flush()
            out.say()
            messages.append({"role": "assistant", "content": answer.text})
            proof_id, proof = _keep_receipt(home, http, session, answer)
            out.note(f"receipt {proof_id}, ledger entry {proof.bundle.index} (check it: mitai receipt)")
            out.result(
                {
                    "answer": answer.text,
                    "finish_reason": answer.finish_reason,
                    "usage": {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens},
                    "simulated": session.appraisal.simulated,
                    "receipt": proof_id,
                    "ledger_index": proof.bundle.index,
                }
            )


def receipt(
    which: Annotated[str | None, Parameter(help="A receipt's id or file; by default the newest.")] = None,
    *,
    list_all: Annotated[bool, Parameter(name="--list", negative="", help="List the kept receipts.")] = False,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Check the receipt of an answer, offline: the machine, its signature, its place in the ledger.

    Receipts are kept in `$MITAI_HOME/user/receipts`. Such a file can be given to anybody; it holds digests, no words.
    """
    out, home = Output(json), Home.default()
    kept = sorted(home.receipts.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if list_all:
        out.table(("receipt", "kept at"), [(path.stem, str(path)) for path in reversed(kept)])
        out.result({"receipts": [path.stem for path in reversed(kept)]})
        return
    path = _receipt_path(home, which, kept)
    proof = Proof.decode(path.read_bytes())
    checked, appraisal = receipts.check(proof, read_policy(home, policy))
    assert_ledger = appraisal.claims.ledger
    rows = [
        ("exchange", checked.exchange),
        ("model", checked.model),
        ("capsules", ", ".join(capsule.id for capsule in checked.capsules) or "none"),
        ("tokens", f"{checked.usage.prompt_tokens} in, {checked.usage.completion_tokens} out"),
        ("time", f"{checked.started} to {checked.finished}"),
        ("request (ciphertext)", checked.request_sha256),
        ("answer (ciphertext)", checked.response_sha256),
        ("ledger", f"{assert_ledger.origin if assert_ledger else ''} entry {proof.bundle.index}"),
        ("machine", _brief(appraisal)),
    ]
    out.table(("", ""), rows)
    out.say("[green]✔[/] signed by the verified machine, and in the ledger")
    if appraisal.simulated:
        out.say(SIMULATED)
    out.result({"verdict": "holds", "simulated": appraisal.simulated, **dict(rows)})


def platform_url(home: Home, url: str | None) -> str:
    """Return the address that was given, or that of the local platform."""
    if url is not None:
        return url
    return home.read_platform().gateway if (home.platform / "platform.json").exists() else DEFAULT_URL


def read_policy(home: Home, path: Path | None) -> Policy:
    """Return the appraisal policy at `path`, or the user's own."""
    path = path or home.policy
    try:
        return Policy.from_toml(path.read_text())
    except FileNotFoundError:
        raise ClientError(
            "client.no-policy",
            f"there is no appraisal policy at {path}, so no machine can be trusted",
            hint="get one from whoever publishes the release, or start a simulated platform: mitai up",
        ) from None
    except UnicodeDecodeError as error:
        raise ParseError("attest.policy-malformed", f"{path} is not text") from error


def _first_model(http: httpx2.Client) -> str:
    names = chats.models(http)
    if not names:
        raise ClientError("client.no-model", "no model is served there yet", hint="deploy one: mitai deploy CAPSULE")
    return names[0]


def _questions(out: Output) -> Iterator[str]:
    """Yield what a person types, until an empty line or the end."""
    out.note("An empty line ends the conversation.")
    while True:
        try:
            question = input("› ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question


def _keep_receipt(home: Home, http: httpx2.Client, session: Session, answer: chats.Answer) -> tuple[str, Proof]:
    """Fetch the answer's receipt, check it, compare the ledger with what was seen before, keep it."""
    if answer.exchange is None:
        raise ClientError("client.no-exchange", "the answer did not come through the sealed channel")
    proof = receipts.fetch(http, session, answer.exchange)
    _, appraisal = receipts.check(proof, session.policy)
    claimed = appraisal.claims.ledger
    if claimed is not None:
        with httpx2.Client(timeout=30.0) as plain:
            fetch = receipts.ledger_fetcher(session.base_url, plain)
            LedgerMemory(home.checkpoints).observe(proof.bundle.checkpoint.encode(), claimed.vkey, fetch)
    write_private(home.receipts / f"{answer.exchange.name}.json", proof.encode())
    return answer.exchange.name, proof


def _receipt_path(home: Home, which: str | None, kept: list[Path]) -> Path:
    if which is None:
        if not kept:
            raise ClientError("client.no-receipt", f"no receipt is kept in {home.receipts}", hint="ask: mitai chat")
        return kept[-1]
    for path in (home.receipts / f"{which}.json", Path(which)):
        if path.is_file():
            return path
    raise ClientError("client.no-receipt", f"there is no receipt {which!r}", hint="see: mitai receipt --list")


def _brief(appraisal: Appraisal) -> str:
    hardware = "SIMULATED TDX" if appraisal.simulated else f"Intel {appraisal.tee.upper()}"
    return f"{hardware}, {appraisal.tcb_status}, workload {appraisal.workload}"


def _say_verdict(out: Output, appraisal: Appraisal) -> None:
    out.say("[bold green]✔ verified[/] under your policy")
    if appraisal.simulated:
        out.say(SIMULATED)
