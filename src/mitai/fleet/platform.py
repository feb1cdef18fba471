"""A whole platform on one machine, in simulation: witness, broker, replicas, gateway, each its own process.

The order matters: broker (its ledger's key is new on first start), witness (which needs that key), replicas, gateway.
On a later start the witness comes first, so that the broker can ask it whether its own state is the newest.

Invariants:

- Every process gets its configuration from a file and keeps its state under the home folder.
- The user's appraisal policy names the simulated root and the measurements of the code that is installed here.

Example:
    >>> platform = start(Home.default(), Settings())
    >>> platform.gateway
    'http://127.0.0.1:8700'
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx2
import msgspec

from mitai.attest import ClaimRules, LedgerClaim, Policy
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.bodies import PLAIN, bounded
from mitai.capsule import MANIFEST_NAME, Manifest
from mitai.client import Session
from mitai.errors import ClientError, FleetError, MitaiError
from mitai.fleet.home import Home, PlatformFile, Trust, write_private
from mitai.fleet.processes import Process, alive, free_port, late_signals, stop
from mitai.fleet.processes import start as start_process
from mitai.fleet.releases import WORKLOADS, publish_installed
from mitai.identity import MAX_ENVELOPE_BYTES, Envelope, Identity
from mitai.ledger.note import COSIGNATURE, vkey
from mitai.problem import error_from
from mitai.web.page import installed_page

_MAX_CONTROL_BYTES = 16 << 20  # of all replicas together

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What a person can choose about a local platform."""

    port: int = 8700
    replicas: int = 1
    brokers: int = 1  # more than one need a database that all reach
    # of the brokers, as SQLAlchemy spells it; a SQLite file in the home folder when empty
    database: str = field(default="", repr=False)
    capture: bool = False
    threads: int = 0  # of the engine; 0: as many as cores
    fingerprints: bool = False  # of each answer's activations
    kem: str = "x25519"
    rotate_s: float = 3600.0  # how often a replica's channel key is replaced
    grace_s: float = 600.0  # how long the former key is honoured
    train: bool = False  # a training worker too


@dataclass
class Platform:
    """A running platform and its processes, by name."""

    home: Home
    gateway: str = ""
    upload_token: str = ""
    operator_token: str = ""
    trust: Trust = "tee"
    processes: dict[str, Process] = field(default_factory=dict)

    def record(self) -> None:
        """Write `platform.json`, by which later commands find this platform."""
        pids = {name: process.pid for name, process in self.processes.items()}
        tokens = self.upload_token, self.operator_token
        self.home.write_platform(
            PlatformFile(self.gateway, *tokens, pids, simulated=self.trust != "proof", trust=self.trust)
        )

    def run(self, name: str, module: str, arguments: Sequence[str], health: str, *, secret: bytes = b"") -> Process:
        """Start a process, which is known before a signal can end this one: else it would outlive the platform."""
        with late_signals():
            self.processes[name] = start_process(name, module, arguments, health, self.home.logs, secret=secret)
        return self.processes[name]

    def stop(self) -> None:
        """End every process, the gateway first."""
        stop([process.pid for process in reversed(self.processes.values())])
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(5.0)  # its memory is gone before it is

    def restart(self, name: str) -> None:
        """Start a process again that has ended, with the same configuration; return when it answers, if it does."""
        old = self.processes[name]
        old.popen.wait(5.0)  # while it ends it has no command line any more, but is no zombie yet
        new = self.run(name, old.module, old.arguments, old.health, secret=old.secret)
        if new.health:
            new.wait_healthy()
        self.record()

    def dead(self) -> list[Process]:
        """Return the processes that have ended; those that were killed first: others may have ended for that."""
        ended = [process for process in self.processes.values() if process.popen.poll() is not None]
        return sorted(ended, key=lambda process: process.popen.returncode >= 0)


