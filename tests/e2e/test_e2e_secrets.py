"""Nothing that was said, and no key, is in any log, record, database or message of a whole run."""

from __future__ import annotations

import base64
import sqlite3
import traceback
from pathlib import Path

from mitai import client as mitai_client
from mitai.attest.sim import SimPlatform

PROMPT = "Tell Zephyrine about quote 8431 of remote attestation"


def spellings(secret: bytes) -> list[bytes]:
    forms = [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    return [form.rstrip(b"=") for form in forms]


def test_no_prompt_answer_or_key_is_anywhere(running):
    """All processes log at their most talkative; files, temporary ones too, and messages of every kind are searched."""
    answer = running.mitai("chat", "-m", PROMPT, "--json").fields["answer"]
    refused = [
        running.mitai("chat", "-m", PROMPT, "--max-tokens", "-1", "--json", status=2),
        running.mitai("chat", "-m", PROMPT, "--model", "no-such-model", "--json", status=1),
        running.mitai("chat", "-m", PROMPT * 2000, "--json", status=1),
        running.mitai("chat", "-m", PROMPT, "--policy", "/nonexistent", "--json", status=1, MITAI_DEBUG="0"),
        running.mitai("deploy", running.capsule, "--json", status=1),
    ]
    with mitai_client.http_client(running.gateway, running.policy) as http:
        refused += [failure(http.post, "/v1/chat/completions", content=PROMPT)]
        refused += [failure(http.post, "/v1/completions", json={"model": "demo", "prompt": PROMPT, "stop": 7})]
        refused += [failure(http.post, f"{running.gateway}9/v1/models", content=PROMPT)]
    assert len(answer) > 20
    words = [PROMPT.encode(), b"Zephyrine", answer.encode(), answer[5:25].encode()]
    keys = [running.home.data_key(running.capsule), running.home.owner().seed()]
    secrets = [form for secret in (*words, *keys) for form in spellings(secret)]
    tokens = [running.home.read_platform().upload_token.encode(), running.home.read_platform().operator_token.encode()]
    folders = (running.home.platform, running.home.root / "user", running.temporary)
    places = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    places |= {f"message {number}": repr(done).encode() for number, done in enumerate(refused)}
    assert b"DEBUG" in places[str(running.home.logs / "replica-0.log")]
    assert b"DEBUG" in places[str(running.home.logs / "gateway.log")]
    assert any(path.endswith("capture.jsonl") and len(content) > 1000 for path, content in places.items())
    found = [(path, form[:12]) for path, content in places.items() for form in secrets if form in content]
    assert found == []
    logs = {path: content for path, content in places.items() if path.endswith((".log", ".jsonl"))}
    assert [(path, token) for path, content in logs.items() for token in tokens if token in content] == []


def failure(request, *arguments, **options):
    """Return what a request ends in: an error answer or an exception, with all that led to it."""
    try:
        answer = request(*arguments, **options)
    except Exception:  # noqa: BLE001 - whatever it is, its words are searched
        return traceback.format_exc()
    assert answer.status_code >= 400
    return answer.text


def test_no_core_dump_holds_any_of_it(running):
    """The processes that hold prompts, weights and keys leave no image of their memory behind when they crash."""
    for name in ("broker", "replica-0"):
        pid = running.home.read_platform().pids[name]
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
        assert core[4:6] == ["0", "0"]


def test_the_capture_decodes_to_ciphertext_only(running):
    running.mitai("chat", "-m", PROMPT, "--json")
    import json

    for line in running.home.capture.read_text().splitlines():
        row = json.loads(line)
        bodies = [base64.b64decode(row["request"])] + [base64.b64decode(part) for part in row["response"]]
        assert not any(b"Zephyrine" in body for body in bodies)


def test_this_test_can_fail(running):
    """The search does find what is there: the gateway's address is in no secret, and the log names its port."""
    assert any(form in running.logs().encode() for form in spellings(b"replica starts"))


def test_the_brokers_database_holds_no_policy_or_key_in_the_clear(running):
    path = running.home.platform / "broker" / "state.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert "permit" not in dump
    assert "Workload" not in dump
    assert running.home.data_key(running.capsule).hex() not in dump.lower()
    assert SimPlatform.open(running.home.sim).sim_root not in dump
