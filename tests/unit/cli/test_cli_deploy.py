"""`mitai deploy`: nothing is called served that is not, and a replica's words are a stranger's."""

from __future__ import annotations

import json

import httpx2
import msgspec
import pytest

from mitai.cli import deploy
from mitai.cli.output import Output
from mitai.cli.platform import _about, _replica_line
from mitai.cli.verify import served
from mitai.errors import ClientError, FleetError
from mitai.fleet import platform as platforms
from mitai.serve.config import DeployRequest

GATEWAY, CAPSULE = "http://gateway.test", "c" * 32
READY = {"replica-0": {"status": 200, "body": {"state": "ready", "model": "old", "simulated": True}}}


@pytest.fixture
def gateway(monkeypatch):
    """A gateway that gives the answers put into it, and what it was asked."""
    answers, asked = {"status": READY}, []

    def answer(request):
        asked.append(str(request.url))
        return httpx2.Response(200, json=answers[request.url.path.rpartition("/")[2]])

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(platforms.httpx2, "stream", client.stream)
    return answers, asked


def serve(**answer):
    return deploy.serve_capsule(Output(True), GATEWAY, "t" * 20, CAPSULE, "name", **answer)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (409, {"code": "serve.deployed", "detail": "old is served already"}, "serve.deployed"),
        (400, {"code": "serve.control-malformed", "detail": "no"}, "serve.control-malformed"),
        (502, {"code": "fleet.replica-unreachable", "detail": "ConnectError"}, "fleet.replica-unreachable"),
        (200, {"state": "ready"}, "fleet.deploy-failed"),
        (409, "nonsense", "fleet.deploy-failed"),
        (409, {"code": 7, "detail": []}, "fleet.deploy-failed"),
        ("202", None, "fleet.deploy-failed"),
    ],
)
def test_a_refusal_is_an_error_and_nothing_is_polled(gateway, status, body, code):
    answers, asked = gateway
    answers["deploy"] = {"replica-0": {"status": 202, "body": {}}, "replica-1": {"status": status, "body": body}}
    with pytest.raises(FleetError) as refused:
        serve()
    assert refused.value.code == code
    assert "replica-1" in refused.value.message
    assert asked == [f"{GATEWAY}/control/deploy"]


def test_the_hint_for_a_replica_that_serves_is_a_command(gateway):
    gateway[0]["deploy"] = {"replica-0": {"status": 409, "body": {"code": "serve.deployed", "detail": "x"}}}
    with pytest.raises(FleetError) as refused:
        serve()
    assert "mitai deploy CAPSULE --replace" in refused.value.hint
    gateway[0]["deploy"] = {"replica-0": {"status": 409, "body": {"code": "serve.deploying", "hint": "wait"}}}
    with pytest.raises(FleetError) as other:
        serve()
    assert other.value.hint == "wait"


def test_what_a_replica_says_is_cut_and_made_printable(gateway):
    flood = {"code": "a\x1b[2J", "detail": "\x1b]52;c;x\x07" + "x" * 100_000, "hint": "\r" + "y" * 9000}
    gateway[0]["deploy"] = {"replica-0": {"status": 500, "body": flood}}
    with pytest.raises(FleetError) as refused:
        serve()
    text = "".join(refused.value.to_dict().values())
    assert text.isprintable()
    assert len(text) < 2000


def test_a_deployment_that_fails_gives_its_reason(gateway):
    error = {"code": "broker.revoked", "message": "revoked", "hint": "seal anew"}
    gateway[0].update(
        deploy={"replica-0": {"status": 202, "body": {}}},
        status={"replica-0": {"status": 200, "body": {"state": "failed", "error": error}}},
    )
    with pytest.raises(FleetError, match="revoked") as failed:
        serve()
    assert failed.value.code == "broker.revoked"
    assert _replica_line({"body": {"state": "failed", "model": "m", "error": error}}) == (
        "failed m: revoked [broker.revoked]"
    )
    assert _replica_line({"body": {"state": "deploying", "model": "m", "serving": "old"}}) == (
        "deploying m; serves old meanwhile"
    )
    assert _replica_line("nonsense") == "does not answer"


