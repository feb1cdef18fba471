"""Chat: what the server could not finish is not shown as an answer."""

from __future__ import annotations

import httpx2
import pytest

from mitai.client.chat import chat
from mitai.errors import ClientError

PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"Four"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
FAILED = b'data: {"error":{"message":"the answer took longer than 600 s","code":"serve.timeout"}}\n\n'


def ask(events: bytes) -> list[str]:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=events))
    with httpx2.Client(transport=transport, base_url="http://server.test") as http:
        return list(chat(http, [{"role": "user", "content": "2 + 2?"}], "m"))


def test_a_whole_answer():
    assert ask(PIECE + END) == ["Four"]


def test_an_answer_that_failed_half_way_ends_in_its_error():
    with pytest.raises(ClientError) as failed:
        ask(PIECE + FAILED)
    assert (failed.value.code, failed.value.message) == ("serve.timeout", "the answer took longer than 600 s")


@pytest.mark.parametrize("events", [b"", PIECE, PIECE + b"data: [DONE]\n\n"])
def test_an_answer_without_its_end_is_refused(events):
    with pytest.raises(ClientError) as failed:
        ask(events)
    assert failed.value.code == "client.answer-incomplete"


@pytest.mark.parametrize("data", [b"[1]", b"{", b"[" * 100_000, b'{"choices":' + b"[" * 100_000, b"\xff"])
def test_a_stream_of_something_else(data):
    with pytest.raises(ClientError) as failed:
        ask(b"data: " + data + b"\n\n")
    assert failed.value.code == "client.answer-malformed"
