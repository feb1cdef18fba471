"""`mitai mpc`: computing together without showing what one computes with."""

from __future__ import annotations

import ipaddress
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from mitai.cli.options import JsonFlag
from mitai.cli.output import Output, data
from mitai.errors import MpcError, ParseError

if TYPE_CHECKING:
    from mitai.mpc.salary import Friends

app = App(
    name="mpc",
    help="""Compute together without showing what you compute with (secure multi-party computation).

No machine and no vendor has to be trusted: parties that don't collude each hold a random-looking part of every number.
Start with `mitai mpc salary`.""",
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
