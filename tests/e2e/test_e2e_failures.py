"""A platform of its own, whose processes are killed, restarted and lied about under a client's eyes."""

from __future__ import annotations

import os
import signal
import time

import httpx2
import msgspec
import pytest

from mitai import client as mitai_client
from mitai import demo_model
from mitai.attest import ClaimRules
from mitai.cli import owner as owners
from mitai.cli.output import Output
from mitai.cli.platform import deploy_capsule
from mitai.client import chat
from mitai.client.transport import OhttpTransport
from mitai.errors import AttestError, ChannelError, ClientError, FleetError, MitaiError
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home
from mitai.fleet.processes import stop

ASK = [{"role": "user", "content": "What is a TEE?"}]


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("failures"))
    platform = platforms.start(home, platforms.Settings(port=0, rotate_s=1.0, grace_s=0.5))
    try:
        model = demo_model.path(), demo_model.NAME
        capsule, name = owners.seal_publish(Output(True), home, model, platform.gateway, platform.upload_token)
        deploy_capsule(Output(True), home, capsule, name)
        platform.capsule = capsule
        yield platform
    finally:
        platform.stop()


def policy_of(platform):
    from mitai.attest import Policy

    return Policy.from_toml(platform.home.policy.read_text())


def ask(http) -> str:
    return "".join(chat.chat(http, ASK, demo_model.NAME, max_tokens=8, temperature=0))


def test_keys_rotate_under_a_client_without_a_failed_request(platform):
    with mitai_client.http_client(platform.gateway, policy_of(platform)) as http:
        end, answers, keys = time.monotonic() + 4, 0, set()
        session = http._transport._session
        while time.monotonic() < end:
            assert ask(http)
            keys.add(session.key_config)
            answers += 1
            time.sleep(0.2)
    assert answers > 5
    assert len(keys) > 1


def test_a_replica_that_is_killed_within_an_answer_is_noticed(platform):
    replica = platform.processes["replica-0"]
    with mitai_client.http_client(platform.gateway, policy_of(platform)) as http:
        answer = iter(chat.chat(http, ASK, demo_model.NAME, max_tokens=400, temperature=1.5, seed=1))
        next(answer)
        os.kill(replica.pid, signal.SIGKILL)
        replica.popen.wait(10)
        with pytest.raises(ChannelError) as cut:
            list(answer)
        assert cut.value.code == "channel.truncated"
        with pytest.raises((ChannelError, ClientError)):
            ask(http)
    platform.restart("replica-0")


def test_a_restarted_replica_serves_nothing_until_it_is_deployed_again(platform):
    policy = policy_of(platform)
    with pytest.raises(AttestError) as early:
        mitai_client.http_client(platform.gateway, policy)
    assert early.value.code == "attest.ledger-missing"
    anywhere = msgspec.structs.replace(policy, claims=ClaimRules())
    with mitai_client.http_client(platform.gateway, anywhere) as http:
        with pytest.raises(ClientError) as early:
            ask(http)
        assert early.value.code.startswith("serve.")
        deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME)
        assert ask(http)


def test_a_gateway_that_is_gone_or_lies_breaks_nothing_but_the_service(platform):
    policy = policy_of(platform)

    class Lying(httpx2.HTTPTransport):
        def handle_request(self, request):
            answer = super().handle_request(request)
            content = bytearray(answer.read())
            content[len(content) // 2] ^= 1
            headers = [(k, v) for k, v in answer.headers.raw if k.lower() != b"transfer-encoding"]
            return httpx2.Response(answer.status_code, headers=headers, stream=httpx2.ByteStream(bytes(content)))

    session = mitai_client.connect(platform.gateway, policy)
    with httpx2.Client(transport=OhttpTransport(Lying(), session, platform.gateway), base_url=platform.gateway) as http:
        with pytest.raises(MitaiError) as refused:
            ask(http)
        assert refused.value.code.startswith(("channel.", "hpke."))
    stop([platform.processes["gateway"].pid])
    with pytest.raises(ClientError) as gone:
        mitai_client.connect(platform.gateway, policy)
    assert gone.value.code == "client.unreachable"
    platform.restart("gateway")
    assert mitai_client.connect(platform.gateway, policy).appraisal.simulated


def test_a_broker_that_is_killed_comes_back_with_all_it_acknowledged(platform):
    broker = platform.processes["broker"]
    before = httpx2.get(broker.health).json()["ledger_size"]
    os.kill(broker.pid, signal.SIGKILL)
    broker.popen.wait(10)
    platform.restart("broker")
    assert httpx2.get(broker.health).json()["ledger_size"] >= before
    deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)


def test_a_process_that_does_not_start_is_reported_with_its_last_words(platform, tmp_path):
    process = platforms.start_process(
        "broken", "mitai.serve", ["--config", "/nonexistent"], "http://127.0.0.1:9", tmp_path
    )
    with pytest.raises(FleetError) as died:
        process.wait_healthy()
    assert died.value.code == "fleet.process-died"
    assert "/nonexistent" in died.value.message
