"""How a command ends: with a reason and a status, never with a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import sys

import httpx2
import pytest
from cyclopts import CycloptsError

from mitai.cli import commands, main, platform
from mitai.cli.commands import app, explained, run
from mitai.errors import ClientError, MitaiError
from mitai.fleet.home import Home, PlatformFile


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path))
    monkeypatch.delenv("MITAI_DEBUG", raising=False)
    return Home(tmp_path)


def ended(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mitai", *arguments])
    with pytest.raises(SystemExit) as end:
        run()
    return end.value.code


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--replicas", "0"),
        ("up", "--port", "65536"),
        ("up", "--port=-1"),
        ("up", "--threads=-1"),
        ("publish", "x", "--uses", "0"),
        ("publish", "x", "--days", "0"),
        ("publish", "x", "--days", "36501"),
        ("publish", "x", "--uses", "9" * 30),
        ("chat", "--max-tokens", "0"),
        ("chat", "--temperature", "2.1"),
        ("chat", "--temperature=-0.1"),
        ("chat", "--temperature", "nan"),
        ("ledger", "show", "--last", "0"),
        ("ledger", "show", "--index=-1"),
        ("nonsense",),
        ("deploy",),
        ("verify", "--nonsense"),
    ],
)
def test_a_wrong_command_line_is_told_apart(monkeypatch, capsys, arguments):
    with pytest.raises(CycloptsError):
        app(arguments, exit_on_error=False, print_error=False)
    assert ended(monkeypatch, *arguments, "--json") == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "cli.usage"
    assert error["message"]
    assert ended(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "cli.usage" in shown.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx2.ConnectError("words of the host"), "cli.network"),
        (httpx2.InvalidURL("words of the host"), "cli.network"),
        (PermissionError(errno.EACCES, "Permission denied", "/there"), "cli.io"),
        (TimeoutError(), "cli.io"),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "words"), "cli.io"),
        (OverflowError("words"), "cli.number"),
        (RuntimeError("secret words"), "cli.internal"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_any_error_ends_in_one_reason(monkeypatch, capsys, error, code, debug):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "app", fail)
    if debug:
        monkeypatch.setenv("MITAI_DEBUG", "1")
    assert ended(monkeypatch, "verify") == 1
    shown = capsys.readouterr().err
    assert code in shown
    assert "next: " in shown
    assert ("Traceback" in shown) is debug
    if not debug:
        assert "secret" not in shown
        assert "words" not in shown


def test_a_file_that_can_not_be_written_is_named():
    told = explained(PermissionError(errno.EACCES, "Permission denied", "/there"))
    assert told.message == "Permission denied: /there"


def test_what_is_gone_points_to_status_where_there_is_a_platform(home):
    gone = ClientError("client.unreachable", "gone", hint="start one")
    assert explained(gone).hint == "start one"
    home.write_platform(PlatformFile("http://127.0.0.1:1", "u" * 20, "o" * 20, {}, simulated=True))
    assert "mitai status" in (explained(gone).hint or "")
    assert explained(MitaiError("ledger.forked", "x", hint="h")).hint == "h"


@pytest.mark.parametrize("raised", [KeyboardInterrupt, None])
def test_an_interrupt_is_status_130(monkeypatch, raised):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "app" if raised else "run", fail)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130


def test_input_that_is_not_utf8_is_read(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"What is \xff?\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(commands, "app", lambda *_, **__: None)
    run()
    assert sys.stdin.readline() == "What is \ufffd?\n"


def test_status_of_a_stopped_platform_is_one_object(home, capsys):
    home.write_platform(PlatformFile("http://127.0.0.1:1", "u" * 20, "o" * 20, {"broker": os.getpid()}, simulated=True))
    with pytest.raises(SystemExit) as end:
        platform.status(json=True)
    assert end.value.code == 1
    fields = json.loads(capsys.readouterr().out)
    assert fields["error"]["code"] == "fleet.process-down"
    assert fields["processes"] == {"broker": False}
    assert fields["simulated"] is True
    with pytest.raises(MitaiError, match="the platform is stopped"):
        platform.status()
    assert "SIMULATED" in capsys.readouterr().err
