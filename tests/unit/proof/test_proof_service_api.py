"""A service's API: the stock client, receipts, proofs, sessions, limits; and clients that leave or ask too much."""

from __future__ import annotations

import asyncio
import base64
import threading

import httpx2
import msgspec
import numpy as np
import openai
import pytest
from sqlalchemy import update

from mitai.errors import MitaiError, ProofError
from mitai.identity import Identity
from mitai.ledger.lots import Lots
from mitai.proof.answer import Answer, check_answer
from mitai.proof.service import engine as engines
from mitai.proof.service import worker as workers
from mitai.proof.service.app import create_service
from mitai.proof.service.client import Wanted
from mitai.proof.service.receipts import proven
from mitai.proof.service.store import Answered, Store
from mitai.proof.service.tables import answers
from proof_service_rig import KEY, NAME, STATE_KEY, config, running, tiny

QUESTION = [{"role": "user", "content": "Who are you?"}]
ASK = {"model": NAME, "messages": QUESTION, "max_tokens": 3}
FOLLOWS = {"mitai-proof": "follows"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def here(tmp_path_factory, prepared):
    with running(tmp_path_factory.mktemp("service"), prepared) as service, service.worker():
        yield service


def chat(here, headers=FOLLOWS, **changes):
    return here.http.post("/v1/chat/completions", json=ASK | changes, headers=headers)


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_the_stock_client_gets_an_answer_first_and_then_its_proof(here):
    client = openai.OpenAI(base_url="http://service.test/v1", api_key="unused", http_client=here.http)
    [model] = client.models.list().data
    assert (model.id, model.identity, model.max_model_len) == (NAME, here.identity, 700)
    whole = client.chat.completions.create(**ASK, extra_headers=FOLLOWS)
    text = whole.choices[0].message.content
    pieces = list(client.chat.completions.create(**ASK, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
    assert pieces[-1].choices[0].finish_reason == "length"
    service = here.service()
    given = service.receipt(whole.id, Wanted("follows"), prompt=service.tokens(QUESTION), text=text)
    content = service.proof(whole.id, within_s=60)
    assert proven(whole.id, given.receipt, here.identity, content) > 100
    assert (given.receipt.evidence_sha256, given.receipt.usage.completion_tokens) == (None, 3)
    late = service.receipt(pieces[0].id, Wanted(), prompt=service.tokens(QUESTION), text=text)
    assert code(here.http.get(f"/v1/proofs/{pieces[0].id}")) == (404, "proof.not-asked")
    service.ask(pieces[0].id)
    assert proven(pieces[0].id, late.receipt, here.identity, service.proof(pieces[0].id, within_s=60)) > 100
    assert here.http.post(f"/v1/proofs/{whole.id}").json() == {"state": "done"}


def test_a_completion_of_tokens_is_proven(here):
    body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 2}
    told = here.http.post("/v1/completions", json=body, headers=FOLLOWS).json()
    answer = Answer.parse(here.service().proof(told["id"], within_s=60))
    assert answer.prompt == (5, 6, 7)
    assert check_answer(answer, here.identity) > 100


def test_what_follows_a_stop_string_is_not_part_of_the_answer(here):
    whole = chat(here, max_tokens=6).json()["choices"][0]["message"]["content"]
    cut = chat(here, max_tokens=6, stop=whole[len(whole) // 2 :][:2]).json()
    tokens = here.http.get(f"/v1/receipts/{cut['id']}").json()["answer"]
    assert len(tokens) == cut["usage"]["completion_tokens"] < 6
    assert cut["choices"][0]["finish_reason"] == "stop"


def test_an_answer_is_drawn_as_was_agreed(here):
    service = here.service()
    wanted = Wanted("follows", agreed=service.draw(1.5))
    told = chat(here, wanted.headers(), temperature=1.5).json()
    text = told["choices"][0]["message"]["content"]
    given = service.receipt(told["id"], wanted, prompt=service.tokens(QUESTION), text=text)
    content = service.proof(told["id"], within_s=60)
    assert proven(told["id"], given.receipt, here.identity, content) > 100
    assert Answer.parse(content).sampling.nonce == wanted.agreed.nonce
    for other in (service.draw(1.5), None):  # a receipt says how
        with pytest.raises(ProofError) as refused:
            service.receipt(told["id"], Wanted("follows", agreed=other), prompt=service.tokens(QUESTION), text=text)
        assert refused.value.code == "proof.receipt-differs"
    assert code(chat(here, wanted.headers(), temperature=1.5)) == (404, "proof.seed-unknown")
    assert code(chat(here, wanted.headers(), temperature=0)) == (400, "serve.unsupported-parameter")
    assert code(chat(here, wanted.headers(), temperature=1.5, seed=4)) == (400, "serve.unsupported-parameter")
    assert code(chat(here, temperature=1.5)) == (400, "serve.unsupported-parameter")
    assert code(chat(here, wanted.headers(), temperature=0.0001)) == (400, "serve.unsupported-parameter")


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"n": 2}, 400, "serve.too-many-choices"),
        ({"top_p": 0.5}, 400, "serve.unsupported-parameter"),
        ({"logprobs": True}, 400, "serve.unsupported-parameter"),
        ({"presence_penalty": 1}, 400, "serve.unsupported-parameter"),
        ({"model": "other"}, 404, "model_not_found"),
        ({"tools": [{}]}, 400, "serve.unsupported-parameter"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "a" * (1 << 20)}]}, 413, "serve.body-too-large"),
    ],
)
def test_what_is_not_proven_here_is_refused(here, changes, status, error):
    assert code(chat(here, **changes)) == (status, error)


