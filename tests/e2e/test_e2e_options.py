"""Every option of every command that the other tests do not use, once, on a platform of its own."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from mitai import demo_model
from mitai.cli.owner import inference_policy
from mitai.fleet.home import Home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(running, tmp_path_factory):
    """Two replicas of a model given by its folder, with hybrid key exchange, on one thread each."""
    own = type(running)(Home(tmp_path_factory.mktemp("own")))
    model = own.home.root / "my model"
    shutil.copytree(demo_model.path(), model)
    try:
        arguments = ("--replicas", "2", "--kem", "x-wing", "--threads", "1", "--port", "0")
        up = own.mitai("up", "--model", str(model), "--detach", *arguments, "--json").fields
        own.gateway, own.capsule = up["gateway"], up["capsule"]
        yield own
    finally:
        own.mitai("down")


def test_up_with_a_model(own):
    replicas = own.mitai("status", "--json").fields["replicas"]
    assert {name: answer["body"]["model"] for name, answer in replicas.items()} == {
        "replica-0": "my-model",
        "replica-1": "my-model",
    }
    fields = own.mitai("verify", own.gateway, "--policy", str(own.home.policy), "--json").fields
    assert fields["capsules"] == [own.capsule]
    for _ in range(2):
        own.mitai("chat", own.gateway, "-m", "What is a TEE?", "--model", "my-model", "--max-tokens", "5")


def test_chat(own):
    usual = own.mitai("chat", "-m", "What is a TEE?", "--json").fields
    asked = ("--system", "You answer briefly.", "--temperature", "1.5", "--max-tokens", "5")
    answer = own.mitai("chat", "-m", "What is a TEE?", *asked, "--json").fields
    assert answer["usage"]["completion_tokens"] <= 5
    assert answer["usage"]["prompt_tokens"] > usual["usage"]["prompt_tokens"], "the system message is among it"
    kept = own.mitai("receipt", answer["receipt"], "--policy", str(own.home.policy), "--json").fields
    assert kept["usage"] == answer["usage"]
    listed = own.mitai("receipt", "--list", "--json").fields["receipts"]
    assert listed[:2] == [answer["receipt"], usual["receipt"]]


def test_seal_and_publish_and_deploy(own, tmp_path):
    sealed = ("seal", str(demo_model.path()), "--out", str(tmp_path / "second"), "--name", "second", "--digests")
    capsule = own.mitai(*sealed, "--json").fields["capsule"]
    cedar = tmp_path / "policy.cedar"
    cedar.write_text(inference_policy(own.policy, datetime.now(UTC) + timedelta(hours=1)))
    platform = own.home.read_platform()
    published = own.mitai(
        "publish",
        str(tmp_path / "second"),
        *("--url", own.gateway, "--upload-token", platform.upload_token, "--policy", str(own.home.policy)),
        *("--cedar", str(cedar), "--days", "1", "--uses", "2", "--json"),
    ).fields
    assert (published["capsule"], published["policy_replaced"]) == (capsule, False)
    deploy = ("deploy", capsule, "--name", "renamed", "--replace", "--url", own.gateway)
    assert own.mitai(*deploy, "--operator-token", platform.operator_token, "--json").fields["model"] == "renamed"
    assert own.mitai("verify", "--json").fields["capsules"] == [capsule]
    assert own.mitai("chat", "-m", "What is a TEE?", "--model", "renamed", "--json").fields["answer"]
    again = own.mitai(*deploy, "--json", status=1).fields["error"]
    assert again["code"] == "broker.budget-exhausted", "one use for each replica"
    data = tmp_path / "notes"
    data.mkdir()
    (data / "a.txt").write_text("a")
    assert own.mitai("seal", str(data), str(tmp_path / "d"), "--kind", "data", "--json").fields["kind"] == "data"


def test_ledger(own, tmp_path):
    newest = own.mitai("ledger", "show", "--last", "2", "--json").fields
    assert [entry["index"] for entry in newest["entries"]] == [newest["size"] - 2, newest["size"] - 1]
    shutil.copytree(own.home.platform / "broker" / "ledger", tmp_path / "copy")
    key = own.policy.claims.ledger_vkey
    offline = type(own)(Home(tmp_path / "auditor"))
    report = offline.mitai("ledger", "verify", "--folder", str(tmp_path / "copy"), "--vkey", key, "--json").fields
    assert report["verdict"] == "holds"
    assert report["size"] >= newest["size"]
    shown = ("ledger", "show", "--folder", str(tmp_path / "copy"), "--vkey", key, "--index", "0", "--json")
    assert offline.mitai(*shown).fields["entries"][0]["type"] == "party-registered"
    note = ("ledger", "checkpoint", own.gateway, "--vkey", key, "--json")
    assert offline.mitai(*note).fields["origin"] == report["origin"]
