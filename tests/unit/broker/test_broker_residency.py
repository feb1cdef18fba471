"""Where machines stand: statements of auditors, and keys only for machines of which the right one says so."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog

from broker_rig import ALLOW_ALL, Party, Rig
from mitai.attest import verify
from mitai.attest.refvalues.statement import PAYLOAD_TYPE
from mitai.attest.sim import SimPlatform
from mitai.broker.config import Config
from mitai.broker.policy import template
from mitai.broker.policy.compare import compare
from mitai.broker.policy.explain import describe, why
from mitai.broker.policy.request import Request
from mitai.broker.protocol import encode
from mitai.broker.residency import MAX_DOCUMENT_BYTES, Audited, Document, Residency, read_residency, sign_residency
from mitai.broker.trusted import Trusted
from mitai.errors import DeniedError, MitaiError, ParseError
from mitai.identity import Identity

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
AUDITOR = Identity.from_seed(b"\1" * 32)
HERE = "amd-chip:" + "a1" * 64
THERE = "intel-ppid:" + "b2" * 16
GERMANY = Residency("DE", NOW - DAY, NOW + DAY)


def statement(**changes: object) -> dict:
    """A statement's payload as JSON has it, with changed members."""
    payload = msgspec.json.decode(opened(sign_residency(GERMANY, [HERE], AUDITOR)).statement.payload)
    return payload | changes


def other(said: Residency, **changes: object) -> Residency:
    return msgspec.structs.replace(said, **changes)


def opened(data: bytes) -> Document:
    return msgspec.json.decode(data, type=Document)


def signed(payload: object, auditor: Identity = AUDITOR, kind: str = PAYLOAD_TYPE) -> bytes:
    envelope = auditor.sign(msgspec.json.encode(payload), kind)
    return encode(Document(public_key=auditor.public.raw, statement=envelope))


# --- Statements -------------------------------------------------------------------------------------------------------


def test_a_statement_says_who_says_what_of_which_machines() -> None:
    said = other(GERMANY, zone="Frankfurt hall 3")
    audited = read_residency(sign_residency(said, [HERE, THERE], AUDITOR))
    assert audited == Audited(AUDITOR.key_id, said, (HERE, THERE))
    expected = (f"{AUDITOR.key_id}=DE", f"{AUDITOR.key_id}=DE/Frankfurt hall 3")
    assert audited.facts(HERE, NOW) == audited.facts(THERE, NOW) == expected
    assert audited.facts("amd-chip:" + "a2" * 64, NOW) == audited.facts("", NOW) == ()


@pytest.mark.parametrize(
    ("at", "counts"),
    [(-DAY - timedelta(seconds=1), False), (-DAY, True), (DAY - timedelta(seconds=1), True), (DAY, False)],
)
def test_it_counts_from_its_beginning_until_its_end(at: timedelta, counts: bool) -> None:
    audited = read_residency(sign_residency(GERMANY, [HERE], AUDITOR))
    assert bool(audited.facts(HERE, NOW + at)) == counts


def test_any_flipped_byte_is_refused() -> None:
    document = sign_residency(other(GERMANY, zone="hall 3"), [HERE], AUDITOR)
    for position in range(len(document)):
        for change in (1, 0x20, 0x80):
            flipped = bytearray(document)
            flipped[position] ^= change
            with pytest.raises(MitaiError):
                read_residency(bytes(flipped))
    for data in (document + b"\n", b" " + document, document[:-1], b"", b"[" * 10_000):
        with pytest.raises(MitaiError):
            read_residency(data)


@pytest.mark.parametrize(
    "change",
    [
        {"country": "de"},
        {"country": "DEU"},
        {"country": "DE\n"},
        {"zone": "x=y"},
        {"zone": " x"},
        {"zone": "x" * 65},
        {"not_before": GERMANY.not_after},
        {"not_after": NOW.replace(tzinfo=None) + 10 * DAY},
    ],
)
def test_a_place_that_nobody_could_rely_on_is_not_signed(change: dict[str, object]) -> None:
    with pytest.raises(ParseError) as caught:
        sign_residency(other(GERMANY, **change), [HERE], AUDITOR)
    assert caught.value.code == "broker.residency-malformed"


@pytest.mark.parametrize(
    "machines", [[], [""], ["amd-chip:"], [HERE.upper()], [HERE + "a"], ["a1" * 16], [HERE] * 1025, [HERE + "\n"]]
)
def test_machines_are_named_as_evidence_names_them(machines: list[str]) -> None:
    with pytest.raises(ParseError):
        sign_residency(GERMANY, machines, AUDITOR)