@pytest.mark.parametrize("header", ["", "yes", "ps-12", "follows ", "ps-" + "0" * 33, "PS-" + "0" * 32])
def test_a_header_that_says_something_else_is_refused(here, header):
    assert code(chat(here, {"mitai-proof": header})) == (400, "serve.invalid-request")
    assert code(chat(here, {"mitai-draw": header})) == (400, "serve.invalid-request")


def test_what_is_unknown_is_said_to_be(here):
    for path in ("receipts/chatcmpl-1", "proofs/chatcmpl-1", "receipts/%2e%2e%2fstate.db"):
        assert code(here.http.get(f"/v1/{path}"))[0] == 404
    assert code(here.http.post("/v1/proofs/chatcmpl-1")) == (404, "proof.answer-unknown")
    assert code(here.http.post(f"/v1/proof-sessions/ps-{'0' * 32}/reveal", json={"seed": "0" * 64}))[0] == 404
    assert code(chat(here, {"mitai-proof": "ps-" + "0" * 32})) == (404, "proof.session-unknown")


def test_a_session_is_opened_used_and_revealed(here):
    lots = Lots(b"\7" * 32, 3)
    body = {"one_in": 3, "commitment": lots.sample.commitment, "answers": 4096}
    opened = here.http.post("/v1/proof-sessions", json=body)
    assert (opened.status_code, opened.json()["answers"]) == (201, 48)  # of 64 places a quarter, times 3
    session = opened.json()["id"]
    assert code(here.http.post("/v1/proof-sessions", json=body)) == (409, "proof.session-known")
    assert chat(here, {"mitai-proof": session}).status_code == 200
    reveal = f"/v1/proof-sessions/{session}/reveal"
    assert code(here.http.post(reveal, json={"seed": "0" * 64})) == (400, "ledger.lots-commitment")
    assert here.http.post(reveal, json={"seed": lots.seed.hex()}).json()["answers"] == 1
    assert code(chat(here, {"mitai-proof": session})) == (404, "proof.session-unknown")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"one_in": 1, "commitment": "%s", "answers": 1}' % (b"0" * 64),
        b'{"one_in": 2, "commitment": "%s", "answers": 0}' % (b"0" * 64),
        b'{"one_in": 2, "commitment": "%s", "answers": 1}' % (b"0" * 63),
        b'{"one_in": 2, "commitment": "%s", "answers": 1, "more": 1}' % (b"0" * 64),
    ],
)
def test_a_session_is_opened_with_what_it_needs(here, body):
    assert here.http.post("/v1/proof-sessions", content=body).status_code == 400


def test_a_body_of_the_own_addresses_is_bounded(here):
    assert code(here.http.post("/v1/proof-sessions", content=b" " * 5000)) == (413, "serve.body-too-large")


