"""The witness and its messages: one history for each log, told over HTTP as C2SP tlog-witness says."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from mitai.errors import FleetError, LedgerError, ParseError
from mitai.fleet import witness as witness_module
from mitai.fleet.witness import Witness, create_app
from mitai.identity import Identity
from mitai.ledger.log import Log
from mitai.ledger.note import (
    COSIGNATURE,
    ED25519,
    Note,
    NoteSignature,
    VerifierKey,
    encode_base64,
    parse_note,
    sign_checkpoint,
    verify_checkpoint,
    vkey,
)
from mitai.ledger.store import MemoryStore
from mitai.ledger.witness import MAX_REQUEST_BYTES, AddCheckpoint, Conflict, Cosigned, read_answer, submit

LOG_KEY, WITNESS_KEY = Identity.from_seed(b"l" * 32), Identity.from_seed(b"w" * 32)
LOG_VKEY = vkey("log.example", LOG_KEY.public)
WITNESS_VKEY = vkey("w.example", WITNESS_KEY.public, kind=COSIGNATURE)
NOW = 1_800_000_000


def grown(size, *, changed=None):
    log = Log(MemoryStore(), LOG_KEY, "log.example")
    log.append([b"entry %d" % index if index != changed else b"other" for index in range(size)])
    return log


@pytest.fixture
def witness(tmp_path):
    witness = Witness(tmp_path / "state/witness.db", WITNESS_KEY, "w.example", [LOG_VKEY], lambda: NOW)
    yield witness
    witness.close()


@pytest.fixture
def client(witness):
    with TestClient(create_app(witness)) as client:
        yield client


def ask(client, log, old, *, size=None, proof=None, checkpoint=None):
    checkpoint = checkpoint or sign_checkpoint("log.example", size or log.size, log.root(size), LOG_KEY)
    proof = log.consistency_proof(old, size) if proof is None else proof
    return client.post("/add-checkpoint", content=AddCheckpoint(old, proof, checkpoint).encode())


def poster(client):
    def post(body):
        answer = client.post("/add-checkpoint", content=body)
        return answer.status_code, answer.content

    return post


def test_the_witness_is_named_by_its_key(witness, client):
    assert witness.vkey == WITNESS_VKEY
    assert client.get("/healthz").text == WITNESS_VKEY + "\n"


def test_a_growing_log_is_cosigned(client):
    log = grown(0)
    for count in (1, 4, 300, 0, 1000):
        log.append([b"x"] * count)
        cosigned = submit(log, poster(client), [WITNESS_VKEY])
        found = verify_checkpoint(cosigned, LOG_VKEY, [WITNESS_VKEY], 1)
        assert (found.size, found.root) == (log.size, log.root())
        assert found.cosignatures[0].time_s == NOW
        log.publish(cosigned)
        assert log.checkpoint() == cosigned


def test_an_empty_log_is_cosigned(client):
    log = grown(0)
    for _ in range(2):
        assert verify_checkpoint(submit(log, poster(client), [WITNESS_VKEY]), LOG_VKEY, [WITNESS_VKEY], 1).size == 0
    log.append([b"x"])
    assert verify_checkpoint(submit(log, poster(client), [WITNESS_VKEY]), LOG_VKEY, [WITNESS_VKEY], 1).size == 1


def test_a_rolled_back_log_is_found_out(client):
    submit(grown(100), poster(client), [WITNESS_VKEY])
    with pytest.raises(LedgerError, match=r"seen 100 entries, this log has 60 \[ledger\.rolled-back\]"):
        submit(grown(60), poster(client), [WITNESS_VKEY])


def test_a_rolled_back_log_that_grew_again_is_found_out(client):
    submit(grown(100), poster(client), [WITNESS_VKEY])
    for size in (100, 150):
        with pytest.raises(LedgerError, match=r"ledger\.forked"):
            submit(grown(size, changed=80), poster(client), [WITNESS_VKEY])


def test_the_right_old_size_is_demanded(client):
    log = grown(100)
    answer = ask(client, log, 5)
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (409, "0\n", "text/x.tlog.size")
    assert ask(client, log, 0, size=50).status_code == 200
    for old in (0, 20, 60):
        answer = ask(client, log, old)
        assert (answer.status_code, answer.text) == (409, "50\n")
    assert ask(client, log, 50).status_code == 200
    answer = ask(client, log, 50)  # the same request again
    assert (answer.status_code, answer.text) == (409, "100\n")
    assert ask(client, log, 100).status_code == 200  # a fresh timestamp for the same tree
    answer = ask(client, log, 0, size=50)  # a replay of the first
    assert (answer.status_code, answer.text) == (409, "100\n")


def test_a_wrong_proof_or_root_is_refused_and_changes_nothing(client):
    log = grown(100)
    assert ask(client, log, 0, size=50).status_code == 200
    right = log.consistency_proof(50)
    for wrong in ((), right[:-1], (*right, right[0]), (right[0][::-1], *right[1:])):
        answer = ask(client, log, 50, proof=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "ledger.consistency-invalid")
    assert ask(client, grown(100, changed=3), 50).status_code == 422
    assert ask(client, grown(50, changed=3), 50).status_code == 422
    assert ask(client, log, 50).status_code == 200


def test_a_first_request_has_an_empty_proof(client):
    log = grown(9)
    assert ask(client, log, 0, proof=(log.root(),)).status_code == 422
    wrong = sign_checkpoint("log.example", 0, bytes(32), LOG_KEY)
    assert ask(client, log, 0, proof=(), checkpoint=wrong).status_code == 422


def test_who_signed_matters(client):
    log = grown(9)
    unknown = sign_checkpoint("other.example", 9, log.root(), LOG_KEY)
    assert ask(client, log, 0, checkpoint=unknown).status_code == 404
    stranger = sign_checkpoint("log.example", 9, log.root(), Identity.generate())
    assert ask(client, log, 0, checkpoint=stranger).status_code == 403
    note = parse_note(log.checkpoint())
    forged = Note(note.text, (NoteSignature("log.example", note.signatures[0].key_id, bytes(64)),))
    assert ask(client, log, 0, checkpoint=forged.encode()).status_code == 403
    assert (
        ask(client, log, 0, checkpoint=Note(note.text, (*note.signatures, *forged.signatures)).encode()).status_code
        == 403
    )
    assert ask(client, log, 0).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"",
        lambda body: body[:-1],
        lambda body: body.replace(b"old 0", b"old 00"),
        lambda body: body.replace(b"old 0", b"old -1"),
        lambda body: body.replace(b"old 0", b"Old 0"),
        lambda body: body.replace(b"old 0", b"old 10"),  # above the checkpoint's size
        lambda body: body.replace(b"old 0\n", b"old 0\nAAAA\n"),
        lambda body: body.replace(b"old 0\n", b"old 0\n\xff\n"),
        lambda body: body.replace(b"old 0\n", b"old 0\n" + (encode_base64(bytes(32)).encode() + b"\n") * 64),
        lambda body: body.replace(b"\n9\n", b"\n09\n"),
        lambda body: b"x" * 1000,
    ],
)
def test_malformed_requests(client, change):
    log = grown(9)
    body = AddCheckpoint(0, (), log.checkpoint()).encode()
    answer = client.post("/add-checkpoint", content=change(body))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.content)["code"].startswith("ledger.")
    assert client.post("/add-checkpoint", content=body).status_code == 200


def test_an_oversized_request_is_cut_off(client):
    answer = client.post("/add-checkpoint", content=b"x" * (MAX_REQUEST_BYTES + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "fleet.request-too-large")
    assert client.get("/add-checkpoint").status_code == 405


async def _call(app, receive):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/add-checkpoint", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return sent[0]["status"]


async def test_a_slow_or_broken_request_does_not_hold_the_witness(witness, monkeypatch):
    monkeypatch.setattr(witness_module, "REQUEST_TIMEOUT_S", 0.05)

    async def slow():
        await asyncio.sleep(5)

    async def broken():
        return {"type": "http.disconnect"}

    started = time.monotonic()
    assert await _call(create_app(witness), slow) == 408
    assert await _call(create_app(witness), broken) == 400
    assert time.monotonic() - started < 4


def test_the_last_cosigned_checkpoint_is_public(client):
    log = grown(9)
    path = f"/{sha256(b'log.example').hexdigest()}/checkpoint"
    assert client.get(path).status_code == 404
    assert client.get("/00/checkpoint").status_code == 404
    note = parse_note(log.checkpoint())
    stranger = NoteSignature("log.example", b"abcd", bytes(64))  # not verified, so not passed on
    ask(client, log, 0, checkpoint=Note(note.text, (*note.signatures, stranger)).encode())
    answer = client.get(path)
    assert verify_checkpoint(answer.content, LOG_VKEY, [WITNESS_VKEY], 1).size == 9
    assert len(parse_note(answer.content).signatures) == 2


def test_the_record_outlives_the_process(tmp_path):
    for size in (10, 20):
        witness = Witness(tmp_path / "w.db", WITNESS_KEY, "w.example", [LOG_VKEY], lambda: NOW)
        with TestClient(create_app(witness)) as client:
            assert verify_checkpoint(submit(grown(size), poster(client), [WITNESS_VKEY]), LOG_VKEY).size == size
        witness.close()
    witness = Witness(tmp_path / "w.db", WITNESS_KEY, "w.example", [LOG_VKEY], lambda: NOW)
    assert witness.add_checkpoint(AddCheckpoint(10, (), grown(15).checkpoint()).encode()) == Conflict(20)
    witness.close()


def test_two_histories_at_once_one_wins(witness):
    """Many threads, half of them with a fork: no two roots of one size are ever cosigned."""
    honest, forked = grown(64), grown(64, changed=0)
    lock, cosigned = threading.Barrier(8), []

    def work(number):
        log = (honest, forked)[number % 2]
        lock.wait()
        for size in range(1, 40):
            checkpoint = sign_checkpoint("log.example", size, log.root(size), LOG_KEY)
            old = size - 1
            try:
                answer = witness.add_checkpoint(
                    AddCheckpoint(old, log.consistency_proof(old, size), checkpoint).encode()
                )
            except LedgerError:
                continue
            if not isinstance(answer, Conflict):
                cosigned.append((size, log.root(size)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    roots = dict(cosigned)
    assert len(set(cosigned)) == len(roots) > 0


def test_a_change_between_reading_and_writing_is_a_conflict(witness, monkeypatch):
    log = grown(30)
    read = Witness._record

    def overtaken(self, origin):
        found = read(self, origin)
        monkeypatch.setattr(Witness, "_record", read)
        self.add_checkpoint(AddCheckpoint(0, (), sign_checkpoint("log.example", 20, log.root(20), LOG_KEY)).encode())
        return found

    monkeypatch.setattr(Witness, "_record", overtaken)
    smaller = sign_checkpoint("log.example", 10, log.root(10), LOG_KEY)
    assert witness.add_checkpoint(AddCheckpoint(0, (), smaller).encode()) == Conflict(20)
    assert b"\n20\n" in witness.latest(sha256(b"log.example").hexdigest())


def test_its_logs_must_be_distinct_logs(tmp_path):
    for keys in ([LOG_VKEY, LOG_VKEY], [WITNESS_VKEY], [LOG_VKEY, vkey("log.example", WITNESS_KEY.public)]):
        with pytest.raises(FleetError, match=r"fleet\.witness-logs"):
            Witness(tmp_path / "w.db", WITNESS_KEY, "w.example", keys)
    with pytest.raises(ParseError):
        Witness(tmp_path / "w.db", WITNESS_KEY, "bad name", [LOG_VKEY])


# ---------------------------------------------------------------- the log's side


def answer_to(log, witness_key=WITNESS_KEY, text=None):
    from mitai.ledger.note import cosign

    return cosign(text or parse_note(log.checkpoint()).text, "w.example", witness_key, NOW).line().encode()


def test_answers():
    log = grown(9)
    note = log.checkpoint()
    good = read_answer(200, answer_to(log), note, LOG_VKEY, [WITNESS_VKEY])
    assert isinstance(good, Cosigned)
    stranger = answer_to(log, Identity.from_seed(b"s" * 32))
    both = read_answer(200, stranger + answer_to(log), note, LOG_VKEY, [WITNESS_VKEY])
    assert both == good  # a stranger's line is not carried along
    assert read_answer(409, b"17\n", note, LOG_VKEY, [WITNESS_VKEY]) == Conflict(17)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b"", "ledger.note-malformed"),
        (200, b"fine\n", "ledger.note-malformed"),
        (200, answer_to(grown(9), Identity.from_seed(b"s" * 32)), "ledger.witnesses-missing"),
        (200, answer_to(grown(9), text="log.example\n8\nAAAA\n"), "ledger.signature-invalid"),
        (200, b"x" * 65537, "ledger.witness-answer-malformed"),
        (409, b"", "ledger.witness-answer-malformed"),
        (409, b"017\n", "ledger.witness-answer-malformed"),
        (409, b"17\n\n", "ledger.witness-answer-malformed"),
        (409, b"\xff", "ledger.witness-answer-malformed"),
        (422, b"", "ledger.forked"),
        (403, b"", "ledger.witness-refused"),
        (500, b"", "ledger.witness-refused"),
    ],
)
def test_other_answers_are_refused(status, body, code):
    with pytest.raises((LedgerError, ParseError)) as caught:
        read_answer(status, body, grown(9).checkpoint(), LOG_VKEY, [WITNESS_VKEY])
    assert caught.value.code == code


def test_a_witness_that_never_settles_is_given_up():
    sizes = iter((1, 2, 3, 4))
    with pytest.raises(LedgerError, match=r"ledger\.witness-refused"):
        submit(grown(9), lambda body: (409, b"%d\n" % next(sizes)), [WITNESS_VKEY])
    assert next(sizes) == 4


def test_keys_with_both_roles_stay_apart():
    assert VerifierKey("a", ED25519, LOG_KEY.public).key_id != VerifierKey("a", COSIGNATURE, LOG_KEY.public).key_id


# ---------------------------------------------------------------- the process


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(tmp_path, port, *more):
    command = [sys.executable, "-m", "mitai.fleet.witness", "--state", tmp_path / "w.db", "--key", tmp_path / "w.pem"]
    log_file = (tmp_path / "log").open("ab")
    process = subprocess.Popen([*command, "--port", str(port), *more], stdout=log_file, stderr=log_file)
    log_file.close()
    return process


def _wait(url, process):
    for _ in range(300):
        try:
            return httpx2.get(f"{url}/healthz").text.strip()
        except httpx2.HTTPError:
            assert process.poll() is None
            time.sleep(0.05)
    raise AssertionError("the witness did not come up")


def _over_http(http, url):
    def post(body):
        answer = http.post(f"{url}/add-checkpoint", content=body)
        return answer.status_code, answer.content

    return post


def test_killed_at_any_moment_it_never_forgets(tmp_path):
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    log, acknowledged = grown(0), 0
    for _ in range(2):
        process = _start(tmp_path, port, "--log-vkey", LOG_VKEY, "--name", "w.example")
        try:
            key = _wait(url, process)
            with httpx2.Client() as http:
                for _ in range(5):
                    log.append([b"x"] * 7)
                    acknowledged = verify_checkpoint(submit(log, _over_http(http, url), [key]), LOG_VKEY, [key], 1).size
        finally:
            process.kill()
            process.wait()
    witness = Witness(tmp_path / "w.db", Identity.load(tmp_path / "w.pem"), "w.example", [LOG_VKEY])
    assert witness.add_checkpoint(AddCheckpoint(0, (), grown(1).checkpoint()).encode()) == Conflict(acknowledged)
    witness.close()
    assert (tmp_path / "w.pem").stat().st_mode & 0o077 == 0


def test_a_bad_command_line_is_told_plainly(tmp_path):
    process = _start(tmp_path, _free_port(), "--log-vkey", "nonsense")
    assert process.wait(20) == 1
    text = Path(tmp_path / "log").read_text()
    assert "ledger.vkey-malformed" in text
    assert "Traceback" not in text
