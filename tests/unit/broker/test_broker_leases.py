"""Leases: who may go on, who may not, what is logged; and a workload's lease against a hostile host."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import msgspec
import pytest

from broker_rig import Party, Rig
from mitai.broker import protocol
from mitai.broker.derive_client import Derivation
from mitai.broker.lease_client import Lease
from mitai.broker.protocol import Budget, LeaseAnswer, LeaseRequest, LeaseStatement
from mitai.capsule import seal
from mitai.errors import BrokerError, DeniedError, MitaiError
from mitai.identity import Identity


def body(rig: Rig, *capsules: str, key: Identity | None = None, **changes: object) -> bytes:
    key = key or rig.receipt_key
    fields = {
        "broker": rig.broker.audience,
        "party": key.key_id,
        "capsules": capsules,
        "time_s": int(rig.clock().timestamp()),
        "nonce": "0" * 64,
    }
    lease = key.sign(protocol.encode(LeaseStatement(**(fields | changes))), protocol.LEASE_TYPE)
    return protocol.encode(LeaseRequest(receipt_key=key.public.raw, lease=lease))


def ask(rig: Rig, *capsules: str, **changes: object) -> LeaseAnswer:
    answer = asyncio.run(rig.broker.lease(body(rig, *capsules, **changes)))
    return protocol.decode(answer, LeaseAnswer, 1 << 10)


def refused(rig: Rig, code: str, *capsules: str, **changes: object) -> None:
    with pytest.raises(MitaiError) as caught:
        ask(rig, *capsules, **changes)
    assert caught.value.code == code


# --- the broker -----------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_and_nothing_is_written(ready: Rig) -> None:
    first, second = ready.publish().capsule_id, ready.publish().capsule_id
    ready.release(first, second)
    before = ready.broker.checkpoint()
    nonce = secrets.token_hex(32)
    assert ask(ready, first, second, nonce=nonce) == LeaseAnswer(nonce=nonce, lease_s=60.0)
    assert ready.broker.checkpoint() == before


def test_a_revoked_capsule_ends_the_lease_and_is_logged_once(ready: Rig) -> None:
    first, second = ready.publish().capsule_id, ready.publish().capsule_id
    ready.release(first, second)
    ready.send(ready.alice.revocation(ready, first))
    size = ready.broker.size
    refused(ready, "broker.revoked", second, first)
    refused(ready, "broker.revoked", second, first)
    assert ready.broker.size == size + 1
    entry = ready.entries()[-1]
    assert (entry["type"], entry["purpose"], entry["code"], entry["capsules"]) == (
        "denial",
        "lease",
        "broker.revoked",
        [first],
    )
    assert ask(ready, second).lease_s == 60.0  # who has let go of it goes on with the rest
    header = ready.alice.query(ready, f"/v1/decisions?capsule={first}")
    answer = asyncio.run(ready.broker.decisions(first, header))
    newest = protocol.decode(answer, protocol.DecisionsAnswer, 1 << 20).entries[0]
    assert msgspec.json.decode(newest.entry) == entry


def test_a_party_that_revokes_everything_ends_it(ready: Rig) -> None:
    capsule = ready.publish().capsule_id
    ready.release(capsule)
    ready.send(ready.alice.revocation(ready))
    refused(ready, "broker.revoked", capsule)


def test_one_co_owner_is_enough(ready: Rig) -> None:
    bob = Party("bob")
    ready.register(bob)
    capsule = ready.publish(co_owners=(bob.id,)).capsule_id
    ready.send(bob.policy(ready, capsule))
    ready.release(capsule)
    assert ask(ready, capsule).lease_s == 60.0
    ready.send(bob.revocation(ready, capsule))
    refused(ready, "broker.revoked", capsule)


@pytest.mark.parametrize("how", ["capsule", "party", "time"])
def test_what_ends_an_ancestor_ends_the_lease_on_what_was_made_of_it(ready: Rig, how: str) -> None:
    bob = Party("bob")
    ready.register(bob)
    model, data = ready.publish().capsule_id, ready.publish(owner=bob).capsule_id
    inputs = ready.release(model, data, purpose="training")
    derivation = Derivation(ready.receipt_key, ready.broker.audience, inputs)
    plain = ready.folder / "derived-plain"
    plain.mkdir()
    (plain / "weights").write_bytes(b"weights")
    sealed = seal(
        plain,
        ready.folder / "derived",
        owner=ready.receipt_key,
        name="joint",
        kind="adapter",
        parents=derivation.parents,
    )
    asyncio.run(ready.broker.derived(derivation.request(sealed)))
    ready.receipt_key = Identity.generate()  # another process serves it
    ready.release(model, sealed.capsule_id)
    assert ask(ready, model, sealed.capsule_id).lease_s == 60.0
    if how == "time":
        budget = Budget(not_after_s=int(ready.clock().timestamp()) + 30)
        ready.send(bob.policy(ready, data, budget=budget))
        assert 28 < ask(ready, model, sealed.capsule_id).lease_s <= 30
        ready.clock.ahead = timedelta(seconds=31)
    else:
        ready.send(bob.revocation(ready, data if how == "capsule" else None))
    code = "broker.policy-expired" if how == "time" else "broker.revoked"
    refused(ready, code, model, sealed.capsule_id)
    refused(ready, code, sealed.capsule_id)
    entry = ready.entries()[-1]
    assert (entry["type"], entry["purpose"], entry["code"]) == ("denial", "lease", code)
    assert entry["capsules"][0] == sealed.capsule_id
    assert ask(ready, model).lease_s == 60.0


def test_a_lease_never_reaches_beyond_an_owners_time(ready: Rig) -> None:
    ends = int(ready.clock().timestamp()) + 100
    capsule = ready.publish(budget=Budget(not_after_s=ends)).capsule_id
    ready.release(capsule)
    assert ask(ready, capsule).lease_s == 60.0
    ready.clock.ahead = timedelta(seconds=70)
    assert 28 < ask(ready, capsule).lease_s <= 30
    ready.send(ready.alice.policy(ready, capsule, budget=Budget(not_after_s=ends + 1000)))  # prolonged
    assert ask(ready, capsule).lease_s == 60.0
    ready.send(ready.alice.policy(ready, capsule, budget=Budget(not_after_s=ends - 60)))  # and cut short
    refused(ready, "broker.policy-expired", capsule)


def test_a_clock_that_was_set_back_wins_no_time(ready: Rig) -> None:
    ends = int(ready.clock().timestamp()) + 100
    capsule = ready.publish(budget=Budget(not_after_s=ends)).capsule_id
    ready.release(capsule)
    ready.clock.ahead = timedelta(seconds=200)
    refused(ready, "broker.policy-expired", capsule)  # logged, at this time
    ready.clock.ahead = timedelta()
    refused(ready, "broker.clock-behind", capsule)


def test_what_a_lease_request_must_be(ready: Rig) -> None:
    held, other = ready.publish().capsule_id, ready.publish().capsule_id
    refused(ready, "broker.replica-unknown", held)
    ready.release(held)
    stranger = Identity.generate()
    refused(ready, "broker.capsule-unknown", held, other)
    refused(ready, "broker.replica-unknown", held, key=stranger)
    refused(ready, "broker.party-mismatch", held, party=stranger.key_id)
    refused(ready, "broker.wrong-audience", held, broker="1" * 64)
    refused(ready, "broker.stale", held, time_s=1)
    forged = msgspec.structs.replace(
        protocol.decode(body(ready, held), LeaseRequest, 1 << 20), receipt_key=stranger.public.raw
    )
    with pytest.raises(BrokerError) as caught:
        asyncio.run(ready.broker.lease(protocol.encode(forged)))
    assert caught.value.code == "broker.signature-invalid"


# --- the workload ---------------------------------------------------------------------------------------------------


class Host:
    """What lies between a workload and its broker, and the clock that the workload sees."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.now, self.asked = rig, 1000.0, 0
        self.answers: list[bytes] = []
        self.way: Callable[[bytes], bytes] = self.forward
        self.ended = threading.Event()
        self.leases: list[Lease] = []

    def forward(self, request: bytes) -> bytes:
        self.answers.append(asyncio.run(self.rig.broker.lease(request)))
        return self.answers[-1]

    def post(self, path: str, request: bytes) -> bytes:
        assert path == "/v1/lease"
        self.asked += 1
        return self.way(request)

    def lease(self, *capsules: str, **more: object) -> Lease:
        fields = {"on_end": lambda _: self.ended.set(), "renew_s": 0.02, "clock": lambda: self.now}
        lease = Lease(self.rig.receipt_key, self.rig.broker.audience, capsules, self.post, **(fields | more))
        self.leases.append(lease)
        return lease

    def after(self, times: int) -> None:
        """Return when the workload has asked so often again."""
        goal, ends = self.asked + times, time.monotonic() + 10
        while self.asked < goal:
            assert time.monotonic() < ends
            time.sleep(0.005)


