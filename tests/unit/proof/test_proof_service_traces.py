"""Answers whose traces a service commits to and shows: servers that lie, auditors that ask too much."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import replace

import httpx2
import msgspec
import numpy as np
import pytest

from mitai.cli.commands import app
from mitai.errors import MitaiError, ProofError
from mitai.identity import Identity
from mitai.ledger.assurance import CommitAndAudit, Proof
from mitai.ledger.receipt import Receipt
from mitai.proof.audit.check import plan_of
from mitai.proof.audit.files import Challenge, Committed
from mitai.proof.audit.key import make_key
from mitai.proof.prepared import Prepared
from mitai.proof.service import traces as shown
from mitai.proof.service.audits import audit_answer
from mitai.proof.service.client import Wanted
from mitai.proof.service.receipts import Kept, Terms, made
from mitai.proof.service.store import Store
from proof_service_rig import KEY, NAME, STATE_KEY, TIME, config, running, said, tiny

QUESTION = [{"role": "user", "content": "Who are you?"}]
SIZES = (3, 4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def here(tmp_path_factory, prepared):
    with running(tmp_path_factory.mktemp("service"), prepared) as service:
        yield service


@pytest.fixture(scope="module")
def key(prepared):
    return make_key(Prepared.open(prepared))


@pytest.fixture(scope="module")
def kept(here):
    """Receipts of two answers."""
    return [keep(fetch(here, ask(here, size))) for size in SIZES]


def keep(given):
    return Kept(key=KEY.public.raw, envelope=given.envelope, id=given.said.id)


def ask(here, tokens=3, headers=None, **changes):
    body = {"model": NAME, "messages": QUESTION, "max_tokens": tokens} | changes
    return here.http.post("/v1/chat/completions", json=body, headers=headers or {}).json()


def fetch(here, answer, wanted=Wanted(), transport=None):  # noqa: B008 - frozen
    service = here.service(transport)
    text = answer["choices"][0]["message"]["content"]
    return service.receipt(answer["id"], wanted, prompt=service.tokens(QUESTION), text=text)


def refused(function, *arguments, **options):
    with pytest.raises(MitaiError) as error:
        function(*arguments, **options)
    return error.value.code


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


class Changed(httpx2.BaseTransport):
    """A service that answers something else where it shows traces."""

    def __init__(self, inner, **changes):
        self._inner, self._changes = inner, changes

    def handle_request(self, request):
        answer = self._inner.handle_request(request)
        content = answer.read()
        if change := self._changes.get(request.method) if "/traces/" in request.url.path else None:
            content = change(content)
        return httpx2.Response(answer.status_code, content=content)


def test_every_answer_is_committed_to_and_audited(here, key, kept):
    receipt = Receipt.open(kept[0].envelope, KEY.public)
    assert [type(one) for one in receipt.assurances] == [CommitAndAudit, Proof]
    assert receipt.assurance(CommitAndAudit).identity == here.identity
    whole = audit_answer(here.service(), kept[0], key)
    assert whole.report.checked == whole.report.steps
    assert len(whole.committed.answer) == SIZES[0]
    some = audit_answer(here.service(), kept[0], key, 2).report
    assert (some.checked, some.size_bytes < whole.report.size_bytes) == (2, True)


def test_a_drawn_answer_is_audited_as_it_was_agreed(here, key):
    wanted = Wanted(agreed=here.service().draw(1.5))
    given = fetch(here, ask(here, 2, wanted.headers(), temperature=1.5), wanted)
    found = audit_answer(here.service(), keep(given), key)
    assert found.committed.sampling.nonce == wanted.agreed.nonce


def test_roots_say_nothing_to_who_does_not_know_the_id(here, kept):
    again = fetch(here, ask(here, SIZES[0]))
    receipts = Receipt.open(kept[0].envelope, KEY.public), again.receipt
    assert receipts[0].usage == receipts[1].usage
    assert receipts[0].assurance(CommitAndAudit).trace != receipts[1].assurance(CommitAndAudit).trace


def test_a_receipt_without_a_root_or_with_another_models_is_refused(here):
    answer = ask(here, 1)
    honest = fetch(here, answer)
    terms = Terms(NAME, here.identity)

    def transport(receipt):
        reply = {"prompt": honest.said.prompt, "answer": honest.said.answer}
        envelope = base64.b64encode(receipt.sign(KEY)).decode()

        def respond(request):
            if "/receipts/" in request.url.path:
                return httpx2.Response(200, content=json.dumps(reply | {"envelope": envelope}))
            return here.transport.handle_request(request)

        return httpx2.MockTransport(respond)

    whole = made(honest.said, terms, TIME, TIME, bytes(32))
    fetch(here, answer, transport=transport(whole))
    root, proof = whole.assurances
    for assurances, expected in (
        ((proof,), "proof.service-differs"),
        ((msgspec.structs.replace(root, identity="0" * 64), proof), "proof.receipt-differs"),
        ((msgspec.structs.replace(root, scheme=2), proof), "proof.receipt-differs"),
    ):
        other = msgspec.structs.replace(whole, assurances=assurances)
        assert refused(fetch, here, answer, transport=transport(other)) == expected


def test_a_service_that_shows_something_else_than_it_signed_is_refused(here, key, kept):
    mine, others = (here.http.get(f"/v1/traces/{one.id}").content for one in kept)
    other_trace = here.http.post(f"/v1/traces/{kept[1].id}", content=b"all").content
    root = Committed.parse(mine).root

    def changed(content, **fields):
        return msgspec.structs.replace(Committed.parse(content), **fields).encode()

    spoilt = bytearray(here.http.post(f"/v1/traces/{kept[0].id}", content=b"all").content)
    spoilt[len(spoilt) // 2] ^= 1
    lies = {
        "another root": ({"GET": lambda one: changed(one, root=bytes(32))}, "proof.trace-refuted"),
        "another salt": ({"GET": lambda one: changed(one, salt=bytes(32))}, "proof.trace-refuted"),
        "another answer's": ({"GET": lambda _: others}, "proof.trace-refuted"),
        "another answer": ({"GET": lambda _: changed(others, root=root)}, "proof.receipt-differs"),
        "another card": ({"GET": lambda one: changed(one, card=b"{}")}, "proof.card-malformed"),
        "no answer": ({"GET": lambda _: b""}, "proof.committed-malformed"),
        "another's trace": ({"POST": lambda _: other_trace}, "proof.trace-malformed"),
        "no trace": ({"POST": lambda _: b""}, "proof.trace-malformed"),
        "half a trace": ({"POST": lambda one: one[: len(one) // 2]}, "proof.trace-malformed"),
        "more": ({"POST": lambda one: one + b"\0"}, "proof.trace-malformed"),
        "a changed trace": ({"POST": lambda _: bytes(spoilt)}, "proof.trace-refuted"),
    }
    for name, (lie, expected) in lies.items():
        service = here.service(Changed(here.transport, **lie))
        assert (name, refused(audit_answer, service, kept[0], key)) == (name, expected)


def test_a_root_that_is_signed_for_another_answer_is_refused(here, key, kept):
    """A server that signs any root, and shows honestly what it would have been."""
    [receipt, other] = [Receipt.open(one.envelope, KEY.public) for one in kept]
    trace = other.assurance(CommitAndAudit)
    signed = msgspec.structs.replace(receipt, assurances=(trace, receipt.assurances[1])).sign(KEY)
    root = bytes.fromhex(trace.trace)
    service = here.service(
        Changed(
            here.transport,
            GET=lambda one: msgspec.structs.replace(Committed.parse(one), root=root).encode(),
        )
    )
    lie = msgspec.structs.replace(kept[0], envelope=signed)
    assert refused(audit_answer, service, lie, key) == "proof.trace-refuted"


def test_a_service_that_answers_with_other_weights_is_caught(tmp_path, prepared, key, monkeypatch):
    model = Prepared.open(prepared)
    arrays = {name: np.roll(one, 1, axis=0) if "down" in name else one for name, one in model.weights.arrays.items()}
    assert any(one is not model.weights.arrays[name] for name, one in arrays.items())
    other = replace(model, weights=replace(model.weights, arrays=arrays))
    monkeypatch.setattr(Prepared, "open", lambda _: other)
    with running(tmp_path, prepared) as service:
        assert (
            refused(audit_answer, service.service(), keep(fetch(service, ask(service))), key) == "proof.weights-refuted"
        )


def test_an_audit_is_of_what_the_auditor_knows(here, key, kept):
    service = here.service()
    other = msgspec.structs.replace(key, model="0" * 64)
    assert refused(audit_answer, service, kept[0], other) == "proof.model-differs"
    for changes, expected in (
        ({"key": Identity.from_seed(b"o" * 32).public.raw}, "proof.service-differs"),
        ({"envelope": kept[1].envelope}, "proof.receipt-differs"),
        ({"id": "../healthz"}, "proof.receipt-differs"),
        ({"envelope": made(said(), Terms(NAME, here.identity), TIME, TIME).sign(KEY)}, "ledger.receipt-assurance"),
    ):
        assert refused(audit_answer, service, msgspec.structs.replace(kept[0], **changes), key) == expected


def test_a_challenge_that_is_none_is_refused_and_none_stays_in_the_way(here, kept):
    path = f"/v1/traces/{kept[0].id}"
    steps = len(plan_of(Committed.parse(here.http.get(path).content), here.identity).steps)
    for body, expected in (
        (b"", (400, "proof.challenge-malformed")),
        (b"ALL", (400, "proof.challenge-malformed")),
        (Challenge(steps=(steps,)).encode(), (400, "proof.challenge-invalid")),
        (Challenge(steps=(2, 2)).encode(), (400, "proof.challenge-invalid")),
        (b" " * (1 << 17), (413, "serve.body-too-large")),
    ):
        assert code(here.http.post(path, content=body)) == expected
    for unknown in ("chatcmpl-1", "%2e%2e%2fstate.db"):
        assert code(here.http.get(f"/v1/traces/{unknown}"))[0] == 404
        assert code(here.http.post(f"/v1/traces/{unknown}", content=b"all"))[0] == 404
    assert here.http.post(path, content=b"all").status_code == 200


def test_one_trace_at_a_time(here, kept, monkeypatch):
    path, go = f"/v1/traces/{kept[0].id}", threading.Event()

    def slow(*_):
        yield b"begun"
        assert go.wait(60)

    with monkeypatch.context() as patched:
        patched.setattr(shown, "respond", slow)
        with here.http.stream("POST", path, content=b"all") as first:
            assert next(iter(first.stream)) == b"begun"
            busy = here.http.post(path, content=b"all")
            assert (code(busy), busy.headers["retry-after"]) == ((429, "proof.traces-busy"), "1")
        go.set()  # the first auditor has left
    until = time.monotonic() + 60
    while here.http.post(path, content=b"all").status_code == 429:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_trace_that_takes_too_long_is_too_large_or_fails_ends(tmp_path, prepared, key, monkeypatch):
    with running(tmp_path, prepared, trace_s=1e-9) as service:
        one = keep(fetch(service, ask(service)))
        assert refused(audit_answer, service.service(), one, key) == "proof.service-unreachable"
    with running(tmp_path, prepared) as service:

        def fail(*_):
            yield b"mitai"
            raise ProofError("proof.answer-differs", "secret words")

        monkeypatch.setattr(shown, "respond", fail)
        for _ in range(2):  # what failed is not in the way of the next one
            assert refused(audit_answer, service.service(), one, key) == "proof.service-unreachable"
    monkeypatch.undo()
    store, none = Store(service.config, STATE_KEY), msgspec.structs.replace(service.config, trace_mib=0)
    traces = shown.Traces(Prepared.open(prepared), store, KEY.public, none)
    with pytest.raises(MitaiError) as large:
        traces._parts(traces.committed(one.id), b"all")
    assert (large.value.code, large.value.status) == ("proof.trace-too-large", 400)
    store.close()


def test_a_service_may_promise_no_audits(tmp_path, prepared):
    with running(tmp_path, prepared, unaudited=True) as service:
        answer = ask(service)
        assert refused(fetch, service, answer) == "proof.service-differs"
        offer = tmp_path / "client" / "service.json"
        offer.write_bytes(offer.read_bytes().replace(b'"unaudited":false', b'"unaudited":true'))
        assert len(fetch(service, answer).receipt.assurances) == 1
        assert code(service.http.get(f"/v1/traces/{answer['id']}")) == (404, "proof.not-committed")
        assert code(service.http.post(f"/v1/traces/{answer['id']}", content=b"all")) == (404, "proof.not-committed")


def test_a_model_whose_weights_are_hidden_has_no_traces(tmp_path, prepared, monkeypatch):
    model = Prepared.open(prepared)
    hidden = msgspec.structs.replace(model.card, uses=4)
    monkeypatch.setattr(Prepared, "open", lambda _: Prepared(prepared, hidden, model.weights))
    with running(tmp_path, prepared) as service:
        reply = service.http.get(f"/v1/receipts/{ask(service)['id']}").json()
        [promised] = Receipt.open(base64.b64decode(reply["envelope"]), KEY.public).assurances
        assert (type(promised), promised.identity) == (Proof, hidden.identity)
    store = Store(own := config(tmp_path, prepared), STATE_KEY)
    for number, identity in enumerate((hidden.identity, model.card.identity)):  # a promise; a model of before
        receipt = made(said(number), Terms(NAME, identity), TIME, TIME, bytes(32))
        store.add(said(number), receipt.sign(KEY), "on-demand")
        traces = shown.Traces(Prepared.open(prepared), store, KEY.public, own)
        assert refused(traces.committed, said(number).id) == "proof.not-committed"
    store.close()


def test_an_answer_is_audited_by_a_command(here, key, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path))
    monkeypatch.setattr("mitai.proof.service.client.Service", lambda _: here.service(Changed(here.transport)))
    receipts, file = tmp_path / "user" / "receipts", tmp_path / "auditor.key"
    receipts.mkdir(parents=True)
    name = Receipt.open(kept[0].envelope, KEY.public).exchange
    (receipts / f"{name}.json").write_bytes(kept[0].encode())
    file.write_bytes(key.encode())
    words = "proof", "audit-answer", name[:6], "--key", str(file), "--client", str(here.folder / "client"), "--json"
    for more, verdict in (((), "holds"), (("--steps", "3"), "nothing found")):
        app([*words, *more], result_action="return_value")
        checked = json.loads(capsys.readouterr().out)
        assert (checked["verdict"], checked["model"]) == (verdict, here.identity)
        assert isinstance(checked["answer"], str)
    app(["receipt", name, "--client", str(here.folder / "client"), "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["trace"] == checked["root"]
