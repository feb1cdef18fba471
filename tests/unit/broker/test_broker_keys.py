"""The root key between machines: who is given it, by whom, under which plan; and everybody else, who is not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from broker_rig import BROKER, OTHER, SERVE, Party, Rig
from mitai.attest import Claims, Evidence, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.attest.sim.platform import SimAttester
from mitai.broker import protocol
from mitai.broker.keys import SHARES, Keys
from mitai.broker.peers import JOINING, RootRequest, open_root, own_machine, same_build
from mitai.broker.records import Root
from mitai.broker.recovering import Recovering
from mitai.broker.recovery import (
    MAX_PLAN_BYTES,
    MAX_SHARES_BYTES,
    PLAN_TYPE,
    SHARES_TYPE,
    Member,
    Plan,
    RecoveryAnswer,
    RecoveryKey,
    RecoveryShare,
    check_plan,
    combine,
    decode_plan,
    make_shares,
    open_share,
    read_shares,
)
from mitai.broker.store import ROOT_LABEL, Database
from mitai.broker.tables import documents
from mitai.broker.vault import Vault
from mitai.channel import KeyRing
from mitai.errors import BrokerError, ChannelError, DeniedError, MitaiError, ParseError
from mitai.identity import Envelope, Identity

NEW_BUILD = Workload("broker", b"\x04" * 48)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> SimPlatform:
    """Another machine."""
    return SimPlatform.create(tmp_path_factory.mktemp("elsewhere") / "sim")


@pytest.fixture
def rig(tmp_path: Path, sim: SimPlatform, elsewhere: SimPlatform) -> Iterator[Rig]:
    yield from ready_for_peers(Rig(tmp_path, sim), elsewhere)


def ready_for_peers(rig: Rig, elsewhere: SimPlatform) -> Iterator[Rig]:
    rig.policy = msgspec.structs.replace(rig.policy, sim_roots=(rig.sim.sim_root, elsewhere.sim_root))
    rig.databases = []
    yield rig
    rig.close()
    for database in rig.databases:
        database.engine.dispose()


def started(rig: Rig, plan: bytes | None = None) -> Keys:
    keys = Keys(rig.broker, rig.sim.attester(BROKER), rig.policy)
    asyncio.run(keys.start(plan))
    return keys


def code_of(error: pytest.ExceptionInfo[MitaiError]) -> str:
    return error.value.code


def root_keys(rig: Rig) -> list[dict[str, object]]:
    return [entry for entry in rig.entries() if entry["type"] == "root-key"]


def database_of(rig: Rig, sim: SimPlatform, build: Workload = BROKER) -> Database:
    made = Database(rig.settings.state_url, Vault(sim.attester(build).sealing_key(ROOT_LABEL)))
    rig.databases.append(made)
    return made


# --- Peers ----------------------------------------------------------------------------------------------------------


class Joiner:
    """A process that asks for the root key."""

    def __init__(self, sim: SimPlatform, build: Workload = BROKER, name: str | None = None) -> None:
        self.keyring = KeyRing.generate()
        key_config = self.keyring.current_config()
        self.claims = Claims(workload=name or build.name, key_config=key_config, extra=JOINING)
        self.attester = sim.attester(build)

    def body(self, challenge: bytes) -> bytes:
        nonce = protocol.decode(challenge, protocol.Challenge, 4096).nonce
        evidence = self.attester.evidence(self.claims.encode(), bytes.fromhex(nonce))
        return protocol.encode(RootRequest(evidence=evidence.encode(), nonce=nonce))

    def join(self, keys: Keys) -> tuple[str, Root]:
        body = self.body(keys.challenge())
        return open_root(body, asyncio.run(keys.share(body)), self.keyring, self.claims.key_config)


def test_a_peer_on_another_machine_goes_on_with_the_state(rig: Rig, elsewhere: SimPlatform) -> None:
    rig.register()
    sealed = rig.publish()
    database = database_of(rig, elsewhere)
    assert database.lacks_root()
    audience, root = Joiner(elsewhere).join(started(rig))
    assert audience == rig.broker.audience
    database.adopt(root)
    assert not database.lacks_root()
    (entry,) = root_keys(rig)
    assert (entry["event"], entry["epoch"], entry["simulated"]) == ("shared", 1, True)
    rig.broker.close()
    rig.open(elsewhere.attester(BROKER))
    assert rig.release(sealed.capsule_id)[0].data_key == sealed.data_key
    rig.reopen()  # the first machine keeps its own copy
    assert rig.release(sealed.capsule_id)[0].data_key == sealed.data_key


def test_after_a_rotation_peers_lack_the_key_until_they_ask_again(rig: Rig, elsewhere: SimPlatform) -> None:
    keys, database = started(rig), database_of(rig, elsewhere)
    _, first = Joiner(elsewhere).join(keys)
    database.adopt(first)
    keys.rotate()
    assert database.lacks_root()
    with pytest.raises(BrokerError) as caught:
        database.load()
    assert code_of(caught) == "broker.sealed-elsewhere"
    with pytest.raises(BrokerError) as caught:  # a downgrade: the former epoch's key
        database.adopt(first)
    assert code_of(caught) == "broker.root-mismatch"
    database.adopt(Joiner(elsewhere).join(keys)[1])
    assert database.load() is not None
    assert database.root.epoch == 2


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (NEW_BUILD, "broker"),  # another build, without the owners' plan
        (SERVE, "serve"),
        (SERVE, "broker"),  # a replica that says it is a broker
        (BROKER, "serve"),
    ],
)
def test_others_get_nothing(rig: Rig, elsewhere: SimPlatform, build: Workload, name: str) -> None:
    keys = started(rig)
    with pytest.raises(DeniedError) as caught:
        Joiner(elsewhere, build, name).join(keys)
    assert code_of(caught).startswith("broker.peer-refused")
    assert root_keys(rig) == []


def test_a_machine_of_an_unknown_root_gets_nothing(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(DeniedError) as caught:
        Joiner(SimPlatform.create(tmp_path / "forger")).join(started(rig))
    assert code_of(caught) == "broker.peer-refused:attest.simulated-root-unknown"


def test_a_nonce_gives_one_key_once(rig: Rig, elsewhere: SimPlatform) -> None:
    keys, joiner = started(rig), Joiner(elsewhere)
    body = joiner.body(keys.challenge())
    asyncio.run(keys.share(body))
    for again in (body, joiner.body(protocol.encode(protocol.Challenge(nonce="00" * 32, expires_s=60)))):
        with pytest.raises(BrokerError) as caught:
            asyncio.run(keys.share(again))
        assert code_of(caught) in {"broker.nonce-used", "broker.nonce-unknown"}
    assert len(root_keys(rig)) == 1


def test_evidence_that_a_broker_shows_to_anybody_asks_for_nothing(rig: Rig, elsewhere: SimPlatform) -> None:
    """A stranger asks one broker for a nonce and another, or the same, for evidence over it: no entry comes of it."""
    keys, shown = started(rig), Joiner(elsewhere)
    shown.claims = msgspec.structs.replace(shown.claims, extra={"audience": rig.broker.audience})
    with pytest.raises(DeniedError) as caught:
        shown.join(keys)
    assert code_of(caught) == "broker.peer-refused"
    assert root_keys(rig) == []


def test_evidence_of_another_exchange_is_refused(rig: Rig, elsewhere: SimPlatform) -> None:
    keys, joiner = started(rig), Joiner(elsewhere)
    old = protocol.decode(joiner.body(keys.challenge()), RootRequest, 1 << 20)
    nonce = protocol.decode(keys.challenge(), protocol.Challenge, 4096).nonce
    with pytest.raises(DeniedError) as caught:
        asyncio.run(keys.share(protocol.encode(msgspec.structs.replace(old, nonce=nonce))))
    assert code_of(caught) == "broker.peer-refused:attest.nonce-mismatch"


def test_the_answer_opens_for_its_request_and_key_alone(rig: Rig, elsewhere: SimPlatform) -> None:
    keys, joiner = started(rig), Joiner(elsewhere)
    body = joiner.body(keys.challenge())
    answer = asyncio.run(keys.share(body))
    with pytest.raises(ChannelError):
        open_root(body + b" ", answer, joiner.keyring, joiner.claims.key_config)
    other = Joiner(elsewhere)
    with pytest.raises(MitaiError):
        open_root(body, answer, other.keyring, joiner.claims.key_config)
    with pytest.raises(MitaiError):
        open_root(body, answer, other.keyring, other.claims.key_config)
    assert "key=" not in repr(open_root(body, answer, joiner.keyring, joiner.claims.key_config))


def test_refusals_are_limited(rig: Rig, tmp_path: Path) -> None:
    keys, joiner = started(rig), Joiner(SimPlatform.create(tmp_path / "forger"))
    codes = set()
    for _ in range(25):
        with pytest.raises(BrokerError) as caught:
            joiner.join(keys)
        codes.add(code_of(caught))
    assert codes == {"broker.peer-refused:attest.simulated-root-unknown", "broker.rate-limited"}


def test_a_broker_that_can_not_say_what_it_is_refuses_no_faster(rig: Rig, elsewhere: SimPlatform) -> None:
    keys, joiner = started(rig), Joiner(elsewhere)
    keys._attester = Mock(tee="tdx")
    codes = set()
    for _ in range(25):
        with pytest.raises(BrokerError) as caught:
            joiner.join(keys)
        codes.add(code_of(caught))
    assert codes == {"broker.peer-unmeasured", "broker.rate-limited"}
    assert not keys._nonces._used


def test_a_weak_policy_of_the_host_lets_no_peer_in(rig: Rig, elsewhere: SimPlatform) -> None:
    """The host's own policy names another build as a broker: it says who may ask for capsules, not who is a peer."""
    weak = msgspec.structs.replace(rig.policy, workloads=(reference_values(NEW_BUILD),))
    keys = Keys(rig.broker, rig.sim.attester(BROKER), weak)
    with pytest.raises(DeniedError) as caught:
        Joiner(elsewhere, NEW_BUILD).join(keys)
    assert code_of(caught) == "broker.peer-refused:attest.measurement-mismatch"


