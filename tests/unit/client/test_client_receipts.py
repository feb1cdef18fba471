"""The memory of ledgers, and proofs on disk."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from mitai.attest import CapsuleClaim, Claims, LedgerClaim, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.channel import KeyRing
from mitai.client.receipts import LedgerMemory, Proof, check, ledger_fetcher
from mitai.errors import ClientError, LedgerError, MitaiError, ParseError
from mitai.identity import Identity
from mitai.ledger import FolderStore, Log, Receipt, ReceiptBundle, folder_reader
from mitai.ledger.entry import ReceiptEntry, utc
from mitai.ledger.receipt import CapsuleRef, Usage, receipt_sha256

ORIGIN = "example.org/log"


def make(folder, key, entries):
    log = Log(FolderStore(folder), key, ORIGIN)
    log.append(entries)
    return log


@pytest.fixture
def key():
    return Identity.generate()


def test_a_growing_ledger_is_followed(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    memory, fetch = LedgerMemory(tmp_path / "memory"), folder_reader(tmp_path / "log")
    assert memory.observe(log.checkpoint(), log.vkey, fetch).size == 2
    log.append([b"three"] * 300)
    assert memory.observe(log.checkpoint(), log.vkey, fetch).size == 302
    assert memory.recall(log.vkey).size == 302


def test_an_older_checkpoint_of_the_same_history_is_fine(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    old = log.checkpoint()
    log.append([b"three"])
    memory, fetch = LedgerMemory(tmp_path / "memory"), folder_reader(tmp_path / "log")
    memory.observe(log.checkpoint(), log.vkey, fetch)
    assert memory.observe(old, log.vkey, fetch).size == 2
    assert memory.recall(log.vkey).size == 3


def test_another_history_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    fork = make(tmp_path / "fork", key, [b"one", b"TWO", b"three"])
    memory = LedgerMemory(tmp_path / "memory")
    memory.observe(log.checkpoint(), log.vkey, folder_reader(tmp_path / "log"))
    with pytest.raises(LedgerError) as refused:
        memory.observe(fork.checkpoint(), fork.vkey, folder_reader(tmp_path / "fork"))
    assert refused.value.code == "ledger.forked"


def test_a_receipts_checkpoint_of_another_history_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two", b"three"])
    fork = make(tmp_path / "fork", key, [b"one", b"TWO"])
    with pytest.raises(LedgerError) as refused:
        LedgerMemory(tmp_path / "memory").observe(fork.checkpoint(), log.vkey, folder_reader(tmp_path / "log"))
    assert refused.value.code == "ledger.forked"


def test_a_rolled_back_ledger_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    memory = LedgerMemory(tmp_path / "memory")
    memory.observe(log.checkpoint(), log.vkey, folder_reader(tmp_path / "log"))
    older = make(tmp_path / "older", key, [b"one"])
    with pytest.raises(LedgerError) as refused:
        memory.observe(older.checkpoint(), older.vkey, folder_reader(tmp_path / "older"), wait_s=0.1)
    assert refused.value.code == "ledger.rolled-back"


def test_an_unpublished_ledger_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one"])
    with pytest.raises(LedgerError):
        LedgerMemory(tmp_path / "memory").observe(log.checkpoint(), log.vkey, lambda _: None, wait_s=0.1)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 10000, b"\xff", b"x" * (13 << 20)])
def test_bytes_that_are_no_proof(data):
    with pytest.raises(ParseError):
        Proof.decode(data)


def test_a_ledger_over_http_that_lies_or_is_gone():
    import httpx2

    answers = {
        "/broker/ledger/checkpoint": httpx2.Response(500),
        "/broker/ledger/large": httpx2.Response(200, content=b"x" * (33 << 20)),
    }
    with httpx2.Client(
        transport=httpx2.MockTransport(lambda request: answers.get(request.url.path, httpx2.Response(404)))
    ) as http:
        fetch = ledger_fetcher("http://gateway.test", http)
        assert fetch("none") is None
        with pytest.raises(ClientError):
            fetch("checkpoint")
        with pytest.raises(ClientError) as refused:
            fetch("large")
        assert refused.value.code == "client.ledger-too-large"


# -- proofs, from a simulated machine's evidence to the ledger -------------------------------------------------


@pytest.fixture
def platform(tmp_path):
    return SimPlatform.create(tmp_path / "sim")


def prove(platform, tmp_path, key, *, logged, verified_at, model=(), adapters=(), opened=()):
    """Return a proof, and the policy under which its machine holds."""
    code, receipt_key = Workload("serve", bytes(32)), Identity.generate()
    receipt = Receipt(
        exchange="e1",
        request_sha256="a" * 64,
        response_sha256="b" * 64,
        model="m",
        capsules=model,
        adapters=adapters,
        policies=(),
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        evidence_sha256="c" * 64,
        started=utc(logged),
        finished=utc(logged),
    )
    envelope = receipt.sign(receipt_key)
    entry = ReceiptEntry(time=utc(logged), exchange="e1", receipt_sha256=receipt_sha256(envelope)).encode()
    log = make(tmp_path / "log", key, [entry])
    bundle = ReceiptBundle(envelope=envelope, entry=entry, index=0, proof=(), checkpoint=log.checkpoint().decode())
    claims = Claims(
        workload="serve",
        key_config=KeyRing.generate().current_config(),
        receipt_key=receipt_key.public.raw,
        capsules=tuple(CapsuleClaim(each.id, each.manifest_sha256) for each in opened),
        ledger=LedgerClaim(ORIGIN, log.vkey, log.checkpoint()),
    )
    nonce = bytes(range(32))
    evidence = platform.attester(code).evidence(claims.encode(), nonce)
    proof = Proof(
        bundle=bundle,
        evidence=evidence,
        nonce=nonce,
        verified_at=verified_at,
        request_sha256="a" * 64,
        response_sha256="b" * 64,
    )
    return proof, Policy(allow_simulation=True, sim_roots=(platform.sim_root,), workloads=(reference_values(code),))


def test_a_proof_holds(platform, tmp_path, key):
    now = datetime.now(UTC)
    proof, policy = prove(platform, tmp_path, key, logged=now, verified_at=now - timedelta(minutes=2))
    receipt, appraisal = check(Proof.decode(proof.encode()), policy)
    assert (receipt.exchange, appraisal.workload) == ("e1", "serve")


def test_model_and_adapter_must_have_been_open_there(platform, tmp_path, key):
    now = datetime.now(UTC)
    model, adapter, other = (CapsuleRef(id=name, manifest_sha256="d" * 64) for name in ("m1", "a1", "a2"))
    changed = CapsuleRef(id="a1", manifest_sha256="e" * 64)
    for at, (used, holds) in enumerate([(adapter, True), (other, False), (changed, False)]):
        proof, policy = prove(
            platform,
            tmp_path / str(at),
            key,
            logged=now,
            verified_at=now,
            model=(model,),
            adapters=(used,),
            opened=(model, adapter),
        )
        if holds:
            assert check(proof, policy)[0].adapters == (used,)
            continue
        with pytest.raises(LedgerError) as refused:
            check(proof, policy)
        assert refused.value.code == "client.receipt-capsule"


def test_any_changed_byte_of_a_proof_is_refused_or_changes_nothing(platform, tmp_path, key):
    """What may change: spaces, and the second at which the machine was verified; never the receipt or the machine."""
    now = datetime.now(UTC)
    proof, policy = prove(platform, tmp_path, key, logged=now, verified_at=now)
    whole, told = proof.encode(), check(proof, policy)
    held = 0
    for at in random.Random(8).sample(range(len(whole)), 250):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 7)
        try:
            receipt, appraisal = check(Proof.decode(bytes(changed)), policy)
        except MitaiError:
            continue
        held += 1
        assert receipt == told[0]
        assert (appraisal.claims, appraisal.evidence_sha256) == (told[1].claims, told[1].evidence_sha256)
    assert held < 25


@pytest.mark.parametrize("gap", [timedelta(days=2), timedelta(days=-2)])
def test_an_answer_is_not_proven_by_evidence_of_another_time(platform, tmp_path, key, gap):
    """A machine that lost its trust since can't vouch for new answers by showing its old collateral."""
    now = datetime.now(UTC)
    proof, policy = prove(platform, tmp_path, key, logged=now + gap, verified_at=now)
    with pytest.raises(LedgerError) as refused:
        check(proof, policy)
    assert refused.value.code == "client.receipt-time"


def test_a_proof_whose_time_has_no_zone_is_malformed(platform, tmp_path, key):
    now = datetime.now(UTC)
    proof, _ = prove(platform, tmp_path, key, logged=now, verified_at=now.replace(tzinfo=None))
    with pytest.raises(ParseError):
        Proof.decode(proof.encode())


def test_the_memory_never_goes_back(tmp_path, key):
    """Two commands at once: the one that saw less must not overwrite what the other has kept."""
    log = make(tmp_path / "log", key, [b"one"])
    memory, fetch, old = LedgerMemory(tmp_path / "memory"), folder_reader(tmp_path / "log"), log.checkpoint()
    memory.observe(old, log.vkey, fetch)
    log.append([b"two"])
    memory.observe(log.checkpoint(), log.vkey, fetch)
    memory._remember(old, log.vkey)
    assert memory.recall(log.vkey).size == 2
    assert len(list((tmp_path / "memory").iterdir())) == 1
