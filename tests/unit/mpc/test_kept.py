"""Receipts of parties as a user keeps them: what holds, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from mitai.errors import MitaiError
from mitai.identity import Identity
from mitai.ledger.receipt import PartyReceipt
from mitai.mpc.kept import Kept, Signed

SIDES = {role: Identity.generate() for role in ("p0", "p1", "dealer")}
KNOWN = {role: identity.key_id for role, identity in SIDES.items()}


def receipt(role, /, **changes):
    fields = {
        "exchange": "0" * 32,
        "request_sha256": "1" * 64,
        "response_sha256": "2" * 64,
        "started": "2026-11-22T15:00:00Z",
        "finished": "2026-11-22T15:00:09Z",
        "role": role,
        "protocol": "2+1",
        "version": "0.1.0",
        "parties": KNOWN,
        "evidence_sha256": {},
        "shares": "3" * 32,
        "config_sha256": "4" * 64,
        "approximation": "exact",
        "task": "generate 64 16 greedy",
        "temperature": 0.0,
        "top_p": 1.0,
    }
    return PartyReceipt(**fields | changes)


def kept(**changes):
    """Return the receipts of both parties; `changes` are of party 1's."""
    signed = {"p0": receipt("p0").sign(SIDES["p0"]), "p1": receipt("p1", **changes).sign(SIDES["p1"])}
    return Kept.of(signed, {role: SIDES[role].public for role in signed})


def refused(code, kept, known=KNOWN):
    with pytest.raises(MitaiError) as caught:
        kept.check(known)
    assert caught.value.code == code


def test_receipts_that_hold():
    found = Kept.decode(kept(request_sha256="5" * 64, finished="2026-11-22T15:01:00Z").encode()).check(KNOWN)
    assert [each.role for each in found.values()] == list(found) == ["p0", "p1"]
    assert found["p1"].request_sha256 == "5" * 64
    assert list(kept().check({"p0": KNOWN["p0"], "p1": KNOWN["p1"]})) == ["p0", "p1"]  # of the dealer nothing is known


@pytest.mark.parametrize(
    "changes",
    [
        {"exchange": "f" * 32},
        {"task": "generate 64 32 greedy"},
        {"temperature": 0.5},
        {"approximation": "mpcformer"},
        {"config_sha256": "f" * 64},
        {"role": "p0"},
        {"protocol": "3pc"},
        {"parties": KNOWN | {"dealer": "f" * 64}},
    ],
)
def test_parties_that_do_not_say_the_same(changes):
    refused("mpc.receipt-wrong", kept(**changes))


@pytest.mark.parametrize("role", ["p0", "p1", "dealer"])
def test_keys_are_not_those_that_the_file_says(role):
    refused("mpc.receipt-wrong", kept(), KNOWN | {role: Identity.generate().key_id})


def test_a_party_that_has_not_signed():
    both = kept().receipts
    refused("mpc.receipt-missing", Kept(receipts={"p0": both["p0"]}))
    refused("mpc.receipt-wrong", Kept(receipts={"p0": both["p0"], "p1": both["p0"]}))
    refused("mpc.receipt-wrong", Kept(receipts={"p0": both["p0"], "p1": Signed(both["p1"].key, both["p0"].envelope)}))
    stranger = Identity.generate()
    forged = Signed(stranger.public.raw, receipt("p1", parties=KNOWN | {"p1": stranger.key_id}).sign(stranger))
    refused("mpc.receipt-wrong", Kept(receipts={"p0": both["p0"], "p1": forged}))


def test_a_setting_that_is_none():
    alone = Kept.of({"p0": receipt("p0", protocol="1").sign(SIDES["p0"])}, {"p0": SIDES["p0"].public})
    refused("mpc.receipt-wrong", alone)


@pytest.mark.parametrize("at", range(0, 1200, 61))
def test_any_changed_byte_of_an_envelope(at):
    both = kept().receipts
    data = bytearray(both["p1"].envelope)
    data[at % len(data)] ^= 1
    refused("mpc.receipt-wrong", Kept(receipts=both | {"p1": Signed(both["p1"].key, bytes(data))}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"v": "mitai parties proof v2", "receipts": {}}',
        msgspec.json.encode({"v": "mitai parties proof v1", "receipts": {}}),
        kept().encode()[:-2] + b', "more": 1}',
        kept().encode() + b" " * (1 << 20),
    ],
)
def test_what_is_no_kept_file(data):
    with pytest.raises(MitaiError) as caught:
        Kept.decode(data)
    assert caught.value.code == "mpc.proof-malformed"
