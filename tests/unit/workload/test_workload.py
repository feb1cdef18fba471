"""The frame of every measured process: evidence in the clear, nothing else."""

from __future__ import annotations

import anyio
import httpx2
import pytest
from starlette.responses import PlainTextResponse

from mitai.attest import CapsuleClaim, Claims, Evidence
from mitai.attest.sim import SimPlatform
from mitai.attest.sim import Workload as Code
from mitai.channel import KeyRing
from mitai.channel.ohttp import KeyConfig
from mitai.workload import EVIDENCE_PATH, Workload


@pytest.fixture
def workload(tmp_path):
    attester = SimPlatform.create(tmp_path / "sim").attester(Code("serve", bytes(32)))
    keyring = KeyRing.generate()
    return Workload(attester, keyring, lambda: Claims(workload="serve", key_config=b""), max_evidence=1)


def client(workload):
    app = workload.app(PlainTextResponse("inner"))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://machine.test")


async def test_evidence_is_over_our_nonce_and_the_current_key(workload):
    async with client(workload) as http:
        for _ in range(2):
            answer = await http.get(EVIDENCE_PATH, params={"nonce": "ab" * 32})
            evidence = Evidence.decode(answer.content)
            assert evidence.nonce == bytes.fromhex("ab" * 32)
            assert Claims.decode(evidence.claims).key_config == workload.keyring.current_config()
            workload.keyring.rotate()


@pytest.mark.parametrize("nonce", ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32, "ab" * 31 + "\n"])
async def test_a_malformed_nonce_is_refused(workload, nonce):
    async with client(workload) as http:
        answer = await http.get(EVIDENCE_PATH, params={"nonce": nonce})
    assert answer.status_code == 400
    assert answer.json()["code"] == "workload.nonce"


async def test_nothing_else_is_reachable_in_the_clear(workload):
    async with client(workload) as http:
        for path in ("/", "/v1/models", "/anything"):
            assert (await http.get(path)).status_code == 404
            assert (await http.post(path, content=b"x")).status_code in {404, 405}


async def test_a_crowd_is_told_to_come_back(workload):
    async with client(workload) as http:
        statuses = []

        async def ask():
            statuses.append((await http.get(EVIDENCE_PATH, params={"nonce": "00" * 32})).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(ask)
    assert set(statuses) == {200, 503}


def test_a_key_is_never_tied_to_what_was_served_before_it(tmp_path):
    """Evidence is made on a thread: a deployment may end between any two steps of it."""
    attester = SimPlatform.create(tmp_path / "sim").attester(Code("serve", bytes(32)))
    keyring = KeyRing.generate()

    def claims_then_another_deployment():
        former = Claims(workload="serve", key_config=b"", capsules=(CapsuleClaim("former", "0" * 64),))
        keyring.rotate(grace_s=0.0)
        return former

    evidence = Workload(attester, keyring, claims_then_another_deployment).evidence(bytes(32))
    key = KeyConfig.decode(Claims.decode(evidence.claims).key_config)
    assert all(key.public != held.config.public for held in keyring.live())
