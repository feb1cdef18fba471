"""`mitai mpc`: computing together without showing what one computes with."""

from __future__ import annotations

import ipaddress
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from mitai.cli.options import JsonFlag, Positive
from mitai.cli.output import Output, data, printable
from mitai.errors import MpcError, ParseError
from mitai.fleet.processes import free_port
from mitai.process import forbid_core_dumps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mitai.mpc.ring import Real
    from mitai.mpc.salary import Friends
    from mitai.mpc.setup import Side
    from mitai.mpc.sharing import Generation
    from mitai.mpc.tasks import Question
    from mitai.mpc.text import Text, Tokens

app = App(
    name="mpc",
    help="""Compute together without showing what you compute with (secure multi-party computation).

No machine and no vendor has to be trusted: parties that don't collude each hold a random-looking part of every number.
Start with `mitai mpc salary`. A language model that nobody who computes can read: `split`, then `party` three times,
then `ask`; see docs/mpc.md.""",
    help_format="markdown",
    help_epilogue="",
)
_REVEALS = "An average tells something by itself: two friends who tell each other their numbers can work out the third."


@app.command
def salary(
    *,
    join: Annotated[
        str | None, Parameter(help="Come to a meeting: the first friend's terminal shows what to give.")
    ] = None,
    listen: Annotated[
        str, Parameter(help="Where the first friend waits: HOST:PORT of this machine, as the others reach it.")
    ] = "127.0.0.1:0",
    json: JsonFlag = False,
) -> None:
    """Learn the average of three friends' salaries, and nothing else of them.

    Each friend has a terminal, on one machine or on three. The first one starts without options and is told what to
    type in the two others. Each number leaves its terminal only as three random-looking parts that mean something
    together; numbers are typed in, or read from standard input, and never given on the command line.

    On several machines, the first friend gives --listen, and all compare a check code before they type: with three
    equal codes nobody sits in between. The third friend's machine must reach the second's as well.

    With `--json`: the first friend's invitation is one object on a line of its own, the average is the last one.
    """
    from mitai.mpc.meeting import Address
    from mitai.mpc.salary import First, Guest, Invitation

    forbid_core_dumps()
    out = Output(json)
    meeting = First(Address.parse(listen)) if join is None else Guest(Invitation.parse(join))
    with meeting:
        command = f"mitai mpc salary --join {meeting.invitation}"
        if join is None:
            out.say(
                f"You are the first of three friends. In two other terminals, type:\n\n  [bold]{data(command)}[/]\n"
            )
            out.result({"join": str(meeting.invitation)})
        friends = meeting.meet(lambda error: _arrived(out, error, guest=join is not None))
        out.say("All three are here.")
        if not _here(meeting.invitation.address.host):
            _compare(out, friends)
        own = _number(out)
        out.say("Waiting for the others' numbers …")
        average = friends.average(own)
    out.say(f"\nThe average is [bold]{average:.2f}[/].\n{_REVEALS}")
    out.result({"average": round(average, 2), "friends": 3, "reveals": _REVEALS})