def test_a_peer_that_gives_another_key_is_found_out(rig: Rig, elsewhere: SimPlatform) -> None:
    database = database_of(rig, elsewhere)
    for root in (Root(1, secrets.token_bytes(32)), msgspec.structs.replace(rig.broker.database.root, epoch=2)):
        with pytest.raises(BrokerError) as caught:
            database.adopt(root)
        assert code_of(caught) == "broker.root-mismatch"
    assert database.lacks_root()


# --- Plans ----------------------------------------------------------------------------------------------------------


class Owner:
    """A party with a recovery key."""

    def __init__(self, kem: str = "x25519") -> None:
        self.party = Party()
        self.key = RecoveryKey(kem=kem, seed=secrets.token_bytes(32))
        self.member = Member(self.party.identity.public.raw, self.key.public())


def plan_of(*owners: Owner, threshold: int = 2, version: int = 1, **more: object) -> Plan:
    return Plan(version=version, threshold=threshold, members=tuple(owner.member for owner in owners), **more)


def signed(plan: Plan, *owners: Owner) -> bytes:
    payload = protocol.encode(plan)
    signatures = [owner.party.identity.sign(payload, PLAN_TYPE).signatures[0] for owner in owners]
    return Envelope(payload, PLAN_TYPE, tuple(signatures)).encode()


