"""`mitai attest`: the service's key and start."""

from __future__ import annotations

import json
import logging

import pytest

from mitai.attest import Hardware, Policy
from mitai.cli import attest
from mitai.cli.commands import app
from mitai.errors import MitaiError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path))
    return tmp_path


def run(*words: str) -> None:
    app(list(words), exit_on_error=False, print_error=False, result_action="return_value")


def test_the_key_is_made_once_for_its_owner_only(home, capsys):
    run("attest", "key", "--json")
    first = json.loads(capsys.readouterr().out)
    run("attest", "key", "--json")
    assert json.loads(capsys.readouterr().out) == first
    assert "d" not in first
    kept = home / "attest" / "key.jwk"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_bytes())["d"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"kty":"EC"}'])
def test_a_key_that_is_none(home, content):
    (home / "bad.jwk").write_bytes(content)
    with pytest.raises(MitaiError) as refusal:
        run("attest", "key", "--key", str(home / "bad.jwk"))
    assert refusal.value.code == "attest.token-key-malformed"


def test_a_place_where_no_key_can_be_made(home):
    (home / "file").touch()
    with pytest.raises(MitaiError) as refusal:
        run("attest", "key", "--key", str(home / "file" / "key.jwk"))
    assert refusal.value.code in {"client.file-unwritable", "attest.token-key-malformed"}


def test_the_service_starts_under_the_policy(home, monkeypatch, capsys):
    started = {}
    monkeypatch.setattr(attest.uvicorn, "run", lambda app, **options: started.update(app=app, **options))
    monkeypatch.setattr(attest, "forbid_core_dumps", lambda: None)
    with pytest.raises(MitaiError) as refusal:
        run("attest", "serve")
    assert refusal.value.code == "client.no-policy"
    (home / "p.toml").write_text("version = 1")
    run("attest", "serve", "--policy", str(home / "p.toml"), "--port", "1234")
    assert (started["host"], started["port"], started["access_log"]) == ("127.0.0.1", 1234, False)
    assert Policy().sha256 in capsys.readouterr().err
    try:
        raise ValueError("evidence in a message")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("failed")
    assert capsys.readouterr().err == ""


def test_evidence_of_this_machine(home, monkeypatch, capsys):
    asked = []

    def collects(kind: str):
        return lambda data: asked.append((kind, data)) or Hardware(tee="snp", quote=b"report")

    with pytest.raises(MitaiError) as refusal:
        run("attest", "collect", "--report-data", "00" * 65)
    assert refusal.value.code == "client.option-malformed"
    monkeypatch.setattr(attest, "detect", lambda: ())
    with pytest.raises(MitaiError) as refusal:
        run("attest", "collect", "--report-data", "00")
    assert refusal.value.code == "attest.collect-none"
    monkeypatch.setattr(attest, "detect", lambda: ("configfs-tsm", "sev-guest"))
    monkeypatch.setattr(attest, "collector", collects)
    monkeypatch.setattr(attest, "complete", lambda hardware, _store: hardware)
    run("attest", "collect", "--report-data", "0102", "--json")
    assert Hardware.decode(json.dumps(json.loads(capsys.readouterr().out)["evidence"]).encode()).quote == b"report"
    run("attest", "collect", "--report-data", "", "--kind", "sev-guest", "--out", str(home / "e.json"), "--fetch")
    assert Hardware.decode((home / "e.json").read_bytes()).tee == "snp"
    assert asked == [("configfs-tsm", b"\1\2" + bytes(62)), ("sev-guest", bytes(64))]
    with pytest.raises(MitaiError) as refusal:
        run("attest", "collect", "--report-data", "", "--out", str(home))
    assert refusal.value.code == "client.file-unwritable"
