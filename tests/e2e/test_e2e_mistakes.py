"""What a person can get wrong: every mistake ends in a code, a message and a next step, and never in a traceback."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from mitai import demo_model
from mitai.cli.commands import run

MODEL = str(demo_model.path())

MISTAKES = [
    # a wrong command line
    (("chta",), "cli.usage"),
    (("up", "--port", "abc"), "cli.usage"),
    (("up", "--replicas", "0"), "cli.usage"),
    (("up", "--kem", "rsa"), "cli.usage"),
    (("seal",), "cli.usage"),
    (("chat", "--max-tokens", "many"), "cli.usage"),
    (("ledger", "nonsense"), "cli.usage"),
    # what is not there
    (("up", "--model", "/nonexistent"), "serve.model-not-found"),
    (("up",), "fleet.already-up"),
    (("seal", "/nonexistent"), "capsule.source-missing"),
    (("seal", "{file}"), "capsule.source-missing"),
    (("seal", "{empty}"), "capsule.model-incomplete"),
    (("seal", "{junk}"), "capsule.safetensors-malformed"),
    (("seal", MODEL, "{home}/sealed"), "capsule.exists"),
    (("seal", MODEL, "{empty}/../junk"), "capsule.destination-not-empty"),
    (("seal", MODEL, "/proc/nonexistent/x"), "capsule.io-failed"),
    (("publish", "{empty}"), "client.no-capsule"),
    (("publish", "{file}"), "client.no-capsule"),
    (("publish", "{home}/sealed", "--cedar", "/nonexistent"), "cli.io"),
    (("publish", "{home}/sealed", "--cedar", "{file}"), "broker.policy-invalid"),
    (("publish", "{home}/sealed", "--policy", "/nonexistent"), "client.no-policy"),
    (("publish", "{home}/sealed", "--url", "http://127.0.0.1:9"), "client.no-upload-token"),
    (("publish", "{home}/sealed", "--url", "http://127.0.0.1:9", "--upload-token", "t" * 20), "client.unreachable"),
    (("publish", "{new}", "--upload-token", "t" * 20), "fleet.upload-token"),
    (("deploy", "nonsense"), "fleet.capsule-unknown"),
    (("deploy", "{capsule}"), "serve.deployed"),
    (("deploy", "{capsule}", "--replace", "--name", "a b"), "client.model-name"),
    (("deploy", "{capsule}", "--operator-token", "t" * 20), "fleet.operator-token"),
    (("deploy", "{capsule}", "--url", "http://127.0.0.1:9", "--operator-token", "t"), "fleet.gateway-unreachable"),
    (("revoke", "nonsense"), "broker.capsule-unknown"),
    # addresses
    (("verify", "127.0.0.1:8700"), "client.url-malformed"),
    (("verify", "ftp://gateway.example"), "client.url-malformed"),
    (("verify", "http://127.0.0.1:9"), "client.unreachable"),
    (("verify", "{gateway}/broker"), "client.other-workload"),
    (("chat", "http://127.0.0.1:9", "-m", "hi"), "client.unreachable"),
    (("ledger", "verify", "http://127.0.0.1:9"), "client.unreachable"),
    # appraisal policies
    (("verify", "--policy", "/nonexistent"), "client.no-policy"),
    (("verify", "--policy", "{empty}"), "cli.io"),
    (("verify", "--policy", "{file}"), "attest.policy-malformed"),
    (("verify", "--policy", "{binary}"), "attest.policy-malformed"),
    (("verify", "--policy", "{typo}"), "attest.policy-malformed"),
    (("verify", "--policy", "{strict}"), "attest.simulation-refused"),
    (("verify", "--policy", "{other_root}"), "attest.simulated-root-unknown"),
    (("verify", "--policy", "{other_code}"), "attest.measurement-mismatch"),
    (("chat", "-m", "hi", "--policy", "{other_code}"), "attest.measurement-mismatch"),
    # talking and proving
    (("chat", "-m", "hi", "--model", "other"), "client.model-unknown"),
    (("receipt", "nonsense"), "client.no-receipt"),
    (("receipt", "{file}"), "client.proof-malformed"),
    (("ledger", "show", "999999"), "ledger.index-out-of-range"),
    (("ledger", "verify", "--folder", "/nonexistent"), "client.no-ledger-copy"),
    (("ledger", "verify", "--folder", "{empty}"), "ledger.checkpoint-missing"),
    (("ledger", "verify", "--vkey", "x"), "ledger.vkey-malformed"),
    (("ledger", "verify", "--witness", "x"), "ledger.vkey-malformed"),
]


@pytest.fixture(scope="module")
def places(running, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    policy = running.home.policy.read_text()
    texts = {
        "file": "this is no such file",
        "typo": "version = 1\nallow_simulaton = true\n",
        "strict": policy.replace("allow_simulation = true", "allow_simulation = false"),
        "other_root": _other_root(policy),
        "other_code": _other_code(policy),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "empty").mkdir()
    (folder / "junk").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / "junk" / name).write_text("{}")
    running.mitai("seal", MODEL, "--out", str(folder / "new"), "--name", "new")
    names = [*texts, "binary", "empty", "junk", "new"]
    paths = {name: str(folder / name) for name in names}
    return paths | {"home": str(running.home.root), "capsule": running.capsule, "gateway": running.gateway}


def _other_root(policy: str) -> str:
    at = policy.index("sha256:") + len("sha256:")
    return policy[:at] + "0" * 64 + policy[at + 64 :]


def _other_code(policy: str) -> str:
    lines = [f'{line[:9]}{"0" * 96}"' if line.startswith('rtmr3 = "') else line for line in policy.splitlines()]
    return "\n".join(lines)


@pytest.mark.parametrize(("arguments", "code"), MISTAKES, ids=[f"{at}-{code}" for at, (_, code) in enumerate(MISTAKES)])
def test_a_mistake_is_answered_with_what_to_do(running, places, monkeypatch, capsys, arguments, code):
    monkeypatch.setenv("MITAI_HOME", str(running.home.root))
    monkeypatch.setattr(sys, "argv", ["mitai", *(each.format(**places) for each in arguments), "--json"])
    with pytest.raises(SystemExit) as end:
        run()
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert error["code"] == code
    assert end.value.code == (2 if code == "cli.usage" else 1)
    assert len(error["message"]) > 10
    assert error["hint"]
    assert "Traceback" not in told.err


@pytest.mark.slow
def test_a_port_that_is_taken_is_said(running, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        elsewhere = type(running)(type(running.home)(tmp_path))
        try:
            up = elsewhere.mitai("up", "--no-model", "--detach", "--port", str(port), "--json")
            assert not up.fields["gateway"].endswith(f":{port}")
            assert f"port {port} is taken" in up.stderr
            damaged = tmp_path / "platform" / "platform.json"
            record = damaged.read_bytes()
            damaged.write_text("{")
            for command in (("status",), ("down",), ("up", "--no-model", "--detach")):
                error = elsewhere.mitai(*command, "--json", status=1).fields["error"]
                assert error["code"] == "fleet.platform-file"
                assert "remove that file" in error["hint"]
            damaged.write_bytes(record)
        finally:
            elsewhere.mitai("down")
