"""Keys that survive, over HTTP and by the commands: joining, recovery, a capsule's new key, backups."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import httpx2
import msgspec
import pytest
import uvicorn
from starlette.types import ASGIApp

from broker_rig import BROKER, SERVE, Rig
from mitai.attest import ClaimRules, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.broker import __main__ as process
from mitai.broker import joining, protocol
from mitai.broker.config import Config
from mitai.broker.joining import join, keep_joined
from mitai.broker.keys import Keys
from mitai.broker.recovery import PLAN_TYPE, Member, Plan, RecoveryKey, read_shares
from mitai.broker.store import ROOT_LABEL, Database
from mitai.broker.vault import Vault
from mitai.capsule import MANIFEST_NAME, open_capsule, seal
from mitai.capsule.manifest import PAYLOAD_TYPE
from mitai.capsule.stores import FolderStore
from mitai.cli import broker as operator
from mitai.cli import owner as owner_commands
from mitai.cli import recovery as commands
from mitai.cli.rotate import rotate
from mitai.client import recovery
from mitai.client.owner import Owner
from mitai.errors import AttestError, BrokerError, ClientError, MitaiError
from mitai.fleet.gateway import GatewayConfig
from mitai.fleet.gateway import create_app as gateway_app
from mitai.fleet.home import Home, PlatformFile, write_private
from mitai.fleet.processes import free_port
from mitai.identity import Envelope, Identity
from mitai.ledger.note import vkey

NEW_BUILD = Workload("broker", b"\x04" * 48)
TOKEN = "u" * 24


@contextmanager
def served(app: ASGIApp, port: int = 0) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Stage:
    """A broker behind its address, another machine, and what everybody trusts."""

    def __init__(self, folder: Path, sim: SimPlatform, other: SimPlatform) -> None:
        self.rig, self.sim, self.other = Rig(folder, sim), sim, other
        values = tuple(reference_values(build) for build in (SERVE, BROKER))
        roots = (sim.sim_root, other.sim_root)
        self.policy = Policy(allow_simulation=True, sim_roots=roots, workloads=values)
        self.folder = folder
        (folder / "policy.toml").write_text(self.policy.to_toml())

    def config(self, **more: object) -> Config:
        fields = {
            "state": self.rig.settings.state_url,
            "publish": str(self.rig.settings.publish_folder),
            "policy": str(self.folder / "policy.toml"),
            "origin": "test.mitai/ledger",
        }
        return Config(**(fields | more))

    def database(self, sim: SimPlatform, build: Workload) -> Database:
        return Database(self.rig.settings.state_url, Vault(sim.attester(build).sealing_key(ROOT_LABEL)))

    def owners_policy(self, build: Workload = BROKER) -> Policy:
        claims = ClaimRules(ledger_vkey=self.rig.broker.vkey)
        return msgspec.structs.replace(self.policy, claims=claims, workloads=(reference_values(build),))

    @contextmanager
    def running(self, keys: Keys | None = None, build: Workload = BROKER, port: int = 0) -> Iterator[str]:
        attester = self.sim.attester(build)
        with served(process.build_app(self.rig.broker, attester, self.policy, self.config(), keys=keys), port) as url:
            yield url

    @contextmanager
    def waiting(self, build: Workload = NEW_BUILD) -> Iterator[tuple[str, list[bool]]]:
        """A broker on the other machine that waits for shares."""
        port, ended = free_port(), list[bool]()
        config, attester = self.config(port=port), self.other.attester(build)
        thread = threading.Thread(target=lambda: ended.append(process.recover(attester, self.policy, config)))
        thread.start()
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                assert httpx2.get(f"{url}/healthz").json()["role"] == "recovering"
                break
            except httpx2.HTTPError:
                assert thread.is_alive()
                time.sleep(0.02)
        yield url, ended
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def stage(tmp_path: Path, sim: SimPlatform) -> Iterator[Stage]:
    made = Stage(tmp_path, sim, SimPlatform.create(tmp_path / "other-sim"))
    yield made
    made.rig.close()


def test_a_broker_joins_over_http(stage: Stage) -> None:
    joiner, here = stage.other.attester(BROKER), stage.database(stage.other, BROKER)
    with stage.running() as url:
        with pytest.raises(MitaiError) as caught:  # one that is away
            join(["http://127.0.0.1:9"], here, joiner, stage.policy)
        assert caught.value.code == "client.unreachable"
        assert not join([], here, joiner, stage.policy)
        assert join(["http://127.0.0.1:9", url], here, joiner, stage.policy)
        assert not join([url], here, joiner, stage.policy)  # it has it
        other_build = stage.database(stage.other, NEW_BUILD)
        with pytest.raises(MitaiError) as caught:
            join([url], other_build, stage.other.attester(NEW_BUILD), stage.policy)
        assert caught.value.code.startswith("broker.peer-refused")
        assert other_build.lacks_root()
    assert here.load() is not None


def test_nothing_is_asked_of_a_peer_that_is_no_broker(stage: Stage, tmp_path: Path) -> None:
    here = stage.database(stage.other, BROKER)
    with stage.running(build=NEW_BUILD) as url, pytest.raises(AttestError) as caught:
        join([url], here, stage.other.attester(BROKER), stage.policy)
    assert caught.value.code == "attest.measurement-mismatch"


def publish(owner: Owner) -> int:
    envelope = owner.identity.sign(b"{}", PAYLOAD_TYPE).encode()
    return owner.publish("a" * 32, envelope, bytes(32), policy="permit(principal, action, resource);")


def test_a_key_that_a_peer_of_the_hosts_gave_is_told(stage: Stage) -> None:
    """The host's own broker, state and policy, and a genuine broker that joins it: its first owners are warned."""
    rig = stage.rig
    rig.broker.close()
    for build, told in ((BROKER, False), (NEW_BUILD, True)):
        rig.settings = replace(
            rig.settings,
            state_url=f"sqlite:///{stage.folder / f'{told}.db'}",
            publish_folder=stage.folder / f"{told}-ledger",
        )
        rig.open(stage.sim.attester(build))
        keys = Keys(rig.broker, stage.sim.attester(build), stage.policy)
        # what the false peer is ready to give to anybody
        keys._rules = lambda _plan: stage.policy
        weak = msgspec.structs.replace(stage.policy, workloads=(reference_values(build),))
        with stage.running(keys, build) as url, nullcontext(stage.database(stage.other, BROKER)) as here:
            assert join([url], here, stage.other.attester(BROKER), weak)
        rig.broker.close()
        rig.open(stage.other.attester(BROKER))
        joined = Keys(rig.broker, stage.other.attester(BROKER), stage.policy)
        assert ("inherited" in joined.claims) == told
        joined.rotate()  # does not change who may have the ledger's key
        assert ("inherited" in joined.claims) == told
        with stage.running(joined) as url:
            for policy, codes in (
                (stage.policy, {"client.keys-inherited"} if told else {"capsule.manifest-malformed"}),
                (stage.owners_policy(), {"capsule.manifest-malformed"}),
            ):
                with closing(Owner(url, Identity.generate(), policy)) as owner, pytest.raises(MitaiError) as caught:
                    publish(owner)
                assert caught.value.code in codes
        rig.broker.close()
    rig.open(stage.other.attester(BROKER))


