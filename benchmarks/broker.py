"""The key broker: attested releases per second, what 100,000 registered capsules cost, and what policies cost.

Every release verifies a fresh TDX quote (the collateral was verified before: it is cached), asks a Cedar policy, spends
from a budget, appends to the ledger in a durable SQLite transaction (WAL, synchronous=FULL) and seals the key by HPKE.
Making the evidence is the workload's part and is not timed. HTTP and the channel are measured by the group `channel`.

A policy decision is `decide`, in the writer: five owners' policies, of hardware and columns and rows, asked about a
proven workload; without evidence, transaction and HPKE. All policies were asked once before; `first_ms` is a decision
whose five policies are read and compiled. `broker-policy-scale` asks about the same 20 capsules in either store,
`broker-policy-spread` about 2,000, each with five policies of its own: more than a processor's caches hold.

Rows: `broker-release` (releases per second, p99 in `p99_ms`), `broker-scale` (the rate at 100,000 capsules to that at
100), `broker-policy-ms` (a decision with five owners), `broker-policy-scale` (at 10,000 policies in the store to 100),
`broker-policy-spread` (decisions over all of 10,000 policies to decisions over 100; no bar), `broker-lease` (renewals
of workloads' leases per second; no bar).
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
from collections.abc import Awaitable, Callable
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
from mitai.broker.records import Capsule, Grant, Party
from mitai.broker.release import MAX_REPLICA_CAPSULES, Case, decide, prove
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
OWNERS = 5
MANY_POLICIES = 10_000
FEW_POLICIES = 100
DECISIONS = 200  # in one run


class Setup:
    """A broker with some capsules, and a workload that asks for their keys."""

    def __init__(self, folder: Path, sim: SimPlatform, capsules: int, state: str | None = None) -> None:
        measured = installed_workload("serve")
        policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=(reference_values(measured),))
        settings = Settings("bench.mitai/ledger", state or f"sqlite:///{folder / 'state.db'}", folder / "ledger")
        self.broker = Broker.open(settings, sim.attester(installed_workload("broker")), policy)
        self.keyring = KeyRing.generate()
        self.identity = Identity.generate()
        claims = Claims(workload="serve", key_config=b"", receipt_key=self.identity.public.raw)
        self.workload = Workload(sim.attester(measured), self.keyring, lambda: claims)
        start = time.perf_counter()
        self.capsules = register(self.broker, capsules, reference_values(measured).registers["mrtd"], folder)
        self.asked = random.sample(
            self.capsules, min(len(self.capsules), MAX_REPLICA_CAPSULES)
        )  # all that one may open
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
                capsules=(random.choice(self.asked),),
            ).body
            for _ in range(RELEASES)
        ]

    def lease_rate(self) -> float:
        """Return lease renewals per second of one run; the workload was given the capsule before."""
        release = Release(
            self.broker.challenge(), self.workload.evidence, purpose="inference", capsules=(self.asked[0],)
        )
        asyncio.run(self.broker.release(release.body))
        statement = protocol.LeaseStatement(
            broker=self.broker.audience,
            party=self.identity.key_id,
            capsules=(self.asked[0],),
            time_s=int(time.time()),
            nonce="0" * 64,
        )
        signed = self.identity.sign(protocol.encode(statement), protocol.LEASE_TYPE)
        body = protocol.encode(protocol.LeaseRequest(receipt_key=self.identity.public.raw, lease=signed))
        return asyncio.run(self._rate([body] * RELEASES, self.broker.lease))

    def rate(self) -> float:
        """Return releases per second of one run."""
        self.latencies.clear()
        rate = asyncio.run(self._rate(self.prepare(), self.broker.release))
        self.p99s.append(statistics.quantiles(self.latencies, n=100)[98])
        return rate

    def p99_ms(self) -> float:
        """Return the median of the runs' 99th percentiles, without the warm-up's."""
        return round(statistics.median(self.p99s[1:]) * 1000, 2)

    async def _rate(self, bodies: list[bytes], answer: Callable[[bytes], Awaitable[bytes]]) -> float:
        queue = iter(bodies)

        async def client() -> None:
            for body in queue:
                start = time.perf_counter()
                await answer(body)
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


class Decisions:
    """Capsules of five owners each, who have so many policies for all of them together."""

    def __init__(self, setup: Setup, policies: int) -> None:
        self.broker, self.capsules = setup.broker, setup.capsules
        asked = Release(
            self.broker.challenge(),
            setup.workload.evidence,
            purpose="inference",
            capsules=(self.capsules[0],),
            parameters={"columns": "age,sex", "rows": "100"},
        )
        self._request = protocol.decode(asked.body, protocol.ReleaseRequest, protocol.MAX_RELEASE_BYTES)
        self._proof = prove(self._request, self.broker.trusted, self.broker.now(), self.broker._collateral)
        owners = [Identity.generate() for _ in range(OWNERS)]
        for start in range(0, len(self.capsules), 200):
            some = {self.capsules[at]: at % (policies // OWNERS) for at in range(start, start + 200)}
            self.broker.submit(Job(lambda draft, some=some: share(draft, some, owners))).result()
        self.first_ms = statistics.median(self._times(self.capsules[: policies // OWNERS]))

    def milliseconds(self, among: int = FEW_POLICIES // OWNERS) -> float:
        """Return the median of some decisions, about capsules drawn at random of the first ones."""
        return statistics.median(self._times(random.choices(self.capsules[:among], k=DECISIONS)))

    def spread_milliseconds(self) -> float:
        """Return the median of some decisions, about capsules drawn at random of all."""
        return self.milliseconds(len(self.capsules))

    def _times(self, capsules: list[str]) -> list[float]:
        cases = [
            Case(
                msgspec.structs.replace(self._request, capsules=(capsule,)),
                "0" * 64,
                self._proof,
                self.broker._policies,
                self.broker.now(),
            )
            for capsule in capsules
        ]

        def run(draft: Draft) -> list[float]:
            times = []
            for case in cases:
                start = time.thread_time()
                decision = decide(draft, case)
                times.append((time.thread_time() - start) * 1000)
                assert decision.refusal is None, decision.refusal
            return times

        return self.broker.submit(Job(run, tuple((Capsule, capsule) for capsule in capsules))).result()


def share(draft: Draft, capsules: dict[str, int], owners: list[Identity]) -> None:
    """Give each capsule these owners, and each of them its own policy over it, of that number."""
    mrtd = reference_values(installed_workload("serve")).registers["mrtd"]
    for owner in owners:
        draft.put(owner.key_id, Party(owner.public.raw, "bench", 0))
    for capsule_id, variant in capsules.items():
        capsule = draft.get(Capsule, capsule_id)
        assert capsule is not None
        grants = []
        for owner in owners:
            inference = template("inference-until", workload="serve", mrtd=mrtd, until="2099-01-01")
            reads = template("columns-rows", columns=["age", "sex"], rows=1000 + variant)
            text = f"{inference}{reads}// {owner.key_id}".encode()
            draft.blobs[protocol.sha256_hex(text)] = text
            grants.append(Grant(owner.key_id, protocol.sha256_hex(text), 1))
        draft.put(capsule_id, msgspec.structs.replace(capsule, owner=owners[0].key_id, grants=tuple(grants)))


def policies(root: Path, sim: SimPlatform) -> None:
    """Measure decisions."""
    setups = []
    for count in (FEW_POLICIES, MANY_POLICIES):
        folder = root / f"policies-{count}"
        folder.mkdir()
        setups.append(Setup(folder, sim, MANY_POLICIES // OWNERS))
    try:
        few, many = Decisions(setups[0], FEW_POLICIES), Decisions(setups[1], MANY_POLICIES)
        at_few, at_many, spread = interleave(RUNS, few.milliseconds, many.milliseconds, many.spread_milliseconds)
    finally:
        for setup in setups:
            setup.broker.close()
    row("broker-policy-ms", at_few, "ms", owners=OWNERS, policies=FEW_POLICIES, first_ms=round(few.first_ms, 3))
    row(
        "broker-policy-scale",
        at_many,
        "ms",
        peer=f"the same decision with {FEW_POLICIES} policies in the store",
        peer_samples=at_few,
        policies=MANY_POLICIES,
        first_ms=round(many.first_ms, 3),
    )
    row(
        "broker-policy-spread",
        spread,
        "ms",
        peer=f"decisions over {FEW_POLICIES} policies",
        peer_samples=at_few,
        policies=MANY_POLICIES,
    )


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as root:
        sim = SimPlatform.create(Path(root) / "sim")
        policies(Path(root), sim)
        for name in ("few", "many"):
            (Path(root) / name).mkdir()
        few = Setup(Path(root) / "few", sim, FEW)
        many = Setup(Path(root) / "many", sim, MANY)
        try:
            at_few, at_many = interleave(RUNS, few.rate, many.rate)
            (leases,) = interleave(RUNS, few.lease_rate)
        finally:
            few.broker.close()
            many.broker.close()
        more = {"concurrency": CONCURRENCY, "capsules": FEW}
        row("broker-release", at_few, "releases/s", p99_ms=few.p99_ms(), **more)
        row("broker-lease", leases, "renewals/s", concurrency=CONCURRENCY, capsules=FEW)
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