def start(home: Home, settings: Settings, say: Say = lambda _: None) -> Platform:
    """Start every process and return when all answer; stop what was started when one does not.

    Raises:
        FleetError: A platform of this home is up already, or a process did not come up.
    """
    if settings.brokers > 1 and not settings.database.startswith("postgresql"):
        raise FleetError(
            "fleet.brokers-database", "several brokers share a PostgreSQL database", hint="--database postgresql://…"
        )
    refuse_second(home)
    home.deployment.unlink(missing_ok=True)
    releases = publish_installed(home, installed_page(), now=datetime.now(UTC))
    policy = installed_policy(open_sim(home), releases)
    port = free_port(settings.port)
    platform = Platform(home, f"http://127.0.0.1:{port}", secrets.token_urlsafe(24), secrets.token_urlsafe(24))
    try:
        users_policy, witness = _start_all(platform, settings, policy, port, say)
    except BaseException:
        platform.stop()
        raise
    _write_users(home, users_policy, witness, say)
    platform.record()
    return platform


def open_sim(home: Home) -> SimPlatform:
    """Return the simulated hardware of this home; make it on first use."""
    if not (home.sim / "platform.json").exists():
        return SimPlatform.create(home.sim)
    return SimPlatform.open(home.sim)


def installed_policy(sim: SimPlatform, releases: tuple[ReleaseTrust, ...]) -> Policy:
    """Return the appraisal policy that accepts a simulated root, and the code and releases of here."""
    values = tuple(reference_values(installed_workload(name)) for name in WORKLOADS)
    return Policy(allow_simulation=True, sim_roots=(sim.sim_root,), releases=releases, workloads=values)


def _users_policy(policy: Policy, ledger_vkey: str) -> str:
    """Return the text of what a release would give to users: an appraisal policy that pins the ledger too."""
    pinned = msgspec.structs.replace(policy, claims=ClaimRules(ledger_vkey=ledger_vkey))
    return (
        "# Written by `mitai up`: accepts the SIMULATED hardware here, the code installed here, its ledger.\n"
        "# For real hardware take the policy from the release that you trust, and leave allow_simulation false.\n"
    ) + pinned.to_toml()


def _write_users(home: Home, text: str, witness: str, say: Say) -> None:
    """Give the user of this machine an appraisal policy, and the witness to ask for."""
    if home.policy.exists() and home.policy.read_text() != text:
        kept = home.policy.with_suffix(".toml.old")
        home.policy.replace(kept)
        say(f"the appraisal policy has changed with code, hardware or ledger; the former one is kept as {kept}")
    write_private(home.policy, text.encode())
    write_private(home.witnesses, f"{witness}\n".encode())


def refuse_second(home: Home) -> None:
    """Raise `FleetError` when a platform of this home is up."""
    try:
        running = home.read_platform()
    except FleetError as error:
        if error.code != "fleet.no-platform":
            raise  # what it names may be running
        return
    if any(alive(pid) for pid in running.pids.values()):
        raise FleetError(
            "fleet.already-up",
            f"a platform of {home.root} is up{' at ' if running.gateway else ''}{running.gateway}",
            hint="stop it with: mitai down",
        )


