"""Exports: nothing leaves before every owner agreed to exactly that, and then once, to exactly whom they said."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from broker_rig import ALLOW_ALL, SERVE, Party, Rig
from mitai.attest import verify
from mitai.attest.sim import reference_values
from mitai.broker import exports, protocol
from mitai.broker.derive_client import Derivation
from mitai.broker.policy import template
from mitai.broker.protocol import (
    Budget,
    CollectExport,
    ExportAnswer,
    ExportedKey,
    ExportsAnswer,
    ExportView,
    Recipient,
    RequestExport,
    RotateKey,
    SetDelegates,
    VoteExport,
    export_info,
    sha256_hex,
)
from mitai.broker.release_client import OpenedKey
from mitai.broker.residency import Residency, sign_residency
from mitai.capsule import Sealed, open_manifest, seal
from mitai.capsule.opening import check_data_key
from mitai.capsule.sources import MemorySource
from mitai.channel import KeyRing
from mitai.channel.hpke import setup_recipient
from mitai.errors import ChannelError, MitaiError
from mitai.identity import Identity, PublicKey


def derived(rig: Rig, inputs: tuple[OpenedKey, ...], kind: str) -> Sealed:
    derivation = Derivation(rig.receipt_key, rig.broker.audience, inputs)
    plain = rig.folder / "out"
    plain.mkdir(exist_ok=True)
    (plain / "out.bin").write_bytes(b"what came of it")
    name = f"out-{secrets.token_hex(4)}"
    sealed = seal(plain, rig.folder / name, owner=rig.receipt_key, name="joint", kind=kind, parents=derivation.parents)
    asyncio.run(rig.broker.derived(derivation.request(sealed)))
    return sealed


class Case:
    """Alice and Bob own an adapter together; Rita is to have it."""

    def __init__(self, rig: Rig, kind: str = "adapter", policy: str = ALLOW_ALL, **release: object) -> None:
        self.rig, self.bob, self.rita = rig, Party("bob"), Party("rita")
        rig.register(self.bob)
        rig.register(self.rita)
        self.model = rig.publish(policy)
        self.data = rig.publish(policy, owner=self.bob)
        inputs = rig.release(self.model.capsule_id, self.data.capsule_id, **({"purpose": "training"} | release))
        self.made = derived(rig, inputs, kind)
        self.keys = KeyRing.generate("x-wing")
        self.alice = rig.alice

    def send(self, party: Party, kind: type, **fields: object) -> int:
        return self.post(party.body(kind(**fields, **party.signed(self.rig))))

    def post(self, body: bytes) -> int:
        answer = asyncio.run(self.rig.broker.export_command(body))
        return protocol.decode(answer, protocol.CommandAnswer, 1 << 20).index

    def request(self, party: Party | None = None, **changes: object) -> str:
        """Send a request; return its id."""
        party = party or self.alice
        fields = {
            "capsule": self.made.capsule_id,
            "manifest_sha256": self.made.manifest_sha256,
            "recipient": Recipient("Rita", self.rita.id, self.keys.current_config()),
            "not_after_s": int(self.rig.clock().timestamp()) + 3600,
        } | changes
        command = RequestExport(**fields, **party.signed(self.rig))
        self.post(party.body(command))
        return sha256_hex(protocol.encode(command))

    def vote(self, party: Party, request: str, approve: bool = True, owner: Party | None = None) -> int:
        return self.send(party, VoteExport, request=request, owner=(owner or party).id, approve=approve)

    def collect(self, request: str, party: Party | None = None) -> int:
        return self.send(party or self.rita, CollectExport, request=request)

    def fetch(self, request: str, party: Party | None = None) -> ExportAnswer:
        party = party or self.rita
        answer = asyncio.run(self.rig.broker.export(request, party.query(self.rig, f"/v1/export?request={request}")))
        return protocol.decode(answer, ExportAnswer, 1 << 24)

    def opened(self, request: str, answer: ExportAnswer, keys: KeyRing | None = None) -> ExportedKey:
        key = (keys or self.keys).live()[0]
        enc, sealed = answer.sealed[: key.config.kem.enc_bytes], answer.sealed[key.config.kem.enc_bytes :]
        context = setup_recipient(key.private, enc, export_info(request), key.config.aeads[0])
        return protocol.decode(context.open(sealed), ExportedKey, 4096)

    def views(self, party: Party | None = None, capsule: str = "") -> tuple[ExportView, ...]:
        party, capsule = party or self.alice, capsule or self.made.capsule_id
        answer = asyncio.run(self.rig.broker.exports(capsule, party.query(self.rig, f"/v1/exports?capsule={capsule}")))
        return protocol.decode(answer, ExportsAnswer, 1 << 24).exports

    def state(self) -> str:
        return self.views()[0].state

    def refused(self, code: str, work: object, *args: object, **more: object) -> None:
        size = self.rig.broker.size
        with pytest.raises(MitaiError) as caught:
            work(*args, **more)
        assert caught.value.code == code
        assert self.rig.broker.size == size


@pytest.fixture
def case(ready: Rig) -> Case:
    return Case(ready)


def test_all_owners_agree_and_the_recipient_has_it(ready: Rig, case: Case) -> None:
    request = case.request()
    assert case.state() == "open"
    case.vote(case.alice, request)
    case.refused("broker.export-not-approved", case.collect, request)
    case.vote(case.bob, request)
    assert case.state() == "approved"
    index = case.collect(request)
    answer = case.fetch(request)
    key = case.opened(request, answer)
    manifest = open_manifest(answer.manifest, owner=PublicKey(key.signer), manifest_sha256=key.manifest_sha256)
    check_data_key(manifest, key.data_key)
    assert (key.capsule, key.data_key) == (case.made.capsule_id, case.made.data_key)
    entry = ready.entries()[index]
    assert answer.entry.index == index
    assert (entry["type"], entry["export"], entry["recipient"]) == ("export", request, case.rita.id)
    assert (set(entry["owners"]), len(entry["approvals"])) == ({case.alice.id, case.bob.id}, 2)
    assert [each["type"] for each in ready.entries()[-4:]] == ["export-requested", "approval", "approval", "export"]
    assert case.state() == "collected"


def test_the_answer_is_the_same_again_even_after_a_restart(ready: Rig, case: Case) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    index = case.collect(request)
    first = case.fetch(request)
    ready.reopen()
    assert case.collect(request, case.alice) == index
    assert case.fetch(request).sealed == first.sealed
    assert sum(entry["type"] == "export" for entry in ready.entries()) == 1


def test_nothing_is_given_before_it_was_collected(case: Case) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    case.refused("broker.export-not-approved", case.fetch, request)


def test_the_key_opens_for_the_recipient_that_was_approved_only(case: Case) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    case.collect(request, case.alice)
    answer = case.fetch(request, case.alice)
    with pytest.raises(ChannelError):
        case.opened(request, answer, KeyRing.generate("x-wing"))
    with pytest.raises(ChannelError):
        case.opened("0" * 64, answer)


def test_a_swapped_recipient_is_another_request(case: Case) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    eve = KeyRing.generate()
    swapped = case.request(recipient=Recipient("Rita", case.rita.id, eve.current_config()))
    assert swapped != request
    case.refused("broker.export-not-approved", case.collect, swapped)


def test_votes_are_about_one_request(case: Case) -> None:
    first, second = case.request(), case.request()
    case.vote(case.alice, first)
    case.vote(case.bob, second)
    for request in (first, second):
        case.refused("broker.export-not-approved", case.collect, request)


# --- Who votes --------------------------------------------------------------------------------------------------------


def test_strangers_do_not_vote_request_or_look(ready: Rig, case: Case) -> None:
    request = case.request()
    eve = Party("eve")
    case.refused("broker.party-unknown", case.vote, eve, request)
    ready.register(eve)
    for owner in (eve, case.alice):
        case.refused("broker.export-unknown", case.vote, eve, request, owner=owner)
    case.refused("broker.export-unknown", case.vote, case.bob, request, owner=case.alice)
    case.refused("broker.capsule-unknown", case.request, eve)
    case.refused("broker.capsule-unknown", case.request, case.bob, capsule=case.model.capsule_id)
    case.refused("broker.export-unknown", case.collect, request, eve)
    case.refused("broker.export-unknown", case.vote, case.alice, "0" * 64)
    case.refused("broker.capsule-unknown", case.views, eve)
    case.refused("broker.capsule-unknown", case.views, case.rita)
    case.refused("broker.export-unknown", case.fetch, request, eve)


def test_a_vote_that_somebody_else_signed_is_refused(ready: Rig, case: Case) -> None:
    request = case.request()
    command = VoteExport(request=request, owner=case.bob.id, approve=True, **case.bob.signed(ready))
    forged = Identity.generate().sign(protocol.encode(command), protocol.COMMAND_TYPE)
    fields = {"public_key": case.bob.identity.public.raw, "command": forged}
    case.refused("broker.signature-invalid", case.post, protocol.encode(protocol.CommandRequest(**fields)))
    case.refused("broker.party-mismatch", case.post, case.alice.body(command))


def test_a_vote_counts_once(ready: Rig, case: Case) -> None:
    request = case.request()
    command = VoteExport(request=request, owner=case.alice.id, approve=True, **case.alice.signed(ready))
    body = case.alice.body(command)
    index = case.post(body)
    assert case.post(body) == index  # the answer was lost
    case.refused("broker.export-voted", case.vote, case.alice, request)
    case.request()
    case.refused("broker.replayed", case.post, body)
    assert [len(view.votes) for view in case.views()] == [0, 1]


def test_a_refusal_ends_it(case: Case) -> None:
    request = case.request()
    case.vote(case.alice, request)
    case.vote(case.bob, request, approve=False)
    assert case.state() == "refused"
    case.refused("broker.export-ended", case.vote, case.bob, request)
    case.refused("broker.export-not-approved", case.collect, request)


def test_a_yes_can_become_a_no_until_it_is_collected(case: Case) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    case.vote(case.alice, request, approve=False)
    case.refused("broker.export-not-approved", case.collect, request)
    other = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, other)
    case.collect(other)
    case.refused("broker.export-ended", case.vote, case.alice, other, approve=False)


# --- What ends a request ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collected", [False, True])
def test_time_ends_it(ready: Rig, case: Case, collected: bool) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    if collected:
        case.collect(request)
    ready.clock.ahead = timedelta(seconds=3700)
    case.refused("broker.export-not-approved", case.collect, request)
    case.refused("broker.export-not-approved", case.fetch, request)
    assert case.state() == "expired"


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("above", [False, True])
def test_a_revocation_ends_it(ready: Rig, case: Case, above: bool, collected: bool) -> None:
    request = case.request()
    for party in (case.alice, case.bob):
        case.vote(party, request)
    if collected:
        case.collect(request)
    ready.send(case.bob.revocation(ready, case.data.capsule_id if above else case.made.capsule_id))
    case.refused("broker.export-not-approved", case.collect, request)
    case.refused("broker.export-not-approved", case.fetch, request)
    assert case.state() == "ended"
    case.refused("broker.revoked", case.request)


def test_a_new_key_ends_it_for_good(ready: Rig, case: Case) -> None:
    """An owner could have others see it end, and bring the former manifest back later."""
    old = case.model
    request = case.request(capsule=old.capsule_id, manifest_sha256=old.manifest_sha256)
    case.vote(case.alice, request)
    files = MemorySource({"config.json": b"{}"})
    new = seal(files, ready.folder / "anew", owner=case.alice.identity, name="model", capsule_id=old.capsule_id)
    for former, then in ((old, new), (new, old)):
        rotation = RotateKey(
            capsule=old.capsule_id,
            manifest_sha256=then.manifest_sha256,
            previous_sha256=former.manifest_sha256,
            **case.alice.signed(ready),
        )
        ready.send(case.alice.body(rotation, data_key=then.data_key, manifest=then.envelope))
        assert case.views(capsule=old.capsule_id)[0].state == "ended"
    case.refused("broker.export-not-approved", case.collect, request)


def test_terms_are_bounded(ready: Rig, case: Case) -> None:
    now = int(ready.clock().timestamp())
    for end in (now - 1, now + exports.MAX_LIFE_S + 60):
        case.refused("broker.export-term", case.request, not_after_s=end)
    case.refused("broker.capsule-mismatch", case.request, manifest_sha256="0" * 64)
    case.refused(
        "channel.key-config-malformed", case.request, recipient=Recipient("R", case.rita.id, b"\x01\x00\x20" + bytes(9))
    )
    nothing = case.keys.current_config()[:1] + b"\x00\x20" + bytes(32) + b"\x00\x04\x00\x01\x00\x02"
    with pytest.raises(MitaiError):
        case.request(recipient=Recipient("R", case.rita.id, nothing))


def test_open_requests_are_bounded_and_old_ones_forgotten(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [case.request() for _ in range(exports.MAX_OPEN)]
    case.refused("broker.export-open", case.request)
    assert case.request(case.bob)
    case.vote(case.alice, requests[0], approve=False)
    monkeypatch.setattr(exports, "MAX_KEPT", 5)
    newest = case.request()
    listed = [sha256_hex(view.command.payload) for view in case.views()]
    assert len(listed) == 5
    assert (listed[0], requests[0] in listed) == (newest, False)


def test_no_party_fills_the_broker_with_requests(case: Case) -> None:
    settings = case.rig.settings
    limits = dataclasses.replace(settings.limits, exports_per_party=1)
    case.rig.settings = dataclasses.replace(settings, limits=limits)
    case.rig.reopen()
    case.request()
    case.refused("broker.full", case.request)
    assert case.request(case.bob)


# --- Delegates --------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(ready: Rig, case: Case) -> tuple[Party, ...]:
    """Bob's three delegates, of whom it takes two."""
    members = tuple(Party(f"member-{number}") for number in range(3))
    for member in members:
        ready.register(member)
    case.send(case.bob, SetDelegates, delegates=tuple(member.id for member in members), threshold=2)
    return members


