"""Clients of a service that lies, withholds, is slow or says too much; and audits of sessions by others."""

from __future__ import annotations

import base64
import json

import httpx2
import msgspec
import pytest

from mitai.errors import MitaiError, ProofError
from mitai.identity import Envelope, Identity, Signature
from mitai.ledger.lots import Lots
from mitai.proof.service import client as clients
from mitai.proof.service.client import Wanted
from mitai.proof.service.receipts import Kept, Said, Terms, made, opened, proven
from mitai.proof.service.sessions import Audited, Entry, Sampled, SessionFile, audit
from proof_service_rig import IDENTITY, KEY, NAME, TIME, receipt, running, said, tiny

QUESTION = [{"role": "user", "content": "Who are you?"}]
OTHER = Identity.from_seed(b"o" * 32)


class Lying(httpx2.BaseTransport):
    """A service whose answers to GETs of some path are changed."""

    def __init__(self, inner, **changes):
        self._inner, self.changes = inner, changes

    def handle_request(self, request):
        answer = self._inner.handle_request(request)
        content = answer.read()
        for name, change in self.changes.items():
            if f"/{name}/" in request.url.path:
                content = change(content)
        return httpx2.Response(answer.status_code, content=content)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with running(folder, tiny(tmp_path_factory.mktemp("tiny")), least_one_in=1) as service, service.worker():
        yield service


@pytest.fixture(scope="module")
def told(here):
    return [ask(here, Wanted("follows"), number).json() for number in (3, 4)]


def ask(here, wanted, tokens=2, session=""):
    body = {"model": NAME, "messages": QUESTION, "max_tokens": tokens}
    return here.http.post("/v1/chat/completions", json=body, headers=wanted.headers(session))


def fetch(service, one, wanted=Wanted("follows"), text=None):  # noqa: B008 - frozen
    text = one["choices"][0]["message"]["content"] if text is None else text
    return service.receipt(one["id"], wanted, prompt=service.tokens(QUESTION), text=text)


def changed(**fields):
    return lambda content: json.dumps(json.loads(content) | fields).encode()


def signed(given, key=KEY, model=NAME, identity=None, promise="follows"):
    terms = Terms(model, identity or given.receipt.assurances[0].identity, promise)
    return changed(envelope=base64.b64encode(made(given.said, terms, TIME, TIME).sign(key)).decode())


def test_a_receipt_that_is_about_something_else_is_refused(here, told):
    honest = fetch(here.service(), told[0])
    other = fetch(here.service(), told[1])
    of_other = base64.b64encode(other.envelope).decode()
    lies = {
        "tokens": (changed(answer=[*honest.said.answer[:-1], 77]), "proof.receipt-differs"),
        "prompt": (changed(prompt=[*honest.said.prompt[:-1], 77]), "proof.receipt-differs"),
        "another answer's": (changed(envelope=of_other), "proof.receipt-differs"),
        "all of another": (
            changed(envelope=of_other, answer=list(other.said.answer), prompt=list(other.said.prompt)),
            "proof.receipt-differs",
        ),
        "another's key": (signed(honest, OTHER), "identity.signature-invalid"),
        "another model's name": (signed(honest, model="large"), "proof.receipt-differs"),
        "another model": (signed(honest, identity="0" * 64), "proof.receipt-differs"),
        "no promise": (signed(honest, promise="on-demand"), "proof.receipt-differs"),
        "no tokens": (changed(answer=[]), "client.answer-malformed"),
        "no receipt": (changed(envelope=""), "identity.envelope-malformed"),
        "more": (changed(more=1), "client.answer-malformed"),
        "nonsense": (lambda _: b"\xff", "client.answer-malformed"),
        "too much": (lambda _: b" " * (1 << 20) + b"{}", "proof.answer-too-large"),
    }
    for name, (lie, code) in lies.items():
        service = here.service(Lying(here.transport, receipts=lie))
        with pytest.raises(MitaiError) as refused:
            fetch(service, told[0])
        assert (name, refused.value.code) == (name, code)


def test_a_receipt_about_other_words_than_were_told_or_asked_is_refused(here, told):
    service = here.service()
    with pytest.raises(ProofError, match="than it told"):
        fetch(service, told[0], text="Paris")
    with pytest.raises(ProofError, match="another question"):
        service.receipt(
            told[0]["id"], Wanted("follows"), prompt=[1, 2], text=told[0]["choices"][0]["message"]["content"]
        )