def _start_all(platform: Platform, settings: Settings, policy: Policy, port: int, say: Say) -> tuple[str, str]:
    """Start the processes in their order; return the users' policy and the witness's verifier key."""
    home, root = platform.home, platform.home.platform
    brokers = ["broker"] if settings.brokers == 1 else [f"broker-{number}" for number in range(settings.brokers)]
    for folder in (home.objects, home.logs, *(root / name for name in brokers)):
        folder.mkdir(parents=True, exist_ok=True)
    home.objects.parent.chmod(0o700)
    ports = {name: free_port() for name in (*brokers, "witness", *(f"replica-{i}" for i in range(settings.replicas)))}
    urls = {name: f"http://127.0.0.1:{number}" for name, number in ports.items()}
    witness_vkey, witness_key = root / "witness" / "log.vkey", root / "witness" / "key.pem"
    if not witness_key.exists():
        Identity.generate().save(witness_key)
    cosigner = vkey("witness.local", Identity.load(witness_key).public, kind=COSIGNATURE)

    def run(name: str, module: str, arguments: list[str], health: str) -> None:
        say(f"starting {name} …")
        platform.run(name, module, arguments, health).wait_healthy()

    def run_witness() -> None:
        arguments = ["--state", str(root / "witness" / "state.db"), "--key", str(witness_key)]
        arguments += ["--log-vkey", witness_vkey.read_text(), "--port", str(ports["witness"])]
        run("witness", "mitai.fleet.witness", arguments, f"{urls['witness']}/healthz")

    if witness_vkey.exists():
        run_witness()
    policy_file = root / "policy.toml"
    write_private(policy_file, policy.to_toml().encode())
    for name in brokers:
        broker = {
            "port": ports[name],
            "state": settings.database or f"sqlite:///{root / name / 'state.db'}",
            "publish": str(root / name / "ledger"),
            "sim": str(home.sim),
            "policy": str(policy_file),
            "residency": str(root / "residency"),
            "witnesses": [f"{urls['witness']} {cosigner}"],
        }
        run(name, "mitai.broker", ["--config", str(config(root / f"{name}.toml", broker))], f"{urls[name]}/healthz")
    ledger = _ledger([urls[name] for name in brokers], policy)
    if not witness_vkey.exists():
        write_private(witness_vkey, ledger.vkey.encode())
        run_witness()
    replicas = {}
    for name in [name for name in ports if name.startswith("replica-")]:
        serve = {
            "port": ports[name],
            "sim": str(home.sim),
            "threads": settings.threads,
            "kem": settings.kem,
            "rotate_s": settings.rotate_s,
            "grace_s": settings.grace_s,
            "broker_policy": str(policy_file),
            "engine": {"fingerprints": settings.fingerprints},
        }
        run(name, "mitai.serve", ["--config", str(config(root / f"{name}.toml", serve))], f"{urls[name]}/healthz")
        replicas[name] = urls[name]
    if settings.train:
        urls["train"] = f"http://127.0.0.1:{(train_port := free_port())}"
        train = {
            "port": train_port,
            "sim": str(home.sim),
            "threads": settings.threads,
            "kem": settings.kem,
            "broker_policy": str(policy_file),
            "scratch": str(root / "train"),
        }
        run("train", "mitai.train", ["--config", str(config(root / "train.toml", train))], f"{urls['train']}/healthz")
    users_policy = _users_policy(policy, ledger.vkey)
    write_private(root / "offer.toml", users_policy.encode())
    gateway = {
        "port": port,
        "broker": urls["broker"] if settings.brokers == 1 else [urls[name] for name in brokers],
        "objects": str(home.objects),
        "upload_token": platform.upload_token,
        "operator_token": platform.operator_token,
        "capture": str(home.capture) if settings.capture else "",
        "policy": str(root / "offer.toml"),
        "releases": [str(home.release(name)) for name in WORKLOADS],
        "train": urls.get("train", ""),
        "replicas": replicas,
    }
    path = config(root / "gateway.toml", gateway)
    run("gateway", "mitai.fleet.gateway", ["--config", str(path)], f"{platform.gateway}/healthz")
    return users_policy, cosigner


def _ledger(urls: list[str], policy: Policy, within_s: float = 60.0) -> LedgerClaim:
    """Return the ledger in the evidence of the broker process that leads; wait for one."""
    until = time.monotonic() + within_s
    while True:
        for url in urls:
            try:
                ledger = Session(url, policy, workload="broker").appraisal.claims.ledger
            except ClientError as error:  # it stands by
                if time.monotonic() > until:
                    raise FleetError("fleet.no-leader", f"none of the brokers leads: {error.message}") from error
                continue
            if ledger is None:
                raise FleetError("fleet.no-ledger", "the broker's claims name no ledger")
            return ledger
        time.sleep(0.1)


