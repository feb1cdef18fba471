"""`mitai chat`: talk to a verified model. Standard output holds the answers, standard error all that is said beside."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated

import httpx2
from cyclopts import Parameter

from mitai.cli.options import (
    JsonFlag,
    PlatformArgument,
    PolicyOption,
    Positive,
    client_folder,
    platform_url,
    read_policy,
    refuse_options,
    service_folder,
)
from mitai.cli.output import Output, data, printable
from mitai.cli.verify import brief
from mitai.client import LedgerMemory, Proof, Session, receipts, session_client
from mitai.client import chat as chats
from mitai.client.kept import fetch_fingerprints, keep
from mitai.errors import ClientError
from mitai.fleet.home import Home, write_private

_PROMPT = "› "


def _temperature(_: object, value: float) -> None:
    if not 0 <= value <= 2:  # NaN is not, either
        raise ValueError("Must be 0 to 2.")


def chat(
    url: PlatformArgument = None,
    *,
    message: Annotated[str | None, Parameter(name=["--message", "-m"], help="Ask this one thing and end.")] = None,
    model: Annotated[str | None, Parameter(help="Which model; by default the first that is served.")] = None,
    system: Annotated[str | None, Parameter(help="A system message, before all others.")] = None,
    max_tokens: Annotated[Positive, Parameter(help="Where an answer is cut at the latest.")] = 300,
    temperature: Annotated[
        float, Parameter(validator=_temperature, help="0: the likeliest words; up to 2: others too.")
    ] = 0.0,
    keep_words: Annotated[
        bool,
        Parameter(
            name="--keep", negative="", help="Keep each answer in words too, to have it computed again: mitai check."
        ),
    ] = False,
    sample: Annotated[
        Positive | None, Parameter(help="Where answers are proven: only one in so many, drawn when all are there.")
    ] = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Talk to the model in private. Answers stream; each comes with a receipt.

    The machine is verified first, anew after ten minutes or when its keys have changed; if it does not hold, nothing is
    sent. Without `--message` a conversation starts: an empty line or Ctrl-D ends it. With `--json` one object per
    answer is printed. Where parties compute together (`mitai up --trust mpc`), none of them sees a word, and an answer
    is at most as long as they offer. Where answers are proven (`mitai up --trust proof`), each proof is checked;
    whoever runs the service reads all.

    Example: `mitai chat -m "What is a TEE?"`, or many questions, one a line: `mitai chat < questions.txt`
    """
    out, home = Output(json), Home.default()
    options: dict[str, object] = {"max_tokens": max_tokens, "temperature": temperature}
    talk: Talk
    if (folder := client_folder(home, url)) is not None:
        from mitai.cli.parties import PartyTalk

        refuse_options(folder, policy=policy, keep=keep_words or None, sample=sample)
        talk = PartyTalk(out, home, folder, options)
    elif (folder := service_folder(home, url)) is not None:
        from mitai.cli.proven import ProvenTalk

        refuse_options(folder, policy=policy, keep=keep_words or None)
        talk = ProvenTalk(out, home, folder, options, sample)
    elif sample:
        raise ClientError("client.option-malformed", "--sample is for services whose answers are proven")
    else:
        session = Session(platform_url(home, url), read_policy(home, policy), cache=home.sessions)
        talk = Conversation(out, home, session, session_client(session), options, words=keep_words)
    with contextlib.closing(talk.http) as http:
        name = _served(http, model)
        out.note(f"verified: {talk.verified}; model {name}")
        out.simulated(talk.simulated)
        if system:
            talk.messages.append({"role": "system", "content": system})
        by_hand = message is None and sys.stdin.isatty()
        try:
            for question in _questions(out) if message is None else [message]:
                try:
                    talk.ask(question, name)
                except ClientError as error:
                    if not by_hand or not from_server(error):
                        raise
                    out.errors.print(f"[red]✘[/] {data(error.message)} [dim]{data(error.code)}[/]", soft_wrap=True)
                    out.note("The conversation goes on without this question.")
        except KeyboardInterrupt:
            out.errors.print()  # the line that ^C stands on is over
            raise
        talk.end()