@pytest.fixture
def held(ready: Rig) -> Iterator[tuple[Host, str]]:
    capsule = ready.publish().capsule_id
    ready.release(capsule)
    host = Host(ready)
    yield host, capsule
    for lease in host.leases:
        lease.close()


def blocked(_: bytes) -> bytes:
    raise BrokerError("serve.broker-unreachable", "no way")


def test_a_lease_holds_while_it_is_renewed_and_ends_with_the_revocation(held: tuple[Host, str]) -> None:
    host, capsule = held
    lease = host.lease(capsule)
    for _ in range(5):  # 150 seconds
        host.now += 30
        host.after(2)
        lease.check()
    host.rig.send(host.rig.alice.revocation(host.rig, capsule))
    assert host.ended.wait(10)
    with pytest.raises(DeniedError) as caught:
        lease.check()
    assert caught.value.code == "broker.revoked"
    assert lease.ended is caught.value


def test_a_broker_that_is_away_for_a_while_stops_nothing(held: tuple[Host, str]) -> None:
    host, capsule = held
    lease = host.lease(capsule)
    host.after(1)
    host.way = blocked
    host.now += 59
    host.after(3)
    lease.check()
    host.way = host.forward
    host.after(2)
    host.now += 59
    lease.check()
    lease.close()