def config(path: Path, fields: Mapping[str, object]) -> Path:
    """Write a flat TOML file with at most one level of sub-tables, readable by its owner only: it may hold tokens."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items() if not isinstance(value, dict)]
    for key, value in fields.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{json.dumps(name)} = {json.dumps(entry)}" for name, entry in value.items())]
    write_private(path, ("\n".join(lines) + "\n").encode())
    return path


def deploy(gateway: str, operator_token: str, body: Mapping[str, object]) -> None:
    """Tell every replica behind a gateway what to serve; return when all have begun.

    Raises:
        FleetError: With the code of the first replica that refused: what it serves is not what was asked for.
    """
    for name, answer in _control(gateway, operator_token, "deploy", body).items():
        told = answer if isinstance(answer, dict) else {}
        if told.get("status") != 202:
            raise _refusal(name, told.get("status"), told.get("body"), "refused")


def status(gateway: str, operator_token: str) -> dict[str, object]:
    """Return what every replica behind a gateway says of itself."""
    return _control(gateway, operator_token, "status", None)


@dataclass(frozen=True)
class Loading:
    """How far a replica's deployment is."""

    done_bytes: int
    total_bytes: int


def deployments(gateway: str, operator_token: str) -> list[Loading]:
    """Return the deployments in progress; an empty list when every replica serves; raise when one has failed."""
    waiting = []
    for name, answer in status(gateway, operator_token).items():
        body = answer.get("body") if isinstance(answer, dict) else None
        told = body if isinstance(body, dict) else {}
        error, state = told.get("error"), told.get("state")
        if told.get("code") == "fleet.replica-unreachable":
            raise FleetError("fleet.replica-unreachable", f"{name} went away before it served the capsule")
        if isinstance(error, dict):
            raise _refusal(name, 500, error | {"detail": error.get("message")}, "did not get ready", told.get("step"))
        if state not in {"deploying", "ready"}:
            raise FleetError("fleet.deploy-failed", f"{name} is {str(state or 'not reachable')[:40]!r}, not deploying")
        if state == "deploying":
            waiting.append(Loading(_count(told.get("done_bytes")), _count(told.get("total_bytes"))))
    return waiting


def _refusal(name: str, status: object, body: object, what: str, step: object = None) -> MitaiError:
    """Return what a replica said, as an error; the host is not trusted, so its words are cut and made printable."""
    number = status if isinstance(status, int) else 502
    told = error_from(FleetError, number, msgspec.json.encode(body), code="fleet.deploy-failed", who=name)
    named = step if isinstance(step, str) and step.isidentifier() and len(step) < 40 else "deploy"
    return FleetError(told.code, f"{name} {what}: {told.message}", step=named, hint=told.hint)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _control(gateway: str, token: str, what: str, body: Mapping[str, object] | None) -> dict[str, object]:
    status, content = ask(gateway, f"/control/{what}", _MAX_CONTROL_BYTES, {"authorization": f"Bearer {token}"}, body)
    try:
        fields = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        fields = None
    if status != 200 or not isinstance(fields, dict):
        raise error_from(FleetError, status, content, code="fleet.control-refused", who="the gateway")
    return fields


def ask(
    gateway: str, path: str, limit: int, headers: Mapping[str, str] = {}, body: Mapping[str, object] | None = None
) -> tuple[int, bytes]:
    """GET, or POST a body, at a gateway; return status and body of its answer, which nobody vouches for."""
    method = "GET" if body is None else "POST"
    try:
        with httpx2.stream(method, gateway + path, json=body, headers=PLAIN | dict(headers), timeout=60.0) as answer:
            content = bounded(answer, limit)
    except httpx2.HTTPError as error:
        raise FleetError(
            "fleet.gateway-unreachable",
            f"the gateway at {gateway} does not answer ({type(error).__name__})",
            hint="is the platform up? mitai status",
        ) from error
    if content is None:
        raise FleetError("fleet.answer-too-large", f"the gateway at {gateway} answers with more than {limit} bytes")
    return answer.status_code, content


def stored_name(gateway: str, capsule: str) -> str:
    """Return the name in a stored capsule's manifest: a label for people, signed but not checked here."""
    status, content = ask(gateway, f"/objects/{quote(capsule, safe='')}/{MANIFEST_NAME}", MAX_ENVELOPE_BYTES)
    if status != 200:
        raise FleetError(
            "fleet.capsule-unknown", f"no capsule {capsule} is stored there", hint="publish it: mitai publish"
        )
    return Manifest.decode(Envelope.decode(content).payload).name