def test_an_id_that_leads_elsewhere_is_refused(here, told):
    for other in ("", "../healthz", "a" * 65, "cmpl-1?x", "cmpl-1/"):
        with pytest.raises(MitaiError) as refused:
            fetch(here.service(), told[0] | {"id": other})
        assert refused.value.code == "client.answer-malformed"


def test_a_receipt_is_for_one_answer_of_a_session(here, tmp_path):
    service = here.service()
    session = Sampled.begin(service, 2, 4, tmp_path)
    given = fetch(service, ask(here, session.wanted, 1, session.file.session).json(), session.wanted)
    session.add(given)
    with pytest.raises(ProofError) as refused:
        session.add(given)
    assert refused.value.code == "proof.receipt-again"


def test_a_receipt_has_one_encoding(here, told):
    given = fetch(here.service(), told[0])
    envelope = Envelope.decode(given.envelope)
    [signature] = envelope.signatures
    for other in (
        given.envelope + b" ",
        msgspec.structs.replace(envelope, signatures=(signature, signature)).encode(),
        msgspec.structs.replace(envelope, signatures=(Signature(signature.sig, "another"),)).encode(),
    ):
        with pytest.raises(ProofError) as refused:
            opened(other, KEY.public, None, Terms(NAME, here.identity, "follows"))
        assert refused.value.code == "proof.receipt-differs"


def test_a_tampered_proof_is_refused(here, told):
    service = here.service()
    given = fetch(service, told[0])
    good = service.proof(told[0]["id"], within_s=60)
    assert proven(told[0]["id"], given.receipt, here.identity, good) > 100
    spoilt = bytearray(good)
    spoilt[-1] ^= 1
    for bad in (bytes(spoilt), good[:-1], good + b"\0", b""):
        with pytest.raises(MitaiError):
            proven(told[0]["id"], given.receipt, here.identity, bad)
    with pytest.raises(ProofError) as refused:
        proven(told[0]["id"], given.receipt, here.identity, service.proof(told[1]["id"], within_s=60))
    assert refused.value.code == "proof.receipt-differs"
    with pytest.raises(ProofError) as refused:
        proven(told[0]["id"], given.receipt, "0" * 64, good)
    assert refused.value.code == "proof.model-differs"


