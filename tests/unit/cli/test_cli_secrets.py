"""Secrets of an operator come from the environment: a command line is everybody's to read who is on the machine."""

from __future__ import annotations

import pytest

from mitai.cli import train
from mitai.cli.commands import app
from mitai.errors import FleetError
from mitai.fleet import platform as platforms

SECRET = "postgresql://broker:hunter2@db/mitai"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The settings that `mitai up` would start with; it starts nothing."""
    found = []

    def start(_home, settings, _say):
        found.append(settings)
        raise FleetError("fleet.test", "this is far enough")

    monkeypatch.setenv("MITAI_HOME", str(tmp_path))
    monkeypatch.delenv("MITAI_DATABASE", raising=False)
    monkeypatch.setattr(platforms, "start", start)
    return found


def up(*arguments: str) -> str:
    with pytest.raises(FleetError) as ended:
        app(["up", "--no-model", *arguments], exit_on_error=False, result_action="return_value")
    assert "hunter2" not in str(ended.value)
    return ended.value.code


@pytest.mark.parametrize("url", [SECRET, "postgresql+psycopg://:x@db/mitai", "postgresql://db/mitai?a=b&sslpassword=x"])
def test_a_password_on_the_command_line_is_refused(started, url: str) -> None:
    assert up("--database", url) == "fleet.password-shown"
    assert not started


@pytest.mark.parametrize("url", ["", "sqlite:///a.db", "postgresql://broker@db:5432/mitai?host=/run/a"])
def test_a_database_without_a_password_may_be_on_it(started, url: str) -> None:
    assert up("--database", url) == "fleet.test"
    assert started[0].database == url


def test_a_password_in_the_environment_is_used_and_not_shown(started, monkeypatch) -> None:
    monkeypatch.setenv("MITAI_DATABASE", SECRET)
    assert up("--brokers", "3") == "fleet.test"
    assert started[0].database == SECRET
    assert "hunter2" not in repr(started[0])


def test_tokens_come_from_the_environment(monkeypatch, tmp_path) -> None:
    seen = []
    monkeypatch.setattr(train.training, "submit", lambda *given: seen.append(given) or {"id": "j"})
    monkeypatch.setenv("MITAI_OPERATOR_TOKEN", "operator")
    monkeypatch.setenv("MITAI_UPLOAD_TOKEN", "upload")
    job = tmp_path / "job.toml"
    job.write_text('[job]\nname = "joint"\nmethod = "sft"\nmodel = "m"\ndata = ["d1"]\n')
    command = ["train", "submit", str(job), "--url", "http://host.example"]
    app(command, exit_on_error=False, result_action="return_value")
    gateway, token, _, upload, _ = seen[0]
    assert (gateway, token, upload) == ("http://host.example", "operator", "upload")
