"""A replica's way to a broker that was verified, and then breaks off, is slow, answers nonsense or too much."""

from __future__ import annotations

import httpx2
import pytest

from mitai.errors import MitaiError, ServeError
from mitai.serve import link


def linked(answer):
    """Return a link whose session is there already: what travels is the test's."""
    made = object.__new__(link.BrokerLink)
    made._url, made._http = "http://broker.test", httpx2.Client(transport=httpx2.MockTransport(answer))
    return made


def fail(error):
    def answer(_):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (fail(httpx2.ConnectError("gone")), "serve.broker-unreachable"),
        (fail(httpx2.ReadTimeout("slow")), "serve.broker-unreachable"),
        (fail(httpx2.RemoteProtocolError("cut")), "serve.broker-unreachable"),
        (lambda _: httpx2.Response(500, content=(b"<html>")), "serve.broker-refused"),
        (
            lambda _: httpx2.Response(503, content=(b'{"code":"broker.busy","detail":"x"}')),
            "broker.busy",
        ),
        (
            lambda _: httpx2.Response(200, content=(bytes(link.MAX_ANSWER_BYTES + 1))),
            "serve.broker-answer-too-large",
        ),
    ],
)
def test_a_broker_that_does_not_behave(answer, code):
    with pytest.raises(ServeError) as refused:
        linked(answer).post("/v1/challenge", b"")
    assert refused.value.code == code


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"nonce":"' + b"f" * 63 + b'"}', b"\xff"])
def test_a_challenge_or_release_that_is_none(content):
    from mitai.broker.release_client import Release
    from mitai.channel import KeyRing

    given = linked(lambda _: httpx2.Response(200, content=(content))).post("/v1/challenge", b"")
    with pytest.raises(MitaiError):
        Release(given, lambda _: None, purpose="inference", capsules=("c",))
    genuine = Release.__new__(Release)
    genuine.body, genuine.nonce = b"{}", bytes(32)
    with pytest.raises(MitaiError):
        genuine.open(content, KeyRing.generate())
