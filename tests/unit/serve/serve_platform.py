"""A broker and a replica on loopback, in simulation, for tests: the real apps on real sockets."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
import uvicorn

from mitai.attest import Policy
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.serve.app import Replica, create_replica
from mitai.serve.config import ServeConfig


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
    attester = sim.attester(installed_workload("broker"))
    broker = Broker.open(config.settings(), attester, policy)
    serve = ServeConfig(port=0, sim=str(root / "sim"), threads=1, broker_policy=str(root / "policy.toml"), **settings)
    (root / "objects").mkdir()
    try:
        with (
            served(build_app(broker, attester, policy, config), lifespan="off") as broker_url,
            served((replica := create_replica(serve)).app()) as replica_url,
        ):
            yield Platform(policy, broker_url, replica_url, root / "sim", root / "objects", replica)
    finally:
        broker.close()
