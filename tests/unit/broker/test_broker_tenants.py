"""Tenants on one broker: nobody sees, changes or infers what is another's, by any request."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import httpx2
import msgspec
import pytest
from test_broker_app import ask

from broker_rig import ALLOW_ALL, Party, Rig
from mitai.broker import protocol
from mitai.broker.app import create_app
from mitai.broker.protocol import Budget

QUERIES = ["/v1/capsules/{}", "/v1/decisions?capsule={}", "/v1/lineage?capsule={}"]
NOWHERE = "0123456789abcdef0123456789abcdef"


class Tenants:
    """Alice and Bob share a capsule, Alice has one alone; Mallory is registered and has one, Eve is nobody."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.app = rig, create_app(rig.broker)
        self.bob, self.mallory, self.eve = Party("bob"), Party("mallory"), Party("eve")
        rig.register(self.bob)
        rig.register(self.mallory)
        self.own = rig.publish(budget=Budget(uses=5)).capsule_id
        self.shared = rig.publish(co_owners=(self.bob.id,)).capsule_id
        rig.send(self.bob.policy(rig, self.shared, "permit(principal, action, resource) when { true };"))
        self.hers = rig.publish(owner=self.mallory).capsule_id
        rig.release(self.own)

    def query(self, who: Party, target: str) -> httpx2.Response:
        return ask(self.app, "GET", target, headers={protocol.QUERY_HEADER: who.query(self.rig, target)})

    def command(self, body: bytes) -> httpx2.Response:
        return ask(self.app, "POST", "/v1/commands", content=body)

    def views(self) -> list[dict[str, object]]:
        """Return all that Alice can see of what is hers."""
        targets = [query.format(capsule) for query in QUERIES for capsule in (self.own, self.shared)]
        seen = [self.query(self.rig.alice, target).json() for target in [*targets, "/v1/capsules?page=0"]]
        return [{key: value for key, value in one.items() if key not in {"checkpoint", "entries"}} for one in seen]


@pytest.fixture
def tenants(ready: Rig) -> Tenants:
    return Tenants(ready)


def told(answer: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k != "date"}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("who", ["mallory", "eve", "bob"])
def test_what_is_anothers_looks_as_if_it_did_not_exist(tenants: Tenants, query: str, who: str) -> None:
    party = getattr(tenants, who)
    theirs = tenants.query(party, query.format(tenants.own))
    assert told(theirs) == told(tenants.query(party, query.format(NOWHERE)))
    assert (theirs.status_code, theirs.json()["code"]) == (404, "broker.capsule-unknown")


@pytest.mark.parametrize("who", ["mallory", "eve", "bob"])
@pytest.mark.parametrize("what", ["policy", "revocation"])
def test_commands_over_what_is_anothers_look_the_same_and_change_nothing(tenants: Tenants, who: str, what: str) -> None:
    party, rig = getattr(tenants, who), tenants.rig
    before, size = tenants.views(), rig.broker.size
    make: Callable[[Rig, str], bytes] = getattr(party, what)
    theirs = tenants.command(make(rig, tenants.own))
    assert told(theirs) == told(tenants.command(make(rig, NOWHERE)))
    assert theirs.status_code in {403, 404}
    assert (tenants.views(), rig.broker.size) == (before, size)


def test_an_owner_shows_its_policy_to_nobody_else(tenants: Tenants) -> None:
    view = tenants.query(tenants.bob, f"/v1/capsules/{tenants.shared}").json()
    texts = {grant["party"]: grant.get("policy") for grant in view["grants"]}
    assert texts[tenants.rig.alice.id] is None
    assert "true" in texts[tenants.bob.id]


def test_an_owner_changes_its_own_grant_alone(tenants: Tenants) -> None:
    def grant() -> dict[str, object]:
        view = tenants.query(tenants.rig.alice, f"/v1/capsules/{tenants.shared}").json()
        return next(one for one in view["grants"] if one["party"] == tenants.rig.alice.id)

    before = grant()
    tenants.rig.send(tenants.bob.policy(tenants.rig, tenants.shared, ALLOW_ALL, Budget(uses=1)))
    tenants.rig.send(tenants.bob.revocation(tenants.rig, tenants.shared))
    assert grant() == before
    tenants.rig.send(tenants.bob.revocation(tenants.rig))  # everything of Bob's
    assert tenants.rig.release(tenants.own)


def test_nobody_speaks_for_another(tenants: Tenants) -> None:
    rig, mallory = tenants.rig, tenants.mallory
    target = f"/v1/capsules/{tenants.own}"
    stolen = {protocol.QUERY_HEADER: mallory.query(rig, target, party=rig.alice.id)}
    assert ask(tenants.app, "GET", target, headers=stolen).json()["code"] == "broker.party-mismatch"
    signed = msgspec.json.decode(rig.alice.revocation(rig, tenants.own))
    signed["public_key"] = msgspec.json.decode(mallory.revocation(rig, tenants.own))["public_key"]
    refused = tenants.command(msgspec.json.encode(signed))
    assert refused.json()["code"] == "broker.signature-invalid"
    assert rig.release(tenants.own)


def test_what_one_asks_is_no_answer_for_another_path(tenants: Tenants) -> None:
    """Mallory's own, valid question about her capsule opens nothing else."""
    asked = {protocol.QUERY_HEADER: tenants.mallory.query(tenants.rig, f"/v1/capsules/{tenants.hers}")}
    for query in QUERIES:
        answer = ask(tenants.app, "GET", query.format(tenants.own), headers=asked)
        assert answer.json()["code"] == "broker.query-mismatch"


def test_a_list_holds_ones_own_and_nothing_else(tenants: Tenants) -> None:
    listed = {
        who: tenants.query(party, "/v1/capsules?page=0").json().get("capsules")
        for who, party in {"alice": tenants.rig.alice, "bob": tenants.bob, "mallory": tenants.mallory}.items()
    }
    assert listed == {
        "alice": [tenants.own, tenants.shared],
        "bob": [tenants.shared],
        "mallory": [tenants.hers],
    }


def test_a_capsule_of_anothers_can_not_be_registered_over(tenants: Tenants) -> None:
    """Mallory has the public manifest, and signs one of her own under its id."""
    rig = tenants.rig
    before = tenants.views()
    sealed = rig.seal(tenants.mallory)
    body = tenants.mallory.publication(rig, sealed, capsule=tenants.own)
    assert tenants.command(body).json()["code"] == "broker.capsule-mismatch"
    assert tenants.views() == before


def test_uses_of_one_do_not_show_in_what_another_is_told(tenants: Tenants) -> None:
    def seen() -> list[bytes]:
        targets = [query.format(tenants.hers) for query in QUERIES[:1]] + ["/v1/capsules?page=0"]
        return [tenants.query(tenants.mallory, target).content for target in targets]

    before = seen()
    tenants.rig.release(tenants.own)
    tenants.rig.send(tenants.rig.alice.policy(tenants.rig, tenants.own))
    assert seen() == before


@pytest.mark.parametrize("query", QUERIES)
def test_what_is_anothers_takes_as_long_as_what_does_not_exist(tenants: Tenants, query: str) -> None:
    """Roughly: the ids are in the public ledger anyway. A lookup that did other work would show as a multiple."""

    def seconds(target: str) -> float:
        begin = time.thread_time()
        tenants.query(tenants.mallory, target)
        return time.thread_time() - begin

    theirs, none = [], []
    for _ in range(25):
        theirs.append(seconds(query.format(tenants.own)))
        none.append(seconds(query.format(NOWHERE)))
    assert 0.5 < statistics.median(theirs) / statistics.median(none) < 2.0