def test_every_site_may_call(here):
    asked = {"origin": "https://page.test", "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "content-type,mitai-proof,authorization"
    preflight = here.http.options("/v1/chat/completions", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "mitai-proof" in preflight.headers["access-control-allow-headers"]
    assert here.http.get("/healthz", headers={"origin": "https://page.test"}).headers["access-control-allow-origin"]


def test_a_place_is_needed_before_an_answer_is_promised_a_proof(tmp_path, prepared):
    with running(tmp_path, prepared, places=1) as full:  # and nobody proves
        assert chat(full).status_code == 200
        refused = chat(full)
        assert (code(refused), refused.headers["retry-after"]) == ((429, "proof.queue-full"), "1")
        kept = chat(full, {}).json()["id"]
        assert code(full.http.post(f"/v1/proofs/{kept}")) == (429, "proof.queue-full")
        body = {"one_in": 2, "commitment": "0" * 64, "answers": 1}
        assert code(full.http.post("/v1/proof-sessions", json=body)) == (429, "proof.queue-full")
        standing = full.http.get("/v1/proofs/" + chat(full, {}).json()["id"])
        assert code(standing) == (404, "proof.not-asked")


def test_an_answer_that_the_model_can_not_give_is_an_error(here, monkeypatch):
    def fail(*_):
        raise ProofError("proof.out-of-range", "too large")

    monkeypatch.setattr(engines, "generate", fail)
    assert code(chat(here)) == (400, "proof.out-of-range")
    events = chat(here, stream=True).text
    assert "proof.out-of-range" in events
    assert "[DONE]" not in events


def test_nothing_that_was_said_or_proven_is_on_the_disk(tmp_path, prepared):
    with running(tmp_path, prepared) as service, service.worker():
        told = chat(service, max_tokens=12).json()
        given = service.http.get(f"/v1/receipts/{told['id']}").json()
        proof = service.service().proof(told["id"], within_s=60)
        envelope, words = base64.b64decode(given["envelope"]), given["prompt"] + given["answer"]
        texts = told["id"], QUESTION[0]["content"], told["choices"][0]["message"]["content"], given["envelope"][:40]
        secret = [STATE_KEY, envelope[:40], envelope[-40:], *(text.encode() for text in texts)]
        secret += [np.array(words[:4], kind).tobytes() for kind in ("<u4", ">u4", "<u8", "<u2")]
        secret += [msgspec.msgpack.encode(given[part])[3:] for part in ("prompt", "answer")]
        pieces = [proof[start : start + 16] for start in range(0, len(proof) - 16, 997)]
        secret += [piece for piece in pieces if len(set(piece)) > 8]  # of those that are not zeros
        files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        assert {"answers.db", "answers.db-wal"} <= {path.name for path in files}
        found = [(path.name, part) for path in files for part in secret if part in path.read_bytes()]
        assert (found, min(map(len, secret)) >= 8) == ([], True)


def test_a_proof_that_was_changed_on_the_disk_is_not_told_to_its_end(tmp_path, prepared):
    with running(tmp_path, prepared) as service, service.worker():
        told = chat(service, headers={"mitai-proof": "follows"}).json()
        service.service().proof(told["id"], within_s=60)
        [path] = (tmp_path / "state" / "proofs").iterdir()
        good = path.read_bytes()
        path.write_bytes(good[:100])
        damaged = service.http.get(f"/v1/proofs/{told['id']}")
        assert (damaged.status_code, damaged.json()["error"]["code"]) == (500, "proof.state-damaged")
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(MitaiError):
            service.service().proof(told["id"], within_s=5)


def test_an_answer_that_can_not_be_proven_is_said_to_be_so(tmp_path, prepared):
    with running(tmp_path, prepared) as service:
        told = chat(service).json()
        store = Store(service.config, STATE_KEY)
        said, envelope, _ = store.whole(told["id"])
        tag, false = store._tag(said.id), Answered(said.id, said.prompt, [5, 5], envelope, None)
        with store._state.writing() as db:
            db.execute(
                update(answers).where(answers.c.tag == tag).values(sealed=store._state.seal("answer", tag, false))
            )
        with service.worker(), pytest.raises(MitaiError) as failed:
            service.service().proof(told["id"], within_s=60)
        assert failed.value.code == "proof.failed"
        store.close()


def test_a_full_disk_loses_no_proof(tmp_path, prepared, monkeypatch):
    refusals = [OSError("full"), OSError("full")]
    done = Store.done

    def full(*arguments):
        if refusals:
            raise refusals.pop()
        done(*arguments)

    monkeypatch.setattr(Store, "done", full)
    monkeypatch.setattr(workers, "PAUSE_S", 0.0)
    with running(tmp_path, prepared) as service:
        told = chat(service).json()
        with service.worker():
            answer = Answer.parse(service.service().proof(told["id"], within_s=60))
    assert check_answer(answer, service.identity) > 100


def test_a_client_that_leaves_frees_its_thread(tmp_path, prepared, monkeypatch):
    engine = engines.ProvenEngine(config(tmp_path, prepared), None, KEY)
    ended = threading.Event()

    real = engines.generate

    def watched(*arguments):
        real(*arguments)
        ended.set()

    async def leave():
        tokens = engine._tokens([5, 6, 7], 4000, None)
        assert await anext(tokens) >= 0
        await tokens.aclose()
        assert await asyncio.to_thread(ended.wait, 60)

    monkeypatch.setattr(engines, "generate", watched)
    asyncio.run(leave())
    engine.close()


def test_a_service_without_its_model_or_key_does_not_start(tmp_path, prepared):
    with pytest.raises(MitaiError) as missing:
        create_service(config(tmp_path, prepared), STATE_KEY)
    assert missing.value.code == "identity.key-missing"
    KEY.save(tmp_path / "key.pem")
    with pytest.raises(MitaiError) as missing:
        create_service(config(tmp_path, tmp_path), STATE_KEY)
    assert missing.value.code == "proof.prepared-missing"


def test_another_key_is_another_service(tmp_path, here):
    changed = here.folder / "client" / "service.json"
    before = changed.read_bytes()
    try:
        for old, new, why in ((KEY.key_id, Identity.generate().key_id, "key"), (here.identity, "0" * 64, "model")):
            changed.write_bytes(before.replace(old.encode(), new.encode()))
            with pytest.raises(ProofError, match=why) as refused:
                _ = here.service().key
            assert refused.value.code == "proof.service-differs"
    finally:
        changed.write_bytes(before)