@pytest.mark.parametrize("way", ["blocked", "silent", "replayed", "error page"])
def test_a_lease_that_is_not_renewed_lapses(held: tuple[Host, str], way: str) -> None:
    host, capsule = held
    release = threading.Event()

    def silent(_: bytes) -> bytes:
        release.wait(20)
        return b""

    ways = {
        "blocked": blocked,
        "silent": silent,
        "replayed": lambda _: host.answers[0],
        "error page": lambda _: b"<html>",
    }
    lease = host.lease(capsule)
    host.after(2)
    host.way = ways[way]
    host.after(1)
    host.now += 60
    assert host.ended.wait(5)
    release.set()
    assert lease.ended is not None
    assert lease.ended.code == "broker.lease-lapsed"
    host.way = host.forward
    host.now -= 60
    assert lease.ended.code == "broker.lease-lapsed"  # for good


def test_an_answer_that_was_held_back_prolongs_nothing(held: tuple[Host, str]) -> None:
    host, capsule = held

    def late(request: bytes) -> bytes:
        answer = host.forward(request)
        host.now += 61
        return answer

    host.way = late
    lease = host.lease(capsule)
    assert host.ended.wait(5)
    assert lease.ended is not None
    assert lease.ended.code == "broker.lease-lapsed"


def test_a_release_that_was_held_back_gives_no_longer_lease(held: tuple[Host, str]) -> None:
    host, capsule = held
    host.way = blocked
    assert host.lease(capsule, asked=host.now - 59).ended is None
    lease = host.lease(capsule, asked=host.now - 61)
    with pytest.raises(BrokerError) as caught:
        lease.check()
    assert caught.value.code == "broker.lease-lapsed"


def test_a_process_that_was_stopped_uses_nothing_when_it_wakes(held: tuple[Host, str]) -> None:
    host, capsule = held
    lease = host.lease(capsule, renew_s=30.0)
    while not host.answers:
        time.sleep(0.005)
    host.now += 61  # its threads have not run yet
    with pytest.raises(BrokerError) as caught:
        lease.check()
    assert caught.value.code == "broker.lease-lapsed"


def test_a_clock_that_stands_still_keeps_no_lease_alive(held: tuple[Host, str]) -> None:
    host, capsule = held
    host.way = blocked
    lease = host.lease(capsule, lease_s=0.5)
    assert host.ended.wait(5)
    assert host.now == 1000.0
    assert lease.ended is not None
    assert lease.ended.code == "broker.lease-lapsed"


def test_the_end_of_an_owners_time_is_the_end_of_the_lease(held: tuple[Host, str]) -> None:
    host, capsule = held
    budget = Budget(not_after_s=int(host.rig.clock().timestamp()) + 20)
    host.rig.send(host.rig.alice.policy(host.rig, capsule, budget=budget))
    lease = host.lease(capsule)
    host.after(2)
    host.way = blocked
    host.after(1)
    host.now += 21
    assert host.ended.wait(5)
    assert lease.ended is not None
    assert lease.ended.code == "broker.policy-expired"


def test_a_lease_that_was_given_back_tells_nobody(held: tuple[Host, str]) -> None:
    host, capsule = held
    lease = host.lease(capsule)
    lease.close()
    lease.close()
    assert not host.ended.wait(0.1)
    with pytest.raises(BrokerError) as caught:
        lease.check()
    assert caught.value.code == "broker.lease-closed"


def test_nobody_can_ask_for_a_longer_lease_than_the_brokers(held: tuple[Host, str]) -> None:
    host, capsule = held
    host.way = blocked
    lease = host.lease(capsule, lease_s=1e9)
    host.now += 60
    with pytest.raises(BrokerError):
        lease.check()
