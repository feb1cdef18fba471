"""The gateway and several broker processes: it finds the one that leads, and another when that one is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from test_fleet_gateway import OPERATOR, UPLOAD, Gate, Got, Replicas, Stream, dead

from mitai.fleet import gateway as gateways
from mitai.fleet import leader
from mitai.fleet.gateway import GatewayConfig

LED = b'{"status": "ok", "role": "leader"}'
STOOD_BY = b'{"status": "ok", "role": "standby", "code": null}'


class Broker:
    """One process: what it says of itself, and what it does with other requests."""

    def __init__(self, host: str, role: bytes = STOOD_BY) -> None:
        self.host, self.role, self.asked = host, role, 0
        self.does: Callable[[httpx2.Request], httpx2.Response] | None = None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.role == b"dead":
            return dead(request)
        if request.url.path == "/healthz":
            self.asked += 1
            return httpx2.Response(200, stream=Stream(self.role))
        if self.does:
            return self.does(request)
        if self.role != LED:
            return httpx2.Response(503, headers=[leader.ROLE_STANDBY], stream=Stream(b"{}"))
        return httpx2.Response(200, stream=Stream(self.host.encode() + b" " + request.content))


class Three:
    """A gateway in front of three brokers."""

    def __init__(self, gate: Gate, brokers: list[Broker]) -> None:
        self.gate, self.brokers = gate, brokers

    async def ask(self, method: str = "GET", pinned: int | None = None) -> Got:
        headers = {} if pinned is None else {"mitai-replica": f"broker-{pinned}"}
        return await self.gate.ask(method, "/broker/x", b"sealed" if method == "POST" else b"", headers)


@pytest.fixture
async def three(tmp_path, monkeypatch) -> AsyncIterator[Three]:
    monkeypatch.setattr(leader, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(leader, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(gateways, "_LEADER_WITHIN_S", 1.0)
    brokers = [Broker("b0"), Broker("b1", LED), Broker("b2")]
    config = GatewayConfig(
        replicas={},
        broker=tuple(f"http://{broker.host}" for broker in brokers),
        objects=str(tmp_path / "objects"),
        upload_token=UPLOAD,
        operator_token=OPERATOR,
    )
    async with running(Gate(config, Replicas(**{broker.host: broker for broker in brokers}))) as gate:
        yield Three(gate, brokers)


@asynccontextmanager
async def running(gate: Gate) -> AsyncIterator[Gate]:
    async with gate.app.router.lifespan_context(gate.app):
        yield gate


async def test_requests_go_to_the_leader(three: Three) -> None:
    got = await three.ask("POST")
    assert (got.body, got.headers["mitai-replica"]) == (b"b1 sealed", "broker-1")


@pytest.mark.parametrize("how", [STOOD_BY, b"dead", b"not json", b"{}", b"x" * 5000])
async def test_the_next_leader_gets_what_the_former_did_not_take(three: Three, how: bytes) -> None:
    assert (await three.ask()).body == b"b1 "
    three.brokers[1].role = how
    waiting = asyncio.create_task(three.ask())
    await asyncio.sleep(0.1)
    assert not waiting.done()  # it waits for a leader
    three.brokers[2].role = LED
    got = await waiting
    assert (got.body, got.headers["mitai-replica"]) == (b"b2 ", "broker-2")


@pytest.mark.parametrize("role", [STOOD_BY, b"dead"])
async def test_a_sealed_request_for_a_former_leader_is_to_be_sealed_anew(three: Three, role: bytes) -> None:
    three.brokers[1].role, three.brokers[0].role = role, LED
    got = await three.ask("POST", pinned=1)
    assert (got.status, got.json["code"]) == (421, "channel.keys-changed")
    assert (await three.ask("POST", pinned=0)).body == b"b0 sealed"


async def test_a_name_that_is_none_of_theirs_pins_nothing(three: Three) -> None:
    got = await three.gate.ask("POST", "/broker/x", b"sealed", {"mitai-replica": "broker-9"})
    assert got.body == b"b1 sealed"


async def test_without_a_leader_a_request_waits_and_then_is_told(three: Three) -> None:
    for broker in three.brokers:
        broker.role = STOOD_BY
    got = await three.ask()
    assert (got.status, got.json["code"]) == (503, "fleet.no-leader")


def breaks(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadError("cut", request=request)


async def test_what_may_have_been_done_is_not_sent_twice(three: Three) -> None:
    three.brokers[1].does = breaks
    got = await three.ask("POST")
    assert (got.status, got.json["code"]) == (502, "fleet.replica-failed")
    posts = [request for request in three.gate.replicas.seen if request.method == "POST"]
    assert len(posts) == 1


async def test_what_only_reads_is_asked_of_the_next_leader(three: Three) -> None:
    def once(request: httpx2.Request) -> httpx2.Response:
        three.brokers[1].role, three.brokers[0].role = STOOD_BY, LED
        return breaks(request)

    three.brokers[1].does = once
    assert (await three.ask()).body == b"b0 "


class Hanging(httpx2.AsyncBaseTransport):
    """A leader that was stopped in the middle of a request: it takes connections and never answers."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, host: str) -> None:
        self.inner, self.host, self.hangs = inner, host, False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.hangs and request.url.host == self.host:
            await asyncio.Event().wait()
        return await self.inner.handle_async_request(request)


async def test_nobody_waits_for_a_leader_that_was_replaced(three: Three) -> None:
    hanging = Hanging(three.gate.replicas, "b1")
    three.gate.__dict__["replicas"] = hanging
    three.gate.__post_init__()
    async with running(three.gate):
        assert (await three.ask()).body == b"b1 "
        hanging.hangs = True
        reading, writing = asyncio.create_task(three.ask()), asyncio.create_task(three.ask("POST"))
        await asyncio.sleep(0.5)
        assert not reading.done()  # slow is not gone
        three.brokers[2].role = LED
        async with asyncio.timeout(1):
            assert (await reading).body == b"b2 "
            assert (await writing).status == 502


async def test_one_broker_is_not_asked_what_it_is(tmp_path) -> None:
    alone = Broker("b0", LED)
    config = GatewayConfig({}, "http://b0", str(tmp_path), UPLOAD, OPERATOR)
    async with running(Gate(config, Replicas(b0=alone))) as gate:
        got = await gate.ask("GET", "/broker/x")
        assert (got.body, got.headers["mitai-replica"], alone.asked) == (b"b0 ", "broker", 0)


async def test_two_that_say_they_lead_do_not_stop_the_gateway(three: Three) -> None:
    """A lying process draws requests to itself, which it can't open; the others are found again when it is gone."""
    three.brokers[0].role = LED
    for _ in range(5):
        assert (await three.ask()).body in {b"b0 ", b"b1 "}
    three.brokers[0].role = b"dead"
    found = [(await three.ask()).body for _ in range(5)]
    assert found[-1] == b"b1 "


def test_a_gateway_file_names_one_or_several(tmp_path) -> None:
    file = tmp_path / "gateway.toml"
    for value in ("http://one", ["http://one", "http://two"]):
        fields = {"replicas": {}, "broker": value, "objects": "o", "upload_token": UPLOAD, "operator_token": OPERATOR}
        lines = [f"{key} = {json.dumps(found)}" for key, found in fields.items() if key != "replicas"]
        file.write_text("\n".join([*lines, "[replicas]"]))
        assert GatewayConfig.load(file).broker == (value if isinstance(value, str) else tuple(value))
