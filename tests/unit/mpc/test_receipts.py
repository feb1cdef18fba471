"""Receipts of parties: what a client accepts, and all that it refuses."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import msgspec
import pytest

from mitai.attest import Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.errors import MitaiError, MpcError
from mitai.identity import Envelope, Identity
from mitai.ledger.receipt import PartyReceipt, Receipt
from mitai.mpc import receipts
from mitai.mpc.attested import Credentials
from mitai.mpc.receipts import Log, Signer, Transcript, about, agree, check, opened
from mitai.mpc.sampling import Sampling
from mitai.mpc.tasks import Offer, Question

ROLES = ("p0", "p1", "dealer")
KEYS = {role: Identity.from_seed(role.encode().ljust(32, b"\0")) for role in ROLES}
IDS = {role: key.key_id for role, key in KEYS.items()}
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Cooled:
    name, kind = "generate 64 16 sampled", "sampled"


OFFER = Offer(bytes(16), "a" * 64, "exact", lambda engine: None, (Cooled(),))
FIELDS = about(OFFER, Question(Cooled(), Sampling(0.7)), bytes(range(16)))
TRANSCRIPTS = {}
for role in ROLES[:2]:
    TRANSCRIPTS[role] = Transcript()
    TRANSCRIPTS[role].asked(role.encode() * 8)
    TRANSCRIPTS[role].told(b"answer of " + role.encode())
DIGESTS = {role: transcript.digests for role, transcript in TRANSCRIPTS.items()}


def signed(role, fields=None, others=None, transcript=None, key=None):
    signer = Signer(role, Credentials(key or KEYS[role]), others or {name: IDS[name] for name in ROLES if name != role})
    return signer.sign({**FIELDS, **(fields or {})}, transcript or TRANSCRIPTS[role], STARTED)


BOTH = {role: signed(role) for role in ROLES[:2]}


def checked(envelopes, fields=FIELDS, digests=DIGESTS, known=IDS):
    keys = {role: KEYS[role].public for role in ROLES[:2]}
    return check(envelopes, keys, fields, digests, known)


def refused(envelopes, why, **more):
    with pytest.raises(MpcError, match=why) as caught:
        checked(envelopes, **more)
    assert caught.value.code == "mpc.receipt-wrong"


def test_what_both_have_signed():
    found = checked(BOTH)
    for role in ROLES[:2]:
        assert found[role].parties == IDS
        assert (found[role].protocol, found[role].task, found[role].approximation) == ("2+1", Cooled.name, "exact")
        assert (found[role].temperature, found[role].top_p) == (0.7, 1.0)
        assert found[role].started == "2026-01-02T03:04:05Z"
    assert found["p0"].response_sha256 != found["p1"].response_sha256


def test_digests_of_few_shares_are_of_many():
    """A token's share has 64 bits; by itself its digest could be looked up."""
    one, other = Transcript(), Transcript()
    one.asked(b"x" * 100)
    for each in (one, other):
        each.told(b"12345678")
    assert one.digests[1] != other.digests[1]


@pytest.mark.parametrize("role", ROLES[:2])
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_another_answers_receipt(role, name):
    other = {"temperature": 0.8, "top_p": 0.5, "exchange": "b" * 32, "shares": "b" * 32, "config_sha256": "b" * 64}
    envelope = signed(role, {name: other.get(name, "other")})
    refused(BOTH | {role: envelope}, "another question, or another model")


@pytest.mark.parametrize("role", ROLES[:2])
def test_shares_that_are_not_the_clients(role):
    asked = Transcript()
    asked.asked(b"other")
    asked.told(b"answer of " + role.encode())
    refused(BOTH | {role: signed(role, transcript=asked)}, "receipt-request")
    told = Transcript()
    told.asked(role.encode() * 8)
    told.told(b"other")
    refused(BOTH | {role: signed(role, transcript=told)}, "receipt-response")