def test_as_many_machines_as_are_allowed_fit_into_a_document() -> None:
    machines = [f"amd-chip:{number:0128x}" for number in range(1024)]
    document = sign_residency(GERMANY, machines, AUDITOR)
    assert len(document) < MAX_DOCUMENT_BYTES
    assert read_residency(document).machines == tuple(machines)


@pytest.mark.parametrize(
    "payload",
    [
        statement(_type="https://in-toto.io/Statement/v0.1"),
        statement(predicateType="https://mitai.dev/predicate/release/v1"),
        statement(more=1),
        statement(subject=[]),
        statement(subject=[{"name": HERE, "digest": {"sha256": "0" * 64}}]),
        statement(subject=[{"name": HERE, "digest": {}}]),
        statement(predicate=None),
        statement(predicate=statement()["predicate"] | {"more": 1}),
        statement(predicate={"country": "DE"}),
        [],
    ],
)
def test_another_statement_is_none(payload: object) -> None:
    with pytest.raises(ParseError):
        read_residency(signed(payload))


def test_signatures() -> None:
    """Of another key, of another kind, none, more than one, one under another name."""
    document, stranger = opened(sign_residency(GERMANY, [HERE], AUDITOR)), Identity.generate()
    (mine,), envelope = document.statement.signatures, document.statement
    theirs = msgspec.structs.replace(stranger.sign(envelope.payload, PAYLOAD_TYPE).signatures[0], keyid=AUDITOR.key_id)
    for signatures in ((), (theirs,), (mine, theirs), (mine, mine), (msgspec.structs.replace(mine, keyid=""),)):
        changed = msgspec.structs.replace(envelope, signatures=signatures)
        with pytest.raises(MitaiError):
            read_residency(encode(msgspec.structs.replace(document, statement=changed)))
    with pytest.raises(MitaiError) as caught:
        read_residency(signed(statement(), kind="application/vnd.mitai.command+json"))
    assert caught.value.code == "identity.payload-type"
    assert read_residency(signed(statement())).auditor == AUDITOR.key_id


# --- Releases ---------------------------------------------------------------------------------------------------------


