"""A broker on simulated hardware, with owners and a workload, for tests: real cryptography, no HTTP."""

from __future__ import annotations

import asyncio
import base64
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from mitai.attest import Claims, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.broker import protocol
from mitai.broker.protocol import Budget, RegisterCapsule, RegisterParty, Revoke, SetPolicy
from mitai.broker.release_client import OpenedKey, Release
from mitai.broker.service import Broker, Settings
from mitai.capsule import Sealed, seal
from mitai.channel import KeyRing
from mitai.identity import Identity
from mitai.workload import Workload as Process

UNLIMITED = Budget()
ALLOW_ALL = "permit(principal, action, resource);"
SERVE = Workload("serve", b"\x01" * 48)
OTHER = Workload("serve", b"\x02" * 48)
BROKER = Workload("broker", b"\x03" * 48)


class Clock:
    """The broker's clock: now, plus what a test adds."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Party:
    """An owner who signs for one broker."""

    def __init__(self, name: str = "alice") -> None:
        self.name, self.identity = name, Identity.generate()
        self.sequence = itertools.count(1)

    @property
    def id(self) -> str:
        return self.identity.key_id

    def signed(self, rig: Rig, **changes: object) -> dict[str, object]:
        now = int(rig.clock().timestamp())
        fields = {"broker": rig.broker.audience, "party": self.id, "sequence": next(self.sequence), "time_s": now}
        return fields | changes

    def body(self, command: msgspec.Struct, /, **more: object) -> bytes:
        envelope = self.identity.sign(protocol.encode(command), protocol.COMMAND_TYPE)
        fields = {"public_key": self.identity.public.raw, "command": envelope} | more
        return protocol.encode(protocol.CommandRequest(**fields))

    def registration(self, rig: Rig, **changes: object) -> bytes:
        return self.body(RegisterParty(name=self.name, **self.signed(rig, **changes)))

    def publication(
        self, rig: Rig, sealed: Sealed, policy: str = ALLOW_ALL, budget: Budget = UNLIMITED, **changes: object
    ) -> bytes:
        fields = {
            "capsule": sealed.capsule_id,
            "manifest_sha256": sealed.manifest_sha256,
            "policy": policy,
            "budget": budget,
            **self.signed(rig),
        }
        command = RegisterCapsule(**(fields | changes))
        return self.body(command, data_key=sealed.data_key, manifest=sealed.envelope)

    def policy(self, rig: Rig, capsule: str, policy: str = ALLOW_ALL, budget: Budget = UNLIMITED) -> bytes:
        return self.body(SetPolicy(capsule=capsule, policy=policy, budget=budget, **self.signed(rig)))

    def revocation(self, rig: Rig, capsule: str | None = None, **changes: object) -> bytes:
        return self.body(Revoke(capsule=capsule, **self.signed(rig, **changes)))

    def query(self, rig: Rig, target: str, **changes: object) -> str:
        fields = {"broker": rig.broker.audience, "party": self.id, "time_s": int(rig.clock().timestamp())}
        query = protocol.Query(**(fields | {"target": target} | changes))
        signed = self.identity.sign(protocol.encode(query), protocol.QUERY_TYPE)
        header = protocol.QueryHeader(public_key=self.identity.public.raw, query=signed)
        return base64.b64encode(protocol.encode(header)).decode()


class Rig:
    """The broker, and everything around it."""

    def __init__(self, folder: Path, sim: SimPlatform, **settings: object) -> None:
        self.folder, self.sim, self.clock = folder, sim, Clock()
        self.policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=(reference_values(SERVE),))
        paths = {"state_url": f"sqlite:///{folder / 'state.db'}", "publish_folder": folder / "ledger"}
        self.settings = Settings("test.mitai/ledger", **(paths | settings))
        self.keyring = KeyRing.generate()
        self.receipt_key = Identity.generate()
        self.alice = Party()
        self.broker: Broker
        self.open()

    def open(self, attester: object = None) -> None:
        self.broker = Broker.open(self.settings, attester or self.sim.attester(BROKER), self.policy, clock=self.clock)

    def reopen(self) -> None:
        self.broker.close()
        self.open()

    def close(self) -> None:
        self.broker.close()

    # --- owners ---

    def send(self, body: bytes) -> int:
        answer = asyncio.run(self.broker.command(body))
        return protocol.decode(answer, protocol.CommandAnswer, 1 << 20).index

    def seal(self, owner: Party | None = None, name: str = "model") -> Sealed:
        source = self.folder / f"{name}-plain"
        source.mkdir(exist_ok=True)
        (source / "config.json").write_text("{}")
        number = len(list(self.folder.glob("sealed-*")))
        return seal(
            source, self.folder / f"sealed-{number}", owner=(owner or self.alice).identity, name=name, kind="model"
        )

    def register(self, party: Party | None = None) -> int:
        return self.send((party or self.alice).registration(self))

    def publish(
        self, policy: str = ALLOW_ALL, budget: Budget = UNLIMITED, owner: Party | None = None, **changes: object
    ) -> Sealed:
        owner = owner or self.alice
        sealed = self.seal(owner)
        self.send(owner.publication(self, sealed, policy, budget, **changes))
        return sealed

    # --- the workload ---

    def process(self, measured: Workload = SERVE, **claims: object) -> Process:
        fields = {"workload": measured.name, "key_config": b"", "receipt_key": self.receipt_key.public.raw}
        made = Claims(**(fields | claims))
        return Process(self.sim.attester(measured), self.keyring, lambda: made)

    def request(
        self, *capsules: str, measured: Workload = SERVE, purpose: str = "inference", **more: object
    ) -> Release:
        return Release(
            self.broker.challenge(), self.process(measured).evidence, purpose=purpose, capsules=capsules, **more
        )

    def release(self, *capsules: str, **more: object) -> tuple[OpenedKey, ...]:
        request = self.request(*capsules, **more)
        return request.open(asyncio.run(self.broker.release(request.body)), self.keyring)

    # --- the ledger ---

    def entries(self) -> list[dict[str, object]]:
        with self.broker._database.reading() as connection:
            from mitai.ledger.sql import SqlStore

            store = SqlStore(connection)
            return [msgspec.json.decode(entry) for entry in store.entries(0, store.size())]
