"""The gateway against replicas that are well, dead, slow, lying or flooding, and against clients that try its paths."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import httpx2
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import FleetError, WebError
from mitai.fleet.gateway import _OWN_SEGMENTS, GatewayConfig, _is_plain, create_app
from mitai.web.page import Page, page_headers

UPLOAD = "upload-token-0123456789"
OPERATOR = "operator-token-0123456789"
Answer = Callable[[httpx2.Request], httpx2.Response]


class Replicas(httpx2.AsyncBaseTransport):
    """The network behind the gateway: what each host does with a request."""

    def __init__(self, **hosts: Answer) -> None:
        self.hosts = hosts
        self.seen: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        return self.hosts[request.url.host](request)


def well(request: httpx2.Request) -> httpx2.Response:
    told = {"host": request.url.host, "path": request.url.raw_path.decode(), "body": request.content.decode("latin-1")}
    return httpx2.Response(200, stream=Stream(json.dumps(told).encode()), headers={"content-type": "application/json"})


def dead(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


def unroutable(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectTimeout("nobody answers", request=request)


def slow(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("too slow", request=request)


def answers(body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Answer:
    return lambda _: httpx2.Response(status, headers=headers or [], stream=Stream(body))


class Stream(httpx2.AsyncByteStream):
    def __init__(self, *parts: bytes | Exception) -> None:
        self.parts = parts
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Gate:
    """A gateway in memory; `ask` sends exactly the path and headers that it is given, as an attacker would."""

    config: GatewayConfig
    replicas: Replicas
    app: object = field(init=False)

    def __post_init__(self) -> None:
        self.app = create_app(self.config, self.replicas)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        headers: dict[str, str] | None = None,
        query: str = "",
        cut: bool = False,
    ) -> Got:
        parts = [body] if isinstance(body, bytes) else list(body)
        events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        events.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})
        waiting = iter(events)
        sent: list[dict] = []

        async def receive() -> dict:
            event = next(waiting, None)
            return event or await asyncio.Event().wait()

        async def send(event: dict) -> None:
            sent.append(event)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (k.lower().encode(), v.encode("latin-1")) for k, v in ({"host": "gate"} | (headers or {})).items()
            ],
            "client": ("203.0.113.5", 5000),
            "server": ("gate", 80),
        }
        await self.app(scope, receive, send)
        start = sent[0]
        told = {k.decode("latin-1"): v.decode("latin-1") for k, v in start["headers"]}
        return Got(start["status"], told, b"".join(event.get("body", b"") for event in sent[1:]))


@pytest.fixture
def gate(tmp_path) -> Callable[..., Gate]:
    def make(hosts: dict[str, Answer] | None = None, **settings: object) -> Gate:
        hosts = hosts or {"r1": well, "broker": well}
        config = GatewayConfig(
            replicas={name: f"http://{name}" for name in hosts if name != "broker"},
            broker="http://broker",
            objects=str(tmp_path / "objects"),
            upload_token=UPLOAD,
            operator_token=OPERATOR,
            **settings,
        )
        return Gate(config, Replicas(**hosts))

    return make


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# -- forwarding ----------------------------------------------------------------------------------------------


async def test_request_reaches_a_replica_unchanged(gate):
    gateway = gate()
    headers = {"content-type": "message/ohttp-req", "connection": "x-mine, close", "x-mine": "1", "te": "trailers"}
    got = await gateway.ask("POST", "/ohttp", [b"\x00\xff", b"sealed"], headers, query="a=1&a=2&b=%2F")
    assert (got.status, got.headers["mitai-replica"]) == (200, "r1")
    assert got.json == {"host": "r1", "path": "/ohttp?a=1&a=2&b=%2F", "body": "\x00\xffsealed"}
    sent = gateway.replicas.seen[0].headers
    assert sent["content-type"] == "message/ohttp-req"
    assert sent["host"] == "r1"
    assert sent["content-length"] == "8"
    assert not {"connection", "x-mine", "te", "user-agent", "cookie", "accept-encoding"} & set(sent)


async def test_broker_prefix_is_removed(gate):
    got = await gate().ask("GET", "/broker/ledger/tile/0/x001/067.p/3")
    assert (got.json["host"], got.json["path"]) == ("broker", "/ledger/tile/0/x001/067.p/3")
    assert got.headers["mitai-replica"] == "broker"


async def test_replicas_take_turns(gate):
    gateway = gate({"r1": well, "r2": well, "broker": well})
    hosts = [(await gateway.ask("GET", "/.well-known/mitai/evidence")).json["host"] for _ in range(4)]
    assert hosts == ["r1", "r2", "r1", "r2"]


async def test_the_named_replica_is_found_again(gate):
    gateway = gate({"r1": well, "r2": well, "broker": well})
    hosts = {(await gateway.ask("POST", "/ohttp", b"x", {"mitai-replica": "r2"})).json["host"] for _ in range(3)}
    assert hosts == {"r2"}


@pytest.mark.parametrize("failure", [dead, unroutable])
async def test_another_replica_stands_in_for_a_dead_one(gate, failure):
    gateway = gate({"r1": failure, "r2": well, "broker": well})
    for _ in range(3):
        got = await gateway.ask("POST", "/ohttp", b"sealed")
        assert (got.status, got.json["host"], got.json["body"]) == (200, "r2", "sealed")


@pytest.mark.parametrize("name", ["r1", "r9"])
async def test_a_session_with_a_dead_or_unknown_replica_is_told_to_verify_again(gate, name):
    gateway = gate({"r1": dead, "r2": well, "broker": well})
    got = await gateway.ask("POST", "/ohttp", b"sealed", {"mitai-replica": name})
    assert (got.status, got.json["code"]) == (421, "channel.keys-changed")
    assert all(request.url.host == "r1" for request in gateway.replicas.seen), "sealed to one, sent to another"


async def test_no_replica_left(gate):
    got = await gate({"r1": dead, "broker": well}).ask("GET", "/x")
    assert (got.status, got.json["code"]) == (502, "fleet.replica-unreachable")
    assert got.headers["content-type"] == "application/problem+json"


async def test_no_replica_configured(gate):
    got = await gate({"broker": well}).ask("GET", "/x")
    assert (got.status, got.json["code"]) == (502, "fleet.replica-unreachable")


async def test_a_replica_that_took_the_request_and_is_silent_is_not_replaced(gate):
    """A request that may have been executed is never sent twice."""
    gateway = gate({"r1": slow, "r2": well, "broker": well})
    got = await gateway.ask("POST", "/ohttp", b"x")
    assert (got.status, got.json["code"]) == (502, "fleet.replica-failed")
    assert len(gateway.replicas.seen) == 1


async def test_an_answer_that_breaks_off_breaks_off_for_the_client_too(gate):
    stream = Stream(b"half", httpx2.ReadError("gone"))
    gateway = gate({"r1": lambda _: httpx2.Response(200, stream=stream), "broker": well})
    with pytest.raises(httpx2.ReadError):
        await gateway.ask("GET", "/x")
    assert stream.closed


async def test_headers_of_a_lying_replica_pass_as_bytes_and_cannot_name_another(gate):
    lies = [
        (b"Mitai-Replica", b"r2"),
        (b"x-odd", "…".encode()),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"7"),
    ]
    gateway = gate({"r1": answers(b"body", 200, lies), "broker": well})
    got = await gateway.ask("GET", "/x")
    assert (got.status, got.body, got.headers["mitai-replica"]) == (200, b"body", "r1")
    assert not {"transfer-encoding", "content-length"} & set(got.headers)
    await gateway.ask("GET", "/x")
    assert "cookie" not in gateway.replicas.seen[1].headers, "one user's cookie must not reach the next"


async def test_redirects_are_passed_on_not_followed(gate):
    gateway = gate({"r1": answers(b"", 302, [(b"location", b"http://elsewhere/")]), "broker": well})
    got = await gateway.ask("GET", "/x")
    assert (got.status, got.headers["location"], len(gateway.replicas.seen)) == (302, "http://elsewhere/", 1)


async def test_a_request_above_the_limit_is_refused_before_it_is_sent(gate):
    gateway = gate(max_request_bytes=10)
    assert (await gateway.ask("POST", "/ohttp", [b"12345", b"67890"])).status == 200
    got = await gateway.ask("POST", "/ohttp", [b"12345", b"678901"])
    assert (got.status, got.json["code"]) == (413, "fleet.request-too-large")
    assert len(gateway.replicas.seen) == 1


async def test_a_request_that_is_cut_off_is_not_sent(gate):
    gateway = gate()
    assert (await gateway.ask("POST", "/ohttp", b"half", cut=True)).status == 499
    assert gateway.replicas.seen == []


async def test_health_names_the_replicas(gate):
    assert (await gate({"b": well, "a": dead, "broker": well}).ask("GET", "/healthz")).json == {
        "status": "ok",
        "replicas": ["a", "b"],
    }


# -- the operator's way --------------------------------------------------------------------------------------


async def test_control_reaches_every_replica_without_the_token(gate):
    flood, nest = answers(b"[" + b"0," * (1 << 20)), answers(b"[" * 100_000)
    gateway = gate(
        {"a": well, "b": dead, "c": slow, "d": answers(b"<html>"), "e": answers(b'"\xff"'), "f": flood, "g": nest}
    )
    got = await gateway.ask("POST", "/control/deploy", b'{"capsule":"c"}', bearer(OPERATOR), query="wait=1")
    assert got.status == 200
    told = got.json
    assert list(told) == list("abcdefg")
    assert told["a"] == {
        "status": 200,
        "body": {"host": "a", "path": "/control/deploy?wait=1", "body": '{"capsule":"c"}'},
    }
    reasons = {name: answer["body"]["detail"] for name, answer in told.items() if answer["status"] == 502}
    assert reasons == {
        "b": "ConnectError",
        "c": "ReadTimeout",
        "d": "DecodeError",
        "e": "UnicodeDecodeError",
        "f": "TooLargeError",
        "g": "RecursionError",
    }
    assert all("authorization" not in request.headers for request in gateway.replicas.seen)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(UPLOAD),
        bearer(OPERATOR + "x"),
        bearer(OPERATOR[:-1]),
        {"authorization": OPERATOR},
        bearer("\xff"),
    ],
)
async def test_control_needs_the_operator_token(gate, headers):
    gateway = gate()
    got = await gateway.ask("POST", "/control/deploy", b"{}", headers)
    assert (got.status, got.json["code"], gateway.replicas.seen) == (401, "fleet.operator-token", [])


async def test_control_bounds_its_body(gate):
    gateway = gate()
    got = await gateway.ask("POST", "/control/deploy", b"x" * ((1 << 20) + 1), bearer(OPERATOR))
    assert (got.status, got.json["code"], gateway.replicas.seen) == (413, "fleet.request-too-large", [])
    assert (await gateway.ask("POST", "/control/deploy", b"x", bearer(OPERATOR), cut=True)).status == 499


TRICKS = [
    "//control/deploy",
    "/./control/deploy",
    "/x/../control/deploy",
    "/ohttp/..//control/deploy",
    "/control",
    "/control/",
    "/broker/../control/deploy",
    "/broker//control/deploy",
    "/broker/../../control/deploy",
    "/..",
    "/%63ontrol/deploy",
    "/control%2fdeploy",
    "/control;x/deploy",
    "/\\control/deploy",
    "/x?/../control/deploy",
    "/x#/control",
    "/x/\x00",
    "/é",
    "/ /",
    "/\r\nx",
    "control/deploy",
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", [*TRICKS, "/control/deploy"])
async def test_no_spelling_of_control_passes_without_the_token(gate, method, path):
    gateway = gate()
    got = await gateway.ask(method, path, b"{}")
    assert got.status in {400, 401, 404, 405}
    assert gateway.replicas.seen == []


@pytest.mark.parametrize("path", ["/control/../ohttp", "/control//deploy", "/control/a%2fb", "/control/"])
async def test_control_with_the_token_still_refuses_odd_paths(gate, path):
    gateway = gate()
    got = await gateway.ask("POST", path, b"{}", bearer(OPERATOR))
    assert (got.status, got.json["code"], gateway.replicas.seen) == (400, "fleet.path", [])


async def test_other_methods_at_the_gateways_own_addresses_do_not_fall_through_to_a_replica(gate):
    gateway = gate()
    for path in ("/objects/c/n", "/objects/c/n/more", "/healthz", "/control/deploy"):
        assert (await gateway.ask("DELETE", path, b"")).json["code"] == "fleet.not-found"
    assert gateway.replicas.seen == []


@given(st.text(alphabet="/.%c\\~:@a-", max_size=20))
def test_a_plain_path_means_the_same_to_every_parser(tail):
    path = "/" + tail
    if _is_plain(path):
        assert httpx2.URL("http://r1" + path).raw_path.decode() == path
        assert path == "/" or not ({"", ".", ".."} & set(path[1:].split("/")))


def test_own_segments_are_those_of_the_routes(gate):
    routes = [route.path.split("/")[1] for route in gate().app.routes]
    assert {name for name in routes if not name.startswith("{")} == _OWN_SEGMENTS


# -- the training worker ----------------------------------------------------------------------------------------


async def test_operators_reach_the_training_worker_and_everybody_its_evidence(gate):
    gateway = gate({"r1": well, "worker": answers(b'{"id": "j"}', 202)}, train="http://worker")
    assert (await gateway.ask("POST", "/control/train/jobs", b"{}")).json["code"] == "fleet.operator-token"
    got = await gateway.ask("POST", "/control/train/jobs", b"{}", bearer(OPERATOR))
    assert (got.status, got.json) == (202, {"id": "j"})
    assert await gateway.ask("GET", "/train/.well-known/mitai/evidence", query="nonce=00")
    requests = [(request.method, str(request.url)) for request in gateway.replicas.seen]
    assert requests == [
        ("POST", "http://worker/control/jobs"),
        ("GET", "http://worker/.well-known/mitai/evidence?nonce=00"),
    ]
    assert "authorization" not in gateway.replicas.seen[0].headers


@pytest.mark.parametrize(
    "path",
    [
        "/train/control/jobs",
        "/train/ohttp",
        "/train/.well-known/mitai/evidence/../../../control/jobs",
        "/train",
        "/train/",
    ],
)
async def test_nothing_else_of_the_worker_is_reached(gate, path):
    gateway = gate({"r1": well, "worker": well}, train="http://worker")
    assert (await gateway.ask("POST", path, b"{}")).status in {400, 404, 405}
    assert gateway.replicas.seen == []


async def test_a_platform_without_a_worker_says_so(gate):
    for path in ("/control/train/jobs", "/train/.well-known/mitai/evidence"):
        got = await gate().ask("GET", path, headers=bearer(OPERATOR))
        assert (got.status, got.json["code"]) == (404, "fleet.no-train-worker")


# -- objects -------------------------------------------------------------------------------------------------


async def test_an_object_is_stored_once_and_read_by_anyone(gate, tmp_path):
    gateway = gate()
    put = await gateway.ask("PUT", "/objects/cap/shard-0.bin", [b"0123", b"456789"], bearer(UPLOAD))
    assert (put.status, put.json) == (201, {"size": 10})
    got = await gateway.ask("GET", "/objects/cap/shard-0.bin")
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"0123456789", "10")
    assert got.headers["content-type"] == "application/octet-stream"
    head = await gateway.ask("HEAD", "/objects/cap/shard-0.bin")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "10")
    again = await gateway.ask("PUT", "/objects/cap/shard-0.bin", b"other", bearer(UPLOAD))
    assert (again.status, again.json["code"]) == (409, "fleet.object-exists")
    assert (tmp_path / "objects/cap/shard-0.bin").read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    ("wanted", "status", "body"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=3-5", 206, b"345"),
        ("bytes=8-999999999999", 206, b"89"),
        ("bytes=5-", 200, b"0123456789"),
        ("bytes=-3", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("items=0-1", 200, b"0123456789"),
        ("bytes=" + "9" * 19 + "-" + "9" * 19, 200, b"0123456789"),
    ],
)
async def test_ranges(gate, wanted, status, body):
    gateway = gate()
    await gateway.ask("PUT", "/objects/c/n", b"0123456789", bearer(UPLOAD))
    got = await gateway.ask("GET", "/objects/c/n", headers={"range": wanted})
    assert (got.status, got.body, got.headers["content-length"]) == (status, body, str(len(body)))
    if status == 206:
        first = b"0123456789".index(body)
        assert got.headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/10"


@pytest.mark.parametrize("wanted", ["bytes=10-20", "bytes=5-4"])
async def test_ranges_outside(gate, wanted):
    gateway = gate()
    await gateway.ask("PUT", "/objects/c/n", b"0123456789", bearer(UPLOAD))
    got = await gateway.ask("GET", "/objects/c/n", headers={"range": wanted})
    assert (got.status, got.json["code"]) == (416, "fleet.object-range")


async def test_an_empty_object(gate):
    gateway = gate()
    assert (await gateway.ask("PUT", "/objects/c/n", b"", bearer(UPLOAD))).json == {"size": 0}
    assert (await gateway.ask("GET", "/objects/c/n")).body == b""
    assert (await gateway.ask("GET", "/objects/c/n", headers={"range": "bytes=0-0"})).status == 416


async def test_a_large_object_is_read_in_blocks(gate):
    gateway, content = gate(), bytes(range(256)) * 10_000
    await gateway.ask(
        "PUT", "/objects/c/n", [content[i : i + 60_000] for i in range(0, len(content), 60_000)], bearer(UPLOAD)
    )
    assert (await gateway.ask("GET", "/objects/c/n")).body == content
    got = await gateway.ask("GET", "/objects/c/n", headers={"range": "bytes=1000-2000999"})
    assert got.body == content[1000:2001000]


@pytest.mark.parametrize("token", ["", OPERATOR, UPLOAD + "x"])
async def test_storing_needs_the_upload_token(gate, tmp_path, token):
    got = await gate().ask("PUT", "/objects/c/n", b"x", bearer(token))
    assert (got.status, got.json["code"]) == (401, "fleet.upload-token")
    assert not (tmp_path / "objects").exists()


@pytest.mark.parametrize(
    ("capsule", "name"),
    [
        ("..", "n"),
        ("c", ".."),
        (".", "n"),
        (".hidden", "n"),
        ("c", "a b"),
        ("c", "n\x00"),
        ("c", "é"),
        ("c", "n" * 129),
        ("c", "a\\b"),
        ("c\n", "n"),
    ],
)
async def test_bad_object_names(gate, tmp_path, capsule, name):
    gateway = gate()
    put = await gateway.ask("PUT", f"/objects/{capsule}/{name}", b"x", bearer(UPLOAD))
    assert (put.status, put.json["code"]) == (400, "fleet.object-name")
    assert (await gateway.ask("GET", f"/objects/{capsule}/{name}")).json["code"] == "fleet.object-missing"
    assert not (tmp_path / "objects").exists()


@pytest.mark.parametrize(("parts", "cut", "status"), [([b"12345", b"678901"], False, 413), ([b"123"], True, 499)])
async def test_nothing_is_left_of_an_upload_that_fails(gate, tmp_path, parts, cut, status):
    gateway = gate(max_object_bytes=10)
    got = await gateway.ask("PUT", "/objects/c/n", parts, bearer(UPLOAD), cut=cut)
    assert got.status == status
    assert list((tmp_path / "objects").rglob("*.*")) == []
    assert (await gateway.ask("GET", "/objects/c/n")).status == 404
    assert (await gateway.ask("PUT", "/objects/c/n", b"1234567890", bearer(UPLOAD))).status == 201


async def test_a_store_that_cannot_be_written(gate, tmp_path):
    (tmp_path / "objects").write_text("a file where a folder should be")
    got = await gate().ask("PUT", "/objects/c/n", b"x", bearer(UPLOAD))
    assert (got.status, got.json["code"]) == (507, "fleet.object-store")


async def test_of_two_uploads_at_once_one_is_refused(gate, tmp_path):
    gateway = gate()
    both = await asyncio.gather(
        gateway.ask("PUT", "/objects/c/n", [b"a"] * 50, bearer(UPLOAD)),
        gateway.ask("PUT", "/objects/c/n", [b"b"] * 50, bearer(UPLOAD)),
    )
    assert sorted(got.status for got in both) == [201, 409]
    winner = b"a" if both[0].status == 201 else b"b"
    assert (tmp_path / "objects/c/n").read_bytes() == winner * 50


# -- capture, configuration ----------------------------------------------------------------------------------


async def test_the_capture_records_what_the_host_saw_and_no_token(gate, tmp_path):
    gateway = gate({"r1": answers(b"\x00answer"), "broker": well}, capture=str(tmp_path / "deep" / "capture.jsonl"))
    await gateway.ask("POST", "/ohttp", [b"\xff", b"request"], {"x-odd": "\xe9"})
    await gateway.ask("GET", "/.well-known/mitai/evidence", query="nonce=00")
    await gateway.ask("POST", "/control/x", b"{}", bearer(OPERATOR))
    await gateway.ask("PUT", "/objects/c/n", b"x", bearer(UPLOAD))
    async with gateway.app.router.lifespan_context(gateway.app):
        pass
    path = tmp_path / "deep" / "capture.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["method"], row["path"], row["status"]) for row in rows] == [
        ("POST", "/ohttp", 200),
        ("GET", "/.well-known/mitai/evidence", 200),
    ]
    assert base64.b64decode(rows[0]["request"]) == b"\xffrequest"
    assert [base64.b64decode(part) for part in rows[0]["response"]] == [b"\x00answer"]
    assert UPLOAD not in path.read_text()
    assert OPERATOR not in path.read_text()


GOOD = f"""
broker = "http://127.0.0.1:1"
objects = "/x"
upload_token = "{UPLOAD}"
operator_token = "{OPERATOR}"
[replicas]
r1 = "http://127.0.0.1:2"
"""


def test_configuration_is_read(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD)
    config = GatewayConfig.load(path)
    assert (config.replicas, config.port) == ({"r1": "http://127.0.0.1:2"}, 8700)
    assert UPLOAD not in repr(config)
    assert OPERATOR not in repr(config)


@pytest.mark.parametrize(
    "text",
    ["", "not toml", GOOD.replace(UPLOAD, "short"), "unknown = 1" + GOOD, GOOD.replace('"/x"', "5")],
)
def test_configuration_is_refused(tmp_path, text):
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(FleetError) as caught:
        GatewayConfig.load(path)
    assert caught.value.code == "fleet.config"
    assert UPLOAD not in str(caught.value)


def test_configuration_that_is_not_text_or_not_there(tmp_path):
    path = tmp_path / "gateway.toml"
    for prepare in (lambda: None, lambda: path.write_bytes(b"\xff\xfe")):
        prepare()
        with pytest.raises(FleetError, match=r"fleet\.config"):
            GatewayConfig.load(path)


def test_the_process_says_what_is_wrong_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "mitai.fleet.gateway", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "fleet.config" in done.stderr
    assert "Traceback" not in done.stderr


# -- over real sockets ---------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """A server in a thread, on a free port of loopback."""

    running: ClassVar[dict[str, tuple[Server, threading.Thread]]] = {}

    @classmethod
    @contextlib.contextmanager
    def run_app(cls, app: object) -> Iterator[str]:
        listener = socket.create_server(("127.0.0.1", 0))
        server = cls(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        cls.running[url] = server, thread
        thread.start()
        try:
            yield url
        finally:
            cls.stop(url)

    @classmethod
    def stop(cls, url: str) -> None:
        if found := cls.running.pop(url, None):
            found[0].should_exit = True
            found[1].join(30)


class Story:
    """A replica that streams until told otherwise, and remembers who left."""

    def __init__(self) -> None:
        self.freed = threading.Event()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": scope["path"].encode(), "more_body": True})
        if scope["path"] == "/stream":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.freed.set()
            return
        if scope["path"] == "/broken":
            raise RuntimeError
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture
def live(tmp_path) -> Iterator[tuple[str, Story]]:
    story = Story()
    with Server.run_app(story) as replica:
        config = GatewayConfig(
            replicas={"r1": replica},
            broker=replica,
            objects=str(tmp_path),
            upload_token=UPLOAD,
            operator_token=OPERATOR,
        )
        with Server.run_app(create_app(config)) as url:
            yield url, story


def test_parts_arrive_as_they_are_made_and_a_client_that_leaves_frees_the_replica(live):
    url, story = live
    with httpx2.Client(trust_env=False) as client, client.stream("GET", url + "/stream") as answer:
        parts = answer.iter_raw()  # kept: a dropped iterator closes the answer
        assert next(parts) == b"/stream"
        assert not story.freed.is_set()
    assert story.freed.wait(10)


def test_a_replica_that_goes_away_is_replaced_although_connections_to_it_were_kept(tmp_path):
    with Server.run_app(Story()) as stays, contextlib.ExitStack() as stack:
        goes = stack.enter_context(Server.run_app(Story()))
        config = GatewayConfig(
            replicas={"goes": goes, "stays": stays},
            broker=stays,
            objects=str(tmp_path),
            upload_token=UPLOAD,
            operator_token=OPERATOR,
        )
        url = stack.enter_context(Server.run_app(create_app(config)))
        with httpx2.Client(trust_env=False) as client:
            names = {client.get(url + "/x").headers["mitai-replica"] for _ in range(2)}
            assert names == {"goes", "stays"}
            Server.stop(goes)
            for _ in range(4):
                answer = client.get(url + "/x")
                assert (answer.status_code, answer.headers["mitai-replica"]) == (200, "stays")
            answer = client.post(url + "/ohttp", content=b"sealed", headers={"mitai-replica": "goes"})
            assert (answer.status_code, answer.json()["code"]) == (421, "channel.keys-changed")


def test_a_replica_that_dies_in_mid_answer_is_seen_by_the_client(live):
    url, _ = live
    with httpx2.Client(trust_env=False) as client, pytest.raises(httpx2.RemoteProtocolError):
        client.get(url + "/broken")


@pytest.mark.parametrize(
    "target",
    [
        "/x/../control/deploy",
        "//control/deploy",
        "/%2e%2e/control/deploy",
        "/control%2Fdeploy",
        "/x/%2e%2e/control/deploy",
        "/x%2F..%2Fcontrol/deploy",
    ],
)
def test_path_tricks_on_the_wire(live, target):
    """Exact bytes, since an HTTP client library would tidy them up."""
    url, _ = live
    parts = httpx2.URL(url)
    with socket.create_connection((parts.host, parts.port), timeout=10) as wire:
        wire.sendall(
            f"POST {target} HTTP/1.1\r\nHost: control\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        status = int(wire.makefile("rb").readline().split()[1])
    assert status in {400, 401}


# -- the page for browsers -----------------------------------------------------------------------------------

PAGE = {
    "index.html": b"<!doctype html>" + b" " * 2000,
    "console.html": b"<!doctype html><title>console</title>",
    "assets/index-1.js": b"go()",
    "badge.js": b"badge()",
}


@pytest.fixture
def site(gate, tmp_path):
    """A gateway with a page and something to offer."""
    folder = tmp_path / "page"
    for path, data in (PAGE | {"page.sha256": Page(PAGE).list_bytes}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (tmp_path / "policy.toml").write_text("version = 1\n# Grüße\n", "utf-8")
    (tmp_path / "serve.json").write_text('{"payload": ""}')
    return gate(
        {"r1": well, "r2": well, "broker": well},
        page=str(folder),
        policy=str(tmp_path / "policy.toml"),
        releases=(str(tmp_path / "serve.json"),),
    )


@pytest.mark.parametrize(
    ("address", "path"), [("/", "index.html"), ("/console", "console.html"), *((f"/{path}", path) for path in PAGE)]
)
async def test_the_page_is_served_as_it_is(site, address, path):
    got = await site.ask("GET", address)
    assert (got.status, got.body) == (200, PAGE[path])
    expected = page_headers(path, PAGE[path])
    assert {name: got.headers[name] for name in expected} == expected
    assert not site.replicas.seen
    head = await site.ask("HEAD", address)
    assert (head.headers["content-length"], head.headers["content-type"]) == (
        str(len(PAGE[path])),
        got.headers["content-type"],
    )


async def test_the_page_is_compressed_where_that_helps(site):
    got = await site.ask("GET", "/", headers={"accept-encoding": "br, gzip"})
    assert (got.headers["content-encoding"], got.headers["vary"]) == ("gzip", "accept-encoding")
    assert gzip.decompress(got.body) == PAGE["index.html"]
    plain = await site.ask("GET", "/badge.js", headers={"accept-encoding": "gzip"})
    assert plain.body == PAGE["badge.js"]


async def test_a_browser_keeps_what_has_not_changed(site):
    tag = (await site.ask("GET", "/")).headers["etag"]
    again = await site.ask("GET", "/", headers={"if-none-match": tag})
    assert (again.status, again.body) == (304, b"")
    assert (await site.ask("GET", "/console", headers={"if-none-match": tag})).status == 200


async def test_the_offer_is_the_files_of_the_configuration(site):
    got = await site.ask("GET", "/mitai.json")
    policy = "version = 1\n# Grüße\n"
    told = {"v": 1, "gateway": "", "policy": policy, "releases": ['{"payload": ""}']}
    assert json.loads(got.body) == told
    assert got.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/", "/index.html", "/badge.js", "/mitai.json"])
async def test_what_is_posted_goes_to_a_replica_also_at_the_pages_addresses(site, path):
    got = await site.ask("POST", path, b"sealed")
    assert got.json["body"] == "sealed"


async def test_no_address_of_the_api_is_the_pages(site):
    for path in ("/ohttp", "/.well-known/mitai/evidence", "/v1/models", "/assets/other.js", "/page.sha25"):
        assert (await site.ask("GET", path)).json["host"] in {"r1", "r2"}
    assert (await site.ask("GET", "/broker/ledger/checkpoint")).json["host"] == "broker"


def test_a_gateway_refuses_to_offer_what_is_no_text(site, tmp_path):
    for content in (b"\xff", bytes((1 << 20) + 1)):
        (tmp_path / "policy.toml").write_bytes(content)
        with pytest.raises(WebError) as refused:
            create_app(site.config)
        assert refused.value.code == "web.offer-malformed"


async def test_without_a_page_there_is_still_an_offer(gate, tmp_path, monkeypatch):
    monkeypatch.setattr("mitai.fleet.gateway.installed_page", lambda: None)
    (tmp_path / "policy.toml").write_text("version = 1")
    gateway = gate(policy=str(tmp_path / "policy.toml"))
    assert (await gateway.ask("GET", "/mitai.json")).json["policy"] == "version = 1"
    assert (await gateway.ask("GET", "/")).json["host"] == "r1"


def test_a_gateway_refuses_to_serve_a_damaged_page(site, tmp_path):
    (tmp_path / "page" / "badge.js").write_bytes(b"evil()")
    with pytest.raises(WebError) as refused:
        create_app(site.config)
    assert refused.value.code == "web.page-damaged"


# -- pages of other hosts ------------------------------------------------------------------------------------

OPEN = [
    "/ohttp",
    "/broker/ohttp",
    "/.well-known/mitai/evidence",
    "/broker/.well-known/mitai/evidence",
    "/broker/ledger/checkpoint",
    "/broker/ledger/tile/0/000",
    "/healthz",
    "/mitai.json",
]
CLOSED = [
    "/",
    "/console",
    "/control/status",
    "/objects/c1/manifest",
    "/v1/models",
    "/broker/v1/decisions",
    "/ohttp/",
    "/broker/ledger",
    "/.well-known/hpke-keys",
]
FROM = {"origin": "https://elsewhere.example"}


@pytest.mark.parametrize("path", OPEN)
async def test_pages_of_other_hosts_may_read_public_paths(site, path):
    got = await site.ask("GET", path, headers=FROM)
    assert (got.headers["access-control-allow-origin"], got.headers["access-control-expose-headers"]) == (
        "*",
        "mitai-replica",
    )
    assert "access-control-allow-credentials" not in got.headers
    asked = FROM | {"access-control-request-method": "POST", "access-control-request-headers": "mitai-replica"}
    preflight = await site.ask("OPTIONS", path, headers=asked)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-methods"] == "GET, POST"
    assert "mitai-replica" in preflight.headers["access-control-allow-headers"].split(", ")
    assert int(preflight.headers["access-control-max-age"]) >= 7200


@pytest.mark.parametrize("path", CLOSED)
async def test_pages_of_other_hosts_may_read_nothing_else(site, path):
    for method, more in (("GET", {}), ("PUT", bearer(UPLOAD)), ("POST", bearer(OPERATOR))):
        got = await site.ask(method, path, headers=FROM | more)
        assert not [name for name in got.headers if name.startswith("access-control-")]
    preflight = await site.ask("OPTIONS", path, headers=FROM | {"access-control-request-method": "PUT"})
    assert not [name for name in preflight.headers if name.startswith("access-control-")]


async def test_an_open_path_is_open_to_no_other_method(site):
    for method in ("PUT", "DELETE"):
        got = await site.ask(method, "/ohttp", headers=FROM)
        assert "access-control-allow-origin" not in got.headers


async def test_pages_of_other_hosts_may_read_why_a_request_failed(gate):
    got = await gate({"r1": dead, "broker": well}).ask("POST", "/ohttp", b"sealed", FROM | {"mitai-replica": "r9"})
    assert (got.status, got.json["code"]) == (421, "channel.keys-changed")
    assert got.headers["access-control-allow-origin"] == "*"


async def test_what_a_replica_says_of_other_sites_is_dropped(gate):
    told = [(b"Access-Control-Allow-Origin", b"https://evil.example"), (b"access-control-allow-credentials", b"true")]
    gateway = gate({"r1": answers(b"{}", headers=told), "broker": well})
    assert "access-control-allow-origin" not in (await gateway.ask("GET", "/v1/models", headers=FROM)).headers
    got = await gateway.ask("POST", "/ohttp", b"", FROM)
    assert got.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in got.headers


@pytest.mark.parametrize("path", ["/evil.html", "/ohttp", "/broker/ledger/checkpoint"])
async def test_what_a_replica_sends_is_no_page_and_says_nothing_about_the_pages_host(gate, path):
    """It shares the page's origin, and with it what the browser keeps there."""
    told = [
        *((b"content-type", b"text/html"), (b"Content-Security-Policy", b"script-src *"), (b"set-cookie", b"a=b")),
        *((b"Clear-Site-Data", b'"*"'), (b"service-worker-allowed", b"/"), (b"refresh", b"0; url=/evil.html")),
    ]
    answer = answers(b"<script>evil()</script>", headers=told)
    got = await gate({"r1": answer, "broker": answer}).ask("GET", path)
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert not {"set-cookie", "clear-site-data", "service-worker-allowed", "refresh"} & set(got.headers)
    assert got.headers["content-type"] == "text/html"


async def test_no_answer_is_guessed_to_be_a_script(site):
    for path in ("/", "/ohttp", "/objects/c1/o1", "/healthz", "/control/x"):
        assert (await site.ask("GET", path)).headers["x-content-type-options"] == "nosniff"
    await site.ask("PUT", "/objects/c1/o1", b"<script>evil()</script>", bearer(UPLOAD))
    got = await site.ask("GET", "/objects/c1/o1")
    assert (got.headers["content-type"], got.headers["content-security-policy"]) == (
        "application/octet-stream",
        "default-src 'none'; sandbox",
    )
