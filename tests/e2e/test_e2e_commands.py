"""The commands of the README, as a person types them, against a running platform."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime

import httpx2
import pytest

from mitai import demo_model
from mitai.cli import owner
from mitai.cli.output import Output
from mitai.fleet.home import Home
from mitai.identity import Identity
from mitai.ledger.note import COSIGNATURE, vkey

PROMPT = "What is remote attestation?"


def test_verify_shows_every_check(running):
    text = running.mitai("verify").stdout
    assert "✔ verified" in text
    assert "SIMULATED" in text
    fields = running.mitai("verify", "--json").fields
    assert fields["verdict"] == "verified"
    assert fields["simulated"] is True
    assert len(fields["checks"]) == 13
    assert fields["capsules"] == [running.capsule]
    assert (fields["workload"], fields["tee"], fields["tcb_status"]) == ("serve", "tdx", "UpToDate")
    assert fields["advisory_ids"] == []
    assert fields["tcb_evaluation_number"] >= 0
    assert {"mrtd", "rtmr0", "rtmr3"} <= fields["measurements"].keys()
    assert datetime.fromisoformat(fields["not_after"]) > datetime.now(UTC)
    assert len(fields["evidence_sha256"]) == 64


def test_verify_without_a_policy_trusts_nothing(running, tmp_path):
    missing = running.mitai("verify", "--policy", str(tmp_path / "none.toml"), "--json", status=1).fields
    assert missing["error"]["code"] == "client.no-policy"


def test_a_strict_policy_refuses_simulation_before_anything_is_sent(running, tmp_path):
    strict = tmp_path / "strict.toml"
    strict.write_text(running.home.policy.read_text().replace("allow_simulation = true", "allow_simulation = false"))
    refused = running.mitai("chat", "-m", PROMPT, "--policy", str(strict), "--json", status=1).fields
    assert refused["error"]["code"] == "attest.simulation-refused"
    assert refused["error"]["step"]
    captured = running.home.capture.read_text()
    running.mitai("chat", "-m", PROMPT, "--policy", str(strict), status=1)
    assert [line for line in running.home.capture.read_text()[len(captured) :].splitlines() if '"/ohttp"' in line] == []


def test_chat_streams_and_keeps_a_receipt_that_holds(running):
    answer = running.mitai("chat", "-m", PROMPT, "--json").fields
    assert "proves what it is" in answer["answer"] or len(answer["answer"]) > 40
    assert answer["usage"]["completion_tokens"] > 10
    assert answer["simulated"] is True
    checked = running.mitai("receipt", answer["receipt"], "--json").fields
    assert checked["verdict"] == "holds"
    assert checked["exchange"] == answer["receipt"]
    assert checked["model"] == "demo"
    assert checked["capsules"] == [running.capsule]
    assert checked["usage"] == answer["usage"]
    assert checked["ledger"] == {"origin": "mitai.local/ledger", "index": answer["ledger_index"]}
    assert running.mitai("receipt", answer["receipt"][:12], "--json").fields == checked
    assert answer["receipt"] in running.mitai("receipt", "--list").stdout


def test_a_conversation_in_the_terminal(running):
    done = running.mitai("chat", stdin=f"{PROMPT}\n什么是机密计算？\n\n")
    assert "机密计算" in done.stdout
    assert len(done.stdout.splitlines()) == 2  # answers, and nothing else
    assert done.stderr.count("receipt ") == 2
    assert "SIMULATED" in done.stderr


def test_a_model_that_is_not_served(running):
    error = running.mitai("chat", "-m", PROMPT, "--model", "other", "--json", status=1).fields["error"]
    assert error["code"] == "client.model-unknown"
    assert "demo" in error["hint"]


def test_a_changed_receipt_does_not_hold(running, tmp_path):
    answer = running.mitai("chat", "-m", PROMPT, "--json").fields
    path = running.home.receipts / f"{answer['receipt']}.json"
    for field in ("request_sha256", "response_sha256"):
        proof = json.loads(path.read_text())
        proof[field] = ("0" if proof[field][0] != "0" else "1") + proof[field][1:]
        (tmp_path / "changed.json").write_text(json.dumps(proof))
        error = running.mitai("receipt", str(tmp_path / "changed.json"), "--json", status=1).fields["error"]
        assert error["code"].startswith("ledger.receipt-")


def test_the_ledger_holds_and_every_entry_is_proven(running):
    report = running.mitai("ledger", "verify", "--json").fields
    assert report["verdict"] == "holds"
    assert {"party-registered", "capsule-registered", "release"} <= report["kinds"].keys()
    assert report["cosigned_by"] == ["witness.local"]
    assert report["simulated"] is True
    shown = running.mitai("ledger", "show", "0", "--json").fields
    assert shown["entries"][0]["type"] == "party-registered"
    assert running.mitai("ledger", "checkpoint", "--json").fields["size"] >= report["size"]


@pytest.mark.slow
def test_a_witness_that_did_not_cosign_is_missed(running):
    stranger = vkey("witness.other", Identity.generate().public, kind=COSIGNATURE)
    error = running.mitai("ledger", "verify", "--witness", stranger, "--json", status=1).fields["error"]
    assert error["code"] == "ledger.witnesses-missing"
    own = (running.home.root / "user" / "witnesses").read_text().split()[-1]
    done = running.mitai("ledger", "verify", "--witness", own)
    assert "cosigned by witness.local" in done.stdout


def test_a_changed_copy_of_the_ledger_does_not_hold(running, tmp_path):
    key = running.mitai("ledger", "checkpoint", "--json").fields["note"]
    assert key
    copy = tmp_path / "ledger"
    shutil.copytree(running.home.platform / "broker" / "ledger", copy)
    running.mitai("ledger", "verify", "--folder", str(copy), "--json")
    bundle = max(
        (path for path in (copy / "tile" / "entries").rglob("*") if path.is_file()), key=lambda p: len(p.read_bytes())
    )
    damaged = bytearray(bundle.read_bytes())
    damaged[40] ^= 1
    bundle.write_bytes(damaged)
    error = running.mitai("ledger", "verify", "--folder", str(copy), "--json", status=1).fields["error"]
    assert error["code"].startswith("ledger.")


def test_status_and_doctor(running):
    status = running.mitai("status", "--json").fields
    assert set(status["processes"]) == {"broker", "witness", "replica-0", "gateway"}
    assert all(status["processes"].values())
    findings = running.mitai("doctor", "--json").fields["findings"]
    assert {"tee", "cpu", "gpu", "engine", "machine"} == {finding["area"] for finding in findings}


def test_a_second_platform_of_the_same_home_is_refused(running):
    error = running.mitai("up", "--detach", "--json", status=1).fields["error"]
    assert error["code"] == "fleet.already-up"


def test_publishing_again_replaces_the_policy(running):
    again = running.mitai("publish", str(running.home.root / "sealed"), "--uses", "5", "--json").fields
    assert again["capsule"] == running.capsule
    assert again["policy_replaced"] is True
    deadline = time.monotonic() + 10
    while running.mitai("ledger", "checkpoint", "--json").fields["size"] <= again["ledger_index"]:
        assert time.monotonic() < deadline, "what is logged is published a moment later"
    shown = running.mitai("ledger", "show", str(again["ledger_index"]), "--json").fields["entries"][0]
    assert (shown["type"], shown["capsule"], shown["version"]) == ("policy-set", running.capsule, 2)


def test_what_up_publishes_again_changes_nothing(running):
    arguments = Output(True), running.home, (demo_model.path(), "demo"), running.gateway
    token = running.home.read_platform().upload_token
    first = owner.seal_publish(*arguments, token)
    before = httpx2.get(f"{running.gateway}/broker/healthz").json()["ledger_size"]
    assert owner.seal_publish(*arguments, token) == first
    assert httpx2.get(f"{running.gateway}/broker/healthz").json()["ledger_size"] == before


def test_a_revoked_capsule_is_not_published_again(running, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    sealed = str(tmp_path / "notes.capsule")
    running.mitai("seal", str(tmp_path / "notes"), "--out", sealed, "--kind", "data")
    capsule = running.mitai("publish", sealed, "--json").fields["capsule"]
    assert running.mitai("revoke", capsule, "--json").fields["simulated"] is True
    assert running.mitai("publish", sealed, "--json", status=1).fields["error"]["code"] == "broker.revoked"


def test_deploying_where_something_is_served_is_refused(running):
    error = running.mitai("deploy", running.capsule, "--json", status=1).fields["error"]
    assert error["code"] == "serve.deployed"
    assert "--replace" in error["hint"]
    bad = running.mitai("deploy", running.capsule, "--name", "a name", "--replace", "--json", status=1).fields["error"]
    assert bad["code"] == "client.model-name"
    assert running.mitai("status", "--json").fields["replicas"]["replica-0"]["body"]["state"] == "ready"


def test_an_operator_elsewhere_gives_address_and_token(running, tmp_path):
    token, elsewhere = running.home.read_platform().operator_token, type(running)(Home(tmp_path))
    arguments = ("deploy", running.capsule, "--url", running.gateway, "--json")
    assert elsewhere.mitai(*arguments, status=1).fields["error"]["code"] == "fleet.no-platform"
    for given, code in ((token, "serve.deployed"), ("w" * 20, "fleet.operator-token")):
        refused = elsewhere.mitai(*arguments, "--operator-token", given, status=1).fields["error"]
        assert refused["code"] == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("seal", "/nonexistent/folder"), "capsule.source-missing"),
        (("publish", "sealed", "--cedar", "/nonexistent/file"), "cli.io"),
        (("publish", "/nonexistent/folder"), "client.no-capsule"),
        (("deploy", "0" * 32), "fleet.capsule-unknown"),
        (("receipt", "nonsense"), "client.no-receipt"),
        (("verify", "http://127.0.0.1:9"), "client.unreachable"),
        (("verify", "nonsense"), "client.url-malformed"),
        (("ledger", "show", "999999"), "ledger.index-out-of-range"),
    ],
)
def test_bad_input_gets_a_reason_and_a_next_step(running, arguments, code):
    error = running.mitai(*arguments, "--json", status=1).fields["error"]
    assert error["code"].startswith(code)
    assert error["message"]


def test_every_command_has_help(running):
    for command in (
        "up",
        "down",
        "status",
        "doctor",
        "seal",
        "publish",
        "deploy",
        "revoke",
        "verify",
        "chat",
        "receipt",
        "demo",
    ):
        assert "Usage: mitai " + command in running.mitai(command, "--help").stdout