@pytest.fixture(scope="module")
def owners() -> tuple[Owner, Owner, Owner]:
    return Owner(), Owner("x-wing"), Owner()


def test_the_first_plan_needs_nobody_while_nobody_has_given_anything(rig: Rig, owners: tuple[Owner, ...]) -> None:
    plan = plan_of(*owners)
    keys = started(rig, signed(plan))
    digest = protocol.sha256_hex(protocol.encode(plan))
    assert keys.claims == {"epoch": "1", "recovery": digest}
    assert keys.policies == (digest,)
    (entry,) = [entry for entry in rig.entries() if entry["type"] == "recovery-set"]
    assert (entry["recovery_sha256"], entry["version"], entry["threshold"]) == (digest, 1, 2)
    assert entry["members"] == [owner.party.id for owner in owners]
    shown = protocol.decode(keys.shown(), RecoveryAnswer, 1 << 20)
    assert decode_plan(shown.plan) == plan
    shares = read_shares(shown.shares, rig.broker.audience)
    assert combine(shares, [open_share(shares, owner.key) for owner in owners[1:]]) == rig.broker.database.root.key
    rig.reopen()
    again = started(rig, signed(plan))  # the same one stays in force, with the same shares
    assert again.shown() == keys.shown()
    assert len([entry for entry in rig.entries() if entry["type"] == "recovery-set"]) == 1


