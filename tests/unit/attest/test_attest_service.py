"""The attestation service: challenges, verdicts, limits, and its OpenAPI document."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import anyio
import httpx2
import msgspec
import pytest

from attest_lab import CLAIMS, NOW, WORKLOAD, Lab, replace
from mitai.attest import Hardware, service
from mitai.attest.results import cmw, ear
from mitai.attest.results.ar4si import Tier
from mitai.attest.results.tokens import TokenTrust, accept, new_key
from mitai.attest.service import EVIDENCE_TYPE, HARDWARE_TYPE, RESULT_TYPE, Service, create_app
from mitai.attest.sim import intel, registers

NONCE = base64.urlsafe_b64encode(bytes(range(16))).decode()


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("machine") / "platform")


class Client:
    def __init__(self, lab: Lab, **options: object) -> None:
        self.service = Service(lab.policy, new_key(), clock=Clock(), **options)
        self.app = create_app(self.service)

    def ask(self, method: str, path: str, **more: object) -> httpx2.Response:
        async def once() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://verifier") as client:
                return await client.request(method, path, **more)

        return asyncio.run(once())

    def challenge(self) -> bytes:
        answer = self.ask("POST", "/v1/challenge").json()
        assert answer["expires_in"] == 60
        return base64.urlsafe_b64decode(answer["challenge"])

    def result(self, body: bytes, kind: str = EVIDENCE_TYPE) -> ear.AttestationResult:
        answer = self.ask("POST", f"/v1/appraise?nonce={NONCE}", content=body, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == RESULT_TYPE
        (key,) = self.ask("GET", "/v1/keys").json()["keys"]
        return accept(answer.text, TokenTrust(keys=(key,)), now=NOW, nonce=bytes(range(16)))


@pytest.fixture
def client(lab) -> Client:
    return Client(lab)


def evidence(lab: Lab, client: Client):
    return lab.platform.attester(WORKLOAD).evidence(CLAIMS.encode(), client.challenge())


def test_evidence_of_ours(lab, client):
    made = evidence(lab, client)
    submod = client.result(made.encode()).submods["tdx"]
    assert submod.status is Tier.CONTRAINDICATED  # the machine is simulated: never affirming
    assert submod.problem == ""
    assert submod.evidence["workload"] == "serve"
    assert submod.nonce == made.nonce
    assert submod.policy_ids == (client.ask("GET", "/v1/policy").json()["id"],)


@pytest.mark.parametrize("profile", [ear.VERAISON, ear.TRUSTEE])
def test_other_profiles(lab, profile):
    client = Client(lab, profile=profile)
    assert client.result(evidence(lab, client).encode()).profile is profile


def test_in_a_wrapper(lab, client):
    record = cmw.Record(EVIDENCE_TYPE, evidence(lab, client).encode(), cmw.EVIDENCE)
    for kind, body in (("json", cmw.encode_json(record)), ("cbor", cmw.encode_cbor(record))):
        assert client.result(body, f"application/cmw+{kind}; q=1").submods["tdx"].problem == ""


def test_evidence_of_the_hardware_alone(lab, client):
    def hardware(data: bytes) -> bytes:
        quote = lab.platform.quote(intel.td_report(registers(WORKLOAD), data))
        return Hardware(tee="tdx", quote=quote, collateral=lab.platform.collateral("tdx")).encode()

    submod = client.result(hardware(client.challenge() + b"k" * 32), HARDWARE_TYPE).submods["tdx"]
    assert submod.problem == ""
    assert submod.evidence["report_data"].endswith("6b" * 32)
    stale = client.result(hardware(bytes(64)), HARDWARE_TYPE).submods["tdx"]
    assert stale.problem.startswith("attest.challenge-unknown")


def test_refusals_get_a_result(lab, client):
    made = evidence(lab, client)
    broken = replace(made, quote=made.quote[:100] + bytes([made.quote[100] ^ 1]) + made.quote[101:])
    for bad, code in (
        (broken, "attest.quote-signature-invalid"),
        (lab.evidence(), "attest.challenge-unknown"),
        (replace(made, nonce=b"short"), "attest.challenge-unknown"),
        (replace(made, tee="a\x1b[31mbacus"), "attest.tee-unsupported"),
        (replace(made, tee=""), "attest.tee-unsupported"),
    ):
        (submod,) = client.result(bad.encode()).submods.values()
        assert submod.status is Tier.CONTRAINDICATED
        assert submod.problem.startswith(code)


def test_a_challenge_ends_and_is_no_one_elses(lab, client, monkeypatch):
    made = evidence(lab, client)
    other = Client(lab)
    assert other.result(made.encode()).submods["tdx"].problem.startswith("attest.challenge-unknown")
    later = service.time.monotonic() + 61
    monkeypatch.setattr(service.time, "monotonic", lambda: later)
    assert client.result(made.encode()).submods["tdx"].problem.startswith("attest.challenge-unknown")


def test_results_end(lab):
    client = Client(lab, lifetime=timedelta(seconds=30))
    assert client.result(evidence(lab, client).encode()).expires_at == NOW + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("text/plain", b"", 415, "attest.media-type-unsupported"),
        ("", b"", 415, "attest.media-type-unsupported"),
        (EVIDENCE_TYPE, b"", 400, "attest.evidence-malformed"),
        (HARDWARE_TYPE, b"{}", 400, "attest.evidence-malformed"),
        (HARDWARE_TYPE, b"[" * 100_000, 400, "attest.evidence-malformed"),
        ("application/cmw+json", b"{}", 400, "attest.cmw-malformed"),
        ("application/cmw+json", b'["a/b","YQ"]', 415, "attest.media-type-unsupported"),
        ("application/cmw+json", b'[7,"YQ"]', 415, "attest.media-type-unsupported"),
        ("application/cmw+json", b'{"a":["a/b","YQ"]}', 415, "attest.media-type-unsupported"),
        (EVIDENCE_TYPE, b" " * (service.MAX_BODY_BYTES + 1), 413, "attest.body-too-large"),
        (HARDWARE_TYPE, b" " * service.MAX_BODY_BYTES, 400, "attest.evidence-malformed"),
    ],
)
def test_bad_requests(client, kind, body, status, code):
    answer = client.ask("POST", "/v1/appraise", content=body, headers={"content-type": kind} if kind else {})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("nonce", ["", "AAAA", "A" * 90, "!!!!!!!!!!!!"])
def test_a_nonce_that_can_not_be_echoed(client, nonce):
    answer = client.ask("POST", f"/v1/appraise?nonce={nonce}", content=b"")
    assert (answer.status_code, answer.json()["code"]) == (400, "attest.nonce-malformed")


def test_no_such_path_or_method(client):
    assert client.ask("GET", "/v2").json()["code"] == "attest.not-found"
    answer = client.ask("GET", "/v1/appraise")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.ask("GET", "/healthz").json() == {"status": "ok"}


def test_a_failure_of_our_own_says_nothing(lab, client, monkeypatch):
    monkeypatch.setattr(client.service, "appraise", lambda *_: 1 / 0)
    headers = {"content-type": EVIDENCE_TYPE}
    answer = client.ask("POST", "/v1/appraise", content=lab.evidence().encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "attest.internal")
    assert "ZeroDivision" not in answer.text


async def slow_body(parts: int):
    for _ in range(parts):
        yield b" "
        await asyncio.sleep(0.02)


def test_a_slow_sender_is_cut_off(client, monkeypatch):
    monkeypatch.setattr(service, "READ_WITHIN_S", 0.05)
    answer = client.ask("POST", "/v1/appraise", content=slow_body(50), headers={"content-type": EVIDENCE_TYPE})
    assert (answer.status_code, answer.json()["code"]) == (408, "attest.body-too-slow")


async def test_a_sender_that_goes_away_is_no_failure_of_ours(lab):
    app, sent = create_app(Service(lab.policy, new_key())), []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/appraise", "query_string": b"", "headers": []}
    await app(scope, receive, send)  # raises nothing, so no traceback is logged
    assert sent[0]["status"] == 408


async def test_too_many_at_once(lab, monkeypatch):
    monkeypatch.setattr(service, "MAX_WAITING", 1)
    app = create_app(Service(lab.policy, new_key()))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://verifier") as client:
        headers = {"content-type": EVIDENCE_TYPE}
        first = asyncio.create_task(client.post("/v1/appraise", content=slow_body(20), headers=headers))
        await anyio.sleep(0.1)
        busy = await client.post("/v1/appraise", content=b"", headers=headers)
        assert (busy.status_code, busy.json()["code"]) == (503, "attest.busy")
        assert (await first).status_code == 400
        assert (await client.post("/v1/appraise", content=b"", headers=headers)).status_code == 400


def test_the_signing_key_stays_inside(client):
    for path in ("/v1/keys", "/v1/policy", "/openapi.json"):
        content = client.ask("GET", path).content
        assert client.service._key["d"].encode() not in content


def test_times_are_now_by_default(lab):
    made = Service(lab.policy, new_key())
    token = made.appraise(lab.evidence())
    result = accept(token, TokenTrust(keys=(made.public_key,)), now=datetime.now(UTC))
    assert msgspec.json.decode(result.encode())["iat"] == int(result.issued_at.timestamp())