def test_delegates_vote_in_their_owner_s_place(ready: Rig, case: Case, board: tuple[Party, ...]) -> None:
    entry = ready.entries()[-1]
    assert (entry["type"], entry["threshold"], entry["version"], len(entry["delegates"])) == ("delegates-set", 2, 1, 3)
    request = case.request()
    case.vote(case.alice, request)
    case.refused("broker.export-delegated", case.vote, case.bob, request)
    case.vote(board[0], request, owner=case.bob)
    assert ready.entries()[-1]["delegate"] == board[0].id
    case.refused("broker.export-not-approved", case.collect, request)  # below the threshold
    case.refused("broker.export-voted", case.vote, board[0], request, owner=case.bob)
    case.refused("broker.export-unknown", case.vote, board[0], request, owner=case.alice)
    case.vote(board[2], request, owner=case.bob)
    (view,) = case.views(board[1])
    collected = case.collect(request)
    assert len(ready.entries()[collected]["approvals"]) == 3
    assert {consent.owner: consent.by for consent in view.consents} == {case.alice.id: "vote", case.bob.id: "delegates"}


def test_so_many_refusals_of_delegates_end_it(case: Case, board: tuple[Party, ...]) -> None:
    request = case.request()
    case.vote(board[0], request, approve=False, owner=case.bob)
    assert case.state() == "open"
    case.vote(board[1], request, approve=False, owner=case.bob)
    assert case.state() == "refused"


