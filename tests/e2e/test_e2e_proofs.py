"""`mitai up --trust proof`: the built-in model, from the first command on; killed processes, a tampered proof."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import httpx2
import openai
import pytest

from conftest import Running
from mitai.fleet.home import Home
from mitai.proof.service.client import Offer, Service, Wanted
from mitai.proof.service.receipts import proven

pytestmark = pytest.mark.slow
QUESTION = "What is a TEE?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def proving(tmp_path_factory):
    """A platform with somebody who looks after it."""
    running = Running(Home(tmp_path_factory.mktemp("proving")))
    command = [sys.executable, "-m", "mitai.cli", "up", "--trust", "proof", "--port", "0", "--json"]
    environment = os.environ | {"MITAI_HOME": str(running.home.root)}
    up = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        told = json.loads(up.stdout.readline())
        assert (told["trust"], told["client"]) == ("proof", str(running.home.proof_client))
        running.gateway = told["gateway"]
        with openai.OpenAI(base_url=f"{running.gateway}/v1", api_key="unused", max_retries=0) as running.client:
            yield running
    finally:
        up.terminate()
        up.communicate(timeout=60)
    assert not any(running.mitai("status", "--json", status=1).fields["processes"].values())


def ask(running, **options):
    follows = {"mitai-proof": "follows"}
    return running.client.chat.completions.create(
        model="mitai-demo", messages=MESSAGES, extra_headers=follows, **options
    )


def check(running, answer_id, text):
    with closing(Service(running.home.proof_client)) as service:
        given = service.receipt(answer_id, Wanted("follows"), prompt=service.tokens(MESSAGES), text=text)
        return proven(answer_id, given.receipt, service.offer.identity, service.proof(answer_id, within_s=100))


def kill(running, name):
    """Kill a process, and return when another one has taken its place."""
    pid = running.home.read_platform().pids[name]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while running.home.read_platform().pids[name] == pid:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_story(proving):
    told = proving.mitai("verify", "--json").fields
    assert (told["verdict"], told["trust"], told["private"]) == ("verified", "proof", False)
    answer = proving.mitai("chat", "-m", QUESTION, "--max-tokens", "8", "--json").fields
    assert answer["answer"].startswith("A TEE")
    assert (answer["proven"], answer["bits"] > 100) == (True, True)
    receipt = proving.mitai("receipt", answer["receipt"], "--json").fields
    assert (receipt["promise"], receipt["proven"], receipt["identity"]) == ("follows", True, told["identity"])
    [prepared], key = (proving.home.proof / "models").iterdir(), proving.home.root / "auditor.key"
    proving.mitai("proof", "audit-key", str(prepared), str(key))
    audited = proving.mitai("proof", "audit-answer", "--key", str(key), "--json").fields
    assert (audited["verdict"], audited["root"]) == ("holds", receipt["trace"])
    some = proving.mitai("proof", "audit-answer", "--key", str(key), "--steps", "5", "--json").fields
    assert (some["verdict"], some["checked"]) == ("nothing found", 5)
    status = proving.mitai("status", "--json").fields
    assert (status["trust"], status["processes"]) == ("proof", {"server": True, "prover": True})
    assert status["queue"]["answers"] == 1
    proving.mitai("up", "--trust", "proof", status=1)  # there is one
    logs = proving.logs()
    assert "proven" in logs
    assert QUESTION not in logs
    assert answer["answer"] not in logs
    stored = [path.read_bytes() for path in (proving.home.proof / "state").rglob("*") if path.is_file()]
    kept = proving.home.receipts / f"{answer['receipt']}.proof"
    secret = [answer["receipt"].encode(), kept.read_bytes()[5000:5032], QUESTION.encode(), answer["answer"].encode()]
    assert not [part for part in secret for content in stored if part in content]


def test_a_tampered_proof_is_refused(proving):
    name = proving.mitai("chat", "-m", QUESTION, "--max-tokens", "2", "--json").fields["receipt"]
    proof = proving.home.receipts / f"{name}.proof"
    content = bytearray(proof.read_bytes())
    content[-100] ^= 1
    proof.write_bytes(content)
    assert json.loads(proving.mitai("receipt", name, "--json", status=1).stdout)["error"]["code"].startswith("proof.")


def test_a_sample_is_drawn_proven_and_audited_by_others(proving):
    questions = "Who are you?\nWhat is a TEE?\nWhat is mitai?\n"
    options = "--sample", "2", "--max-tokens", "4", "--json"
    lines = proving.mitai("chat", *options, stdin=questions).stdout.splitlines()
    told = json.loads(lines[-1])
    assert (len(lines), told["verdict"], told["answers"], told["missing"]) == (4, "holds", 3, {})
    [session] = proving.home.receipts.glob("*.session")
    offer = Offer.read(proving.home.proof_client)
    words = "proof", "audit-session", str(session), "--model", offer.identity, "--key", offer.key, "--json"
    for path in proving.home.receipts.glob("*.proof"):
        path.unlink()
    withheld = proving.mitai(*words, status=1 if told["drawn"] else 0).fields
    assert set(withheld["missing"].values()) <= {"proof.withheld"}
    assert len(withheld["missing"]) == told["drawn"]
    assert proving.mitai(*words, "--fetch").fields == told


def test_the_stock_client_streams_and_its_answer_is_drawn_at_a_temperature(proving):
    events = list(ask(proving, max_tokens=6, stream=True))
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert check(proving, events[0].id, text) > 100
    assert proving.mitai("chat", "-m", QUESTION, "--max-tokens", "3", "--temperature", "0.7", "--json").fields["proven"]


def test_neither_kill_loses_an_answer_or_its_proof(proving):
    answers = [ask(proving, max_tokens=40) for _ in range(3)]
    kill(proving, "prover")
    kill(proving, "server")
    for answer in answers:
        assert check(proving, answer.id, answer.choices[0].message.content) > 100
    assert httpx2.get(f"{proving.gateway}/healthz").json()["waiting"] == 0
