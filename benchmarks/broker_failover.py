"""Three key brokers on one PostgreSQL, the leading one killed every few seconds: what is lost, and for how long.

A platform of its own (witness, three brokers, gateway, each a process; PostgreSQL from `scripts/postgres`). Workers ask
for releases at a fixed rate through the gateway, each with a fresh challenge, evidence and the sealed channel, and
nothing is tried again: what a workload would see is counted. Budgets are small, so that many are spent to their end
while brokers die; an owner changes a policy once a second. Whoever leads is killed (SIGKILL) every `KILL_EVERY_S`, and
started again a second later.

Afterwards the whole ledger is read, verified, and compared with every answer that was given and with what the broker
counts.

Rows: `broker-failover-errors-s`, the longest time from a kill to the end of the last release that failed after it, or
without any release, whichever is longer; `broker-failover-lost`, acknowledged releases and commands that the ledger
does not hold as they were answered, plus uses spent beyond a budget or counted otherwise than logged;
`broker-release-postgresql`, releases per second of one broker, beside SQLite, without HTTP.

A plot of the run is in `benchmarks/out/broker-failover.png`.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import structlog

from benchmarks.broker import RUNS, Setup
from benchmarks.harness import OUT, interleave, progress, row
from mitai.attest import Claims, Policy
from mitai.attest.sim import SimPlatform, installed_workload
from mitai.broker.protocol import sha256_hex
from mitai.broker.release_client import Release
from mitai.capsule import seal
from mitai.channel import KeyRing
from mitai.client.owner import Owner
from mitai.errors import MitaiError
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home
from mitai.identity import Identity
from mitai.ledger import verify_log
from mitai.serve.link import BrokerLink
from mitai.workload import Workload

SECONDS = float(os.environ.get("MITAI_BENCH_SECONDS", "120"))
RATE = float(os.environ.get("MITAI_BENCH_RATE", "50"))  # releases a second
KILL_EVERY_S = 5.0
RESTART_AFTER_S = 1.0
WORKERS = 8
USES = 150  # of one capsule
POSTGRES = Path(__file__).parents[1] / "scripts" / "postgres"
ALLOW = "permit(principal, action, resource);"


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server; give its URL."""
    folder = subprocess.run([POSTGRES, "start"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        yield f"postgresql+psycopg://mitai@/postgres?host={folder}"
    finally:
        subprocess.run([POSTGRES, "stop", folder], check=True)


@dataclass
class Attempt:
    """One release as a workload saw it; `code` is empty when keys came."""

    began: float
    ended: float
    code: str
    capsule: str
    index: int = -1
    request_sha256: str = ""


@dataclass
class Run:
    """What happened."""

    start: float = field(default_factory=time.monotonic)
    attempts: list[Attempt] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)  # ledger indices of acknowledged changes
    kills: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ticks: int = 0
    spent: set[str] = field(default_factory=set)

    @property
    def now(self) -> float:
        return time.monotonic() - self.start

    def tick(self) -> int:
        with self.lock:
            self.ticks += 1
            return self.ticks - 1


class Worker(threading.Thread):
    """A workload that asks for keys at its turns."""

    def __init__(self, run: Run, url: str, policy: Policy, sim: SimPlatform, capsules: list[str]) -> None:
        super().__init__(daemon=True)
        self._run, self._capsules = run, capsules
        self._link = BrokerLink(url, policy)
        self._keyring = KeyRing.generate()
        claims = Claims(workload="serve", key_config=b"", receipt_key=Identity.generate().public.raw)
        self._workload = Workload(sim.attester(installed_workload("serve")), self._keyring, lambda: claims)

    def run(self) -> None:
        while (due := self._run.tick() / RATE) < SECONDS:
            time.sleep(max(0.0, due - self._run.now))
            self._run.attempts.append(self._attempt())
        self._link.close()

    def _attempt(self) -> Attempt:
        capsule = next(capsule for capsule in self._capsules if capsule not in self._run.spent)
        began = self._run.now
        try:
            challenge = self._link.post("/v1/challenge", b"")
            request = Release(challenge, self._workload.evidence, purpose="inference", capsules=(capsule,))
            (key,) = request.open(self._link.post("/v1/release", request.body), self._keyring)
        except MitaiError as error:
            if error.code == "broker.budget-exhausted":
                self._run.spent.add(capsule)
            return Attempt(began, self._run.now, error.code, capsule)
        return Attempt(began, self._run.now, "", capsule, key.ledger_index, sha256_hex(request.body))


def kill(run: Run, platform: platforms.Platform, until: float) -> None:
    """Kill whoever leads, again and again, and start it anew."""
    turn = 1
    while (due := turn * KILL_EVERY_S) < until - RESTART_AFTER_S:
        time.sleep(max(0.0, due - run.now))
        name = leader(platform)
        run.kills.append(run.now)
        platform.processes[name].popen.send_signal(signal.SIGKILL)
        time.sleep(RESTART_AFTER_S)
        platform.restart(name)
        turn += 1


def leader(platform: platforms.Platform) -> str:
    """Return the name of the process that leads."""
    while True:
        for name, process in platform.processes.items():
            try:
                if name.startswith("broker-") and httpx2.get(process.health, timeout=1.0).json()["role"] == "leader":
                    return name
            except httpx2.HTTPError:
                continue
        time.sleep(0.02)


def change(run: Run, owner: Owner, capsule: str) -> None:
    """Replace a policy once a second."""
    turn = 1
    while (due := float(turn)) < SECONDS:
        time.sleep(max(0.0, due - run.now))
        run.commands.append(owner.set_policy(capsule, ALLOW))
        turn += 1


def publish(owner: Owner, folder: Path, count: int) -> list[str]:
    """Register capsules with small budgets; return their ids."""
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text("{}")
    capsules = []
    for number in range(count):
        sealed = seal(folder / "plain", folder / f"c{number}", owner=owner.identity, name="bench", kind="model")
        owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=ALLOW, uses=USES)
        capsules.append(sealed.capsule_id)
    return capsules


