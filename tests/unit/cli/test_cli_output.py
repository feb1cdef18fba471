"""What others wrote: it reaches the terminal as text, whatever it holds."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.progress import Progress

from mitai.cli import options
from mitai.cli.output import Output, _Bytes, data, marked, plural, printable, security, to_json
from mitai.ledger.entry import PartyRegistered
from mitai.proof.verify import soundness

STEERING = ["\x1b[2J", "\x1b]52;c;aGk=\x07", "\x9b31m", "\r", "\x08", "\x7f", "\u202e", "\u2066"]


@pytest.mark.parametrize("steering", STEERING)
def test_nothing_steers_the_terminal(steering, capsys):
    out = Output(as_json=False)
    out.say(data(f"a{steering}b"))
    out.note(f"a{steering}b")
    out.table(("", ""), [("name", f"a{steering}b")])
    written = "".join(capsys.readouterr())
    assert not any(character in written for character in steering if not character.isprintable())


@pytest.mark.parametrize("steering", STEERING)
def test_json_does_not_either_and_keeps_every_character(steering):
    text = to_json({"name": f"名{steering}"})
    assert not any(character in text for character in steering if not character.isprintable())
    assert json.loads(text) == {"name": f"名{steering}"}
    assert "名" in text


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


def test_a_long_value_is_one_piece_and_columns_align(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    Output(as_json=False).table(
        ("名字", "value"), [("a", "0" * 96), ("千问", "/a/long/path " * 9), (marked("[b]x[/]"), "")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["名字  value", "a     " + "0" * 96, "千问  " + "/a/long/path " * 8 + "/a/long/path", "x"]


def test_a_cell_is_one_line(capsys):
    Output(as_json=False).table(("", ""), [("name", "x\n✔ verified\tall")])
    assert capsys.readouterr().out == "name  x ✔ verified all\n"


def test_progress_without_a_total_is_loading():
    progress = Progress()
    progress.add_task("x", total=None)
    task = progress.tasks[0]
    assert "loading" in _Bytes().render(task).plain
    task.total, task.completed = 2000, 1000
    assert "1.0/2.0 kB" in _Bytes().render(task).plain


def test_a_simulated_platform_says_so_beside_the_result(capsys):
    for simulated in (True, False, None):
        Output(as_json=True).simulated(simulated)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("SIMULATED") == 1


def test_bits_of_security_are_whole():
    assert security(100.9) == "100 bits of security"
    assert options.LEAST_BITS == soundness.LEAST_BITS


def test_one_is_singular():
    assert [plural(n, "entry", "entries") for n in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]


def test_a_line_that_tells_how_things_stand(capsys):
    out = Output(as_json=False)
    with out.live(lambda: pytest.fail("there is no terminal")):
        out.note("a note")
    assert capsys.readouterr().err == "a note\n"
    out.errors = Console(file=io.StringIO(), force_terminal=True, width=40)
    with out.live(lambda: "3 runs\x1b[2J\n" + 40 * "x"):
        out.note("a note")
    written = out.errors.file.getvalue()
    assert "3 runs" in written
    assert "a note" in written
    assert "\x1b[2J" not in written
