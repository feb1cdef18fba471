"""Sessions: nothing is trusted before it was verified, and not for longer than it may be."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from mitai.attest import Claims, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.channel import KeyRing
from mitai.client import Session, session_client
from mitai.errors import AttestError, ClientError, ParseError

CODE = Workload("serve", bytes(32))
URL = "http://gateway.test"


class Server:
    """A replica in memory that answers requests for evidence, well or badly."""

    def __init__(self, platform: SimPlatform, workload: Workload = CODE) -> None:
        self.attester = platform.attester(workload)
        self.keyring = KeyRing.generate()
        self.asked: list[bytes] = []
        self.change = lambda response: response
        self.http = httpx2.Client(transport=httpx2.MockTransport(self.answer))

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        nonce = bytes.fromhex(request.url.params["nonce"])
        self.asked.append(nonce)
        claims = Claims(workload=self.attester.workload.name, key_config=self.keyring.current_config())
        body = self.attester.evidence(claims.encode(), nonce).encode()
        return self.change(httpx2.Response(200, content=body, headers={"mitai-replica": "r0"}))


@pytest.fixture
def platform(tmp_path):
    return SimPlatform.create(tmp_path / "sim")


@pytest.fixture
def policy(platform):
    return Policy(allow_simulation=True, sim_roots=(platform.sim_root,), workloads=(reference_values(CODE),))


def connect(server, policy, **options):
    return Session(URL, policy, http=server.http, **options)


def test_a_session_holds_the_key_of_verified_claims(platform, policy):
    server = Server(platform)
    session = connect(server, policy)
    assert session.key_config == server.keyring.current_config()
    assert session.replica == "r0"
    assert session.appraisal.simulated
    assert not session.stale


def test_every_verification_has_a_fresh_nonce(platform, policy):
    server = Server(platform)
    session = connect(server, policy)
    session.renew()
    assert len(set(server.asked)) == 2


def test_an_old_answer_is_refused(platform, policy):
    server = Server(platform)
    connect(server, policy)
    old = server.attester.evidence(b"{}", secrets.token_bytes(32)).encode()
    server.change = lambda _: httpx2.Response(200, content=old)
    with pytest.raises(AttestError) as refused:
        connect(server, policy)
    assert refused.value.code == "attest.nonce-mismatch"


def test_another_workload_is_refused_however_genuine(platform, policy):
    with pytest.raises(ClientError) as refused:
        connect(Server(platform), policy, workload="broker")
    assert refused.value.code == "client.other-workload"


def test_other_code_is_refused(platform, policy):
    with pytest.raises(AttestError) as refused:
        connect(Server(platform, Workload("serve", b"\1" * 32)), policy)
    assert refused.value.code == "attest.measurement-mismatch"


def test_a_stale_session_verifies_again_before_its_key_is_used(platform, policy):
    server = Server(platform)
    session = connect(server, policy, max_age_s=0.0)
    before = len(server.asked)
    server.keyring.rotate()
    assert session.key_config == server.keyring.current_config()
    assert len(server.asked) == before + 1


def test_a_renewal_that_fails_leaves_no_key_to_use(platform, policy):
    server = Server(platform)
    session = connect(server, policy)
    server.change = lambda _: httpx2.Response(500, content=b"{}")
    with pytest.raises(ClientError):
        session.renew()
    assert session.stale
    with pytest.raises(ClientError):
        _ = session.key_config


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (httpx2.Response(200, content=b"nonsense"), ParseError, "attest.evidence-malformed"),
        (httpx2.Response(200, content=b""), ParseError, "attest.evidence-malformed"),
        (httpx2.Response(200, content=b"x" * (5 << 20)), ClientError, "client.evidence-too-large"),
        (httpx2.Response(404, content=b"{}"), ClientError, "client.no-evidence"),
        (httpx2.Response(503, json={"code": "workload.busy", "detail": "wait"}), ClientError, "workload.busy"),
    ],
)
def test_a_lying_server_is_refused(platform, policy, answer, kind, code):
    server = Server(platform)
    server.change = lambda _: answer
    with pytest.raises(kind) as refused:
        connect(server, policy)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [(httpx2.ConnectError("no"), "client.unreachable"), (httpx2.ReadTimeout("slow"), "client.timeout")],
)
def test_a_server_that_is_gone_or_slow(platform, policy, error, code):
    def fail(request):
        raise error

    with pytest.raises(ClientError) as refused:
        Session(URL, policy, http=httpx2.Client(transport=httpx2.MockTransport(fail)))
    assert refused.value.code == code
    assert refused.value.hint


class TestCache:
    def test_another_process_takes_it_up_without_asking(self, platform, policy, tmp_path):
        server = Server(platform)
        first = connect(server, policy, cache=tmp_path)
        second = connect(server, policy, cache=tmp_path)
        assert len(server.asked) == 1
        assert second.key_config == first.key_config
        assert second.verified_at == first.verified_at

    @pytest.mark.parametrize("cut", [0, 10, 500])
    def test_a_damaged_file_costs_one_verification(self, platform, policy, tmp_path, cut):
        server = Server(platform)
        connect(server, policy, cache=tmp_path)
        (path,) = tmp_path.glob("*.json")
        path.write_bytes(path.read_bytes()[:cut])
        connect(server, policy, cache=tmp_path)
        assert len(server.asked) == 2

    def test_an_old_one_is_not_used(self, platform, policy, tmp_path):
        server = Server(platform)
        connect(server, policy, cache=tmp_path)
        connect(server, policy, cache=tmp_path, max_age_s=0.0)
        assert len(server.asked) == 2

    def test_a_forged_one_is_verified_and_refused(self, platform, policy, tmp_path):
        server = Server(platform)
        connect(server, policy, cache=tmp_path)
        (path,) = tmp_path.glob("*.json")
        forged = bytearray(path.read_bytes())
        at = forged.index(b'"evidence"') + 400
        forged[at] = ord("A") if forged[at] != ord("A") else ord("B")
        path.write_bytes(forged)
        session = connect(server, policy, cache=tmp_path)
        assert len(server.asked) == 2
        assert session.key_config == server.keyring.current_config()

    def test_a_time_in_the_future_does_not_make_it_younger(self, platform, policy, tmp_path):
        server = Server(platform)
        connect(server, policy, cache=tmp_path)
        (path,) = tmp_path.glob("*.json")
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        text = path.read_text()
        begin = text.index('"verified_at":"') + len('"verified_at":"')
        path.write_text(text[:begin] + tomorrow + text[text.index('"', begin) :])
        connect(server, policy, cache=tmp_path)
        assert len(server.asked) == 2

    def test_it_is_kept_per_policy(self, platform, policy, tmp_path):
        server = Server(platform)
        connect(server, policy, cache=tmp_path)
        strict = Policy.from_toml(policy.to_toml().replace("allow_simulation = true", "allow_simulation = false"))
        with pytest.raises(AttestError):
            connect(server, strict, cache=tmp_path)


def test_a_client_of_a_session_never_falls_back_to_plaintext(platform, policy):
    session = connect(Server(platform), policy)
    with session_client(session) as http:
        for url in ("http://other.test/v1", "https://gateway.test/v1"):
            with pytest.raises(Exception, match="not sent"):
                http.get(url)
