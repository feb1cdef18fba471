"""A broker, a gateway's store and a training worker on loopback, in simulation: real apps, sockets and processes."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from mitai.attest import Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.capsule import FileSource, seal
from mitai.client.objects import upload
from mitai.client.owner import Owner
from mitai.client.session import Session
from mitai.fleet.gateway import GatewayConfig, create_app
from mitai.identity import Identity
from mitai.train.app import Worker
from mitai.train.config import TrainConfig

TRAIN = 'permit (principal == Workload::"train", action == Action::"training", resource);'
TOKEN = "upload-token-of-tests"


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
class Stage:
    """What a test needs of a running platform."""

    policy: Policy
    broker: str
    gateway: str
    url: str
    root: Path
    worker: Worker
    plain: httpx2.Client

    def party(self, name: str) -> Owner:
        session = Session(self.broker, self.policy, workload="broker", http=self.plain)
        owner = Owner(self.broker, Identity.generate(), self.policy, session=session)
        owner.register(name)
        return owner

    def publish(self, owner: Owner, source: FileSource, kind: str, policy: str = TRAIN, **budget: Any) -> str:
        folder = self.root / f"new-{time.monotonic_ns()}"
        sealed = seal(source, folder, owner=owner.identity, name=kind, kind=kind)
        upload(folder, self.gateway, TOKEN, owner=owner.identity.public)
        owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=policy, **budget)
        return sealed.capsule_id

    def submit(self, job: str, **more: Any) -> httpx2.Response:
        body = {
            "job": job,
            "broker": self.broker,
            "objects": f"{self.gateway}/objects",
            "output": {"gateway": self.gateway, "token": TOKEN},
        }
        return httpx2.post(f"{self.url}/control/jobs", json=body | more)

    def status(self, job: str) -> dict[str, Any]:
        return httpx2.get(f"{self.url}/control/jobs/{job}").json()

    def logs(self, job: str) -> list[dict[str, float]]:
        return httpx2.get(f"{self.url}/control/jobs/{job}/logs").json()["numbers"]

    def until(self, job: str, states=("done", "failed", "cancelled"), *, numbers: int = 0) -> dict[str, Any]:
        ends = time.monotonic() + 90
        while (status := self.status(job))["state"] not in states or len(self.logs(job)) < numbers:
            assert time.monotonic() < ends, status
            assert status["state"] in {"queued", "running", *states}, status
            time.sleep(0.05)
        return status


@contextlib.contextmanager
def platform(root: Path, train: Workload = Workload("train", bytes(48)), **settings: Any):  # noqa: B008 - frozen
    """Start broker, gateway and worker under a fresh simulated root; `train` is what the worker is measured as."""
    from mitai.broker.__main__ import build_app
    from mitai.broker.config import Config
    from mitai.broker.service import Broker

    sim = SimPlatform.create(root / "sim")
    measured = {"train": train, "broker": Workload("broker", b"\x01" * 48)}
    policy = Policy(
        allow_simulation=True, sim_roots=(sim.sim_root,), workloads=tuple(map(reference_values, measured.values()))
    )
    config = Config(state=f"sqlite:///{root}/state.db", publish=str(root / "ledger"), policy="", sim=str(root / "sim"))
    attester = sim.attester(measured["broker"])
    broker = Broker.open(config.settings(), attester, policy)
    (root / "objects").mkdir()
    store = GatewayConfig(
        replicas={},
        broker="http://127.0.0.1:1",
        objects=str(root / "objects"),
        upload_token=TOKEN,
        operator_token="o" * 16,
    )
    trains = TrainConfig(
        port=0,
        broker_policy="",
        scratch=str(root / "scratch"),
        sim=str(root / "sim"),
        threads=1,
        renew_s=0.2,
        **settings,
    )
    worker = Worker(trains, sim.attester(measured["train"]), policy)
    try:
        with (
            served(build_app(broker, attester, policy, config), lifespan="off") as broker_url,
            served(create_app(store)) as gateway,
            served(worker.app()) as url,
            httpx2.Client() as plain,
        ):
            yield Stage(policy, broker_url, gateway, url, root, worker, plain)
    finally:
        broker.close()