def test_without_a_plan_in_force_all_who_hold_something_must_agree(rig: Rig, owners: tuple[Owner, ...]) -> None:
    alice, bob, _ = owners
    for owner in (alice, bob):
        rig.register(owner.party)
        rig.publish(owner=owner.party)
    rig.register(Party("bystander"))
    here = plan_of(*owners, broker=rig.broker.audience)
    for envelope, code in (
        (signed(here), "broker.recovery-plan-unsigned"),
        (signed(here, alice, alice), "broker.recovery-plan-unsigned"),
        (signed(plan_of(*owners), alice, bob), "broker.recovery-plan-elsewhere"),
        (signed(plan_of(*owners, broker="0" * 64), alice, bob), "broker.recovery-plan-elsewhere"),
        (signed(plan_of(*owners, version=2, broker=rig.broker.audience), alice, bob), "broker.recovery-plan-version"),
    ):
        with pytest.raises(BrokerError) as caught:
            started(rig, envelope)
        assert code_of(caught) == code
    assert "recovery" in started(rig, signed(here, alice, bob)).claims


def test_a_later_plan_needs_the_members_of_the_one_before(rig: Rig, owners: tuple[Owner, ...]) -> None:
    alice, bob, carol = owners
    started(rig, signed(plan_of(*owners)))
    rig.register()
    rig.publish()  # by somebody who is no member
    thief = Owner()
    taken = plan_of(thief, threshold=1, version=2, broker=rig.broker.audience)
    for envelope in (signed(taken), signed(taken, thief), signed(taken, alice, thief), signed(taken, alice, alice)):
        with pytest.raises(BrokerError) as caught:
            started(rig, envelope)
        assert code_of(caught) == "broker.recovery-plan-unsigned"
    keys = started(rig, signed(plan_of(alice, bob, version=2, broker=rig.broker.audience), bob, carol))
    shares = read_shares(keys.shares)
    assert (len(shares.shares), shares.epoch) == (2, 2)  # former members' shares are of a former root key
    assert keys.claims["inherited"] == "former-plan"  # but the ledger's key, which they might know, is the same
    assert started(rig).shares == keys.shares
    rig.reopen()
    assert started(rig).claims["epoch"] == "2"


