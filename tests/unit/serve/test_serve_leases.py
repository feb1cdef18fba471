"""What is served ends with the right to serve it: revoked, expired, or out of the broker's reach."""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx2
import openai
import pytest
from serve_platform import Stage, platform, served

from mitai.client.session import Session
from mitai.errors import AttestError, BrokerError
from mitai.serve import deployment as deployments
from mitai.serve.link import BrokerLink

CHAT = [{"role": "user", "content": "hello 世界"}]
RENEW_S = 0.2


@pytest.fixture(scope="module")
def stage(tmp_path_factory, llama_folder):
    with platform(tmp_path_factory.mktemp("platform"), renew_s=RENEW_S) as running, Stage(running) as made:
        made.model = llama_folder
        yield made


def ask_for_ever(client) -> None:
    while True:
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)


def test_a_revocation_ends_requests_streams_and_the_key(stage, capsys):
    sealed = stage.serve()
    keyring = stage.running.inside._keyring
    with stage.client() as client:
        stream = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=480, stream=True, seed=1, n=8)
        events = iter(stream)
        next(events)
        (before,) = keyring.live()
        stage.owner.revoke(sealed.capsule_id)
        revoked = time.monotonic()
        with pytest.raises(openai.PermissionDeniedError) as refused:
            ask_for_ever(client)
        took = time.monotonic() - revoked
        with pytest.raises(openai.APIError) as ended:
            list(events)
    assert refused.value.code == "serve.withdrawn"
    assert ended.value.code == "serve.withdrawn"
    assert "broker.revoked" in ended.value.message
    assert took < 5.0  # a few renewals, on a busy machine
    status = stage.until_withdrawn()
    assert status["error"]["code"] == "serve.withdrawn"
    assert "broker.revoked" in status["error"]["message"]
    assert status["serving"] == ""
    assert stage.running.inside.deployment._engine is None
    assert keyring.find(before.config.key_id) is None
    with httpx2.Client() as plain:
        claims = Session(stage.running.replica, stage.running.policy, http=plain).appraisal.claims
    assert (claims.capsules, claims.policies, claims.ledger) == ((), (), None)
    assert "model" not in claims.extra
    with capsys.disabled():
        sys.stdout.write(f"\n  from revocation to refused requests: {took:.2f} s, renewing every {RENEW_S} s\n")


@pytest.mark.slow
def test_the_end_of_an_owners_time_ends_serving(stage):
    stage.serve(not_after=datetime.now(UTC) + timedelta(seconds=4))
    status = stage.until_withdrawn()
    assert "broker.policy-expired" in status["error"]["message"]


def test_a_replica_serves_again_after_a_withdrawal(stage):
    stage.owner.revoke(stage.serve().capsule_id)
    stage.until_withdrawn()
    stage.serve()
    with stage.client() as client:
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)


class Way:
    """The host between replica and broker: it forwards, holds back for good, or goes away."""

    def __init__(self, target: str) -> None:
        self._target, self.open, self.end = target, True, threading.Event()

    async def __call__(self, scope, receive, send):
        import anyio.to_thread

        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        if not self.open:
            await anyio.to_thread.run_sync(self.end.wait, 20)
        headers = [(k.decode(), v.decode()) for k, v in scope["headers"] if k != b"host"]
        url = self._target + scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        async with httpx2.AsyncClient() as http:
            answer = await http.request(scope["method"], url, content=body, headers=headers)
        headers = [(k, v) for k, v in answer.headers.raw if k.lower() != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})


@pytest.mark.slow
def test_a_host_that_cuts_off_the_broker_ends_serving(stage, monkeypatch):
    monkeypatch.setattr(deployments, "Lease", partial(deployments.Lease, lease_s=5.0))
    way = Way(stage.running.broker)
    with served(way, lifespan="off") as url:
        stage.serve(broker=url)
        time.sleep(6.0)  # renewed through it, beyond its length
        assert stage.status()["state"] == "ready"
        way.open = False
        status = stage.until_withdrawn(15.0)
        way.end.set()
    assert "broker.lease-lapsed" in status["error"]["message"]
    with stage.client() as client, pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)


def test_a_revocation_while_the_model_is_read_ends_the_deployment(stage, monkeypatch):
    inner = deployments.open_capsule

    def revoked_meanwhile(store, *arguments, **more):
        source = inner(store, *arguments, **more)
        stage.owner.revoke(source.manifest.capsule_id)
        while stage.running.inside.deployment._lease.ended is None:
            time.sleep(0.02)
        return source

    monkeypatch.setattr(deployments, "open_capsule", revoked_meanwhile)
    stage.serve(expect="failed")
    status = stage.status()
    assert status["error"]["code"] == "broker.revoked"
    assert stage.running.inside.deployment._engine is None
    assert stage.running.inside.deployment.capsules == ()


def test_a_lease_that_ends_while_the_new_key_is_made_ends_the_deployment(stage, monkeypatch):
    inside = stage.running.inside.deployment
    inner, begun = inside._evidence, []

    def late(nonce):
        if inside.capsules and not begun:
            begun.append(nonce)
            inside._lease._end(BrokerError("broker.revoked", "revoked at this very moment"))
            while inside._engine is not None:
                time.sleep(0.02)
        return inner(nonce)

    monkeypatch.setattr(inside, "_evidence", late)
    stage.serve(expect="failed")
    assert stage.status()["error"]["code"] == "broker.revoked"
    assert begun
    assert inside.capsules == ()
    assert inside._book._served is None


def test_without_evidence_of_what_was_loaded_nothing_is_served(stage, monkeypatch):
    """The host makes quotes: it can fail the one that would name the model, and have receipts never begin."""
    inside = stage.running.inside.deployment
    inner = inside._evidence

    def broken(nonce):
        if inside.capsules:
            raise AttestError("attest.quote-failed", "the host gave no quote")
        return inner(nonce)

    monkeypatch.setattr(inside, "_evidence", broken)
    stage.serve(expect="failed")
    assert stage.status()["error"]["code"] == "attest.quote-failed"
    assert inside._engine is None
    assert inside._lease is None
    assert inside.capsules == ()


def test_a_link_stays_with_the_broker_that_it_began_with(stage, tmp_path):
    from mitai.broker.__main__ import build_app
    from mitai.broker.config import Config
    from mitai.broker.service import Broker

    attester = stage.running.broker_attester
    config = Config(state=f"sqlite:///{tmp_path}/state.db", publish=str(tmp_path / "ledger"), policy="", sim="")
    link = BrokerLink(stage.running.broker, stage.running.policy)
    other = Broker.open(config.settings(), attester, stage.running.policy)
    try:
        link._session.renew()
        with served(build_app(other, attester, stage.running.policy, config), lifespan="off") as url:
            BrokerLink(url, stage.running.policy).close()  # genuine
            link._session.base_url = url
            with pytest.raises(AttestError) as refused:
                link._session.renew()
    finally:
        link.close()
        other.close()
    assert refused.value.code == "attest.ledger-mismatch"