def test_a_gateway_that_answers_nonsense_is_refused(gateway):
    gateway[0]["deploy"] = ["no", "object"]
    with pytest.raises(FleetError) as refused:
        serve()
    assert refused.value.code == "fleet.control-refused"


def test_what_is_served_in_the_end_is_named(gateway):
    gateway[0]["deploy"] = {"replica-0": {"status": 202, "body": {}}}
    assert serve() == "name"
    assert deploy.is_simulated(READY)
    assert not deploy.is_simulated({"replica-0": {"body": {"simulated": "yes"}}, "replica-1": None})


@pytest.mark.parametrize("name", ["a b", "千问", "", "-x", "a\n", "x" * 129])
def test_a_name_that_the_api_can_not_have_is_refused_before_anyone_is_asked(gateway, name):
    with pytest.raises(ClientError) as refused:
        deploy.serve_capsule(Output(True), GATEWAY, "t" * 20, CAPSULE, name)
    assert refused.value.code == "client.model-name"
    assert gateway[1] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", "demo"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("my model v2", "my-model-v2"),
        ("千问 7B 模型", "7B"),
        ("千问", "c" * 12),
        ("  /../", "c" * 12),
        ("x" * 300, "x" * 128),
        ("\x1b[31mred", "31mred"),
    ],
)
def test_a_name_for_the_api_is_made_from_any_name(name, expected):
    made = deploy.api_name(name, CAPSULE)
    assert made == expected
    body = {"capsules": [CAPSULE], "model": made, "broker": f"{GATEWAY}/broker", "objects": f"{GATEWAY}/objects"}
    assert msgspec.json.decode(json.dumps(body), type=DeployRequest).model == made  # a replica takes it


def test_the_made_name_is_told(gateway, monkeypatch, capsys):
    gateway[0]["deploy"] = {"replica-0": {"status": 202, "body": {}}}
    monkeypatch.setattr(platforms, "stored_name", lambda *_: "mein Modell")
    assert deploy.serve_capsule(Output(False), GATEWAY, "t" * 20, CAPSULE, None) == "mein-Modell"
    assert "mein Modell is called mein-Modell" in capsys.readouterr().err


def test_adapters_are_named_after_their_capsules_or_as_told(gateway, monkeypatch):
    stored = {"a" * 32: "my adapter", "b" * 32: "my adapter", "d" * 32: "千问"}
    monkeypatch.setattr(platforms, "stored_name", lambda _, capsule: stored[capsule])
    wanted = ("a" * 32, "b" * 32, "d" * 32, "support=" + "e" * 32)
    names = deploy.adapter_names(GATEWAY, wanted)
    assert names == {"my-adapter": "a" * 32, "b" * 12: "b" * 32, "d" * 12: "d" * 32, "support": "e" * 32}
    gateway[0]["deploy"] = {"replica-0": {"status": 202, "body": {}}}
    assert serve(adapters=names) == "name"
    body = {"capsules": [CAPSULE, *names.values()], "adapters": list(names), "model": "name"}
    body |= {"broker": f"{GATEWAY}/broker", "objects": f"{GATEWAY}/objects"}
    assert msgspec.json.decode(json.dumps(body), type=DeployRequest).adapters == tuple(names)  # a replica takes them


@pytest.mark.parametrize("wanted", [("x=" + CAPSULE, "x=" + CAPSULE), ("x:y=" + CAPSULE,), ("=" + CAPSULE,)])
def test_an_adapters_name_that_the_api_can_not_have_is_refused(gateway, wanted):
    with pytest.raises(ClientError) as refused:
        deploy.adapter_names(GATEWAY, wanted)
    assert refused.value.code == "client.adapter-name"
    assert gateway[1] == []


def test_what_is_served_is_told_in_words():
    about = {"model": "m", "adapter m:x": "a" * 32, f"derived {'a' * 32}": "b c", "broker_policy_sha256": "0"}
    lines = [("adapter", f"m:x answers with capsule {'a' * 32}"), ("derived", f"capsule {'a' * 32} was made from b, c")]
    assert served(_about({"body": {"about": about}})) == lines
    assert _about({"body": {"about": [1]}}) == _about(None) == {}