def test_somebody_elses_signature():
    refused(BOTH | {"p1": signed("p1", key=Identity.generate())}, "signature-invalid")
    refused({"p0": BOTH["p1"], "p1": BOTH["p0"]}, "signature-invalid")
    refused(BOTH | {"p1": b"{}"}, "envelope-malformed")


def test_a_party_does_not_sign_as_another():
    fields = Envelope.decode(signed("p0")).payload.replace(b'"role":"p0"', b'"role":"p1"')
    with pytest.raises(MpcError, match="another party's"):
        opened("p0", KEYS["p0"].sign(fields, PartyReceipt.payload_type).encode(), KEYS["p0"].public)


def test_parties_whom_the_client_does_not_know():
    others = {"p0": IDS["p0"], "dealer": "b" * 64}
    refused(BOTH | {"p1": signed("p1", others=others)}, "other parties than")
    without = {role: key_id for role, key_id in IDS.items() if role != "dealer"}
    refused(BOTH | {"p1": signed("p1", others=others)}, "what the others' say", known=without)


def test_receipts_that_do_not_agree():
    found = checked(BOTH)
    for change in ({"version": "0"}, {"protocol": "3pc"}, {"temperature": 0.5}, {"parties": {"dealer": "0" * 64}}):
        with pytest.raises(MpcError, match="what the others' say"):
            agree({"p0": found["p0"], "p1": msgspec.structs.replace(found["p1"], **change)})


def test_kinds_of_receipts_are_told_apart():
    key = KEYS["p0"]
    with pytest.raises(MitaiError, match="payload-type"):
        Receipt.open(BOTH["p0"], key.public)
    payload = Envelope.decode(BOTH["p0"]).payload
    with pytest.raises(MitaiError, match="receipt-malformed"):
        Receipt.open(key.sign(payload, Receipt.payload_type).encode(), key.public)
    for other in (payload + b" ", payload.replace(b"0.7", b"0.70"), payload.replace(b"0.7", b"70"), b"{}"):
        with pytest.raises(MitaiError, match="receipt-malformed"):
            PartyReceipt.open(key.sign(other, PartyReceipt.payload_type).encode(), key.public)


def test_what_others_have_proven_is_named(tmp_path):
    sim = SimPlatform.create(tmp_path)
    known = reference_values(Workload("mpc", bytes(48)))
    policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=(known,))
    credentials = Credentials(KEYS["p0"], None, {IDS["dealer"]: policy})
    dealer = Credentials(KEYS["dealer"], sim.attester(Workload("mpc", bytes(48))))
    evidence = dealer._evidence(nonce := bytes(32), KEYS["p0"].public)
    credentials._appraise(evidence, policy, nonce, KEYS["dealer"].public)
    receipt = opened(
        "p0",
        Signer("p0", credentials, {"dealer": IDS["dealer"]}).sign(FIELDS, Transcript(), STARTED),
        KEYS["p0"].public,
    )
    assert receipt.evidence_sha256 == {"dealer": credentials.appraisals[IDS["dealer"]].evidence_sha256}


def test_whoever_logs_is_never_waited_for(monkeypatch):
    monkeypatch.setattr(receipts, "WAITING", 2)
    going, logged, notes = threading.Event(), [], []

    def hook(exchange, envelope):
        going.wait(20)
        logged.append(exchange)
        if exchange == "1":
            raise RuntimeError("its text could be anything")
        if len(logged) == 3:
            done.set()

    done = threading.Event()
    log = Log(hook, notes.append)
    log.put("0", b"")
    while log._waiting.qsize():  # the first is taken out, and waited for
        time.sleep(0.001)
    for exchange in ("1", "2", "3"):
        log.put(exchange, b"")
    assert notes == ["the receipt of 3 is not logged: too many wait"]
    going.set()
    assert done.wait(20)
    assert logged == ["0", "1", "2"]
    assert notes[1:] == ["the receipt of 1 is not logged: RuntimeError"]