class Site:
    """A broker with a folder of statements, and owners who want their keys in Germany or France."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig, self.folder = rig, folder
        rig.settings = dataclasses.replace(rig.settings, residency=folder)
        rig.reopen()
        rig.register()
        evidence = rig.process().evidence(bytes(32))
        self.machine = verify(evidence, rig.policy, nonce=bytes(32), now=rig.clock()).machine.platform
        self.policy = ALLOW_ALL + template("residency", auditor=AUDITOR.key_id, countries=["DE", "FR"])
        self.capsule = rig.publish(self.policy).capsule_id

    def say(self, said: Residency = GERMANY, *machines: str, auditor: Identity = AUDITOR, name: str = "a") -> None:
        self.folder.mkdir(exist_ok=True)
        machines = machines or (self.machine,)
        (self.folder / f"{name}.json").write_bytes(sign_residency(said, machines, auditor))

    def allows(self, capsule: str = "") -> bool:
        with suppress(DeniedError):
            self.rig.release(capsule or self.capsule)
            return True
        assert self.rig.entries()[-1]["code"] == "broker.policy-denied"
        return False


@pytest.fixture
def site(rig: Rig, tmp_path: Path) -> Site:
    return Site(rig, tmp_path / "residency")


def test_keys_go_only_where_the_auditor_says_that_the_machine_stands(site: Site) -> None:
    assert site.machine.startswith("simulated:")
    assert not site.allows()  # not even the folder is there
    site.say(GERMANY, THERE, HERE)
    assert not site.allows()  # of other machines
    site.say(auditor=Identity.generate())
    assert not site.allows()  # anybody can say so
    site.say(Residency("US", NOW - DAY, NOW + DAY))
    assert not site.allows()
    site.say(GERMANY, HERE, site.machine)
    assert site.allows()
    site.say(Residency("FR", NOW - DAY, NOW + DAY))
    assert site.allows()
    site.rig.clock.ahead = 2 * DAY
    assert not site.allows()  # it has ended
    site.say(Residency("FR", NOW, NOW + 3 * DAY))
    assert site.allows()  # it was renewed, and the broker ran on
    (site.folder / "a.json").unlink()
    assert not site.allows()


def test_a_simulated_machine_is_no_real_one(site: Site) -> None:
    site.say(GERMANY, site.machine.replace("simulated", "intel-ppid"))
    assert not site.allows()


def test_another_simulated_platform_is_another_machine(site: Site, tmp_path: Path) -> None:
    site.say()
    assert site.allows()
    site.rig.sim = SimPlatform.create(tmp_path / "other")
    site.rig.policy = msgspec.structs.replace(site.rig.policy, sim_roots=(site.rig.sim.sim_root,))
    site.rig.broker.trusted = dataclasses.replace(site.rig.broker.trusted, policy=site.rig.policy)
    assert not site.allows()


def test_each_owner_believes_an_auditor_of_its_own(site: Site) -> None:
    bob, theirs = Party("bob"), Identity.generate()
    site.rig.register(bob)
    shared = site.rig.publish(site.policy, co_owners=(bob.id,)).capsule_id
    site.rig.send(
        bob.policy(site.rig, shared, ALLOW_ALL + template("residency", auditor=theirs.key_id, countries="DE"))
    )
    site.say()
    assert not site.allows(shared)
    site.say(auditor=theirs, name="b")
    assert site.allows(shared)
    site.say(Residency("AT", NOW - DAY, NOW + DAY), auditor=theirs, name="b")
    assert not site.allows(shared)


def test_a_policy_can_ask_for_a_zone(site: Site) -> None:
    asked = f'context.residency.contains("{AUDITOR.key_id}=DE/hall 3")'
    capsule = site.rig.publish(f"permit(principal, action, resource) when {{ {asked} }};").capsule_id
    site.say()
    assert not site.allows(capsule)
    site.say(other(GERMANY, zone="hall 3"))
    assert site.allows(capsule)


def test_what_can_not_be_read_says_nothing_and_hinders_nothing(site: Site) -> None:
    site.say()
    (site.folder / "0.json").write_bytes(b"{}")
    (site.folder / "1.json").mkdir()
    (site.folder / "2.json").symlink_to(site.folder / "nowhere")
    with structlog.testing.capture_logs() as logged:
        assert site.allows()
    told = [(entry["file"], entry["code"]) for entry in logged if entry["log_level"] == "warning"]
    assert told == [
        ("0.json", "broker.residency-malformed"),
        ("1.json", "IsADirectoryError"),
        ("2.json", "FileNotFoundError"),
    ]
    (site.folder / "a.json").write_bytes((site.folder / "a.json").read_bytes()[:-1])
    assert not site.allows()


def test_a_machine_without_an_identity_stands_nowhere(site: Site) -> None:
    site.say()
    rig = site.rig
    appraisal = verify(rig.process().evidence(bytes(32)), rig.policy, nonce=bytes(32), now=rig.clock())
    trusted = Trusted(rig.policy, residency=site.folder)
    assert trusted.residency_of(appraisal, NOW) == (f"{AUDITOR.key_id}=DE",)
    nameless = dataclasses.replace(appraisal, machine=dataclasses.replace(appraisal.machine, platform=""))
    assert trusted.residency_of(nameless, NOW) == ()
    assert Trusted(rig.policy).residency_of(appraisal, NOW) == ()


def test_the_configuration_names_the_folder(tmp_path: Path) -> None:
    fields = 'state = "sqlite://"\npublish = "p"\npolicy = "p.toml"\n'
    path = tmp_path / "broker.toml"
    for more, folder in (("", None), ('residency = "r"', Path("r"))):
        path.write_text(fields + more)
        assert Config.read(path).settings().residency == folder


# --- Policies on one's own machine ------------------------------------------------------------------------------------

POLICY = 'permit(principal == Workload::"serve", action == Action::"inference", resource);\n' + template(
    "residency", auditor="a1" * 32, countries=["DE", "FR"]
).replace("a1" * 32, "a1")


def test_a_policy_is_explained() -> None:
    assert "  - context.residency contains one of a1=DE, a1=FR" in "\n".join(describe(POLICY)).split("\n")
    assert why(POLICY, Request(residency=("a1=FR", "a1=FR/hall 3")), NOW).allowed
    refused = why(POLICY, Request(residency=("b2=DE",)), NOW)
    assert not refused.allowed
    assert "context.residency contains one of a1=DE, a1=FR, but it is b2=DE" in refused.lines[0]
    assert not why(POLICY, Request(), NOW).allowed


def test_policies_are_compared_by_it() -> None:
    permit, wider = POLICY.partition("\n")[0], POLICY.replace('"a1=FR"', '"a1=FR", "a1=US"')
    more = compare(POLICY, wider, NOW).changes
    assert {(change.before, change.after, change.request.residency) for change in more} == {(False, True, ("a1=US",))}
    anywhere = compare(POLICY, permit, NOW).changes
    assert {(change.before, change.after, change.request.residency) for change in anywhere} == {(False, True, ())}