def test_a_service_that_is_slow_silent_or_says_too_much(here, told, monkeypatch):
    waits = httpx2.MockTransport(lambda _: httpx2.Response(202, json={"state": "waiting", "ahead": 1}))
    seen = []
    with pytest.raises(ProofError) as late:
        here.service(waits).proof("x", 0.0, seen.append)
    assert (late.value.code, seen[0].ahead) == ("proof.late", 1)
    monkeypatch.setattr(clients, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(ProofError) as large:
        here.service(httpx2.MockTransport(lambda _: httpx2.Response(200, content=b"x" * 2000))).proof("x", 1.0)
    assert large.value.code == "proof.answer-too-large"

    def away(_):
        raise httpx2.ConnectError("away")

    with pytest.raises(ProofError) as silent:
        here.service(httpx2.MockTransport(away)).proof("x", 1.0)
    assert silent.value.code == "proof.service-unreachable"


@pytest.fixture(scope="module")
def sampled(here, tmp_path_factory):
    """A session with four answers, all of them drawn, revealed, and their proofs."""
    service = here.service()
    session = Sampled.begin(service, 1, 4, tmp_path_factory.mktemp("session"))
    for tokens in range(1, 5):
        one = ask(here, session.wanted, tokens, session.file.session).json()
        session.add(fetch(service, one, session.wanted))
    before = session.path.read_bytes()
    drawn = session.reveal()
    proofs = {Said(entry.id, (), ()).exchange: service.proof(entry.id, within_s=60) for entry in drawn}
    return session, before, proofs


def test_a_session_convinces_who_knows_key_and_model(here, sampled):
    session, before, proofs = sampled
    file = SessionFile.parse(session.path.read_bytes())
    assert file == session.file
    assert audit(file, here.identity, KEY.key_id, proofs.get) == Audited(4, 4, {})
    assert file.session == ""
    assert SessionFile.parse(before).receipts == file.receipts
    assert session.reveal() == file.drawn()  # nothing is asked again
    assert session.path.stat().st_mode & 0o77 == 0


def test_ids_of_answers_that_are_not_drawn_stay_secret(here, tmp_path):
    service = here.service()
    session = Sampled.begin(service, 1 << 32, 4, tmp_path)
    session.add(fetch(service, ask(here, session.wanted, 1, session.file.session).json(), session.wanted))
    assert session.file.receipts[0].id
    assert session.reveal() == []  # but once in four thousand million times
    assert session.file.receipts[0].id == ""
    assert audit(session.file, here.identity, KEY.key_id, lambda _: None) == Audited(1, 0, {})


def test_what_a_service_owes_is_seen_by_everybody(here, sampled):
    session, _, proofs = sampled
    file = session.file
    for exchange in list(proofs)[:1]:
        rest = {name: proof for name, proof in proofs.items() if name != exchange}
        assert audit(file, here.identity, KEY.key_id, rest.get).missing == {exchange: "proof.withheld"}
    swapped = dict(zip(proofs, [*list(proofs.values())[1:], b""], strict=True))
    missing = audit(file, here.identity, KEY.key_id, swapped.get).missing
    assert set(missing) == set(proofs)
    nameless = msgspec.structs.replace(file, receipts=tuple(Entry(one.envelope) for one in file.receipts))
    found = audit(nameless, here.identity, KEY.key_id, proofs.get)
    assert set(found.missing.values()) == {"proof.id-missing"}


def test_a_session_that_says_something_else_is_refused(here, sampled):
    session, _, proofs = sampled
    file, other = session.file, Lots(b"o" * 32, 1)
    foreign = receipt(said(1), "sampled", file.sample)
    replaced = {
        "key": ({"key": OTHER.public.raw}, "proof.service-differs"),
        "identity": ({"identity": IDENTITY}, "proof.service-differs"),
        "seed": ({"seed": "0" * 64}, "ledger.lots-commitment"),
        "rate": ({"one_in": 2}, "ledger.lots-commitment"),
        "sample": ({"seed": other.seed.hex(), "commitment": other.sample.commitment}, "proof.receipt-differs"),
        "model": ({"model": "large"}, "proof.receipt-differs"),
        "receipts": ({"receipts": (*file.receipts, Entry(foreign))}, "proof.receipt-differs"),
        "twice": ({"receipts": (*file.receipts, file.receipts[0])}, "proof.session-malformed"),
        "spaces": ({"receipts": (Entry(file.receipts[0].envelope + b" "),)}, "proof.receipt-differs"),
    }
    for name, (fields, code) in replaced.items():
        with pytest.raises(MitaiError) as refused:
            audit(msgspec.structs.replace(file, **fields), here.identity, KEY.key_id, proofs.get)
        assert (name, refused.value.code) == (name, code)


def test_an_id_is_no_path(sampled):
    file = sampled[0].file
    for fields in ({"session": "../proofs/x"}, {"receipts": (Entry(b"", "x?y"),)}):
        with pytest.raises(MitaiError) as refused:
            SessionFile.parse(msgspec.structs.replace(file, **fields).encode())
        assert refused.value.code == "proof.session-malformed"


def test_a_service_that_says_other_draws_is_caught(here, tmp_path):
    service = here.service()
    session = Sampled.begin(service, 2, 4, tmp_path)
    session.add(fetch(service, ask(here, session.wanted, 1, session.file.session).json(), session.wanted))
    own = {entry.id for entry in session.file.drawn()}
    told = json.dumps({"answers": 1, "drawn": ["another"] if not own else []}).encode()
    session.service = here.service(httpx2.MockTransport(lambda _: httpx2.Response(200, content=told)))
    with pytest.raises(ProofError) as refused:
        session.reveal()
    assert refused.value.code == "proof.draws-differ"
    assert session.file.drawn()[:1] == list(session.file.receipts)[: len(own)]  # the file says what is owed


def test_a_kept_receipt_is_read_strictly():
    kept = Kept(key=KEY.public.raw, envelope=b"{}", id="x")
    assert Kept.parse(kept.encode()) == kept
    for bad in (
        b"",
        b"{}",
        kept.encode().replace(b"v1", b"v2"),
        kept.encode()[:-2] + b', "more": 1}',
        kept.encode().replace(b'"x"', b'"../x"'),
    ):
        with pytest.raises(MitaiError) as refused:
            Kept.parse(bad)
        assert refused.value.code == "proof.receipt-malformed"