def test_a_new_plan_ends_former_shares_even_after_a_crash(
    rig: Rig, owners: tuple[Owner, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, _ = owners
    started(rig, signed(plan_of(*owners)))
    later = signed(plan_of(alice, bob, version=2, broker=rig.broker.audience), alice, bob)
    with monkeypatch.context() as patched:
        patched.setattr(Keys, "rotate", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            started(rig, later)
    rig.reopen()
    assert started(rig).claims["epoch"] == "2"


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b: {"threshold": 1},  # SLIP-39 has no 1 of 2
        lambda a, b: {"threshold": 3},
        lambda a, b: {"threshold": 0},
        lambda a, b: {"members": (a.member, a.member)},
        lambda a, b: {"members": (a.member, Member(b.member.party, a.member.key))},
        lambda a, b: {"policy": "version = 99"},
        lambda a, b: {"version": 0},
    ],
)
def test_plans_that_can_not_be_are_refused(owners: tuple[Owner, ...], change: object) -> None:
    fields = msgspec.to_builtins(plan_of(*owners[:2]))
    fields |= msgspec.to_builtins(change(*owners[:2]))
    with pytest.raises(ParseError):
        decode_plan(msgspec.json.encode(fields))


def test_a_plan_can_let_a_new_build_in(rig: Rig, elsewhere: SimPlatform, owners: tuple[Owner, ...]) -> None:
    rules = Policy(
        allow_simulation=True, sim_roots=(elsewhere.sim_root,), workloads=(reference_values(NEW_BUILD),)
    ).to_toml()
    keys = started(rig, signed(plan_of(*owners, policy=rules)))
    assert Joiner(elsewhere, NEW_BUILD).join(keys)[1] == rig.broker.database.root
    with pytest.raises(DeniedError):  # and then only that
        Joiner(elsewhere, BROKER).join(keys)
    assert root_keys(rig)[0]["recovery_sha256"] == keys.claims["recovery"]


def test_with_a_rotation_shares_are_made_anew(rig: Rig, owners: tuple[Owner, ...]) -> None:
    keys = started(rig, signed(plan_of(*owners)))
    old = read_shares(keys.shares)
    keys.rotate()
    new = read_shares(keys.shares)
    assert (old.epoch, new.epoch) == (1, 2)
    opened = [open_share(new, owner.key) for owner in owners[:2]]
    assert combine(new, opened) == rig.broker.database.root.key
    assert combine(old, [open_share(old, owner.key) for owner in owners[:2]]) != rig.broker.database.root.key
    with pytest.raises(BrokerError) as caught:  # mixed epochs
        combine(new, [opened[0], open_share(old, owners[1].key)])
    assert code_of(caught) == "broker.recovery-share-wrong"


def test_a_lost_document_is_made_anew(rig: Rig, owners: tuple[Owner, ...]) -> None:
    keys = started(rig, signed(plan_of(*owners)))
    with rig.broker.database.writing() as connection:
        connection.execute(update(documents).values(data=b"\0"))
    again = started(rig)
    assert again.shares != keys.shares
    shares = read_shares(again.shares)
    assert combine(shares, [open_share(shares, owner.key) for owner in owners[:2]]) == rig.broker.database.root.key


# --- Shares ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(owners: tuple[Owner, ...]) -> tuple[Identity, Root, bytes]:
    ledger, root = Identity.generate(), Root(3, secrets.token_bytes(32))
    return ledger, root, make_shares(root, protocol.encode(plan_of(*owners)), ledger)


def test_any_two_of_three_give_the_key_and_one_does_not(owners: tuple[Owner, ...], split: tuple) -> None:
    _, root, document = split
    shares = read_shares(document)
    opened = [open_share(shares, owner.key) for owner in owners]
    for left_out in range(3):
        some = [share for share in opened if share[0] != left_out]
        assert combine(shares, some) == root.key
        assert combine(shares, some[::-1]) == root.key
    assert combine(shares, opened) == root.key
    for few in ([], opened[:1], [opened[0], opened[0]]):
        with pytest.raises(BrokerError) as caught:
            combine(shares, few)
        assert code_of(caught) == "broker.recovery-too-few"


def test_wrong_shares_are_told_apart(owners: tuple[Owner, ...], split: tuple) -> None:
    ledger, root, document = split
    shares = read_shares(document)
    first, second, _ = (open_share(shares, owner.key) for owner in owners)
    twin = read_shares(make_shares(root, shares.plan, ledger))  # the same key, split once more
    for wrong in ((1, first[1]), (2, second[1]), (5, second[1]), open_share(twin, owners[1].key), (1, "academic acid")):
        with pytest.raises(BrokerError) as caught:
            combine(shares, [first, wrong])
        assert code_of(caught) == "broker.recovery-share-wrong"
        assert wrong[1] not in str(caught.value)


def test_a_document_is_its_signers_alone(owners: tuple[Owner, ...], split: tuple) -> None:
    ledger, _, document = split
    assert read_shares(document, protocol.audience(ledger.public)).epoch == 3
    with pytest.raises(BrokerError) as caught:
        read_shares(document, "0" * 64)
    assert code_of(caught) == "broker.recovery-elsewhere"
    envelope = Envelope.decode(document)
    forged = msgspec.structs.replace(envelope, payload=envelope.payload.replace(b'"epoch":3', b'"epoch":4'))
    with pytest.raises(MitaiError):
        read_shares(forged.encode())
    shares = read_shares(document)
    for change in ({"epoch": 4}, {"ledger_key": Identity.generate().public.raw}):
        with pytest.raises(BrokerError) as caught:  # what a share is sealed for is bound to it
            open_share(msgspec.structs.replace(shares, **change), owners[0].key)
        assert code_of(caught) == "broker.recovery-share-damaged"
    swapped = msgspec.structs.replace(shares, shares=shares.shares[::-1])
    with pytest.raises(BrokerError) as caught:
        open_share(swapped, owners[0].key)
    assert code_of(caught) == "broker.recovery-share-damaged"
    with pytest.raises(BrokerError) as caught:
        open_share(shares, Owner().key)
    assert code_of(caught) == "broker.recovery-no-share"


def test_nothing_shows_keys(owners: tuple[Owner, ...], split: tuple) -> None:
    key = owners[0].key
    assert key.seed.hex() not in repr(key)
    assert "acid" not in repr(RecoveryShare(document="0" * 64, index=0, words="acid"))
    assert split[1].key.hex() not in repr(split[1])


# --- Recovery -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(rig: Rig, owners: tuple[Owner, ...], elsewhere: SimPlatform) -> tuple[Database, bytes]:
    """A state whose machine is gone, and a new machine with a new build beside it."""
    started(rig, signed(plan_of(*owners)))
    rig.register()
    rig.sealed = rig.publish()
    rig.broker.close()
    rig.close = lambda: None
    database = database_of(rig, elsewhere, NEW_BUILD)
    return database, database.document(SHARES)


def share_of(document: bytes, owner: Owner, **changes: object) -> bytes:
    index, words = open_share(read_shares(document), owner.key)
    fields = {"document": protocol.sha256_hex(document), "index": index, "words": words}
    return protocol.encode(RecoveryShare(**(fields | changes)))


def take(recovering: Recovering, body: bytes) -> tuple[int, int]:
    progress = asyncio.run(recovering.take(body))
    return progress.have, progress.need


def test_owners_bring_a_state_back_on_a_new_machine_with_a_new_build(
    rig: Rig, lost: tuple[Database, bytes], owners: tuple[Owner, ...], elsewhere: SimPlatform
) -> None:
    database, document = lost
    finished = []
    recovering = Recovering(database, document, lambda: finished.append(True))
    claims = recovering.claims(b"", "0" * 64)
    assert claims.extra["recovering"] == protocol.sha256_hex(document)
    assert take(recovering, share_of(document, owners[2])) == (1, 2)
    assert take(recovering, share_of(document, owners[2])) == (1, 2)  # the same one again counts once
    with pytest.raises(BrokerError) as caught:  # forged: another member's words, or invented ones
        take(recovering, share_of(document, owners[2], index=0))
    assert code_of(caught) == "broker.recovery-share-wrong"
    assert not finished
    assert take(recovering, share_of(document, owners[1])) == (2, 2)
    assert finished
    rig.open(elsewhere.attester(NEW_BUILD))
    try:
        assert rig.release(rig.sealed.capsule_id)[0].data_key == rig.sealed.data_key
        keys = Keys(rig.broker, elsewhere.attester(NEW_BUILD), rig.policy)
        for _ in range(2):  # told once
            asyncio.run(keys.start())
        (entry,) = root_keys(rig)
        assert (entry["event"], entry["epoch"]) == ("recovered", 1)
    finally:
        rig.broker.close()
    rig.open(elsewhere.attester(NEW_BUILD))
    assert not rig.broker.database.root.recovered
    rig.broker.close()


def test_a_recovery_is_told_where_a_new_plan_replaces_the_key_at_once(
    rig: Rig, lost: tuple[Database, bytes], owners: tuple[Owner, ...], elsewhere: SimPlatform
) -> None:
    database, document = lost
    recovering = Recovering(database, document)
    for owner in owners[:2]:
        take(recovering, share_of(document, owner))
    later = plan_of(*owners[1:], version=2, broker=rig.broker.audience)
    rig.open(elsewhere.attester(NEW_BUILD))
    keys = Keys(rig.broker, elsewhere.attester(NEW_BUILD), rig.policy)
    asyncio.run(keys.start(signed(later, *owners)))
    told = [(entry["event"], entry["epoch"]) for entry in root_keys(rig)]
    rig.broker.close()
    assert told == [("recovered", 1), ("rotated", 2)]
    assert keys.claims["inherited"]


def test_a_database_that_is_away_for_a_moment_costs_no_share(
    lost: tuple[Database, bytes], owners: tuple[Owner, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, document = lost
    recovering = Recovering(database, document)
    take(recovering, share_of(document, owners[0]))
    with monkeypatch.context() as patched:
        patched.setattr(database, "adopt", Mock(side_effect=OperationalError("", None, Exception())))
        with pytest.raises(OperationalError):
            take(recovering, share_of(document, owners[1]))
    assert take(recovering, share_of(document, owners[1])) == (2, 2)
    assert recovering.done


def test_shares_of_another_epoch_are_refused(rig: Rig, owners: tuple[Owner, ...], elsewhere: SimPlatform) -> None:
    keys = started(rig, signed(plan_of(*owners)))
    old = keys.shares
    keys.rotate()
    database = database_of(rig, elsewhere)
    recovering = Recovering(database, database.document(SHARES))
    with pytest.raises(BrokerError) as caught:
        take(recovering, share_of(old, owners[0]))
    assert code_of(caught) == "broker.recovery-other-shares"
    stale = Recovering(database, old)  # the host shows the former document: its key opens nothing any more
    take(stale, share_of(old, owners[0]))
    with pytest.raises(BrokerError) as caught:
        take(stale, share_of(old, owners[1]))
    assert code_of(caught) == "broker.root-mismatch"
    assert not stale.done
    assert database.lacks_root()
    assert take(stale, share_of(old, owners[0])) == (1, 2)  # it forgot what it was told


def test_where_no_plan_was_there_is_nothing_to_recover(rig: Rig, elsewhere: SimPlatform) -> None:
    started(rig)
    database = database_of(rig, elsewhere)
    with pytest.raises(BrokerError) as caught:
        Recovering(database, database.document(SHARES))
    assert code_of(caught) == "broker.recovery-impossible"


def test_a_clock_behind_the_ledger_shares_nothing(rig: Rig, elsewhere: SimPlatform) -> None:
    keys = started(rig)
    rig.register()
    joiner = Joiner(elsewhere)
    body = joiner.body(keys.challenge())
    rig.clock.ahead = -timedelta(minutes=3)
    with pytest.raises(BrokerError):
        asyncio.run(keys.share(body))
    assert root_keys(rig) == []


def test_other_code_than_a_broker_is_no_joiner(rig: Rig, elsewhere: SimPlatform) -> None:
    rules = Policy(allow_simulation=True, sim_roots=(elsewhere.sim_root,), workloads=(reference_values(OTHER),))
    keys = started(rig, signed(Plan(version=1, policy=rules.to_toml())))
    with pytest.raises(DeniedError) as caught:  # even when the plan's policy names it, by mistake
        Joiner(elsewhere, OTHER).join(keys)
    assert code_of(caught) == "broker.peer-refused"


def test_a_machine_that_measures_too_little_names_no_peer(rig: Rig) -> None:
    own = own_machine(rig.sim.attester(BROKER), rig.policy, rig.clock())
    with pytest.raises(BrokerError) as caught:
        same_build(replace(own, measurements={}), rig.policy)
    assert code_of(caught) == "broker.peer-unmeasured"


class Carried:
    """An attester whose quotes the host carries: it may bring back those of a machine of its own."""

    def __init__(self, tee: str, forged: object) -> None:
        self.tee, self.forged = tee, forged

    def evidence(self, claims: bytes, nonce: bytes) -> Evidence:
        return self.forged.evidence(claims, nonce)


@pytest.mark.parametrize(("tee", "code"), [("tdx", "broker.peer-unmeasured"), ("snp", "attest.simulation-refused")])
def test_the_host_can_not_say_what_this_broker_is(rig: Rig, elsewhere: SimPlatform, tee: str, code: str) -> None:
    """It brings evidence of its own code, under a root that its own policy allows, for it to be taken for a peer."""
    keys = Keys(rig.broker, Carried(tee, elsewhere.attester(OTHER)), rig.policy)
    with pytest.raises(MitaiError) as caught:
        Joiner(elsewhere, OTHER, "broker").join(keys)
    assert code_of(caught) == code
    assert root_keys(rig) == []


def test_evidence_of_another_exchange_does_not_say_what_this_broker_is(rig: Rig) -> None:
    class Replayed(SimAttester):
        def evidence(self, claims: bytes, nonce: bytes) -> Evidence:
            return super().evidence(claims, bytes(32))

    with pytest.raises(BrokerError) as caught:
        own_machine(Replayed(rig.sim, BROKER), rig.policy, rig.clock())
    assert code_of(caught) == "broker.peer-unmeasured"


def test_documents_that_do_not_fit_their_plan_are_refused(owners: tuple[Owner, ...], split: tuple) -> None:
    ledger, root, document = split
    shares = read_shares(document)
    for change in ({"shares": shares.shares[:2]}, {"plan": b"{}"}):
        payload = protocol.encode(msgspec.structs.replace(shares, **change))
        with pytest.raises(ParseError):
            read_shares(ledger.sign(payload, SHARES_TYPE).encode())
    with pytest.raises(ParseError):
        read_shares(b"x" * (MAX_SHARES_BYTES + 1))
    short = make_shares(Root(1, root.key[:16]), shares.plan, ledger)  # a key of another length, well signed
    opened = [open_share(read_shares(short), owner.key) for owner in owners[:2]]
    with pytest.raises(BrokerError) as caught:
        combine(read_shares(short), opened)
    assert code_of(caught) == "broker.recovery-share-wrong"
    with pytest.raises(ParseError):
        decode_plan(b"x" * (MAX_PLAN_BYTES + 1))
    with pytest.raises(ParseError) as malformed:
        check_plan(ledger.sign(shares.plan, SHARES_TYPE), None, [], "0" * 64)
    assert code_of(malformed) == "broker.recovery-plan-malformed"
