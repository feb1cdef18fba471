"""`mitai up --trust mpc`: the built-in model in shares, from the first command on, and a party that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import openai
import pytest

from conftest import Running
from mitai.fleet.home import Home
from mitai.mpc.openai import BASE_URL, http_client

pytestmark = pytest.mark.slow
QUESTION = "What is a TEE?"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    running = Running(Home(tmp_path_factory.mktemp("together")))
    up = running.mitai("up", "--trust", "mpc", "--detach", "--prompt-tokens", "32", "--new-tokens", "12", "--json")
    try:
        assert up.fields["simulated"] is True
        assert up.fields["client"] == str(running.home.mpc_client)
        yield running
    finally:
        running.mitai("down")


def test_the_story(together):
    told = together.mitai("verify", "--json").fields
    assert (told["verdict"], told["trust"], told["setting"], told["simulated"]) == ("verified", "mpc", "2+1", True)
    assert all(party["machine"]["workload"] == "mpc" for party in told["parties"].values())
    assert "✔ verified" in together.mitai("verify", "--explain").stdout
    answer = together.mitai("chat", "-m", QUESTION, "--json").fields
    assert answer["answer"].startswith("A TEE")
    assert answer["usage"]["completion_tokens"] == 12
    receipt = together.mitai("receipt", answer["receipt"], "--json").fields
    evidence = {role: each["evidence_sha256"] for role, each in receipt["receipts"].items()}
    assert {role: sorted(others) for role, others in evidence.items()} == {
        "p0": ["dealer", "p1"],
        "p1": ["dealer", "p0"],
    }
    assert receipt["receipts"]["p0"]["task"] == "generate 32 12 greedy"
    status = together.mitai("status", "--json").fields
    assert (status["trust"], status["processes"]) == ("mpc", dict.fromkeys(("p0", "p1", "dealer"), True))
    together.mitai("up", "--trust", "mpc", status=1)  # there is one
    assert "mitai down" in together.mitai("publish", str(together.home.root), status=1).stderr
    logs = together.logs()
    assert "generate 32 12 greedy" in logs
    assert QUESTION not in logs
    assert answer["answer"][:12] not in logs


def test_the_stock_client(together):
    with http_client(together.home.mpc_client) as http:
        client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", http_client=http, max_retries=0)
        (name,) = [model.id for model in client.models.list()]
        ask = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8}
        whole = client.chat.completions.create(**ask).choices[0].message.content
        pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**ask, stream=True)]
        assert "".join(pieces) == whole
        assert len(pieces) > 4


def test_machines_of_another_kind_are_asked_nothing(together):
    policy = together.home.mpc_client / "policy.toml"
    before = policy.read_text()
    policy.write_text(before.replace("allow_simulation = true", "allow_simulation = false"))
    try:
        for words in (("verify",), ("chat", "-m", QUESTION)):
            failed = together.mitai(*words, status=1)
            assert "mpc.peer-unproven" in failed.stderr
            assert failed.stdout == ""
        with http_client(together.home.mpc_client) as http:
            answer = http.post("/v1/completions", json={"model": "mitai-demo", "prompt": QUESTION})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "mpc.peer-unproven")
    finally:
        policy.write_text(before)


def test_a_party_that_is_killed_ends_the_answer_and_the_platform(tmp_path):
    running = Running(Home(tmp_path))
    command = [sys.executable, "-m", "mitai.cli", "up", "--trust", "mpc", "--prompt-tokens", "32", "--new-tokens", "64"]
    environment = os.environ | {"MITAI_HOME": str(tmp_path)}
    up = subprocess.Popen(
        [*command, "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert json.loads(up.stdout.readline())["trust"] == "mpc"
        with http_client(running.home.mpc_client) as http:
            client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", http_client=http, max_retries=0)
            stream = client.completions.create(model="mitai-demo", prompt=QUESTION, stream=True)
            seen = [next(stream)]
            os.kill(running.home.read_platform().pids["p1"], signal.SIGKILL)
            with pytest.raises(openai.APIError) as lost:
                seen.extend(stream)
        assert lost.value.code == "mpc.link-lost"
        assert all(chunk.choices[0].finish_reason is None for chunk in seen)
        said, _ = up.communicate(timeout=100)
        assert (up.returncode, json.loads(said)["error"]["code"]) == (1, "fleet.process-died")
    finally:
        up.kill()
        up.wait()
    assert not any(running.mitai("status", "--json", status=1).fields["processes"].values())
    assert "fleet.process-down" in running.mitai("chat", "-m", QUESTION, status=1).stderr
