"""The key broker: attested releases per second, and what 100,000 registered capsules cost.

Every release verifies a fresh TDX quote (the collateral was verified before: it is cached), asks a Cedar policy, spends
from a budget, appends to the ledger in a durable SQLite transaction (WAL, synchronous=FULL) and seals the key by HPKE.
Making the evidence is the workload's part and is not timed. HTTP and the channel are measured by the group `channel`.

Rows: `broker-release` (releases per second, p99 in `p99_ms`), `broker-scale` (the rate at 100,000 capsules to that at
100).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import structlog

from benchmarks.harness import interleave, progress, row
from mitai.attest import Claims, Policy
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.broker import protocol
from mitai.broker.commands import Context, Offer, register_capsule
from mitai.broker.policy import template
from mitai.broker.protocol import Budget, RegisterCapsule
from mitai.broker.records import Party
from mitai.broker.release_client import Release
from mitai.broker.service import Broker, Settings
from mitai.broker.store import Draft
from mitai.broker.writer import Job
from mitai.capsule import seal
from mitai.capsule.manifest import PAYLOAD_TYPE, Manifest
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
        self.capsules = register(self.broker, capsules, reference_values(measured).registers["mrtd"], folder)
        seconds = time.perf_counter() - start
        progress(f"registered {capsules} capsules in {seconds:.1f} s ({capsules / seconds:.0f}/s)")
        self.latencies: list[float] = []  # of the last run
        self.p99s: list[float] = []  # of each run

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
        self.latencies.clear()
        rate = asyncio.run(self._rate(self.prepare()))
        self.p99s.append(statistics.quantiles(self.latencies, n=100)[98])
        return rate

    def p99_ms(self) -> float:
        """Return the median of the runs' 99th percentiles, without the warm-up's."""
        return round(statistics.median(self.p99s[1:]) * 1000, 2)

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
    """Register capsules with signed manifests as commands would, many in a job, without checking their signatures."""
    owner = Identity.generate()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    sealed = seal(folder / "model", folder / "capsule", owner=owner, name="bench", kind="model")
    pattern = Manifest.decode(Envelope.decode(sealed.envelope).payload)
    policies = [
        template("inference-until", workload="serve", mrtd=mrtd, until=f"2099-01-{1 + index % 28:02}") + f"// {index}\n"
        for index in range(POLICIES)
    ]
    now = broker.now()
    signed = {"broker": broker.audience, "party": owner.key_id, "sequence": 0, "time_s": int(now.timestamp())}
    context = Context("0" * 64, now, broker.settings.limits)

    def register_some(draft: Draft, indices: range) -> list[str]:
        capsules = []
        for index in indices:
            capsule_id, data_key = secrets.token_hex(16), secrets.token_bytes(32)
            manifest = msgspec.structs.replace(pattern, capsule_id=capsule_id)
            payload = manifest.encode()
            command = RegisterCapsule(
                capsule=capsule_id,
                manifest_sha256=protocol.sha256_hex(payload),
                policy=policies[index % POLICIES],
                budget=Budget(uses=1_000_000),
                **signed,
            )
            envelope = owner.sign(payload, PAYLOAD_TYPE).encode()
            register_capsule(draft, command, context, Offer(manifest, envelope, data_key))
            capsules.append(capsule_id)
        return capsules

    party = Party(owner.public.raw, "bench", signed["time_s"])
    broker.submit(Job(lambda draft: draft.put(owner.key_id, party))).result()
    capsules: list[str] = []
    for start in range(0, count, 500):
        indices = range(start, min(count, start + 500))
        capsules += broker.submit(Job(lambda draft, indices=indices: register_some(draft, indices))).result()
        if len(capsules) % 20_000 == 0:
            progress(f"  {len(capsules)} capsules")
    return capsules


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
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
        row("broker-release", at_few, "releases/s", p99_ms=few.p99_ms(), **more)
        row(
            "broker-scale",
            at_many,
            "releases/s",
            peer=f"the same broker with {FEW} capsules",
            peer_samples=at_few,
            capsules=MANY,
            p99_ms=many.p99_ms(),
        )


if __name__ == "__main__":
    main()
