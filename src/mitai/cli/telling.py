"""How a demo tells what it does: every line is the outcome of what was done, and what does not hold ends it."""

from __future__ import annotations

from collections.abc import Callable

from mitai.cli.output import Output, printable
from mitai.errors import MitaiError


class DemoFailedError(MitaiError):
    """Something that had to hold did not."""


class Telling:
    """The voice of a demo; `refusals` counts the attacks that were refused."""

    def __init__(self, out: Output) -> None:
        self.out, self.refusals = out, 0

    def title(self, text: str) -> None:
        """Begin an act."""
        self.out.say(f"\n[bold]{text}[/]")

    def fact(self, text: str) -> None:
        """Say what was done and held."""
        self._line("[green]✔[/]", text)

    def hold(self, condition: bool, text: str) -> None:
        """Say what holds; end the demo when it does not."""
        self.check(condition, text)
        self.fact(text)

    def check(self, condition: bool, text: str) -> None:
        """End the demo when something does not hold."""
        if not condition:
            raise DemoFailedError("demo.failed", f"this did not hold: {text}")

    def refused(self, attack: str, code: str, attempt: Callable[[], object]) -> None:
        """Try an attack; it must be refused with `code`."""
        try:
            attempt()
        except MitaiError as error:
            self.refusal(attack, error.code, code, error.message)
        else:
            raise DemoFailedError("demo.attack-accepted", f"this was not refused: {attack}")

    def refusal(self, attack: str, got: str, expected: str, why: str) -> None:
        """Say how an attack was refused; end the demo when it was for another reason than expected."""
        self.check(
            got.startswith(expected) or expected in why, f"{attack}: refused as {got} ({why}), not as {expected}"
        )
        self.refusals += 1
        self._line("[red]✘[/]", f"{attack}\n      → {why.splitlines()[-1] if len(why) > 300 else why} [{got}]")

    def _line(self, mark: str, text: str) -> None:
        self.out.console.print(f"  {mark} ", end="")
        self.out.console.print(printable(text), markup=False, soft_wrap=True)