def failover(folder: Path, database: str) -> None:
    """Play it and print the rows."""
    home = Home(folder / "home")
    platform = platforms.start(home, platforms.Settings(port=0, replicas=0, brokers=3, database=database), progress)
    try:
        url, policy = f"{platform.gateway}/broker", Policy.from_toml(home.policy.read_text())
        owner = Owner(url, Identity.generate(), policy)
        owner.register("bench")
        capsules = publish(owner, folder, int(SECONDS * RATE / USES) + 3)
        workers_policy = platforms.installed_policy(platforms.open_sim(home), policy.releases)
        sim = platforms.open_sim(home)
        run = Run()
        threads: list[threading.Thread] = [Worker(run, url, workers_policy, sim, capsules[:-1]) for _ in range(WORKERS)]
        threads.append(threading.Thread(target=change, args=(run, owner, capsules[-1]), daemon=True))
        threads.append(threading.Thread(target=kill, args=(run, platform, SECONDS), daemon=True))
        run.start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong = compare(run, owner, url, capsules)
        owner.close()
    finally:
        platform.stop()
    report(run, wrong)


def compare(run: Run, owner: Owner, url: str, capsules: list[str]) -> list[str]:
    """Return everything in which answers, ledger and counts disagree."""
    size = max([attempt.index for attempt in run.attempts] + run.commands) + 1
    wrong = []
    entries: list[dict[str, object]] = []
    with httpx2.Client() as http:

        def fetch(path: str) -> bytes | None:
            answer = http.get(f"{url}/ledger/{path}")
            return answer.content if answer.status_code == 200 else None

        until = time.monotonic() + 10
        while len(entries) < size and time.monotonic() < until:
            entries.clear()
            verify_log(fetch, owner.ledger.vkey, visit=lambda _, entry: entries.append(msgspec.json.decode(entry)))
    releases = Counter(entry["release"] for entry in entries if entry["type"] == "release")
    wrong += [f"release {digest} is logged {count} times" for digest, count in releases.items() if count > 1]
    for attempt in run.attempts:
        logged = entries[attempt.index] if 0 <= attempt.index < len(entries) else {}
        if not attempt.code and (logged.get("release"), logged.get("capsules")) != (
            attempt.request_sha256,
            [attempt.capsule],
        ):
            wrong.append(f"acknowledged release {attempt.index} is not in the ledger")
    policies = [index for index, entry in enumerate(entries) if entry["type"] == "policy-set"]
    wrong += [f"acknowledged command {index} is not in the ledger" for index in set(run.commands) - set(policies)]
    for capsule in capsules:
        logged_uses = sum(entry["type"] == "release" and entry["capsules"] == [capsule] for entry in entries)
        (grant,) = owner.capsule(capsule).grants
        if grant.uses != logged_uses or logged_uses > USES:
            wrong.append(f"capsule {capsule}: {logged_uses} uses logged, {grant.uses} counted, {USES} allowed")
        if capsule in run.spent and logged_uses != USES:
            wrong.append(f"capsule {capsule} was refused as spent after {logged_uses} of {USES} uses")
    return wrong


