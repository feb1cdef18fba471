"""Nothing that was said, and no key, is in any log, record, database or message of a whole run."""

from __future__ import annotations

import base64
import sqlite3

from mitai.attest.sim import SimPlatform

PROMPT = "Tell Zephyrine about quote 8431 of remote attestation"


def spellings(secret: bytes) -> list[bytes]:
    forms = [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    return [form.rstrip(b"=") for form in forms]


def test_no_prompt_answer_or_key_is_anywhere(running):
    answer = running.mitai("chat", "-m", PROMPT, "--json").fields["answer"]
    refused = [
        running.mitai("chat", "-m", PROMPT, "--max-tokens", "-1", "--json", status=2),
        running.mitai("chat", "-m", PROMPT, "--model", "no-such-model", "--json", status=1),
        running.mitai("chat", "-m", PROMPT * 2000, "--json", status=1),
    ]
    assert len(answer) > 20
    data_key = running.home.data_key(running.capsule)
    owner_seed = running.home.owner().seed()
    words = [PROMPT.encode(), b"Zephyrine", answer.encode(), answer[5:25].encode()]
    secrets = [form for secret in (*words, data_key, owner_seed) for form in spellings(secret)]
    places = {str(path): path.read_bytes() for path in running.home.platform.rglob("*") if path.is_file()}
    places |= {str(path): path.read_bytes() for path in (running.home.root / "user").rglob("*") if path.is_file()}
    places |= {f"message {number}": (done.stdout + done.stderr).encode() for number, done in enumerate(refused)}
    assert any(path.endswith("replica-0.log") for path in places)
    assert any(path.endswith("capture.jsonl") and len(content) > 1000 for path, content in places.items())
    found = [(path, form[:12]) for path, content in places.items() for form in secrets if form in content]
    assert found == []


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