def test_an_owner_with_delegates_may_still_refuse(case: Case, board: tuple[Party, ...]) -> None:
    request = case.request()
    case.vote(case.bob, request, approve=False)
    assert case.state() == "refused"


def test_votes_of_changing_delegates_are_bounded(
    ready: Rig, case: Case, board: tuple[Party, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MAX_VOTES", 2)
    request = case.request()
    for member in board[:2]:
        case.vote(member, request, owner=case.bob)
    case.refused("broker.export-votes", case.vote, board[2], request, owner=case.bob)
    case.vote(case.alice, request)  # other owners' votes, and refusals of this one, count as ever
    case.vote(board[0], request, approve=False, owner=case.bob)
    case.vote(case.bob, request, approve=False)
    assert case.state() == "refused"


def test_who_is_no_delegate_any_more_does_not_count(ready: Rig, case: Case, board: tuple[Party, ...]) -> None:
    request = case.request()
    case.vote(case.alice, request)
    for member in board[:2]:
        case.vote(member, request, owner=case.bob)
    assert case.state() == "approved"
    case.send(case.bob, SetDelegates, delegates=(board[0].id, board[2].id), threshold=2)
    assert case.state() == "open"
    case.vote(board[2], request, owner=case.bob)
    assert case.state() == "approved"
    ready.send(board[2].revocation(ready))
    assert case.state() == "open"
    case.send(case.bob, SetDelegates, delegates=(), threshold=0)
    case.refused("broker.export-not-approved", case.collect, request)
    case.vote(case.bob, request)
    index = case.collect(request)
    assert len(ready.entries()[index]["approvals"]) == 2  # those that were counted


@pytest.mark.parametrize(("who", "threshold"), [("ab", 0), ("ab", 3), ("", 1), ("aa", 1), ("ba", 5), ("self", 1)])
def test_delegations_that_make_no_sense_are_refused(
    case: Case, board: tuple[Party, ...], who: str, threshold: int
) -> None:
    names = [case.bob.id] if who == "self" else [board["ab".index(letter)].id for letter in who]
    with pytest.raises(MitaiError) as caught:
        case.send(case.bob, SetDelegates, delegates=tuple(names), threshold=threshold)
    assert caught.value.code == "broker.malformed"


def test_delegates_are_parties(case: Case) -> None:
    case.refused("broker.party-unknown", case.send, case.bob, SetDelegates, delegates=("0" * 64,), threshold=1)


# --- Reports ----------------------------------------------------------------------------------------------------------


def report_policy(names: list[str], **changes: object) -> str:
    mrtd = reference_values(SERVE).registers["mrtd"]
    values = {"workload": "serve", "mrtd": mrtd, "until": "2099-01-01", "owners": names, "min_group": 20}
    evaluation = 'permit(principal, action == Action::"evaluation", resource);\n'
    return evaluation + template("report-release", **(values | changes))


def reporting(rig: Rig, kind: str = "report", min_group: str = "20", **changes: object) -> Case:
    case = Case(rig, kind, ALLOW_ALL, purpose="evaluation", parameters={"min_group": min_group})
    policy = report_policy([case.alice.id, case.bob.id], **changes)
    for party, capsule in ((case.alice, case.model), (case.bob, case.data)):
        rig.send(party.policy(rig, capsule.capsule_id, policy, Budget(uses=3)))
    return case


def test_a_report_leaves_by_policy_without_a_vote(ready: Rig) -> None:
    case = reporting(ready)
    request = case.request()
    assert case.state() == "approved"
    assert [consent.by for consent in case.views()[0].consents] == ["policy", "policy"]
    index = case.collect(request)
    assert ready.entries()[index]["approvals"] == []
    assert case.opened(request, case.fetch(request)).data_key == case.made.data_key
    header = case.alice.query(ready, f"/v1/capsules/{case.made.capsule_id}")
    view = asyncio.run(ready.broker.capsule(case.made.capsule_id, header))
    assert {g.uses for g in protocol.decode(view, protocol.CapsuleView, 1 << 20).grants} == {1}


def test_a_refusal_stands_above_policies(ready: Rig) -> None:
    case = reporting(ready)
    request = case.request()
    case.vote(case.bob, request, approve=False)
    case.refused("broker.export-not-approved", case.collect, request)


@pytest.mark.parametrize(
    ("made", "changes"),
    [
        ({"kind": "adapter"}, {}),
        ({"min_group": "19"}, {}),
        ({}, {"until": "2020-01-01"}),
        ({}, {"mrtd": "00"}),
        ({}, {"owners": ["0" * 64]}),
        ({}, {"workload": "train"}),
    ],
)
def test_what_the_policies_do_not_let_out_needs_votes(ready: Rig, made: dict, changes: dict) -> None:
    case = reporting(ready, **made, **changes)
    request = case.request()
    case.refused("broker.export-not-approved", case.collect, request)
    for party in (case.alice, case.bob):
        case.vote(party, request)
    assert case.collect(request)


def test_where_a_report_was_made_is_remembered(ready: Rig, tmp_path: Path) -> None:
    auditor, now = Identity.generate(), datetime.now(UTC)
    evidence = ready.process().evidence(bytes(32))
    machine = verify(evidence, ready.policy, nonce=bytes(32), now=now).machine.platform
    statement = sign_residency(Residency("DE", now, now + timedelta(days=1)), [machine], auditor)
    ready.settings = dataclasses.replace(ready.settings, residency=tmp_path)
    ready.reopen()
    for there in (True, False):
        (tmp_path / "here.json").write_bytes(statement if there else b"")
        case = reporting(ready)
        for party, capsule in ((case.alice, case.model), (case.bob, case.data)):
            policy = report_policy([case.alice.id, case.bob.id])
            policy += template("residency", auditor=auditor.key_id, countries="DE")
            ready.send(party.policy(ready, capsule.capsule_id, policy))
        case.request()
        (tmp_path / "here.json").unlink()
        assert case.state() == ("approved" if there else "open")
        ready.receipt_key = Identity.generate()


def test_no_policy_lets_a_model_out(ready: Rig) -> None:
    """`permit(principal, action, resource)` was never meant to be a vote."""
    case = Case(ready, "adapter")
    request = case.request()
    case.refused("broker.export-not-approved", case.collect, request)


def test_nor_a_report_that_its_owner_sealed_itself(ready: Rig) -> None:
    case = Case(ready)
    plain = ready.folder / "model-plain"
    sealed = seal(plain, ready.folder / "own", owner=case.alice.identity, name="mine", kind="report")
    ready.send(case.alice.publication(ready, sealed))
    case.made = sealed
    request = case.request()
    case.refused("broker.export-not-approved", case.collect, request)
    case.vote(case.alice, request)
    case.collect(request)
    assert case.opened(request, case.fetch(request)).signer == case.alice.identity.public.raw


def test_uses_of_a_report_are_counted(ready: Rig) -> None:
    case = reporting(ready)
    ready.send(
        case.bob.policy(ready, case.data.capsule_id, report_policy([case.alice.id, case.bob.id]), Budget(uses=1))
    )
    case.collect(case.request())
    case.refused("broker.export-not-approved", case.collect, case.request())


# --- The wire ---------------------------------------------------------------------------------------------------------


def test_commands_keep_to_their_endpoints(ready: Rig, case: Case) -> None:
    vote = VoteExport(request="0" * 64, owner=case.alice.id, approve=True, **case.alice.signed(ready))
    with pytest.raises(MitaiError) as caught:
        ready.send(case.alice.body(vote))
    assert caught.value.code == "broker.malformed"
    case.refused("broker.malformed", case.post, case.alice.revocation(ready))
    case.refused("broker.malformed", case.post, case.alice.body(vote, data_key=bytes(32)))
    case.refused("broker.too-large", case.post, b" " * ((64 << 10) + 1))


def test_two_signatures_are_refused(ready: Rig, case: Case) -> None:
    vote = VoteExport(request=case.request(), owner=case.alice.id, approve=True, **case.alice.signed(ready))
    envelope = case.alice.identity.sign(protocol.encode(vote), protocol.COMMAND_TYPE)
    twice = msgspec.structs.replace(envelope, signatures=envelope.signatures * 2)
    body = protocol.CommandRequest(public_key=case.alice.identity.public.raw, command=twice)
    case.refused("broker.malformed", case.post, protocol.encode(body))


def test_a_view_holds_the_request_as_it_was_signed(case: Case) -> None:
    request = case.request()
    (view,) = case.views(case.bob)
    assert sha256_hex(view.command.open(protocol.COMMAND_TYPE, PublicKey(view.public_key))) == request
    assert "model" not in repr(view)


def test_keys_are_not_shown() -> None:
    key = ExportedKey(request="0" * 64, capsule="c", manifest_sha256="0" * 64, data_key=b"\x07" * 32, signer=bytes(32))
    assert "\\x07" not in repr(key)


@pytest.mark.parametrize("name", ["", "x" * 201, "Rita\n  its key    0000", "a\x1bb", "\x7f"])
def test_a_recipient_s_name_is_one_line(name: str) -> None:
    with pytest.raises(MitaiError):
        protocol.decode(msgspec.json.encode({"name": name, "party": "0" * 64, "key": "AA=="}), Recipient, 4096)
