"""The broker over HTTP, as its own process, behind its channel: owner, workload, strangers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx2
import msgspec
import pytest

from attest_services_lab import Answer, serving
from broker_rig import ALLOW_ALL, Party
from kbs_guest import Guest, SimIntel
from mitai.attest import Claims, Policy
from mitai.attest.collateral import Resource
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.broker import protocol
from mitai.broker.release_client import Release
from mitai.capsule import seal
from mitai.channel import KeyRing
from mitai.client.http import session_client
from mitai.client.owner import Owner
from mitai.client.session import Session
from mitai.errors import BrokerError, ClientError, MitaiError
from mitai.identity import Identity
from mitai.ledger import Receipt, ReceiptBundle, TileReader, verify_checkpoint, verify_receipt
from mitai.ledger.receipt import CapsuleRef, Usage
from mitai.workload import Workload


class Process:
    """`python -m mitai.broker`, and what talks to it."""

    def __init__(self, folder: Path, sim: SimPlatform, sim_folder: Path, **config: object) -> None:
        self.folder, self.sim = folder, sim
        self.measured = installed_workload("broker")
        values = tuple(reference_values(installed_workload(name)) for name in ("serve", "broker"))
        self.policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=values)
        (folder / "policy.toml").write_text(self.policy.to_toml())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        fields = {
            "state": f"sqlite:///{folder / 'state.db'}",
            "publish": str(folder / "ledger"),
            "policy": str(folder / "policy.toml"),
            "sim": str(sim_folder),
            "port": self.port,
        } | config
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items()]
        (folder / "broker.toml").write_text("\n".join(lines))
        self.log = (folder / "log").open("ab")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mitai.broker", "--config", str(self.folder / "broker.toml")]
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=os.environ.copy())
        for _ in range(200):
            try:
                if httpx2.get(f"{self.url}/healthz").status_code == 200:
                    return
            except httpx2.HTTPError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.child.send_signal(how)
        return self.child.wait(20)

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.log.close()

    def session(self, http: httpx2.Client) -> Session:
        return Session(self.url, self.policy, workload="broker", http=http)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("process")
    made = Process(folder, SimPlatform.create(folder / "sim"), folder / "sim")
    yield made
    made.close()


@pytest.fixture(scope="module")
def owner(process: Process) -> Iterator[Owner]:
    made = Owner(process.url, Identity.generate(), process.policy)
    made.register("alice")
    yield made
    made.close()


@pytest.fixture(scope="module")
def sealed(process: Process, owner: Owner):
    source = process.folder / "plain"
    source.mkdir()
    (source / "config.json").write_text("{}")
    made = seal(source, process.folder / "sealed", owner=owner.identity, name="model", kind="model")
    owner.publish(made.capsule_id, made.envelope, made.data_key, policy=ALLOW_ALL, uses=100)
    return made


@pytest.fixture
def client(process: Process) -> Iterator[httpx2.Client]:
    with httpx2.Client() as http, session_client(process.session(http)) as made:
        yield made


def workload(process: Process, keyring: KeyRing, receipt_key: Identity) -> Workload:
    claims = Claims(workload="serve", key_config=b"", receipt_key=receipt_key.public.raw)
    return Workload(process.sim.attester(installed_workload("serve")), keyring, lambda: claims)


def release(process: Process, client: httpx2.Client, capsule: str, receipt_key: Identity) -> object:
    keyring = KeyRing.generate()
    challenge = client.post(f"{process.url}/v1/challenge").content
    request = Release(
        challenge,
        workload(process, keyring, receipt_key).evidence,
        purpose="inference",
        capsules=(capsule,),
    )
    answer = client.post(f"{process.url}/v1/release", content=request.body)
    assert answer.status_code == 200, answer.text
    return request.open(answer.content, keyring)[0]


def code(answer: httpx2.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["code"]


def test_the_whole_story(process: Process, owner: Owner, sealed, client: httpx2.Client) -> None:
    key = release(process, client, sealed.capsule_id, Identity.generate())
    assert key.data_key == sealed.data_key
    view = owner.capsule(sealed.capsule_id)
    assert (view.owner, view.grants[0].uses, view.grants[0].policy) == (owner.identity.key_id, 1, ALLOW_ALL)
    decisions = owner.decisions(sealed.capsule_id)
    assert [msgspec.json.decode(entry)["type"] for _, entry in decisions] == [
        "release",
        "policy-set",
        "capsule-registered",
    ]
    later = datetime.now(UTC) + timedelta(days=1)
    assert owner.set_policy(sealed.capsule_id, ALLOW_ALL, uses=50, not_after=later, replaces=1) > 0
    with pytest.raises(BrokerError) as changed:
        owner.set_policy(sealed.capsule_id, ALLOW_ALL, replaces=1)
    assert changed.value.code == "broker.policy-changed"
    assert owner.capsule(sealed.capsule_id).grants[0].version == 2


def test_receipts_are_logged_and_proven(process: Process, owner: Owner, sealed, client: httpx2.Client) -> None:
    receipt_key = Identity.generate()
    key = release(process, client, sealed.capsule_id, receipt_key)
    receipts = []
    for number in range(3):
        receipt = Receipt(
            exchange=f"exchange-{number}",
            request_sha256="0" * 64,
            response_sha256="1" * 64,
            model="demo",
            capsules=(CapsuleRef(id=key.capsule, manifest_sha256=key.manifest_sha256),),
            policies=key.policies,
            usage=Usage(prompt_tokens=1, completion_tokens=2),
            evidence_sha256="2" * 64,
            started="2026-01-01T00:00:00Z",
            finished="2026-01-01T00:00:01Z",
        )
        receipts.append(receipt.sign(receipt_key))

    def post(signer: Identity, sent: list[bytes]) -> httpx2.Response:
        body = protocol.encode(protocol.ReceiptsRequest(receipt_key=signer.public.raw, receipts=tuple(sent)))
        return client.post(f"{process.url}/v1/receipts", content=body)

    answer = protocol.decode(post(receipt_key, receipts).content, protocol.ReceiptsAnswer, 1 << 20)
    for envelope, logged in zip(receipts, answer.entries, strict=True):
        bundle = ReceiptBundle(
            envelope=envelope,
            entry=logged.entry,
            index=logged.index,
            proof=logged.proof,
            checkpoint=answer.checkpoint.decode(),
        )
        assert verify_receipt(bundle, receipt_key=receipt_key.public, ledger_vkey=owner.ledger.vkey)
    again = protocol.decode(post(receipt_key, receipts[1:]).content, protocol.ReceiptsAnswer, 1 << 20)
    assert [entry.index for entry in again.entries] == [entry.index for entry in answer.entries[1:]]
    # refused: a replica that was given nothing, and a receipt that another key signed
    stranger = Identity.generate()
    foreign = Receipt.open(receipts[0], receipt_key.public).sign(stranger)
    assert code(post(stranger, [foreign])) == "broker.replica-unknown"
    assert code(post(receipt_key, [foreign])) == "identity.signature-invalid"
    assert code(post(receipt_key, [b"{}"])) == "identity.envelope-malformed"


def test_proofs(process: Process, owner: Owner, sealed, client: httpx2.Client) -> None:
    from mitai.client.lineage import proven

    answer = client.get(f"{process.url}/v1/proof?index=0").content
    proof = protocol.decode(answer, protocol.ProofAnswer, 1 << 20)
    checkpoint = verify_checkpoint(proof.checkpoint, owner.ledger.vkey)
    assert msgspec.json.decode(proven(proof.entry, checkpoint))["type"] == "party-registered"
    for text, status in (("", 400), ("-1", 400), ("x", 400), ("9" * 19, 400), ("999999", 404), ("٣", 400)):
        assert client.get(f"{process.url}/v1/proof", params={"index": text}).status_code == status


def test_the_published_ledger_is_public(process: Process, owner: Owner, sealed) -> None:
    def fetch(path: str) -> bytes | None:
        answer = httpx2.get(f"{process.url}/ledger/{path}")
        return answer.content if answer.status_code == 200 else None

    for _ in range(50):
        note = fetch("checkpoint")
        if note and verify_checkpoint(note, owner.ledger.vkey).size >= 3:
            break
        time.sleep(0.1)
    reader = TileReader(fetch, verify_checkpoint(note, owner.ledger.vkey))
    assert msgspec.json.decode(reader.entry(0))["party"] == owner.identity.key_id
    for path in ("tile/0/001", "../state.db", "%2e%2e/state.db", "tile", "", "tile/entries/000.p/0"):
        assert httpx2.get(f"{process.url}/ledger/{path}").status_code in {404, 405}


def test_nothing_is_served_in_the_clear(process: Process) -> None:
    assert httpx2.post(f"{process.url}/v1/challenge").status_code == 404
    assert httpx2.get(f"{process.url}/v1/capsules/x").status_code == 404


def test_bad_requests_get_problem_documents(process: Process, client: httpx2.Client) -> None:
    for path in ("release", "commands", "receipts"):
        for body in (b"", b"{", b"\xff\xfe", b"[]", b'{"surprise":1}'):
            answer = client.post(f"{process.url}/v1/{path}", content=body)
            assert (answer.status_code, code(answer)) == (400, "broker.malformed")
    large = b" " * (protocol.MAX_RECEIPTS_BYTES + 1)
    answer = client.post(f"{process.url}/v1/receipts", content=large)
    assert (answer.status_code, code(answer)) == (413, "broker.too-large")
    answer = client.post(f"{process.url}/v1/challenge", content=b" " * 5000)
    assert (answer.status_code, code(answer)) == (413, "broker.too-large")
    assert client.get(f"{process.url}/v1/release").status_code == 405
    assert client.get(f"{process.url}/nowhere").status_code == 404


def test_an_owner_lists_its_capsules(process: Process, owner: Owner, sealed) -> None:
    assert sealed.capsule_id in owner.capsules()
    assert owner.capsule(sealed.capsule_id).owner == owner.identity.key_id


def test_queries_are_the_owner_s(process: Process, owner: Owner, sealed, client: httpx2.Client) -> None:
    target = f"/v1/capsules/{sealed.capsule_id}"

    def ask(path: str, header: str | None) -> tuple[int, str]:
        answer = client.get(process.url + path, headers={protocol.QUERY_HEADER: header} if header is not None else {})
        return answer.status_code, "" if answer.status_code == 200 else code(answer)

    class Fixed:
        class broker:
            audience = owner._addressed()["broker"]

        @staticmethod
        def clock() -> datetime:
            return datetime.now(UTC)

    alice, mallory = Party(), Party("mallory")
    alice.identity = owner.identity
    assert ask(target, alice.query(Fixed, target)) == (200, "")
    assert ask(target, None) == (400, "broker.malformed")
    assert ask(target, "!") == (400, "broker.malformed")
    assert ask(target, "e30=") == (400, "broker.malformed")
    assert ask(target, mallory.query(Fixed, target)) == (404, "broker.capsule-unknown")
    other = alice.query(Fixed, f"/v1/decisions?capsule={sealed.capsule_id}")
    assert ask(target, other) == (400, "broker.query-mismatch")
    assert ask(target, alice.query(Fixed, target, broker="0" * 64)) == (400, "broker.wrong-audience")
    assert ask(target, alice.query(Fixed, target, time_s=1)) == (400, "broker.stale")
    assert ask(target, alice.query(Fixed, target, party=mallory.id)) == (400, "broker.party-mismatch")
    assert ask("/v1/capsules/nothing", alice.query(Fixed, "/v1/capsules/nothing"))[0] == 404


def test_the_owner_s_errors(process: Process, owner: Owner, sealed) -> None:
    with pytest.raises(BrokerError) as caught:
        owner.register("alice again")
    assert caught.value.code == "broker.party-exists"
    with pytest.raises(BrokerError) as caught:
        owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy="permit(")
    assert caught.value.code == "broker.policy-invalid"
    other = Owner(process.url, Identity.generate(), process.policy)
    with pytest.raises(MitaiError):
        other.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=ALLOW_ALL)
    with pytest.raises(BrokerError) as caught:
        other.revoke(sealed.capsule_id)
    assert caught.value.code == "broker.party-unknown"
    other.close()


def test_an_owner_refuses_another_workload(process: Process) -> None:
    from mitai.errors import AttestError

    serve_only = msgspec.structs.replace(
        process.policy, workloads=tuple(value for value in process.policy.workloads if value.name == "serve")
    )
    with pytest.raises(AttestError):
        Owner(process.url, Identity.generate(), serve_only)


class TestLyingBroker:
    """An owner's client against a broker that answers wrongly."""

    def owner(self, owner: Owner, answer: httpx2.Response | Exception) -> Owner:
        def handle(request: httpx2.Request) -> httpx2.Response:
            if isinstance(answer, Exception):
                raise answer
            return answer

        client = httpx2.Client(transport=httpx2.MockTransport(handle))
        return Owner("", owner.identity, owner.session.policy, session=owner.session, client=client)

    def test_too_large(self, owner: Owner) -> None:
        liar = self.owner(owner, httpx2.Response(200, content=b" " * ((16 << 20) + 1)))
        with pytest.raises(ClientError) as caught:
            liar.revoke()
        assert caught.value.code == "client.answer-too-large"

    def test_gone(self, owner: Owner) -> None:
        with pytest.raises(ClientError) as caught:
            self.owner(owner, httpx2.ReadError("gone")).revoke()
        assert caught.value.code == "client.unreachable"

    def test_nonsense(self, owner: Owner) -> None:
        with pytest.raises(MitaiError) as caught:
            self.owner(owner, httpx2.Response(200, content=b"{}")).revoke()
        assert caught.value.code == "broker.malformed"
        with pytest.raises(BrokerError) as caught:
            self.owner(owner, httpx2.Response(500, content=b"oops")).revoke()
        assert caught.value.code == "broker.refused"

    def test_an_index_that_is_not_covered(self, owner: Owner) -> None:
        answer = protocol.CommandAnswer(index=10**9, checkpoint=owner.ledger.checkpoint)
        with pytest.raises(BrokerError) as caught:
            self.owner(owner, httpx2.Response(200, content=protocol.encode(answer))).revoke()
        assert caught.value.code == "broker.answer-mismatch"

    def test_entries_that_are_not_in_the_ledger(self, owner: Owner) -> None:
        entry = protocol.LoggedEntry(0, b"{}", ())
        answer = protocol.DecisionsAnswer(entries=(entry,), checkpoint=owner.ledger.checkpoint)
        with pytest.raises(MitaiError):
            self.owner(owner, httpx2.Response(200, content=protocol.encode(answer))).decisions("c")

    def test_no_ledger_in_the_claims(self, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
        liar = self.owner(owner, httpx2.Response(200))

        class Bare:
            class appraisal:
                class claims:
                    ledger = None

        liar.session = Bare
        with pytest.raises(ClientError) as caught:
            liar.revoke()
        assert caught.value.code == "client.no-ledger"


def test_claims_say_what_the_broker_trusts(process: Process, owner: Owner) -> None:
    claims = owner.session.appraisal.claims
    assert claims.policies == (protocol.sha256_hex(process.policy.to_toml().encode()),)
    assert claims.extra["audience"] == owner._addressed()["broker"]


def test_z_stops_and_starts_again_with_the_same_ledger(process: Process, owner: Owner) -> None:
    size = httpx2.get(f"{process.url}/healthz").json()["ledger_size"]
    assert process.stop() == 0
    if installed_workload("broker") != process.measured:
        pytest.skip("the installed code was edited while this ran, so that it can't open the state any more")
    process.start()
    with httpx2.Client() as http:
        assert process.session(http).appraisal.claims.ledger.vkey == owner.ledger.vkey
    assert httpx2.get(f"{process.url}/healthz").json()["ledger_size"] == size
    text = (process.folder / "log").read_text()
    assert "Traceback" not in text
    assert "permit" not in text


class Pccs:
    """Intel's collateral for the simulated machine, over HTTP."""

    def __init__(self, sim: SimPlatform) -> None:
        self.service = SimIntel(sim)

    def answer(self, path: str, _body: bytes) -> Answer:
        name = "TCB-Info" if "/tcb?" in path else "SGX-Enclave-Identity" if "/qe/" in path else "SGX-PCK-CRL"
        body, chain = self.service.ask(Resource("crl", path))
        return Answer(body, {f"{name}-Issuer-Chain": quote(chain)})


def test_a_guest_of_confidential_containers(tmp_path: Path) -> None:
    sim = SimPlatform.create(tmp_path / "sim")
    source = tmp_path / "plain"
    source.mkdir()
    (source / "config.json").write_text("{}")
    with serving(Pccs(sim)) as services:
        broker = Process(tmp_path, sim, tmp_path / "sim", kbs=True, kbs_pccs=services.intel)
        owner = Owner(broker.url, Identity.generate(), broker.policy)
        try:
            owner.register("alice")
            made = seal(source, tmp_path / "sealed", owner=owner.identity, name="model", kind="model")
            owner.publish(made.capsule_id, made.envelope, made.data_key, policy=ALLOW_ALL, uses=1)
            guest = Guest(sim, measured=installed_workload("serve"))
            with httpx2.Client(base_url=broker.url) as http:
                challenge = http.post("/kbs/v0/auth", json=guest.request())
                attested = http.post("/kbs/v0/attest", json=guest.attestation(challenge.json()["nonce"]))
                assert attested.status_code == 200, attested.text
                answer = http.get(f"/kbs/v0/resource/capsule/{made.capsule_id}/raw")
            assert guest.open(answer.content) == made.data_key
            assert owner.capsule(made.capsule_id).grants[0].uses == 1
            stop = broker.stop()
        finally:
            owner.close()
            broker.close()
    assert stop == 0
    assert made.data_key.hex() not in (tmp_path / "log").read_text()
