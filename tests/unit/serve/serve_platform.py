"""A broker and a replica on loopback, in simulation, for tests: the real apps on real sockets."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import uvicorn

from mitai.attest import Attester, Claims, Policy
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.broker.derive_client import Derivation
from mitai.broker.release_client import Release
from mitai.capsule import Sealed, seal
from mitai.channel import KeyRing
from mitai.client.http import session_client
from mitai.client.owner import Owner
from mitai.client.session import Session
from mitai.identity import Identity
from mitai.serve.app import Replica, create_replica
from mitai.serve.config import ServeConfig
from mitai.serve.link import BrokerLink
from mitai.workload import Workload

POLICY = 'permit (principal == Workload::"serve", action == Action::"inference", resource);'


@contextlib.contextmanager
def served(app, **options):
    """Run an ASGI app on a free port of the loopback address; yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False, **options))
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


@dataclass
class Platform:
    """What a test needs of a running platform."""

    policy: Policy
    broker: str
    replica: str
    sim: Path
    objects: Path
    inside: Replica  # what no client can see
    broker_attester: Attester
    serve_attester: Attester

    def deploy(self, capsule_id: str, **more):
        body = {"capsules": [capsule_id], "broker": self.broker, "objects": f"file://{self.objects}", "model": "tiny"}
        return httpx2.post(f"{self.replica}/control/deploy", json=body | more)

    def wait(self) -> dict:
        for _ in range(600):
            status = httpx2.get(f"{self.replica}/control/status").json()
            if status["state"] in {"ready", "failed"}:
                return status
            time.sleep(0.05)
        raise AssertionError(status)


@contextlib.contextmanager
def platform(root: Path, **settings):
    """Start broker and replica under a fresh simulated root."""
    from mitai.broker.__main__ import build_app
    from mitai.broker.config import Config
    from mitai.broker.service import Broker

    sim = SimPlatform.create(root / "sim")
    workloads = tuple(reference_values(installed_workload(name)) for name in ("serve", "broker"))
    policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=workloads)
    (root / "policy.toml").write_text(policy.to_toml())
    config = Config(state=f"sqlite:///{root}/state.db", publish=str(root / "ledger"), policy="", sim=str(root / "sim"))
    attester, own = (sim.attester(installed_workload(name)) for name in ("broker", "serve"))
    broker = Broker.open(config.settings(), attester, policy)
    serve = ServeConfig(port=0, sim=str(root / "sim"), threads=1, broker_policy=str(root / "policy.toml"), **settings)
    (root / "objects").mkdir()
    try:
        with (
            served(build_app(broker, attester, policy, config), lifespan="off") as broker_url,
            served((replica := create_replica(serve)).app()) as replica_url,
        ):
            yield Platform(policy, broker_url, replica_url, root / "sim", root / "objects", replica, attester, own)
    finally:
        broker.close()


class Stage:
    """A replica, and owners who publish and deploy."""

    def __init__(self, running: Platform) -> None:
        self.running, self.model = running, Path()
        self._plain = httpx2.Client()
        self.alice, self.owner = self.party("Alice")

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.owner.close()
        self._plain.close()

    def party(self, name: str) -> tuple[Identity, Owner]:
        identity = Identity.generate()
        session = Session(self.running.broker, self.running.policy, workload="broker", http=self._plain)
        owner = Owner(self.running.broker, identity, self.running.policy, session=session)
        owner.register(name)
        return identity, owner

    def publish(self, folder: Path, kind: str = "model", parents=(), by=None, policy: str = POLICY, **budget) -> Sealed:
        identity, owner = by or (self.alice, self.owner)
        objects = self.running.objects
        sealed = seal(folder, objects / "new", owner=identity, name="tiny", kind=kind, parents=parents)
        (objects / "new").rename(objects / sealed.capsule_id)
        owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=policy, **budget)
        return sealed

    def derive(self, folder: Path, *inputs: str) -> Sealed:
        """Do what a training workload does: open capsules, and hand a new one made of them to the broker."""
        identity, keyring = Identity.generate(), KeyRing.generate()
        claims = Claims(workload="serve", key_config=b"", receipt_key=identity.public.raw)
        workload = Workload(self.running.serve_attester, keyring, lambda: claims)
        link = BrokerLink(self.running.broker, self.running.policy)
        challenge = link.post("/v1/challenge", b"")
        release = Release(challenge, workload.evidence, purpose="training", capsules=inputs)
        derivation = Derivation(identity, link.audience, release.open(link.post("/v1/release", release.body), keyring))
        objects = self.running.objects
        sealed = seal(folder, objects / "new", owner=identity, name="joint", kind="adapter", parents=derivation.parents)
        (objects / "new").rename(objects / sealed.capsule_id)
        link.post("/v1/derived", derivation.request(sealed))
        link.close()
        return sealed

    def deploy(self, *capsules: str, expect: str = "ready", **more) -> dict:
        body = {"replace": True, "capsules": capsules} | more
        answer = self.running.deploy(capsules[0], **body)
        assert answer.status_code == 202, answer.text
        status = self.running.wait()
        assert status["state"] == expect, status
        return status

    def serve(self, expect: str = "ready", broker: str | None = None, **budget) -> Sealed:
        """Publish the model anew and deploy it."""
        sealed = self.publish(self.model, **budget)
        self.deploy(sealed.capsule_id, expect=expect, broker=broker or self.running.broker)
        return sealed

    def status(self) -> dict:
        return httpx2.get(f"{self.running.replica}/control/status").json()

    @contextlib.contextmanager
    def http(self):
        """A client of the replica, and its session."""
        session = Session(self.running.replica, self.running.policy, http=self._plain)
        with session_client(session) as http:
            yield http, session

    @contextlib.contextmanager
    def client(self):
        with self.http() as (http, _):
            yield openai.OpenAI(base_url=f"{self.running.replica}/v1", api_key="none", http_client=http, max_retries=0)

    def until_withdrawn(self, within_s: float = 10.0) -> dict:
        ends = time.monotonic() + within_s
        while (status := self.status())["state"] != "withdrawn":
            assert time.monotonic() < ends, status
            time.sleep(0.02)
        return status