def report(run: Run, wrong: list[str]) -> None:
    """Print the rows and draw the plot."""
    answered = sorted(attempt.ended for attempt in run.attempts if not attempt.code)
    failed = [attempt for attempt in run.attempts if attempt.code and attempt.code != "broker.budget-exhausted"]
    windows = []
    for begin, end in zip(run.kills, [*run.kills[1:], SECONDS], strict=True):
        windows.append(max([attempt.ended - begin for attempt in failed if begin <= attempt.ended < end], default=0.0))
    silence = max((after - before for before, after in itertools.pairwise(answered)), default=SECONDS)
    outside = [attempt for attempt in failed if not any(0 <= attempt.ended - at <= 2.0 for at in run.kills)]
    for text in wrong:
        progress(text)
    progress(f"errors: {dict(Counter(attempt.code for attempt in failed))}")
    row(
        "broker-failover-errors-s",
        [max([*windows, silence])],
        "s",
        kills=len(run.kills),
        seconds=SECONDS,
        releases_per_s=round(len(answered) / SECONDS, 1),
        silence_s=round(silence, 3),
        errors=len(failed),
        errors_outside=len(outside),
        slowest_s=round(max(attempt.ended - attempt.began for attempt in run.attempts), 3),
    )
    row(
        "broker-failover-lost",
        [len(wrong)],
        "",
        acknowledged=len(answered),
        commands=len(run.commands),
        budgets_spent=len(run.spent),
    )
    draw(run, failed)


def draw(run: Run, failed: list[Attempt]) -> None:
    """Draw releases and errors over time, with the kills."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 3), layout="constrained")
    bins = [number / 4 for number in range(int(SECONDS * 4) + 1)]
    good = [attempt.ended for attempt in run.attempts if not attempt.code]
    axes.hist(good, bins, color="#2a7f62", weights=[4.0] * len(good), label="keys released")
    bad = [attempt.ended for attempt in failed]
    axes.hist(bad, bins, color="#b3362b", weights=[4.0] * len(bad), label="errors")
    for number, at in enumerate(run.kills):
        axes.axvline(at, color="black", linewidth=0.8, linestyle=":", label=None if number else "leader killed")
    axes.set_xlabel("seconds")
    axes.set_ylabel("a second")
    axes.set_title("Three brokers on PostgreSQL, the leader killed every five seconds")
    axes.legend(loc="lower right")
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / "broker-failover.png", dpi=130)
    progress(f"plot: {OUT / 'broker-failover.png'}")


def throughput(root: Path, database: str) -> None:
    """Compare releases per second with those on SQLite."""
    sim = SimPlatform.create(root / "sim")
    setups = []
    for name, state in (("sqlite", None), ("postgresql", database)):
        (root / name).mkdir()
        setups.append(Setup(root / name, sim, 100, state))
    try:
        measures: list[Callable[[], float]] = [setup.rate for setup in setups]
        on_sqlite, on_postgresql = interleave(RUNS, *measures)
        peer = {"peer": "the same broker on SQLite", "peer_samples": on_sqlite}
        row("broker-release-postgresql", on_postgresql, "releases/s", p99_ms=setups[1].p99_ms(), **peer)
    finally:
        for setup in setups:
            setup.broker.close()


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for part in (failover, throughput):
        if sys.argv[1:] not in ([], [part.__name__]):
            continue
        with tempfile.TemporaryDirectory() as root, postgresql() as database:
            part(Path(root), database)


if __name__ == "__main__":
    main()
