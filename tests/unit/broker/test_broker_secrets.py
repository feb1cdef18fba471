"""No key, policy or seed is ever in a log line, an exception or a representation, whatever goes wrong."""

from __future__ import annotations

import asyncio
import base64
import traceback

import msgspec
import pytest
import structlog
from sqlalchemy import text

from broker_rig import ALLOW_ALL, OTHER, Rig
from mitai.broker import protocol
from mitai.broker.protocol import Budget

WORDS = "ownerswords"


def test_a_whole_run_tells_no_secret(ready: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def attempt(call: object, *arguments: object, **more: object) -> None:
        try:
            said.append(repr(call(*arguments, **more)))
        except Exception as error:  # noqa: BLE001 - whatever it says is looked at
            said.append("".join(traceback.format_exception(error, chain=True)))
            said.append(repr(error.args))

    with structlog.testing.capture_logs() as logs:
        policy = ALLOW_ALL + f"// {WORDS}"
        sealed = ready.publish(policy, Budget(uses=2))
        publication = ready.alice.publication(ready, sealed, policy)
        wrong_key = msgspec.json.decode(publication) | {"data_key": base64.b64encode(b"K" * 32).decode()}
        as_type = msgspec.json.decode(publication) | {"v": base64.b64encode(sealed.data_key).decode()}
        as_field = msgspec.json.decode(publication) | {base64.b64encode(sealed.data_key).decode(): 1}
        attempt(ready.send, publication)
        for fields in (wrong_key, as_type, as_field):
            attempt(ready.send, msgspec.json.encode(fields))
        attempt(ready.send, publication[:-7])
        attempt(ready.send, publication.replace(b"data_key", b"data_kex"))
        attempt(ready.release, sealed.capsule_id)
        attempt(ready.release, sealed.capsule_id, measured=OTHER)
        attempt(ready.release, sealed.capsule_id)
        attempt(ready.release, sealed.capsule_id)
        attempt(protocol.decode, publication, protocol.CommandRequest, 1 << 20)
        request = ready.request(sealed.capsule_id)
        attempt(asyncio.run, ready.broker.release(request.body))
        with ready.broker._database.writing() as connection:
            connection.execute(text("UPDATE broker_records SET sealed = zeroblob(40)"))
        attempt(ready.release, sealed.capsule_id)
    captured = capfd.readouterr()
    everything = "\n".join([*said, repr(logs), captured.out, captured.err])
    assert "broker.state-damaged" in everything
    for key in (sealed.data_key, b"K" * 32, ready.broker._signer.seed()):
        for form in (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]):
            assert form not in everything
    assert WORDS not in everything