def test_another_brokers_plan_is_not_shown_as_the_pinned_ones(stage: Stage) -> None:
    claims = ClaimRules(ledger_vkey=vkey("test.mitai/ledger", Identity.generate().public))
    with stage.running() as url, pytest.raises(BrokerError) as caught:
        recovery.show(url, msgspec.structs.replace(stage.policy, claims=claims))
    assert caught.value.code == "broker.recovery-elsewhere"


def test_who_signs_a_plan_reads_whom_running_brokers_give_the_key_to(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = msgspec.structs.replace(stage.policy, workloads=(reference_values(NEW_BUILD),)).to_toml()
    file = tmp_path / "plan.json"
    file.write_bytes(Envelope(protocol.encode(Plan(version=1, policy=weak)), PLAN_TYPE, ()).encode())
    with Device(tmp_path / "alice", monkeypatch, stage.policy):
        commands.sign(file)
    told = capsys.readouterr().out
    assert "simulated ones too" in told
    registers = reference_values(NEW_BUILD).registers.values()
    assert all(value in told.replace("\n", "") for value in registers)


def test_a_broker_that_restarts_with_a_plan_in_the_middle_of_a_request_gets_no_key(
    stage: Stage, tmp_path: Path
) -> None:
    """A client verifies again by itself when the broker's keys have changed: then it looks at the plan again, too."""
    with stage.running() as url:
        owner = Owner(url, Identity.generate(), stage.policy)
        owner.register("alice")
        port = int(url.rsplit(":", 1)[1])
    host = RecoveryKey(kem="x25519", seed=b"h" * 32)
    plan = Plan(version=1, threshold=1, members=(Member(Identity.generate().public.raw, host.public()),))
    keys = Keys(stage.rig.broker, stage.sim.attester(BROKER), stage.policy)
    asyncio.run(keys.start(Envelope(protocol.encode(plan), PLAN_TYPE, ()).encode()))
    with closing(owner), stage.running(keys, port=port), pytest.raises(ClientError) as caught:
        publish(owner)
    assert caught.value.code == "client.recovery-unseen"


class Device:
    """An owner's own device, with its own home folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
        self.home, self._patch = Home(folder), monkeypatch
        self.home.policy.parent.mkdir(parents=True)
        self.home.policy.write_text(policy.to_toml())

    def __enter__(self) -> Home:
        self._patch.setenv("MITAI_HOME", str(self.home.root))
        return self.home

    def __exit__(self, *_: object) -> None:
        self._patch.delenv("MITAI_HOME")


def test_from_plan_to_recovery_by_the_commands(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> dict[str, object]:
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    devices = [Device(tmp_path / name, monkeypatch, stage.owners_policy()) for name in ("alice", "bob", "carol")]
    members = [tmp_path / f"member-{number}.json" for number in range(3)]
    for device, member in zip(devices, members, strict=True):
        with device:
            commands.keygen(out=member)
            with pytest.raises(ClientError):  # not over one that is there
                commands.keygen(out=member)
    plan = tmp_path / "plan.json"
    with devices[0]:
        commands.plan(*members, threshold=2, out=plan)
    keys = Keys(stage.rig.broker, stage.sim.attester(BROKER), stage.policy)
    asyncio.run(keys.start(plan.read_bytes()))
    document = tmp_path / "shares.json"
    with stage.running(keys) as url, devices[1]:
        capsys.readouterr()
        commands.show(url, out=document, json=True)
        shown = told()
        assert (shown["threshold"], shown["epoch"], len(shown["members"])) == (2, 1, 3)
        with closing(Owner(url, Home.default().owner(), stage.policy)) as owner, pytest.raises(ClientError) as caught:
            publish(owner)  # it knows no plan
        assert caught.value.code == "client.recovery-unseen"
        with pytest.raises(BrokerError) as caught:
            commands.approve(url, share=document, policy=None)
        assert caught.value.code == "broker.recovery-needless"
        second = tmp_path / "second.json"
        commands.plan(*members[:2], threshold=2, url=url, out=second)
        assert stage.rig.broker.audience.encode() in base64.b64decode(json.loads(second.read_bytes())["payload"])
    for device in devices[:2]:
        with device:
            commands.sign(second)
            commands.sign(second)  # once more changes nothing
    assert len(json.loads(second.read_bytes())["signatures"]) == 2
    stage.rig.register()
    sealed = stage.rig.publish()
    vkey = stage.rig.broker.vkey
    stage.rig.broker.close()
    with stage.waiting() as (url, ended):
        with devices[0], pytest.raises(AttestError) as caught:  # the new build is not in this owner's policy
            commands.approve(url, share=document)
        assert caught.value.code == "attest.measurement-mismatch"
        for device in devices:
            device.home.policy.write_text(stage.owners_policy(NEW_BUILD).to_toml())
        stranger = tmp_path / "stranger.key"
        stranger.write_bytes(msgspec.json.encode(RecoveryKey(kem="x25519", seed=b"s" * 32)))
        with devices[0]:
            with pytest.raises(BrokerError) as caught:
                commands.approve(url, share=document, key=stranger)
            assert caught.value.code == "broker.recovery-no-share"
            capsys.readouterr()
            commands.show(url, out=tmp_path / "again.json", json=True)
            assert (tmp_path / "again.json").read_bytes() == document.read_bytes()
            capsys.readouterr()
            commands.approve(url, share=document, json=True)
            assert told() == {"have": 1, "need": 2}
        with pytest.raises(ClientError) as caught:
            recovery.approve(url, document.read_bytes(), RecoveryKey(kem="x25519", seed=b"s" * 32), stage.policy)
        assert caught.value.code == "client.ledger-unpinned"
        with devices[2]:
            commands.approve(url, share=document, json=True)
            assert told() == {"have": 2, "need": 2}
    assert ended == [True]
    stage.rig.open(stage.other.attester(NEW_BUILD))
    assert stage.rig.broker.database.root.inherited
    assert stage.rig.broker.vkey == vkey
    assert stage.rig.release(sealed.capsule_id)[0].data_key == sealed.data_key
    assert read_shares(document.read_bytes()).audience == stage.rig.broker.audience
    with pytest.raises(BrokerError) as caught:
        process.recover(stage.other.attester(NEW_BUILD), stage.policy, stage.config())
    assert caught.value.code == "broker.recovery-needless"


def test_a_capsule_gets_a_new_key_by_the_command(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device(tmp_path / "alice", monkeypatch, stage.policy)
    plain = tmp_path / "notes"
    plain.mkdir()
    (plain / "a.txt").write_text("a" * 1000)
    objects = tmp_path / "objects"
    with stage.running() as broker, device as home:
        named = {"replicas": {}, "broker": broker, "objects": str(objects)}
        gateway = GatewayConfig(**named, upload_token=TOKEN, operator_token="o" * 24)
        with served(gateway_app(gateway)) as url:
            home.write_platform(PlatformFile(url, TOKEN, "o" * 24, {}, simulated=True))
            old, new = tmp_path / "notes.capsule", tmp_path / "notes-2.capsule"
            owner_commands.seal(plain, old, kind="data", json=True)
            capsule = json.loads(capsys.readouterr().out)["capsule"]
            owner_commands.publish(old, policy=home.policy)
            former = home.data_key(capsule)
            rotate(old, new)
            assert home.data_key(capsule) != former
            rotate(old, new)  # an answer that was lost: the command is repeated
            with pytest.raises(MitaiError) as caught:  # another device, that does not know of it
                rotate(old, tmp_path / "notes-3.capsule")
            assert caught.value.code.startswith("capsule.")
            capsys.readouterr()
            owner_commands.publish(new, uses=3, policy=home.policy, json=True)
            assert json.loads(capsys.readouterr().out)["policy_replaced"]
            with closing(Owner(broker, home.owner(), stage.policy)) as owner:
                (grant,) = owner.capsule(capsule).grants
                assert grant.budget.uses == 3
            strange = seal(plain, tmp_path / "strange", owner=home.owner(), name="strange", capsule_id="0" * 32)
            write_private(home.data_key_path("0" * 32), strange.data_key)
            with pytest.raises(BrokerError) as refused:  # nor does this id follow, and the broker knows it not
                owner_commands.publish(tmp_path / "strange", policy=home.policy)
            assert refused.value.code == "capsule.id-foreign"
    stored = objects / capsule
    both = {path.name for folder in (old, new) for path in folder.iterdir()}
    assert {path.name for path in stored.iterdir()} == both
    for folder, key in ((old, former), (new, home.data_key(capsule))):
        envelope = (folder / MANIFEST_NAME).read_bytes()
        source = open_capsule(FolderStore(stored), envelope, key, owner=home.owner().public)
        assert source.read("a.txt") == b"a" * 1000
    kept = [path for path in home.data_key_path(capsule).parent.iterdir() if path.read_bytes() == former]
    assert len(kept) == 1


def test_the_operator_backs_up_and_restores(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.rig.register()
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    for path, state in ((here, stage.rig.settings.state_url), (there, f"sqlite:///{tmp_path / 'there.db'}")):
        path.write_text(f'state = "{state}"\npublish = "{tmp_path / "ledger"}"\npolicy = "policy.toml"\n')
    operator.backup(tmp_path / "broker.backup", config=here, json=True)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    operator.restore(tmp_path / "broker.backup", config=there, json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == rows > 0
    stage.rig.broker.close()
    settings = stage.rig.settings
    stage.rig.settings = replace(settings, state_url=f"sqlite:///{tmp_path / 'there.db'}")
    stage.rig.open()


def test_a_stand_by_looks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LOOK_EVERY_S", 0.01)
    looked = []

    def look() -> None:
        looked.append(len(looked))
        if len(looked) == 1:
            raise BrokerError("broker.peer-unreachable", "away")

    end = keep_joined(look)
    while len(looked) < 3:
        time.sleep(0.01)
    end()
    time.sleep(0.05)
    seen = len(looked)
    time.sleep(0.05)
    assert len(looked) == seen


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx2.Response(200, content=b"x" * 70_000), "broker.peer-answer-too-large"),
        (httpx2.Response(403, json={"code": "broker.peer-refused", "detail": "no"}), "broker.peer-refused"),
        (httpx2.ConnectError("gone"), "broker.peer-unreachable"),
    ],
)
def test_what_a_peer_answers_is_bounded(answer: httpx2.Response | Exception, code: str) -> None:
    def handle(_request: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with httpx2.Client(transport=httpx2.MockTransport(handle)) as client, pytest.raises(BrokerError) as caught:
        joining._post(client, "http://peer.test", "/v1/root", b"{}")
    assert caught.value.code == code


def test_a_peer_that_names_another_broker_is_passed_over(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    open_root = joining.open_root
    monkeypatch.setattr(joining, "open_root", lambda *arguments: ("0" * 64, open_root(*arguments)[1]))
    here = stage.database(stage.other, BROKER)
    with stage.running() as url, pytest.raises(BrokerError) as caught:
        join([url], here, stage.other.attester(BROKER), stage.policy)
    assert caught.value.code == "broker.answer-mismatch"
    assert here.lacks_root()
