"""A request that is held back until its key was dropped is not answered by what came after."""

from __future__ import annotations

import asyncio
import time

import pytest

from mitai.channel import ChannelMiddleware, KeyRing, Limits, bhttp
from mitai.channel.outgoing import EhbpOutgoing, OhttpOutgoing
from mitai.errors import KeysChangedError


@pytest.mark.parametrize("held_back", [1, 1000])
async def test_a_request_held_back_beyond_its_key_is_refused(held_back):
    ring, seen = KeyRing.generate(), []

    async def app(scope, receive, send):
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        seen.append(message)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    head = bhttp.RequestHead(b"POST", b"https", b"server.test", b"/", ())
    outgoing = OhttpOutgoing(ring.current_config(), head, b"question", now=time.time())
    pieces = [(outgoing.body[:-held_back], True), (outgoing.body[-held_back:], False)]

    async def receive():
        body, more = pieces.pop(0)
        if not more:
            ring.rotate(grace_s=0.0)  # another model is served from here on
        return {"type": "http.request", "body": body, "more_body": more}

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"message/ohttp-chunked-req")]
    scope = {"type": "http", "method": "POST", "path": "/ohttp", "headers": headers}
    await ChannelMiddleware(app, ring)(scope, receive, send)
    assert seen == []
    assert not outgoing.refusal(sent[0]["status"], sent[0]["headers"])  # the refusal itself is sealed
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    with pytest.raises(KeysChangedError):
        _ = [*outgoing.feed(answer), *outgoing.finish()]


async def test_an_ehbp_request_held_back_beyond_its_key_is_refused():
    ring, seen = KeyRing.generate(), []

    async def app(scope, receive, send):
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            seen.append(message)

    head = bhttp.RequestHead(b"POST", b"https", b"server.test", b"/v1", ())
    outgoing = EhbpOutgoing(ring.current_config(), head, b"question")
    pieces = [(outgoing.body, True), (b"", False)]

    async def receive():
        body, more = pieces.pop(0)
        if not more:
            ring.rotate(grace_s=0.0)
        return {"type": "http.request", "body": body, "more_body": more}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1",
        "raw_path": b"/v1",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in outgoing.fields],
    }
    await ChannelMiddleware(app, ring)(scope, receive, send)
    assert seen == []
    assert sent[0]["status"] >= 400


async def test_a_client_that_trickles_its_head_holds_a_place_for_one_idle_time_only():
    ring = KeyRing.generate()
    body = iter(
        OhttpOutgoing(ring.current_config(), bhttp.RequestHead(b"GET", b"https", b"a", b"/", ()), b"", now=0).body
    )
    received = 0

    async def receive():
        nonlocal received
        await asyncio.sleep(0.02)  # always within the idle time
        received += 1
        return {"type": "http.request", "body": bytes([next(body)]), "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"message/ohttp-chunked-req")]
    scope = {"type": "http", "method": "POST", "path": "/ohttp", "headers": headers}
    began = time.monotonic()
    await ChannelMiddleware(None, ring, limits=Limits(idle_s=0.1))(scope, receive, send)
    assert time.monotonic() - began < 1
    assert received > 2
    assert sent[0]["status"] == 408