class Talk(ABC):
    """Questions and answers so far, and what answers."""

    def __init__(self, out: Output, home: Home, http: httpx2.Client, options: dict[str, object]) -> None:
        self.out, self.home, self.http, self.options = out, home, http, options
        self.messages: list[dict[str, str]] = []

    def ask(self, question: str, model: str) -> None:
        """Ask, print the answer as it arrives, keep its receipt; a question that fails leaves no trace."""
        asked = {"role": "user", "content": question}
        answer = chats.chat(self.http, [*self.messages, asked], model, **self.options)
        try:
            for piece in answer:
                if not self.out.as_json:
                    sys.stdout.write(printable(piece))
                    sys.stdout.flush()
        finally:
            if answer.text:
                self.out.say()
        self.messages += [asked, {"role": "assistant", "content": answer.text}]
        kept = self.keep(answer)
        self.out.result(
            {
                "answer": answer.text,
                "finish_reason": answer.finish_reason,
                "usage": {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens},
                "simulated": self.simulated,
                **kept,
            }
        )

    def end(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what is due when nothing more is asked."""

    @property
    @abstractmethod
    def verified(self) -> str:
        """What was verified, in one line."""

    @property
    @abstractmethod
    def simulated(self) -> bool:
        """Whether no real TEE was verified."""

    @abstractmethod
    def keep(self, answer: chats.Answer) -> dict[str, object]:
        """Fetch, check and keep the receipt of an answer, and tell of it; return what programs are told."""


class Conversation(Talk):
    """A conversation with a verified machine."""

    def __init__(
        self,
        out: Output,
        home: Home,
        session: Session,
        http: httpx2.Client,
        options: dict[str, object],
        *,
        words: bool = False,
    ) -> None:
        super().__init__(out, home, http, options)
        self.session, self._verified_at, self._words = session, session.verified_at, words

    @property
    def verified(self) -> str:
        """See `Talk.verified`."""
        return brief(self.session.appraisal)

    @property
    def simulated(self) -> bool:
        """See `Talk.simulated`."""
        return self.session.appraisal.simulated

    def keep(self, answer: chats.Answer) -> dict[str, object]:
        """See `Talk.keep`."""
        if self.session.verified_at != self._verified_at:
            self._verified_at = self.session.verified_at
            self.out.note(f"the machine was verified again: {self.verified}")
        proof = self._keep_receipt(answer)
        name = answer.exchange.name if answer.exchange and proof else None
        if proof:
            self.out.note(f"receipt {name}, ledger entry {proof.bundle.index} (check it: mitai receipt)")
        return {"receipt": name, "ledger_index": proof.bundle.index if proof else None}

    def _keep_receipt(self, answer: chats.Answer) -> Proof | None:
        """Fetch the receipt, check it, compare the ledger with what was seen before, keep it; None: not logged yet."""
        if answer.exchange is None:
            raise ClientError("client.no-exchange", "the answer did not come through the sealed channel")
        try:
            proof = receipts.fetch(self.http, self.session, answer.exchange)
        except ClientError as error:
            if error.code != "serve.receipt-pending":
                raise
            self.out.note("no receipt: the ledger has not taken it yet")
            return None
        _, appraisal = receipts.check(proof, self.session.policy)
        claimed = appraisal.claims.ledger
        if claimed is not None:
            with httpx2.Client(timeout=30.0) as plain:
                fetch = receipts.ledger_fetcher(self.session.base_url, plain)
                LedgerMemory(self.home.checkpoints).observe(proof.bundle.checkpoint.encode(), claimed.vkey, fetch)
        write_private(self.home.receipts / f"{answer.exchange.name}.json", proof.encode())
        if self._words:
            kept = keep(answer, proof, fetch_fingerprints(self.http, answer.exchange))
            write_private(self.home.answers / f"{answer.exchange.name}.json", kept.encode())
        return proof


def from_server(error: ClientError) -> bool:
    """Tell whether the verified server refused a question, as against something that ends the trust in it."""
    return error.code in {"client.refused", "client.answer-incomplete"} or not error.code.startswith(
        ("client.", "mpc.")
    )


def _served(http: httpx2.Client, model: str | None) -> str:
    names = chats.models(http)
    if not names:
        raise ClientError("client.no-model", "no model is served there yet", hint="deploy one: mitai deploy CAPSULE")
    if model is not None and model not in names:
        raise ClientError(
            "client.model-unknown", f"no model {model!r} is served there", hint=f"served: {', '.join(names)}"
        )
    return model or names[0]


def _questions(out: Output) -> Iterator[str]:
    """Yield what a person types or a program pipes in, until an empty line or the end."""
    prompt = ""
    if sys.stdin.isatty():
        out.note("An empty line ends the conversation.")
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - `input` then edits lines and remembers them
        prompt = _PROMPT
    aside = not sys.stdout.isatty() or out.as_json  # standard output is not for prompts
    while True:
        if prompt and aside:
            out.errors.print(prompt, end="")
        try:
            question = input("" if aside else prompt).strip()
        except EOFError:
            if prompt:
                out.errors.print()  # the line that the prompt stands on is over
            return
        if not question:
            return
        yield question
