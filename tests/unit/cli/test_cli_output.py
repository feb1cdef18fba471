"""What others wrote: it reaches the terminal as text, whatever it holds."""

from __future__ import annotations

import pytest

from mitai.cli.output import Output, data, marked, printable
from mitai.ledger.entry import PartyRegistered

STEERING = ["\x1b[2J", "\x1b]52;c;aGk=\x07", "\x9b31m", "\r", "\x08", "\x7f", "\u202e", "\u2066"]


@pytest.mark.parametrize("steering", STEERING)
def test_nothing_steers_the_terminal(steering, capsys):
    out = Output(as_json=False)
    out.say(data(f"a{steering}b"))
    out.note(f"a{steering}b")
    out.table(("", ""), [("name", f"a{steering}b")])
    written = "".join(capsys.readouterr())
    assert not any(character in written for character in steering if not character.isprintable())


def test_words_in_any_language_pass():
    text = "密码 ключ\tnaïve 👩\u200d🔬\n"
    assert printable(text) == text


@pytest.mark.parametrize("name", ["[/]", "[bold green]✔ verified[/]", "[link=http://evil.test]x[/link]", "\\[x]"])
def test_a_name_in_the_ledger_is_no_markup(name, capsys):
    """Anybody may register a party: its name must neither look like a verdict nor end the command."""
    PartyRegistered(time="2026-01-02T03:04:05Z", party="0" * 64, name=name).encode()  # the ledger takes it
    out = Output(as_json=False)
    out.table(("", ""), [("name", name)])
    out.say(data(name))
    assert capsys.readouterr().out.count(name) == 2


def test_our_own_marks_are_marks(capsys):
    Output(as_json=False).table(("", ""), [(marked("[green]✔[/] nonce"), "ours")])
    assert capsys.readouterr().out.split() == ["✔", "nonce", "ours"]
