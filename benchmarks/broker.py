"""The key broker: attested releases per second, and what 100,000 registered capsules cost.

Every release verifies a fresh TDX quote (the collateral was verified before: it is cached), asks a Cedar policy, spends from a budget,
appends to the ledger in a durable SQLite transaction (WAL, synchronous=FULL) and seals the key by HPKE. Making the evidence is the
workload's part and is not timed. HTTP and the channel are measured by the group `channel`.

Rows: `broker-release` (releases per second, p99 in `p99_ms`), `broker-scale` (that rate at 100,000 capsules to the rate at 100).
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import statistics
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import msgspec

from benchmarks.harness import interleave, progress, row
from mitai.attest import Claims, Policy
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.broker import protocol
from mitai.broker.commands import prepare
from mitai.broker.policy import CedarEngine, template
from mitai.broker.protocol import Budget, RegisterCapsule, RegisterParty
from mitai.broker.release_client import Release
from mitai.broker.service import Broker, Settings
from mitai.capsule import seal
from mitai.capsule.manifest import PAYLOAD_TYPE, Manifest
from mitai.capsule.segments import key_check
from mitai.channel import KeyRing
from mitai.identity import Envelope, Identity
from mitai.workload import Workload

CONCURRENCY = 8
RELEASES = int(os.environ.get("MITAI_BENCH_RELEASES", "400"))  # in one run
RUNS = int(os.environ.get("MITAI_BENCH_RUNS", "5"))
MANY = int(os.environ.get("MITAI_BENCH_CAPSULES", "100000"))
FEW = 100
POLICIES = 50


class Setup:
    """A broker with some capsules, and a workload that asks for their keys."""

    def __init__(self, folder: Path, sim: SimPlatform, capsules: int) -> None:
        measured = installed_workload("serve")
        policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=(reference_values(measured),))
        settings = Settings("bench.mitai/ledger", f"sqlite:///{folder / 'state.db'}", folder / "ledger")
        self.broker = Broker.open(settings, sim.attester(installed_workload("broker")), policy)
        self.keyring = KeyRing.generate()
        receipt_key = Identity.generate().public.raw
        claims = Claims(workload="serve", key_config=b"", receipt_key=receipt_key)
        self.workload = Workload(sim.attester(measured), self.keyring, lambda: claims)
        start = time.perf_counter()
        self.capsules = register(self.broker, capsules, reference_values(measured).mrtd, folder)
        seconds = time.perf_counter() - start
        progress(f"registered {capsules} capsules in {seconds:.1f} s ({capsules / seconds:.0f}/s)")
        self.latencies: list[float] = []

    def prepare(self) -> list[bytes]:
        """Make the requests of one run: a challenge and evidence for each."""
        return [
            Release(
                self.broker.challenge(),
                self.workload.evidence,
                purpose="inference",
                capsules=(random.choice(self.capsules),),
            ).body
            for _ in range(RELEASES)
        ]

    def rate(self) -> float:
        """Return releases per second of one run."""
        return asyncio.run(self._rate(self.prepare()))

    async def _rate(self, bodies: list[bytes]) -> float:
        queue = iter(bodies)

        async def client() -> None:
            for body in queue:
                start = time.perf_counter()
                await self.broker.release(body)
                self.latencies.append(time.perf_counter() - start)

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
        return len(bodies) / (time.perf_counter() - start)


def register(broker: Broker, count: int, mrtd: str, folder: Path) -> list[str]:
    """Register capsules through the service, with owners' signed commands; return their ids."""
    owner = Identity.generate()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    sealed = seal(folder / "model", folder / "capsule", owner=owner, name="bench", kind="model")
    pattern = Manifest.decode(Envelope.decode(sealed.envelope).payload)
    policies = [
        template("inference-until", workload="serve", mrtd=mrtd, until=f"2099-01-{1 + index % 28:02}") + f"// {index}\n"
        for index in range(POLICIES)
    ]
    sequence = iter(range(count + 1))
    engine = CedarEngine()
    waiting: list[Future[int]] = []

    def send(command: protocol.Command, data_key: bytes | None = None, manifest: bytes | None = None) -> None:
        request = protocol.CommandRequest(
            public_key=owner.public.raw,
            command=owner.sign(protocol.encode(command), protocol.COMMAND_TYPE),
            data_key=data_key,
            manifest=manifest,
        )
        job = prepare(protocol.encode(request), broker.audience, broker.now(), engine, broker.settings.limits)
        waiting.append(broker.submit(job))
        if len(waiting) >= 2000:
            for future in waiting:
                future.result()
            waiting.clear()

    def signed() -> dict[str, object]:
        now = int(broker.now().timestamp())
        return {"broker": broker.audience, "party": owner.key_id, "sequence": next(sequence), "time_s": now}

    send(RegisterParty(name="bench", **signed()))  # type: ignore[arg-type]
    capsules = []
    for index in range(count):
        capsule_id, data_key = secrets.token_hex(16), secrets.token_bytes(32)
        check = key_check(data_key, bytes.fromhex(capsule_id))
        manifest = msgspec.structs.replace(pattern, capsule_id=capsule_id, key_check=check).encode()
        command = RegisterCapsule(
            capsule=capsule_id,
            manifest_sha256=protocol.sha256_hex(manifest),
            policy=policies[index % POLICIES],
            budget=Budget(uses=1_000_000),
            **signed(),  # type: ignore[arg-type]
        )
        send(command, data_key, owner.sign(manifest, PAYLOAD_TYPE).encode())
        capsules.append(capsule_id)
        if index % 20_000 == 19_999:
            progress(f"  {index + 1} capsules")
    for future in waiting:
        future.result()
    return capsules


def p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[98]


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        sim = SimPlatform.create(Path(root) / "sim")
        for name in ("few", "many"):
            (Path(root) / name).mkdir()
        few = Setup(Path(root) / "few", sim, FEW)
        many = Setup(Path(root) / "many", sim, MANY)
        try:
            at_few, at_many = interleave(RUNS, few.rate, many.rate)
        finally:
            few.broker.close()
            many.broker.close()
        more = {"concurrency": CONCURRENCY, "capsules": FEW}
        row("broker-release", at_few, "releases/s", p99_ms=round(p99(few.latencies) * 1000, 2), **more)
        row(
            "broker-scale",
            at_many,
            "releases/s",
            peer=f"the same broker with {FEW} capsules",
            peer_samples=at_few,
            capsules=MANY,
            p99_ms=round(p99(many.latencies) * 1000, 2),
        )


if __name__ == "__main__":
    main()
