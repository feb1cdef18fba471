"""A replica from idle to a sealed, receipted answer, against the real broker, capsule and channel."""

from __future__ import annotations

import time
from hashlib import sha256

import httpx2
import openai
import pytest
from serve_platform import platform

from mitai.capsule import seal
from mitai.client.http import session_client
from mitai.client.owner import Owner
from mitai.client.receipts import check, fetch
from mitai.client.session import Session
from mitai.client.transport import EXCHANGE_EXTENSION
from mitai.errors import MitaiError, ServeError
from mitai.identity import Identity
from mitai.serve.link import BrokerLink

CHAT = [{"role": "user", "content": "hello 世界"}]
POLICY = 'permit (principal == Workload::"serve", action == Action::"inference", resource);'


def verified(url, running, http, workload="serve"):
    return Session(url, running.policy, workload=workload, http=http)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with platform(tmp_path_factory.mktemp("platform")) as started:
        yield started


@pytest.fixture(scope="module")
def deployed(running, llama_folder):
    alice = Identity.generate()
    sealed = seal(llama_folder, running.objects / "new", owner=alice, name="tiny", kind="model")
    (running.objects / "new").rename(running.objects / sealed.capsule_id)
    plain = httpx2.Client()
    owner = Owner(running.broker, alice, running.policy, session=verified(running.broker, running, plain, "broker"))
    owner.register("Alice")
    owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=POLICY)
    with session_client(verified(running.replica, running, plain)) as http:
        client = openai.OpenAI(base_url=f"{running.replica}/v1", api_key="none", http_client=http, max_retries=0)
        with pytest.raises(openai.InternalServerError) as refused:  # nothing is deployed yet
            client.chat.completions.create(model="tiny", messages=CHAT)
        assert refused.value.status_code == 503
        assert running.deploy(sealed.capsule_id).status_code == 202
        status = running.wait()
        assert status["state"] == "ready", status
        assert status["done_bytes"] == status["total_bytes"] > 0
        # the machine's claims changed, so its old key is gone: the client verifies again by itself
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)
    yield sealed
    owner.close()
    plain.close()


def test_claims_list_what_is_open(running, deployed):
    with httpx2.Client() as plain:
        claims = verified(running.replica, running, plain).appraisal.claims
    assert [(c.id, c.manifest_sha256) for c in claims.capsules] == [(deployed.capsule_id, deployed.manifest_sha256)]
    assert claims.ledger is not None
    assert claims.extra["model"] == "tiny"


def test_a_sealed_chat_and_its_receipt(running, deployed):
    exchanges = []
    with httpx2.Client() as plain, session_client(session := verified(running.replica, running, plain)) as http:
        http.event_hooks["response"] = [lambda answer: exchanges.append(answer.extensions[EXCHANGE_EXTENSION])]
        client = openai.OpenAI(base_url=f"{running.replica}/v1", api_key="none", http_client=http, max_retries=0)
        stream = client.chat.completions.create(
            model="tiny", messages=CHAT, max_tokens=7, stream=True, stream_options={"include_usage": True}
        )
        usage = list(stream)[-1].usage
        receipt, appraisal = check(fetch(http, session, exchanges[0]), running.policy)
        assert appraisal.simulated
        assert receipt.exchange == exchanges[0].name
        assert receipt.model == "tiny"
        assert receipt.usage.prompt_tokens == usage.prompt_tokens
        assert receipt.usage.completion_tokens == usage.completion_tokens
        assert [c.id for c in receipt.capsules] == [deployed.capsule_id]
        unknown = http.get(f"{running.replica}/v1/receipts/{'0' * 32}")
        assert unknown.status_code == 404
        assert unknown.json()["code"] == "serve.receipt-unknown"


def test_nothing_is_served_in_the_clear(running, deployed):
    for path in ("/v1/models", "/v1/chat/completions", f"/v1/receipts/{'0' * 32}"):
        assert httpx2.get(running.replica + path).status_code == 404


def test_a_second_deployment_is_refused_unless_it_replaces(running, deployed):
    answer = running.deploy(deployed.capsule_id)
    assert answer.status_code == 409
    assert answer.json()["code"] == "serve.deployed"


def test_a_sealed_client_that_leaves_frees_its_place(running, deployed):
    engine = running.inside.deployment.engine()
    with httpx2.Client() as plain, session_client(verified(running.replica, running, plain)) as http:
        client = openai.OpenAI(base_url=f"{running.replica}/v1", api_key="none", http_client=http, max_retries=0)
        stream = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=480, stream=True, n=2, seed=1)
        next(iter(stream))
        assert engine._answering
        stream.close()
    for _ in range(200):
        if not engine._answering:
            return
        time.sleep(0.01)
    raise AssertionError


def test_keys_rotate_without_failed_requests(running, deployed):
    with httpx2.Client() as plain, session_client(session := verified(running.replica, running, plain)) as http:
        before = session.key_config
        deployment = running.inside.deployment
        deployment._keyring.rotate()
        client = openai.OpenAI(base_url=f"{running.replica}/v1", api_key="none", http_client=http, max_retries=0)
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)
        assert session.key_config == before  # honoured for the grace period
        deployment._keyring.rotate(grace_s=0)
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)
        assert session.key_config != before  # verified anew, by itself


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"capsules": ["a", "b"]}',
        b'{"capsules":["a"],"broker":"ftp://x","objects":"http://x","model":"m"}',
        b'{"capsules":["a"],"broker":"http://x","objects":"filecache::http://x","model":"m"}',
        b'{"capsules":["../a"],"broker":"http://x","objects":"http://x","model":"m"}',
        b'{"capsules":["a"],"broker":"http://x","objects":"http://x","model":"m","more":1}',
    ],
)
def test_deploy_requests_are_checked(running, body):
    answer = httpx2.post(f"{running.replica}/control/deploy", content=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "serve.control-malformed"


def test_a_huge_control_request_is_refused(running):
    assert httpx2.post(f"{running.replica}/control/deploy", content=b" " * (65 << 10)).status_code == 413


def test_a_link_to_a_verified_broker(running, deployed):
    link = BrokerLink(running.broker, running.policy)
    try:
        assert link.claims.ledger is not None
        assert b"nonce" in link.post("/v1/challenge", b"")
        with pytest.raises(ServeError) as refused:
            link.post("/v1/receipts", b"{}")
        assert refused.value.code == "broker.malformed"
    finally:
        link.close()


def test_a_broker_that_is_not_there(running):
    with pytest.raises(MitaiError) as away:
        BrokerLink("http://127.0.0.1:9", running.policy)
    assert away.value.code == "client.unreachable"
    with pytest.raises(MitaiError):
        BrokerLink(f"{running.replica}/nothing", running.policy)
    with pytest.raises(MitaiError) as other:
        BrokerLink(running.replica, running.policy)
    assert other.value.code == "client.other-workload"


def test_the_claims_say_by_which_policy_brokers_are_verified(running, deployed):
    with httpx2.Client() as plain:
        claims = verified(running.replica, running, plain).appraisal.claims
    assert claims.extra["broker_policy_sha256"] == sha256(running.policy.to_toml().encode()).hexdigest()
