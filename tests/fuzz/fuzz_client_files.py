"""Fuzz what a client reads from disk or a peer: signed envelopes, kept proofs, problem documents, streamed answers."""

from __future__ import annotations

import contextlib
import sys

import httpx2

from mitai.client.chat import chat
from mitai.client.receipts import Proof
from mitai.errors import ClientError, MitaiError
from mitai.identity import Envelope, Identity
from mitai.problem import error_from

_KEY = Identity.from_seed(bytes(32)).public


def one_input(data: bytes) -> None:
    for parse in (Proof.decode, lambda raw: Envelope.decode(raw).open("application/example", _KEY)):
        with contextlib.suppress(MitaiError):
            parse(data)
    with contextlib.suppress(MitaiError):
        answer = httpx2.Response(200, content=data)
        with httpx2.Client(transport=httpx2.MockTransport(lambda _: answer), base_url="http://server.test") as http:
            list(chat(http, [], "m"))
    told = error_from(ClientError, 500, data, code="client.refused", who="the server")
    assert told.code
    assert all(character.isprintable() for character in told.message)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, lambda data: one_input(data))
    atheris.Fuzz()
