"""Guests of Confidential Containers at the broker: what they get, and what nobody gets."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx2
import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette

from attest_tpm_lab import SoftTpm
from broker_rig import ALLOW_ALL, OTHER, SERVE, Party, Rig
from kbs_guest import Client, Guest, SimIntel, endorser, unb64url
from mitai.attest import Claims, verify
from mitai.attest.collateral import Resource, Services
from mitai.attest.nvidia import NvidiaRules
from mitai.attest.policy import ClaimRules, ReferenceValues
from mitai.attest.sim import SimPlatform, reference_values
from mitai.broker import __main__ as process
from mitai.broker.config import Config
from mitai.broker.kbs import sessions
from mitai.broker.kbs.app import kbs_routes
from mitai.broker.kbs.endorse import Endorser
from mitai.broker.kbs.sessions import MAX_CAPSULES, Kbs
from mitai.broker.policy import template
from mitai.broker.protocol import Budget, ReleasedKeys, decode
from mitai.broker.residency import Residency, sign_residency
from mitai.errors import AttestError, BrokerError, ParseError
from mitai.identity import Identity

Scenario = Callable[[Client, Kbs], Awaitable[None]]


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def play(
    rig: Rig, scenario: Scenario, guest: Guest | None = None, *, ticks: Ticks | None = None, **more: object
) -> None:
    """Run a scenario of one guest against the protocol's routes."""

    async def run() -> None:
        kbs = Kbs(rig.broker, endorser(rig.sim), monotonic=ticks or Ticks(), **more)
        transport = httpx2.ASGITransport(app=Starlette(routes=kbs_routes(kbs, read_within_s=0.2)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://broker") as http:
            await scenario(Client(http, guest or Guest(rig.sim)), kbs)

    asyncio.run(run())


def refused(answer: httpx2.Response, status: int, code: str) -> None:
    """Check an error of the protocol's form with our code in it."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"type", "detail"}
    assert answer.json()["type"].startswith("https://github.com/confidential-containers/kbs/errors/")
    assert answer.json()["detail"].endswith(f"[{code}]"), answer.text


# --- What guests get --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["P-256", "P-521", "2048"])
def test_a_guest_gets_a_capsules_key(ready: Rig, algorithm: str) -> None:
    sealed = ready.publish()
    guest = Guest(ready.sim, algorithm)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        challenge = await client.challenge()
        assert len(base64.b64decode(challenge.json()["nonce"])) == 32
        assert challenge.json()["extra-params"] == ""
        attested = await client.attest()
        assert attested.status_code == 200, attested.text
        answer = await client.resource(f"capsule/{sealed.capsule_id}/key")
        keys = decode(guest.open(answer.content), ReleasedKeys, 1 << 20)
        assert keys.keys[0].data_key == sealed.data_key
        assert keys.keys[0].manifest_sha256 == sealed.manifest_sha256
        assert keys.keys[0].owner == ready.alice.identity.public.raw
        assert sealed.data_key not in answer.content
        raw = await client.resource(f"capsule/{sealed.capsule_id}/raw")
        assert guest.open(raw.content) == sealed.data_key

    play(ready, scenario, guest)
    entry = ready.entries()[-1]
    assert entry["type"] == "release"
    assert entry["capsules"] == [sealed.capsule_id]
    assert (entry["workload"], entry["purpose"], entry["simulated"]) == ("serve", "inference", True)


def test_a_token_stands_for_the_cookie_and_says_what_was_found(ready: Rig) -> None:
    sealed = ready.publish()

    async def scenario(client: Client, _kbs: Kbs) -> None:
        token = (await client.attest()).json()["token"]
        claims = json.loads(unb64url(token.split(".")[1]))
        found = claims["submods"]["cpu0"]
        assert claims["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee"
        assert claims["exp"] - claims["iat"] == 300
        runtime = found["ear.veraison.annotated-evidence"]["runtime_data_claims"]
        assert runtime["tee-pubkey"] == client.guest.pubkey()
        client.http.cookies.clear()
        path = f"capsule/{sealed.capsule_id}/raw"
        refused(await client.resource(path), 401, "broker.kbs-session-unknown")
        answer = await client.resource(path, headers={"authorization": f"Bearer {token}"})
        assert client.guest.open(answer.content) == sealed.data_key

    play(ready, scenario)


def test_policies_see_where_a_guest_stands(ready: Rig, tmp_path: Path) -> None:
    auditor, now, folder = Identity.generate(), ready.clock(), tmp_path / "residency"
    folder.mkdir()
    ready.settings = replace(ready.settings, residency=folder)
    ready.reopen()
    here = ALLOW_ALL + template("residency", auditor=auditor.key_id, countries="DE")
    path = f"capsule/{ready.publish(here).capsule_id}/raw"
    machine = verify(ready.process().evidence(bytes(32)), ready.policy, nonce=bytes(32), now=now).machine.platform

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        refused(await client.resource(path), 403, "broker.policy-denied")
        said = Residency("DE", now, now + timedelta(days=1))
        (folder / "here.json").write_bytes(sign_residency(said, [machine], auditor))
        await client.attest()
        assert (await client.resource(path)).status_code == 200

    play(ready, scenario)


def test_asking_again_spends_nothing(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=1))
    before = len(ready.entries())

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        path = f"capsule/{sealed.capsule_id}"
        answers = await asyncio.gather(*(client.resource(f"{path}/{tag}") for tag in ("raw", "key", "raw")))
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        await client.attest()  # a new session is a new use
        refused(await client.resource(f"{path}/raw"), 403, "broker.budget-exhausted")
        refused(await client.resource(f"{path}/raw"), 403, "broker.budget-exhausted")

    play(ready, scenario)
    assert [entry["type"] for entry in ready.entries()[before:]] == ["release", "denial"]


def test_every_owners_policy_is_asked_and_sees_the_protocol(ready: Rig) -> None:
    closed = ready.publish(
        policy=ALLOW_ALL + 'forbid(principal,action,resource) when { context.parameters.contains("protocol=kbs") };'
    )
    bob = Party("bob")
    ready.register(bob)
    shared = ready.publish(co_owners=(bob.id,))

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        refused(await client.resource(f"capsule/{closed.capsule_id}/key"), 403, "broker.policy-denied")
        refused(await client.resource(f"capsule/{shared.capsule_id}/key"), 403, "broker.policy-missing")

    play(ready, scenario)


def test_a_revocation_counts_in_a_session_that_is_open(ready: Rig) -> None:
    sealed = ready.publish()

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        await ready.broker.command(ready.alice.revocation(ready, sealed.capsule_id))
        refused(await client.resource(f"capsule/{sealed.capsule_id}/raw"), 403, "broker.revoked")

    play(ready, scenario)


class Liar(SimIntel):
    """A service that answers with what another machine signed."""

    def ask(self, resource: Resource) -> tuple[bytes, str]:
        body, chain = super().ask(resource)
        return body.replace(b"UpToDate", b"upToDate"), chain


class Away(SimIntel):
    """A service that is gone."""

    def ask(self, resource: Resource) -> tuple[bytes, str]:
        raise AttestError("attest.collateral-unavailable", f"{resource.kind} did not come in time")


@pytest.mark.parametrize(
    ("service", "code"),
    [(SimIntel, ""), (Liar, "attest.tcb-info-signature-invalid"), (Away, "attest.collateral-unavailable")],
)
def test_collateral_is_asked_for(ready: Rig, service: type[SimIntel], code: str) -> None:
    async def scenario(client: Client, kbs: Kbs) -> None:
        kbs._endorse = Endorser(Services(), service(ready.sim))
        attested = await client.attest()
        if code:
            refused(attested, 401, code)
        else:
            assert attested.status_code == 200, attested.text

    play(ready, scenario)


class TpmGuest(Guest):
    """A guest with nothing but a TPM, whose attestation key the policy pins."""

    tpm = SoftTpm()

    def request(self, **changes: object) -> dict[str, object]:
        return super().request(tee="tpm", **changes)

    def evidence(self, report_data: bytes) -> dict[str, object]:
        quoted = self.tpm.attest(report_data)
        quote = {"message": list(quoted), "signature": list(self.tpm.sign(quoted))}
        values = [value.hex() for value in self.tpm.values()]
        return {"tpm_quote": quote | {"pcrs": values}, "ak_public": base64.b64encode(self.tpm.spki()).decode()}


def test_a_guest_with_a_tpm(ready: Rig) -> None:
    sealed, tpm = ready.publish(), TpmGuest.tpm
    registers = {f"pcr{number}": tpm.values()[number].hex() for number in (4, 7, 9, 11)}
    policy = tpm.policy(aks=(tpm.key_pin,))
    policy = msgspec.structs.replace(policy, workloads=(ReferenceValues("coco-guest", registers, tee="tpm"),))
    ready.broker.trusted = replace(ready.broker.trusted, policy=policy)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        attested = await client.attest()
        assert attested.status_code == 200, attested.text
        answer = await client.resource(f"capsule/{sealed.capsule_id}/raw")
        assert client.guest.open(answer.content) == sealed.data_key

    play(ready, scenario, TpmGuest(ready.sim))
    assert ready.entries()[-1]["workload"] == "coco-guest"


# --- Who gets nothing -------------------------------------------------------------------------------------------------


def test_a_relayed_quote_with_another_key_is_refused(ready: Rig) -> None:
    thief = Guest(ready.sim)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        nonce = (await client.challenge()).json()["nonce"]
        honest = client.guest.attestation(nonce)
        stolen = honest | {"runtime-data": {"nonce": nonce, "tee-pubkey": thief.pubkey()}}
        refused(await client.http.post("/kbs/v0/attest", json=stolen), 401, "attest.report-data-mismatch")
        assert (await client.http.post("/kbs/v0/attest", json=honest)).status_code == 200  # the nonce was given back

    play(ready, scenario)


def test_evidence_of_another_nonce_or_for_another_protocol_is_refused(ready: Rig) -> None:
    async def scenario(client: Client, _kbs: Kbs) -> None:
        old = (await client.challenge()).json()["nonce"]
        nonce = (await client.challenge()).json()["nonce"]
        answer = await client.http.post("/kbs/v0/attest", json=client.guest.attestation(old))
        refused(answer, 401, "attest.nonce-mismatch")
        replayed = client.guest.attestation(old)
        replayed["runtime-data"]["nonce"] = nonce
        answer = await client.http.post("/kbs/v0/attest", json=replayed)
        refused(answer, 401, "attest.report-data-mismatch")
        ours = ready.process().evidence(base64.b64decode(nonce))  # a mitai workload's own evidence
        message = client.guest.attestation(nonce)
        message["tee-evidence"]["primary_evidence"] = {"quote": base64.b64encode(ours.quote).decode()}
        answer = await client.http.post("/kbs/v0/attest", json=message)
        refused(answer, 401, "attest.report-data-mismatch")

    play(ready, scenario)


def test_a_nonce_begins_one_session(ready: Rig) -> None:
    async def scenario(client: Client, _kbs: Kbs) -> None:
        nonce = (await client.challenge()).json()["nonce"]
        body = json.dumps(client.guest.attestation(nonce))
        first = await client.http.post("/kbs/v0/attest", content=body)
        again = await client.http.post("/kbs/v0/attest", content=body)
        assert again.content == first.content
        other = await client.http.post("/kbs/v0/attest", content=body + " ")
        refused(other, 401, "broker.nonce-used")

    play(ready, scenario)


def test_the_same_attestation_twice_at_once_is_verified_once(ready: Rig) -> None:
    async def scenario(client: Client, kbs: Kbs) -> None:
        nonce = (await client.challenge()).json()["nonce"]
        body = json.dumps(client.guest.attestation(nonce))
        answers = await asyncio.gather(*(client.http.post("/kbs/v0/attest", content=body) for _ in range(3)))
        assert len({answer.content for answer in answers}) == 1
        assert len(kbs._sessions) == 1

    play(ready, scenario)


def test_nonces_and_sessions_end(ready: Rig) -> None:
    sealed, ticks = ready.publish(), Ticks()

    async def scenario(client: Client, _kbs: Kbs) -> None:
        nonce = (await client.challenge()).json()["nonce"]
        ticks.now += 61
        answer = await client.http.post("/kbs/v0/attest", json=client.guest.attestation(nonce))
        refused(answer, 401, "broker.nonce-unknown")
        token = (await client.attest()).json()["token"]
        ticks.now += 299
        path = f"capsule/{sealed.capsule_id}/raw"
        assert (await client.resource(path)).status_code == 200
        ticks.now += 2
        refused(await client.resource(path), 401, "broker.kbs-session-unknown")
        answer = await client.resource(path, headers={"authorization": f"Bearer {token}"})
        refused(answer, 401, "broker.kbs-session-unknown")
        token = (await client.attest()).json()["token"]
        ready.clock.ahead = timedelta(minutes=10)  # the token's own end
        answer = await client.resource(path, headers={"authorization": f"Bearer {token}"})
        refused(answer, 401, "broker.kbs-session-unknown")

    play(ready, scenario, ticks=ticks)


def test_a_session_ends_with_its_collateral(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, verify = Ticks(), sessions.verify_hardware

    def ending(*given: object, now: object, **more: object) -> object:
        return replace(verify(*given, now=now, **more), not_after=now + timedelta(seconds=10))

    monkeypatch.setattr(sessions, "verify_hardware", ending)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        refused(await client.resource("other/type/tag"), 404, "broker.kbs-resource-unknown")
        ticks.now += 11
        refused(await client.resource("other/type/tag"), 401, "broker.kbs-session-unknown")

    play(ready, scenario, ticks=ticks)


@pytest.mark.parametrize("cookie", ["", "kbs", f"{'0' * 64}.tdx", f"{'0' * 64}.sample", f"{'0' * 63}.tdx", "é"])
def test_cookies_of_nobody(ready: Rig, cookie: str) -> None:
    async def scenario(client: Client, _kbs: Kbs) -> None:
        header = {"cookie": f"kbs-session-id={cookie}".encode()}
        refused(await client.resource("capsule/a/raw", headers=header), 401, "broker.kbs-session-unknown")
        body = json.dumps(client.guest.attestation(base64.b64encode(bytes(32)).decode()))
        answer = await client.http.post("/kbs/v0/attest", content=body, headers=header)
        known = "broker.nonce-unknown" if cookie == f"{'0' * 64}.tdx" else "broker.kbs-session-unknown"
        refused(answer, 401, known)

    play(ready, scenario)


def test_a_cookie_before_attestation_opens_nothing(ready: Rig) -> None:
    sealed = ready.publish()

    async def scenario(client: Client, kbs: Kbs) -> None:
        for _ in range(50):
            await client.challenge()
        assert not kbs._sessions
        refused(await client.resource(f"capsule/{sealed.capsule_id}/raw"), 401, "broker.kbs-session-unknown")

    play(ready, scenario)


def test_tokens_of_others_and_forged_ones(ready: Rig) -> None:
    async def scenario(client: Client, kbs: Kbs) -> None:
        token = (await client.attest()).json()["token"]
        elsewhere = Kbs(ready.broker, endorser(ready.sim))  # the same broker after a restart
        header, payload, _ = token.split(".")
        key = ECKey.generate_key("P-256", private=True)
        claims = unb64url(payload)
        forged = [
            token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
            jws.serialize_compact({"alg": "ES256", "kid": kbs._trust.keys[0]["kid"]}, claims, key),
            jws.serialize_compact({"alg": "ES256", "jwk": key.as_dict(private=False)}, claims, key),
            f"eyJhbGciOiJub25lIn0.{payload}.",  # {"alg":"none"}
            f"{header}.{payload}",
            "x",
        ]
        for text in forged:
            answer = await client.resource("capsule/a/raw", headers={"authorization": f"Bearer {text}"})
            refused(answer, 401, "broker.kbs-session-unknown")
        elsewhere._sessions.update(kbs._sessions)
        with pytest.raises(Exception, match="no such session"):
            elsewhere._session(sessions.Credential(token=token))

    play(ready, scenario)


def test_a_guest_opens_only_what_is_sealed_to_it(ready: Rig) -> None:
    sealed = ready.publish()

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        answer = await client.resource(f"capsule/{sealed.capsule_id}/raw")
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever joserfc raises
            Guest(ready.sim).open(answer.content)

    play(ready, scenario)


def test_other_code_and_code_of_two_names(ready: Rig) -> None:
    async def other(client: Client, _kbs: Kbs) -> None:
        refused(await client.attest(), 401, "attest.measurement-mismatch")

    play(ready, other, Guest(ready.sim, measured=OTHER))
    values = reference_values(SERVE)
    twice = msgspec.structs.replace(values, name="another")
    ready.broker.trusted = replace(
        ready.broker.trusted, policy=msgspec.structs.replace(ready.policy, workloads=(values, twice))
    )

    async def ambiguous(client: Client, _kbs: Kbs) -> None:
        refused(await client.attest(), 401, "attest.workload-unknown")

    play(ready, ambiguous)
    ready.broker.trusted = replace(ready.broker.trusted, policy=msgspec.structs.replace(ready.policy, workloads=()))
    play(ready, ambiguous)


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": ClaimRules(policies=("0" * 64,))},
        {"nvidia": NvidiaRules(min_gpus=1)},
        {"nvidia": NvidiaRules(min_switches=1)},
    ],
)
def test_a_policy_that_demands_what_guests_cant_show(ready: Rig, changes: dict[str, object]) -> None:
    ready.broker.trusted = replace(ready.broker.trusted, policy=msgspec.structs.replace(ready.policy, **changes))
    with pytest.raises(BrokerError) as refusal:
        Kbs(ready.broker, endorser(ready.sim))
    assert refusal.value.code == "broker.kbs-policy"


# --- Bounds -----------------------------------------------------------------------------------------------------------


def test_sessions_are_bounded_in_number_and_capsules(ready: Rig) -> None:
    async def scenario(client: Client, kbs: Kbs) -> None:
        tokens = [(await client.attest()).json()["token"] for _ in range(3)]
        assert len(kbs._sessions) == 2
        first = await client.resource("capsule/none/raw", headers={"authorization": f"Bearer {tokens[0]}"})
        refused(first, 401, "broker.kbs-session-unknown")
        for number in range(MAX_CAPSULES):
            answer = await client.resource(f"capsule/none{number}/raw")
            assert answer.status_code == 404
            assert "[broker.capsule-unknown]" in answer.text
        refused(await client.resource("capsule/one-more/raw"), 429, "broker.rate-limited")

    play(ready, scenario, max_sessions=2)


def test_too_many_guests_at_once(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_WAITING", 0)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        refused(await client.attest(), 503, "broker.busy")

    play(ready, scenario)


@pytest.mark.parametrize(
    "path",
    [
        "default/key/tag",
        "capsule/a/policy",
        "capsule/..%2f..%2fetc/raw",
        "capsule/-a/raw",
        "capsule/a%00/raw",
        "capsule/a%0a/raw",
        f"capsule/{'a' * 129}/raw",
        "Capsule/a/raw",
    ],
)
def test_paths_that_are_no_resources(ready: Rig, path: str) -> None:
    async def scenario(client: Client, _kbs: Kbs) -> None:
        before = len(ready.entries())
        await client.attest()
        answer = await client.resource(path)
        assert answer.status_code == 404
        assert len(ready.entries()) == before

    play(ready, scenario)


def test_bodies_too_large_too_slow_or_broken(ready: Rig) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        post = client.http.post
        refused(await post("/kbs/v0/auth", content=b" " * (64 << 10) + b"{}"), 413, "broker.too-large")
        refused(await post("/kbs/v0/attest", content=b" " * (4 << 20) + b"{}"), 413, "broker.too-large")
        refused(await post("/kbs/v0/auth", content=slow()), 408, "broker.too-slow")
        for body in (b"", b"{}", b"[" * 9999, b"\xff", json.dumps(client.guest.request() | {"more": 1}).encode()):
            refused(await post("/kbs/v0/auth", content=body), 401, "broker.kbs-malformed")
        for version in ("0.1.1", "0.3.0", "0.4.1", "1.0.0", ""):
            refused(await client.challenge(version=version), 401, "broker.kbs-version")
        for tee in ("sample", "sampledevice", "se", "csv", "nvidia", "TDX"):
            refused(await client.challenge(tee=tee), 401, "broker.kbs-malformed")
        composite = {"primary_evidence": {}, "additional_evidence": '{"nvidia":{}}'}
        refused(await client.attest(**{"tee-evidence": composite}), 401, "broker.kbs-malformed")
        assert (await client.http.get("/kbs/v0/auth")).status_code == 405

    play(ready, scenario)


def test_what_could_not_be_decided_may_be_asked_again(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed, release = ready.publish(), ready.broker.release_proven

    async def scenario(client: Client, kbs: Kbs) -> None:
        await client.attest()
        path = f"capsule/{sealed.capsule_id}/raw"

        async def busy(*_given: object) -> None:
            raise BrokerError("broker.clock-behind", "not now")

        async def broken(*_given: object) -> None:
            raise RuntimeError("a secret of the machine")

        monkeypatch.setattr(ready.broker, "release_proven", busy)
        refused(await client.resource(path), 503, "broker.clock-behind")
        monkeypatch.setattr(ready.broker, "release_proven", broken)
        refused(await client.resource(path), 500, "broker.internal")
        assert "secret" not in (await client.resource(path)).text
        monkeypatch.setattr(ready.broker, "release_proven", release)
        assert (await client.resource(path)).status_code == 200
        monkeypatch.setattr(kbs, "_endorse", lambda _hardware: 1 / 0)
        refused(await client.attest(), 500, "broker.internal")

    play(ready, scenario)


def test_the_decision_goes_on_when_its_caller_leaves(ready: Rig) -> None:
    sealed = ready.publish()

    async def scenario(client: Client, kbs: Kbs) -> None:
        await client.attest()
        nonce = next(iter(kbs._sessions))
        asking = asyncio.create_task(
            kbs.resource(sessions.Credential(cookie=f"{nonce.hex()}.tdx"), "capsule", sealed.capsule_id, "raw")
        )
        await asyncio.sleep(0)
        asking.cancel()
        assert (await client.resource(f"capsule/{sealed.capsule_id}/raw")).status_code == 200

    play(ready, scenario)
    assert [entry["type"] for entry in ready.entries()].count("release") == 1


# --- The process ------------------------------------------------------------------------------------------------------


def test_off_by_default_and_shown_in_the_claims(ready: Rig, sim: SimPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Claims] = []
    monkeypatch.setattr(process.Workload, "__init__", lambda self, attester, keyring, claims: shown.append(claims()))
    monkeypatch.setattr(process.Workload, "app", lambda self, inner, public, **more: Starlette(routes=public))
    fields = {"state": "", "publish": str(ready.settings.publish_folder), "policy": ""}
    for more, status in (({}, 404), ({"kbs": True}, 401), ({"kbs": True, "kbs_pccs": "https://pccs.example"}, 401)):
        app = process.build_app(ready.broker, sim.attester(SERVE), ready.policy, Config(**fields, **more))

        async def ask(app: object = app) -> int:
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://broker") as http:
                return (await http.post("/kbs/v0/auth", content=b"{}")).status_code

        assert asyncio.run(ask()) == status
    assert [claims.extra.get("kbs") for claims in shown] == [None, "0.4.0", "0.4.0"]


def test_the_process_says_why_it_does_not_start(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "own_attester", lambda *_given, **_more: rig.sim.attester(SERVE))
    monkeypatch.setattr(process, "log_to_stderr", lambda: None)
    monkeypatch.setattr(process, "forbid_core_dumps", lambda: None)
    monkeypatch.setattr(process.signal, "signal", lambda *_given: None)
    policy = msgspec.structs.replace(rig.policy, claims=ClaimRules(policies=("0" * 64,)))
    (tmp_path / "policy.toml").write_text(policy.to_toml())
    lines = f'state = "sqlite:///{tmp_path}/new.db"\npublish = "{tmp_path}/new"\npolicy = "{tmp_path}/policy.toml"\n'
    (tmp_path / "broker.toml").write_text(lines + "kbs = true\n")
    assert process.main(["--config", str(tmp_path / "broker.toml")]) == 1
    assert "broker.kbs-policy" in capsys.readouterr().err


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('state = ""\npublish = ""\npolicy = ""\nkbs_pccs = "ftp://x"\n')
    with pytest.raises(ParseError) as refusal:
        Config.read(file)
    assert refusal.value.code == "broker.config-malformed"


def test_a_database_that_is_away(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_given: object) -> None:
        raise OperationalError("SELECT a secret", {}, Exception("gone"))

    monkeypatch.setattr(ready.broker, "release_proven", away)

    async def scenario(client: Client, _kbs: Kbs) -> None:
        await client.attest()
        answer = await client.resource("capsule/a/raw")
        refused(answer, 503, "broker.storage")
        assert "secret" not in answer.text

    play(ready, scenario)
