"""Broker processes on two machines: one stands in for the other, and owners bring a lost one back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import msgspec
import pytest

from mitai.attest import ClaimRules, Policy
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.broker.recovery import decode_plan
from mitai.cli import recovery as commands
from mitai.client import Session, recovery
from mitai.client.owner import Owner
from mitai.errors import MitaiError
from mitai.fleet.processes import free_port
from mitai.identity import Identity

pytestmark = pytest.mark.slow


class Machines:
    """Two simulated machines, and the policy by which both are known."""

    def __init__(self, folder: Path, state: str) -> None:
        self.folder, self.state = folder, state
        sims = {name: SimPlatform.create(folder / f"sim-{name}") for name in ("one", "two")}
        values = tuple(reference_values(installed_workload(name)) for name in ("broker", "serve"))
        roots = tuple(sim.sim_root for sim in sims.values())
        self.policy = Policy(allow_simulation=True, sim_roots=roots, workloads=values)
        (folder / "policy.toml").write_text(self.policy.to_toml())
        self.ports = {name: free_port() for name in sims}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    @contextmanager
    def broker(self, name: str, *arguments: str, **more: object) -> Iterator[subprocess.Popen[bytes]]:
        fields = {
            "state": self.state,
            "publish": str(self.folder / f"ledger-{name}"),
            "policy": str(self.folder / "policy.toml"),
            "sim": str(self.folder / f"sim-{name}"),
            "port": self.ports[name],
        }
        path = self.folder / f"{name}.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (fields | more).items()))
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "mitai.broker", "--config", str(path), *arguments]
            child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.kill()
            child.wait()

    def wait(self, name: str, good: Callable[[dict[str, object]], bool]) -> None:
        for _ in range(600):
            try:
                if good(httpx2.get(f"{self.url(name)}/healthz", timeout=2.0).json()):
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log(name)[-3000:])

    def vkey(self, name: str) -> str:
        return Session(self.url(name), self.policy, workload="broker").appraisal.claims.ledger.vkey

    def register(self, name: str, identity: Identity) -> None:
        with closing(Owner(self.url(name), identity, self.policy)) as owner:
            owner.register("alice")


def serves(told: dict[str, object]) -> bool:
    return "ledger_size" in told


def test_a_broker_on_another_machine_stands_in(tmp_path: Path, postgres_url: str) -> None:
    machines, alice = Machines(tmp_path, postgres_url), Identity.generate()
    with machines.broker("one") as first:
        machines.wait("one", serves)
        vkey = machines.vkey("one")
        machines.register("one", alice)
        with machines.broker("two", peers=[machines.url("one")]):
            machines.wait("two", lambda told: told.get("role") == "standby")
            for _ in range(400):
                if "root key from a peer" in machines.log("two"):
                    break
                time.sleep(0.05)
            first.kill()
            machines.wait("two", serves)
            assert machines.vkey("two") == vkey
            with pytest.raises(MitaiError) as caught:
                machines.register("two", alice)
            assert caught.value.code == "broker.party-exists"


def test_owners_bring_a_lost_broker_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(tmp_path, f"sqlite:///{tmp_path / 'state.db'}")
    members = []
    for name in ("alice", "bob"):
        monkeypatch.setenv("MITAI_HOME", str(tmp_path / name))
        members.append(tmp_path / f"{name}.json")
        commands.keygen(out=members[-1])
    plan = tmp_path / "plan.json"
    commands.plan(*members, threshold=2, out=plan)
    with machines.broker("one", recovery=str(plan)):
        machines.wait("one", serves)
        vkey = machines.vkey("one")
    pinned = msgspec.structs.replace(machines.policy, claims=ClaimRules(ledger_vkey=vkey))
    (tmp_path / "pinned.toml").write_text(pinned.to_toml())
    with machines.broker("two") as refused:  # another machine, alone
        assert refused.wait(60) == 1
        assert "broker.sealed-elsewhere" in machines.log("two")
    with machines.broker("two", "--recover", recovery=str(plan)):
        machines.wait("two", lambda told: told.get("role") == "recovering")
        shown, _ = recovery.show(machines.url("two"), pinned)
        document = tmp_path / "shares.json"
        document.write_bytes(shown.shares)
        assert len(decode_plan(shown.plan).members) == 2
        for name in ("alice", "bob"):
            monkeypatch.setenv("MITAI_HOME", str(tmp_path / name))
            commands.approve(machines.url("two"), share=document, policy=tmp_path / "pinned.toml")
        machines.wait("two", serves)
        assert machines.vkey("two") == vkey
    with machines.broker("two", "--recover") as needless:
        assert needless.wait(60) == 1
    assert "broker.recovery-needless" in machines.log("two")
