"""The broker's HTTP apps in this process: inner routes, public routes, the whole process's app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import msgspec
import pytest
import structlog
from starlette.applications import Starlette

from broker_rig import ALLOW_ALL, BROKER, OTHER, Party, Rig
from mitai.attest import Claims
from mitai.broker import __main__ as process
from mitai.broker import protocol
from mitai.broker.app import create_app, public_routes
from mitai.broker.commands import Limits
from mitai.broker.config import Config
from mitai.broker.service import Broker
from mitai.errors import BrokerError, DeniedError, MitaiError
from mitai.identity import Identity
from mitai.ledger import Receipt, ReceiptBundle, verify_receipt
from mitai.ledger.receipt import Usage


def ask(app: object, method: str, path: str, **more: object) -> httpx2.Response:
    async def once() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://broker") as client:
            return await client.request(method, path, **more)

    return asyncio.run(once())


def test_a_release_over_http(ready: Rig) -> None:
    sealed = ready.publish()
    app = create_app(ready.broker)
    assert ask(app, "POST", "/v1/challenge").status_code == 200
    request = ready.request(sealed.capsule_id)
    answer = ask(app, "POST", "/v1/release", content=request.body)
    assert answer.headers["cache-control"] == "no-store"
    assert request.open(answer.content, ready.keyring)[0].data_key == sealed.data_key
    refused = ask(app, "POST", "/v1/release", content=ready.request(sealed.capsule_id, measured=OTHER).body)
    assert refused.status_code == 403
    assert refused.json()["code"] == "broker.evidence-refused:attest.measurement-mismatch"


def test_commands_and_queries_over_http(ready: Rig) -> None:
    app = create_app(ready.broker)
    sealed = ready.seal()
    body = ready.alice.publication(ready, sealed)
    first = ask(app, "POST", "/v1/commands", content=body)
    assert (first.status_code, ask(app, "POST", "/v1/commands", content=body).json()) == (200, first.json())
    ready.send(ready.alice.policy(ready, sealed.capsule_id))
    again = ask(app, "POST", "/v1/commands", content=body)
    assert (again.status_code, again.json()["code"]) == (409, "broker.replayed")
    for target in (f"/v1/capsules/{sealed.capsule_id}", f"/v1/decisions?capsule={sealed.capsule_id}"):
        header = {protocol.QUERY_HEADER: ready.alice.query(ready, target)}
        assert ask(app, "GET", target, headers=header).status_code == 200
        other = {protocol.QUERY_HEADER: ready.alice.query(ready, "/v1/other")}
        assert ask(app, "GET", target, headers=other).json()["code"] == "broker.query-mismatch"
        assert ask(app, "GET", target, headers={protocol.QUERY_HEADER: "?"}).json()["code"] == "broker.malformed"
        assert ask(app, "GET", target).status_code == 400
    unknown = "/v1/capsules/unknown"
    header = {protocol.QUERY_HEADER: ready.alice.query(ready, unknown)}
    assert ask(app, "GET", unknown, headers=header).status_code == 404
    assert ask(app, "GET", "/v1/proof?index=0").status_code == 200
    assert ask(app, "GET", "/v1/proof?index=99").status_code == 404
    assert ask(app, "GET", "/v1/proof?index=x").status_code == 400


def listed(rig: Rig, party: Party, page: int = 0) -> dict[str, object]:
    target = f"/v1/capsules?page={page}"
    header = {protocol.QUERY_HEADER: party.query(rig, target)}
    return ask(create_app(rig.broker), "GET", target, headers=header).json()


def test_a_party_lists_its_own_capsules(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("protocol", "commands"):
        monkeypatch.setattr(f"mitai.broker.{module}.CAPSULES_PER_PAGE", 2)
    bob, mallory = Party("bob"), Party("mallory")
    ready.register(bob)
    ready.register(mallory)
    assert listed(ready, ready.alice) == {"v": 1, "name": "alice", "revoked": False, "capsules": [], "total": 0}
    shared = ready.publish(co_owners=(bob.id,)).capsule_id
    own = [ready.publish().capsule_id, ready.publish().capsule_id]
    ready.reopen()  # it is in the sealed state
    assert listed(ready, ready.alice)["capsules"] == [shared, own[0]]
    assert listed(ready, ready.alice, 1) | {"name": ""} == {
        "v": 1,
        "name": "",
        "revoked": False,
        "capsules": [own[1]],
        "total": 3,
    }
    assert listed(ready, ready.alice, 2)["capsules"] == []
    assert (listed(ready, bob)["capsules"], listed(ready, bob)["total"]) == ([shared], 1)
    assert listed(ready, mallory)["capsules"] == []
    ready.send(ready.alice.revocation(ready))
    assert (listed(ready, ready.alice)["revoked"], listed(ready, ready.alice)["total"]) == (True, 3)


def test_a_list_of_capsules_is_refused(ready: Rig) -> None:
    app, sealed = create_app(ready.broker), ready.seal()
    stranger, target = Party("stranger"), "/v1/capsules?page=0"
    assert listed(ready, stranger)["code"] == "broker.party-unknown"
    for path in ("/v1/capsules?page=1", "/v1/capsules", "/v1/capsules?page=00", f"/v1/capsules/{sealed.capsule_id}"):
        header = {protocol.QUERY_HEADER: ready.alice.query(ready, path)}
        assert ask(app, "GET", target, headers=header).json()["code"] == "broker.query-mismatch"
    for path in ("/v1/capsules", "/v1/capsules?page=", "/v1/capsules?page=-1", "/v1/capsules?page=" + "9" * 19):
        header = {protocol.QUERY_HEADER: ready.alice.query(ready, path)}
        assert ask(app, "GET", path, headers=header).json()["code"] == "broker.malformed"
    refused = ready.alice.publication(ready, sealed, co_owners=(stranger.id,))
    assert ask(app, "POST", "/v1/commands", content=refused).json()["code"] == "broker.party-unknown"
    assert listed(ready, ready.alice)["total"] == 0  # what was refused is not listed


def test_limits_and_methods(ready: Rig) -> None:
    app = create_app(ready.broker)
    large = ask(app, "POST", "/v1/challenge", content=b" " * 2000)
    assert (large.status_code, large.json()["code"]) == (413, "broker.too-large")
    assert ask(app, "GET", "/v1/release").status_code == 405
    assert ask(app, "GET", "/").json()["code"] == "broker.not-found"


def test_held_bodies_are_bounded(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mitai.broker.app.MAX_HELD_BYTES", 5000)
    app = create_app(ready.broker)
    for _ in range(2):  # what was refused is not held any more
        busy = ask(app, "POST", "/v1/commands", content=b" " * 6000)
        assert (busy.status_code, busy.json()["code"]) == (503, "broker.busy")
        assert ask(app, "POST", "/v1/commands", content=b" " * 4000).json()["code"] == "broker.malformed"


def test_a_defect_gives_a_problem_document_and_no_traceback(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Broker) -> bytes:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Broker, "challenge", broken)
    answer = ask(create_app(ready.broker), "POST", "/v1/challenge")
    assert (answer.status_code, answer.json()["code"]) == (500, "broker.internal")
    assert "secret" not in answer.text


def test_a_defect_in_a_release_ends_it(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("a secret")

    sealed = ready.publish()
    monkeypatch.setattr("mitai.broker.service.seal_answer", broken)
    with pytest.raises(BrokerError) as caught:
        ready.release(sealed.capsule_id)
    assert caught.value.code == "broker.internal"


def test_large_work_runs_on_a_thread(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mitai.broker.service.LARGE_BYTES", 0)
    sealed = ready.publish()
    assert ready.release(sealed.capsule_id)


def test_public_routes(ready: Rig) -> None:
    app = Starlette(routes=public_routes(ready.broker, ready.settings.publish_folder))
    assert ask(app, "GET", "/healthz").json() == {"status": "ok", "ledger_size": 1}
    ready.broker.close()  # publishes
    note = ask(app, "GET", "/ledger/checkpoint")
    assert note.text.startswith("test.mitai/ledger\n1\n")
    assert ask(app, "GET", "/ledger/tile/0/000.p/1").headers["cache-control"].startswith("public")
    assert ask(app, "GET", "/ledger/tile/0/000.p/2").status_code == 404
    assert ask(app, "GET", "/ledger/../state.db").status_code == 404
    ready.open()


def receipt(number: int, receipt_key: Identity) -> bytes:
    return Receipt(
        exchange=f"exchange-{number}",
        request_sha256="0" * 64,
        response_sha256="1" * 64,
        model="demo",
        capsules=(),
        policies=(),
        usage=Usage(prompt_tokens=1, completion_tokens=2),
        evidence_sha256="2" * 64,
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:01Z",
    ).sign(receipt_key)


def test_receipts(ready: Rig) -> None:
    app = create_app(ready.broker)
    receipts = tuple(receipt(number, ready.receipt_key) for number in range(3))
    body = protocol.encode(protocol.ReceiptsRequest(receipt_key=ready.receipt_key.public.raw, receipts=receipts))
    early = ask(app, "POST", "/v1/receipts", content=body)
    assert (early.status_code, early.json()["code"]) == (403, "broker.replica-unknown")
    ready.release(ready.publish().capsule_id)
    first = protocol.decode(ask(app, "POST", "/v1/receipts", content=body).content, protocol.ReceiptsAnswer, 1 << 20)
    for envelope, logged in zip(receipts, first.entries, strict=True):
        bundle = ReceiptBundle(
            envelope=envelope,
            entry=logged.entry,
            index=logged.index,
            proof=logged.proof,
            checkpoint=first.checkpoint.decode(),
        )
        verify_receipt(bundle, receipt_key=ready.receipt_key.public, ledger_vkey=ready.broker.vkey)
    again = protocol.decode(ask(app, "POST", "/v1/receipts", content=body).content, protocol.ReceiptsAnswer, 1 << 20)
    assert [entry.index for entry in again.entries] == [entry.index for entry in first.entries]
    ready.reopen()  # the replica is still known
    assert ask(create_app(ready.broker), "POST", "/v1/receipts", content=body).status_code == 200


def test_replicas_are_bounded_and_may_have_no_receipt_key(tmp_path, sim) -> None:
    rig = Rig(tmp_path, sim, limits=Limits(replicas=1))
    try:
        rig.register()
        sealed = rig.publish()
        rig.release(sealed.capsule_id)
        rig.receipt_key = Identity.generate()
        with pytest.raises(BrokerError) as caught:
            rig.release(sealed.capsule_id)
        assert caught.value.code == "broker.full"
        bare = rig.process()
        bare._claims = lambda: Claims(workload="serve", key_config=b"")
        rig.process = lambda measured: bare
        assert rig.release(sealed.capsule_id)
    finally:
        rig.close()


def test_manifests_must_fit_into_one_answer(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = ready.publish()
    monkeypatch.setattr("mitai.broker.release.MAX_MANIFESTS_BYTES", len(sealed.envelope) - 1)
    with pytest.raises(MitaiError) as caught:
        ready.release(sealed.capsule_id)
    assert caught.value.code == "broker.answer-too-large"


def test_a_release_asks_a_bounded_number_of_policies_and_a_refusal_is_logged_all_the_same(
    ready: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mitai.broker.release.MAX_POLICIES", 1)
    model, data = ready.publish(), ready.publish(policy=f"// another\n{ALLOW_ALL}")
    size = ready.broker.size
    with pytest.raises(BrokerError) as caught:
        ready.release(model.capsule_id, data.capsule_id)
    assert (caught.value.code, ready.broker.size) == ("broker.too-many-policies", size)
    ready.send(ready.alice.policy(ready, data.capsule_id, "forbid(principal, action, resource);"))
    with pytest.raises(DeniedError) as denied:
        ready.release(model.capsule_id, data.capsule_id)
    assert denied.value.code == "broker.policy-denied"
    assert (ready.entries()[-1]["type"], len(ready.entries()[-1]["policies"])) == ("denial", 1)


def test_no_policy_is_looked_up_for_who_proves_nothing(ready: Rig) -> None:
    sealed = ready.publish()
    with pytest.raises(DeniedError) as caught:
        ready.release(sealed.capsule_id, measured=OTHER)
    assert caught.value.code.startswith("broker.evidence-refused:")
    assert ready.entries()[-1]["policies"] == []


def test_compiled_policies_are_bounded(ready: Rig) -> None:
    ready.broker._policies._room = 60  # bytes: room for one of them
    one, two = ready.publish(), ready.publish("permit(principal, action, resource); // two")
    for _ in range(2):
        assert ready.release(one.capsule_id)
        assert ready.release(two.capsule_id)
    assert len(ready.broker._policies._compiled) == 1


@pytest.fixture
def served(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """`main` with everything real but the socket."""
    ready.broker.close()
    (ready.folder / "policy.toml").write_text(ready.policy.to_toml())
    config = {
        "state": ready.settings.state_url,
        "publish": str(ready.settings.publish_folder),
        "policy": str(ready.folder / "policy.toml"),
        "sim": "a folder",
        "origin": ready.settings.origin,
    }
    path = ready.folder / "broker.toml"
    path.write_text("\n".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in config.items()))
    monkeypatch.setattr(process, "own_attester", lambda name, *, sim: ready.sim.attester(BROKER))
    monkeypatch.setattr(process.signal, "signal", lambda number, handler: None)
    yield lambda: process.main(["--config", str(path)])
    structlog.reset_defaults()
    ready.open()


def test_main_serves_evidence_with_the_ledger_and_the_policy(served: Callable, ready: Rig, monkeypatch) -> None:
    seen: list[httpx2.Response] = []

    def run(app: object, **_: object) -> None:
        seen.append(ask(app, "GET", "/.well-known/mitai/evidence", params={"nonce": "0" * 64}))
        seen.append(ask(app, "GET", "/healthz"))
        seen.append(ask(app, "POST", "/v1/challenge"))

    monkeypatch.setattr(process.uvicorn, "run", run)
    assert served() == 0
    evidence, health, clear = seen
    from mitai.attest import Evidence

    claims = Claims.decode(Evidence.decode(evidence.content).claims)
    assert claims.workload == "broker"
    assert claims.ledger.vkey == ready.broker.vkey
    assert claims.policies == (protocol.sha256_hex(ready.policy.to_toml().encode()),)
    assert claims.extra == {"witnesses": "", "audience": ready.broker.audience, "epoch": "1", "shown": "anybody"}
    assert (health.status_code, clear.status_code) == (200, 404)


def test_witnesses_are_claimed(ready: Rig) -> None:
    from dataclasses import replace

    from mitai.broker.anchor import Witness

    ready.broker.settings = replace(ready.settings, witnesses=(Witness("http://a"), Witness("http://b", "b+00+AA")))
    assert ready.broker.witnesses == ("http://a", "b+00+AA")


def test_a_state_half_removed_is_noticed(ready: Rig) -> None:
    import sqlite3

    ready.broker.close()
    with sqlite3.connect(ready.folder / "state.db") as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM broker_singles")
        connection.execute("DELETE FROM broker_singles WHERE name = 'ledger-key'")
    with pytest.raises(BrokerError) as caught:
        ready.open()
    assert caught.value.code == "broker.head-missing"
    with sqlite3.connect(ready.folder / "state.db") as connection:
        connection.execute("INSERT OR IGNORE INTO broker_singles SELECT * FROM kept")
    ready.open()


def test_a_broker_that_lost_committed_entries_stops_deciding(ready: Rig) -> None:
    """Between two commits, the database is replaced by an older one that is consistent in itself."""
    writer = ready.broker._writer
    older = ready.broker._database.load()
    ready.publish()
    database = writer._database
    writer._state = None
    writer._database = type("Older", (), {"take_over": staticmethod(lambda: older)})()
    with pytest.raises(BrokerError) as caught:
        ready.publish()
    assert caught.value.code == "broker.state-lost"
    writer._database = database


def test_the_channel_s_key_is_replaced(ready: Rig) -> None:
    """Over the life of the process's app: what was verified before, a client verifies again."""
    config = Config(state="", publish=str(ready.settings.publish_folder), policy="", rotate_s=0.01)
    app = process.build_app(ready.broker, ready.sim.attester(BROKER), ready.policy, config)
    keys = set()

    async def live() -> None:
        messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        started = asyncio.Event()

        async def send(message: dict[str, str]) -> None:
            if message["type"] == "lifespan.startup.complete":
                started.set()

        await messages.put({"type": "lifespan.startup"})
        running = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, messages.get, send))
        await started.wait()
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://broker") as client:
            for _ in range(3):
                keys.add((await client.get("/.well-known/hpke-keys")).content)
                await asyncio.sleep(0.05)
        await messages.put({"type": "lifespan.shutdown"})
        await running

    asyncio.run(live())
    assert len(keys) == 3
