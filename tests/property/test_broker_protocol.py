"""Properties of the broker's boundaries: any bytes give the tree's error or a value, changed ones are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker import leases, protocol
from mitai.broker.nonces import Nonces
from mitai.broker.policy import CedarEngine
from mitai.broker.vault import Vault
from mitai.errors import BrokerError, MitaiError, ParseError

KINDS = (
    protocol.CommandRequest,
    protocol.Command,
    protocol.Query,
    protocol.QueryHeader,
    protocol.Challenge,
    protocol.ReleaseRequest,
    protocol.ReleaseAnswer,
    protocol.ReleasedKeys,
    protocol.ReceiptsRequest,
    protocol.ReceiptsAnswer,
    protocol.ProofAnswer,
    protocol.DecisionsAnswer,
    protocol.CapsuleView,
    protocol.DeriveRequest,
    protocol.LineageAnswer,
    protocol.ExportCommand,
    protocol.ExportsAnswer,
    protocol.ExportAnswer,
    protocol.Recipient,
    protocol.LeaseRequest,
    protocol.LeaseStatement,
    protocol.LeaseAnswer,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.sampled_from(["0" * 64, "AA==", "revoke"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["v", "type", "broker", "party", "nonce", "capsules", "command"]), inner)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=400) | JSON.map(msgspec.json.encode), st.sampled_from(KINDS))
def test_arbitrary_bytes_give_a_parse_error_or_a_value(data: bytes, kind: type) -> None:
    try:
        value = protocol.decode(data, kind, 1000)
    except ParseError:
        return
    assert protocol.decode(protocol.encode(value), kind, 10_000) == value


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp("broker")
    made = Rig(folder, SimPlatform.create(folder / "sim"))
    made.register()
    yield made
    made.close()


PLACES = st.floats(0, 1, exclude_max=True)  # bodies differ in length from example to example


@settings(max_examples=150)
@given(place=PLACES, change=st.integers(1, 255))
def test_any_changed_byte_of_a_command_is_refused(rig: Rig, place: float, change: int) -> None:
    """A change either breaks the signature or changes nothing that is signed (spelling of JSON or base64)."""
    sealed = rig.seal()
    body = rig.alice.publication(rig, sealed)
    changed = bytearray(body)
    changed[int(place * len(body))] ^= change
    size = rig.broker.size
    try:
        rig.send(bytes(changed))
    except MitaiError:
        assert rig.broker.size == size
        return
    before = protocol.decode(body, protocol.CommandRequest, 1 << 20)
    after = protocol.decode(bytes(changed), protocol.CommandRequest, 1 << 20)
    assert (before.command.payload, before.data_key) == (after.command.payload, after.data_key)


@pytest.fixture(scope="module")
def capsule(rig: Rig) -> str:
    return rig.publish().capsule_id


@settings(max_examples=100)
@given(place=PLACES, change=st.integers(1, 255))
def test_any_changed_byte_beside_the_evidence_of_a_release_is_refused(
    rig: Rig, capsule: str, place: float, change: int
) -> None:
    """What the evidence says is looked at in attest, here: what it is sent for. Another spelling is no change."""
    body = rig.request(capsule, parameters={"columns": "age,sex", "method": "sft"}).body
    start = body.index(b'"nonce"')
    changed = bytearray(body)
    changed[start + int(place * (len(body) - start))] ^= change
    with suppress(MitaiError):
        asyncio.run(rig.broker.release(bytes(changed)))
        before, after = (protocol.decode(bytes(each), protocol.ReleaseRequest, 1 << 20) for each in (body, changed))
        assert after == before


NAMES = st.text(min_size=1, max_size=8)
REQUESTS = st.builds(
    protocol.ReleaseRequest,
    evidence=st.binary(max_size=4),
    nonce=st.sampled_from(["0" * 64, "1" * 64]),
    purpose=st.sampled_from(["inference", "training"]),
    capsules=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(tuple),
    parameters=st.dictionaries(NAMES, NAMES, max_size=3),
)


@given(REQUESTS, REQUESTS)
def test_two_requests_have_one_nonce_only_where_they_say_the_same(
    one: protocol.ReleaseRequest, two: protocol.ReleaseRequest
) -> None:
    alike = msgspec.structs.replace(one, evidence=b"") == msgspec.structs.replace(two, evidence=b"")
    assert (protocol.release_nonce(one) == protocol.release_nonce(two)) == alike


@settings(max_examples=150)
@given(place=PLACES, change=st.integers(1, 255))
def test_any_changed_byte_of_a_lease_request_is_refused_before_anything_is_asked(
    rig: Rig, place: float, change: int
) -> None:
    """As of a command: what is left is another spelling of the same signed bytes."""
    key, audience, now = rig.receipt_key, rig.broker.audience, rig.clock()
    statement = protocol.LeaseStatement(
        broker=audience, party=key.key_id, capsules=("c",), time_s=int(now.timestamp()), nonce="0" * 64
    )
    signed = key.sign(protocol.encode(statement), protocol.LEASE_TYPE)
    body = protocol.encode(protocol.LeaseRequest(receipt_key=key.public.raw, lease=signed))
    changed = bytearray(body)
    changed[int(place * len(body))] ^= change
    try:
        leases.prepare(bytes(changed), audience, now)
    except MitaiError:
        return
    after = protocol.decode(bytes(changed), protocol.LeaseRequest, protocol.MAX_LEASE_BYTES)
    assert (after.receipt_key, after.lease.payload) == (key.public.raw, signed.payload)


@given(st.binary(min_size=32, max_size=32))
def test_no_made_up_nonce_is_accepted(nonce: bytes) -> None:
    with pytest.raises(MitaiError):
        Nonces(lambda: 0.0).claim(nonce, "digest")


@given(st.binary(max_size=100), st.integers(0, 1000), st.integers(1, 255))
def test_any_changed_byte_of_a_row_is_refused(content: bytes, position: int, change: int) -> None:
    vault = Vault(bytes(32))
    row = vault.seal("capsule", vault.tag("capsule", "c"), content)
    for name in ("tag", "stamp", "sealed"):
        fields = {"tag": row.tag, "stamp": row.stamp, "sealed": row.sealed}
        damaged = bytearray(fields[name])
        damaged[position % len(damaged)] ^= change
        fields[name] = bytes(damaged)
        with pytest.raises(MitaiError):
            vault.open("capsule", **fields)


@given(st.text(max_size=200) | st.text("permitforbid(){};=.\"' \n&|!", max_size=80))
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    with suppress(BrokerError):  # nothing else is raised
        CedarEngine().compile(text)