@app.command
def split(
    model: Annotated[
        Path, Parameter(help="A model's folder, as save_pretrained writes it: GPT-2, Llama, Qwen2 or BERT.")
    ],
    out: Annotated[Path, Parameter(help="A folder that is not there yet.")],
    *,
    setting: Annotated[
        Literal["2+1", "3pc", "twins"],
        Parameter(help="Who computes: two and a dealer, three and no dealer, or six of whom one may cheat."),
    ] = "2+1",
    local: Annotated[
        bool, Parameter(negative="", help="Also write all keys and party.toml, to try it on this machine.")
    ] = False,
    prompt_tokens: Annotated[Positive, Parameter(help="With --local: to how many tokens prompts are padded.")] = 64,
    new_tokens: Annotated[Positive, Parameter(help="With --local: how many tokens an answer has.")] = 16,
    approx: Annotated[
        Literal["exact", "mpcformer"] | None,
        Parameter(help="Refuse a model that was not trained for these functions; else its config.json decides."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Cut a model into shares: a folder for each party, each dealer, and one for clients.

    Each party's folder by itself says nothing of the model but its shapes; two together are the model (twins have the
    same). Give each party its own one, over a way that the others can't read, and delete yours. Whom one trusts in
    which setting is in docs/mpc.md.

    A model that was distilled for MPCFormer's approximations, by a training job with the method `approximate`, is
    computed with them; all others with exact functions.
    """
    from mitai.mpc.settings import SETTINGS
    from mitai.mpc.setup import configure_here
    from mitai.mpc.sharing import CLIENT, split_model

    output, roles = Output(json), SETTINGS[setting].roles
    with output.bar(f"cutting {model.name}") as report:
        split_model(model, out, setting, approx, progress=report)
    if local:
        ports = [free_port() for _ in SETTINGS[setting].listeners]
        configure_here(out, ports, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    for side in (*roles, CLIENT):
        output.say(data(out / side))
    if local:
        output.say("\nEach in a terminal of its own:\n")
        for side in roles:
            output.say(f"  mitai mpc party {data(out / side)}")
        output.say(f"  mitai mpc ask {data(out / 'client')} {data(repr('Who are you?'))}")
    output.result({side: str(out / side) for side in (*roles, CLIENT)})


@app.command
def key(
    folder: Annotated[Path, Parameter(help="A party's, the dealer's or a client's folder.")], *, json: JsonFlag = False
) -> None:
    """Show the key by which the others know this side; make it on first use."""
    from mitai.mpc.setup import key_of

    out, identity = Output(json), key_of(folder)
    out.say(identity.key_id)
    out.result({"key": identity.key_id})


@app.command
def party(folder: Annotated[Path, Parameter(help="This side's folder, with its party.toml.")]) -> None:
    """Be a party, or a dealer, until another one ends.

    What happens is told on standard error: tapes made ahead, and the time, bytes and rounds of each answer. On a
    terminal a last line tells how things stand.
    """
    from mitai.mpc.setup import Side

    forbid_core_dumps()
    out, lines = Output(as_json=False), [lambda: "meeting the others"]

    def newest() -> str:
        return lines[-1]()

    with out.live(newest):
        Side.open(folder).serve(out.note, lines.append)


@app.command
def ask(
    folder: Annotated[Path, Parameter(help="A client's folder, with its party.toml.")],
    prompt: Annotated[str, Parameter(help="What is asked; `-` reads it from standard input.")],
    *more: Annotated[str, Parameter(help="Further ones, for parties that take several at once (`batch`).")],
    second: Annotated[
        str | None, Parameter(help="For a model that reads: the second of two texts, such as a hypothesis.")
    ] = None,
    temperature: Annotated[float, Parameter(help="0: the likeliest words, always; else from 0.05 to 20.")] = 0.0,
    top_p: Annotated[float, Parameter(help="Choose among the likeliest words that have this share together.")] = 1.0,
    max_tokens: Annotated[Positive | None, Parameter(help="Show at most so many tokens.")] = None,
    plain: Annotated[bool, Parameter(negative="", help="Go on with the text as it is, without chat template.")] = False,
    receipts: Annotated[Path | None, Parameter(help="Keep the receipts that all parties sign in this file.")] = None,
    json: JsonFlag = False,
) -> None:
    """Ask a model that parties hold in shares: none of them learns question or answer.

    They learn that somebody asks, when, temperature and top_p, and which of the lengths in their configuration fit.
    A model that generates goes on with a prompt; one that reads, a BERT, gives a text's class, or its embedding.
    All parties sign what they computed; an answer without their receipts, or with wrong ones, ends in an error.
    """
    from mitai.mpc.sampling import Sampling
    from mitai.mpc.setup import Side
    from mitai.mpc.sharing import fitting
    from mitai.mpc.tasks import Question
    from mitai.mpc.text import Text

    forbid_core_dumps()
    out, side = Output(json), Side.open(folder)
    text = Text.load(folder)
    try:
        sampling = Sampling(temperature, top_p)
    except ValueError as error:
        raise MpcError("mpc.not-offered", str(error)) from None
    prompts = sys.stdin.read() if prompt == "-" else prompt, *more
    if side.folder.family == "bert":
        if (sampling, max_tokens, plain) != (Sampling(), None, False):
            raise MpcError("mpc.not-offered", "this model reads, and gives no words: there is nothing to choose")
        return _read(out, side, [text.read(each, second) for each in prompts], receipts)
    if second is not None:
        raise MpcError("mpc.not-offered", "this model goes on with a prompt, and takes no second text")
    ids = [text.tokens(each, plain=plain) for each in prompts]
    task = fitting(side.offer, max(map(len, ids)), max_tokens, sampling.kind, prompts=len(ids))
    asked = _Asked(out, side, Question(task, sampling), task.values(ids), receipts)
    return _generate(out, asked, task, [_Words(text, max_tokens) for _ in ids])


class _Asked:
    """An answer on its way, with a line that tells what is waited for; at its end come receipts."""

    def __init__(
        self,
        out: Output,
        side: Side,
        question: Question[Any],
        values: Iterable[NDArray[np.generic]],
        receipts: Path | None,
    ) -> None:
        from mitai.mpc.clients import ask as parties_answer

        self._out, self._path, self._stage = out, receipts, "reaching the parties"
        self._answer = parties_answer(side.credentials(), side.peers, side.offer, question, values, told=self._tell)

    def __iter__(self) -> Iterator[Real]:
        began, numbers = time.monotonic(), iter(self._answer)
        self._out.note("Waiting for the parties, who answer one question at a time …")
        with self._out.live(lambda: f"{self._stage}, {time.monotonic() - began:.0f} s"):
            first = next(numbers)
        yield first
        yield from numbers  # to its end: who leaves before tells parties and network how long the answer is

    def _tell(self, stage: str) -> None:
        self._stage = stage

    def result(self, fields: Mapping[str, object]) -> None:
        """Tell of the receipts, keep them, and print the machine-readable result."""
        from mitai.mpc.kept import Kept

        signed = self._answer.receipts
        self._out.note(f"Signed by {', '.join(sorted(signed))}: this was computed from the shares that you gave.")
        if self._path is not None:
            self._path.write_bytes(Kept.of(signed, self._answer.keys).encode())
        self._out.result({**fields, "receipts": {role: envelope.decode() for role, envelope in signed.items()}})


@dataclass
class _Words:
    """An answer as it comes."""

    text: Text
    longest: int | None
    tokens: list[int] = field(default_factory=list)
    told: str = ""

    @property
    def ended(self) -> bool:
        """Whether what comes belongs to the answer no more."""
        return bool(self.tokens) and (self.text.ends(self.tokens[-1]) or len(self.tokens) == self.longest)

    def add(self, token: int) -> str:
        """Return what is new with a token, if it belongs to the answer."""
        if self.ended:
            return ""
        self.tokens.append(token)
        whole = self.told if self.text.ends(token) else self.text.words(self.tokens)
        new, self.told = whole[len(self.told) :], whole
        return new


def _generate(out: Output, asked: _Asked, task: Generation, answers: list[_Words]) -> None:
    """Show how a model goes on with prompts: one word by word, or several one after the other."""
    for numbers in asked:
        for number, answer in zip(numbers, answers, strict=False):
            if not 0 <= (token := round(float(number))) < task.model.vocabulary:
                raise MpcError(
                    "mpc.answer-malformed", "the parties' shares add up to no word", hint="ask their operators"
                )
            before, new = answer.ended, answer.add(token)
            if len(answers) == 1:
                out.console.print(printable(new), end="", markup=False, soft_wrap=True)
                if answer.ended and not before:
                    out.say()
                    out.note("The run goes on to its end, so that nobody sees how long the answer is …")
    if len(answers) == 1:
        if not answers[0].ended:
            out.say()
        return asked.result({"answer": answers[0].told, "tokens": answers[0].tokens})
    for answer in answers:
        out.say(data(answer.told) + "\n")
    return asked.result({"answers": [{"answer": answer.told, "tokens": answer.tokens} for answer in answers]})


def _read(out: Output, side: Side, texts: list[Tokens], receipts: Path | None) -> None:
    """Show what a model that reads says of texts."""
    from mitai.mpc.reading import fitting_reading
    from mitai.mpc.tasks import Question

    task = fitting_reading(side.offer, max(len(text.ids) for text in texts), len(texts))
    asked = _Asked(out, side, Question(task), task.values(texts), receipts)
    (numbers,) = [*asked]
    told = [task.told(row) for row in numbers[: len(texts)]]
    for one in told:
        if "embedding" in one:
            out.say(data(" ".join(f"{number:.4f}" for number in one["embedding"])))
        else:
            scores = "  ".join(f"{name} {score:.3f}" for name, score in one["scores"].items())
            out.say(f"[bold]{data(one['label'])}[/]  ({data(scores)})")
    asked.result({"texts": told})


def _arrived(out: Output, error: MpcError | None, *, guest: bool) -> None:
    if error is not None:
        out.note(f"{error.message} ({error.code})")
    else:
        out.say("You are in; waiting for all three …" if guest else "A friend has come.")


def _here(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _compare(out: Output, friends: Friends) -> None:
    """Let people rule out that somebody sits between them."""
    out.errors.print(f"Check code: [bold]{friends.check_code}[/]  Read it to each other, by telephone for example.")
    if _answer(out, "Do all three see the same code? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise MpcError(
            "mpc.not-compared",
            "you did not confirm that all three check codes are equal, so no number was asked for",
            hint="if they differ, somebody sits between you: begin anew, another way",
        )


def _number(out: Output) -> float:
    from mitai.mpc.salary import salary as read

    while True:
        try:
            return read(_answer(out, "Your salary (it stays in this terminal): "))
        except ParseError as error:
            if not sys.stdin.isatty():
                raise
            out.note(f"{error.message}, {error.hint}")


def _answer(out: Output, question: str) -> str:
    """Ask on standard error, so that `--json` stays clean; the end of the input is a friend who leaves."""
    out.errors.print(question, end="", markup=False)
    if line := sys.stdin.readline():
        return line
    raise MpcError("mpc.no-number", "the input ended before a number was given", hint="type it, and press Enter")
