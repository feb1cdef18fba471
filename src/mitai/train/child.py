"""The process of one job: it opens the inputs, trains, and seals the output; then its memory is gone.

It is started by the worker with one socket to it as standard input, a fixed environment and the worker's import path.
`docs/spec/training.md`, "Isolation".

Invariants:

- The network is given up before anything is opened (`mitai.train.sandbox.network`): what is left is the socket to the
  worker, which hands over ciphertext only, and one for each link to another rank, which the worker carries sealed.
- No core dump; it ends with its worker; what libraries print goes nowhere.
- Plaintext is in memory only. What it writes are sealed checkpoints and the sealed output.

Example:
    >>> main()  # with a connected socket as descriptor 0
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from mitai.errors import MitaiError, TrainError
from mitai.process import forbid_core_dumps
from mitai.train.relay import (
    TO_JOB,
    Done,
    Failed,
    Followed,
    Numbers,
    OpenedInput,
    Order,
    Relay,
    RelayStore,
    SealingKey,
    Step,
)
from mitai.train.sandbox.network import drop_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mitai.capsule import FileSource
    from mitai.train.evaluate.report import Role
    from mitai.train.group import Group
    from mitai.train.job import Job
    from mitai.train.outcome import Outcome

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Do one job, and tell the worker how it ended."""
    _end_with_the_worker()
    relay = Relay(socket.socket(fileno=os.dup(0)))
    _log_to(os.dup(2))
    for descriptor in (0, 1, 2):  # what a library prints may hold anything
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    try:
        drop_network()
        forbid_core_dumps()
        order = relay.receive(TO_JOB)
        if not isinstance(order, Order):
            raise TrainError("train.worker-gone", "the worker has ended")
        _work(order, relay)
    except MitaiError as error:
        relay.send(Failed.of(error))
    except MemoryError:
        relay.send(Failed("train.memory", "the job needs more memory than this machine has"))
    except Exception as error:  # noqa: BLE001 - its words may hold anything
        relay.send(Failed("train.internal", f"the job failed in a way that is not known ({type(error).__name__})"))


def _work(order: Order, relay: Relay) -> None:
    if order.threads:
        os.environ["OMP_NUM_THREADS"] = str(order.threads)
    from mitai.capsule import MemorySource, open_capsule, seal
    from mitai.identity import Identity, PublicKey
    from mitai.train.job import Job
    from mitai.train.proven import BYPRODUCT, identity, require_provable

    job = Job.parse(order.job)
    relay.send(Step("open"))
    inputs = {each.capsule: each for each in order.inputs}
    sources = {
        name: open_capsule(
            RelayStore(relay, name),
            each.envelope,
            each.data_key,
            owner=PublicKey(each.owner),
            manifest_sha256=each.manifest_sha256,
            workers=1,
        )
        for name, each in inputs.items()
    }
    for wanted in job.inputs():
        if sources[wanted.capsule].manifest.kind not in wanted.kinds:
            raise TrainError("train.kind", f"{wanted.capsule} is no {wanted.kind}, as its manifest says")
    if job.proof:
        require_provable(sources[job.inputs()[0].capsule])
    relay.send(Step("train"))
    forget: Callable[[], None] = _nothing
    if job.job.method == "audit":
        outcome = _audited(job, sources, inputs)
    elif job.job.method == "leaderboard":
        outcome = _lined_up(job, sources, inputs, order)
    else:
        outcome, forget = _run(job, sources, order, relay)
    if order.rank:
        relay.send(Followed())
        return
    if job.job.method == "evaluate":
        outcome = _signed(outcome, job, order)
    relay.send(Step("seal"))
    named = identity(outcome.files) if job.proof else ""
    sealed = seal(
        MemorySource(outcome.files),
        Path(order.output),
        owner=Identity.from_seed(order.seed),
        name=job.job.name,
        kind=outcome.kind,
        parents=order.parents,
        proof_identity=named or msgspec.UNSET,
        workers=1,
    )
    proven = {BYPRODUCT: named} if named else {}
    byproducts = proven | {name: hashlib.sha256(outcome.files[name]).hexdigest() for name in outcome.byproducts}
    made = sealed.capsule_id, sealed.envelope, sealed.manifest_sha256, sealed.data_key
    relay.ask(Done(*made, outcome.kind, byproducts | {"job": job.sha256()}))
    forget()  # the output is registered


def _nothing() -> None:
    """Do what is left to do where nothing was kept."""


def _run(job: Job, sources: Mapping[str, FileSource], order: Order, relay: Relay) -> tuple[Outcome, Callable[[], None]]:
    """Return what a job gave that resumes where it was, and what removes its states."""
    from mitai.identity import Identity
    from mitai.train.checkpoints import Checkpoints
    from mitai.train.run import run
    from mitai.train.transcript.observer import observers

    manifests = {each.capsule: each.manifest_sha256 for each in order.inputs}
    states = Checkpoints(
        Path(order.checkpoints),
        lambda label: relay.ask(SealingKey(label)).data,
        job.sha256(),
        manifests,
    )
    spill = Path(order.checkpoints) / states.binding.hex()
    outcome = run(
        job,
        sources,
        secret=secrets.token_bytes(32),  # who starts a job again pays for it, and gets other noise
        observers=observers(job, sources, manifests, Identity.from_seed(order.seed), spill),
        states=states,
        report=lambda values: relay.send(Numbers(values)),
        group=_group(job, order),
    )

    def forget() -> None:
        states.clear()
        shutil.rmtree(spill, ignore_errors=True)

    return outcome, forget


def _group(job: Job, order: Order) -> Group | None:
    """Return the ranks that train together, if this is one of several."""
    from mitai.train.group import Group
    from mitai.train.links import SealedLink

    if job.distributed is None:
        return None
    links = [
        SealedLink(socket.socket(fileno=each.descriptor), each.sending, each.receiving, order.silence_s)
        for each in order.links
    ]
    return Group(order.rank, links, job.distributed.workers)


def _audited(job: Job, sources: Mapping[str, FileSource], inputs: Mapping[str, OpenedInput]) -> Outcome:
    from mitai.identity import PublicKey
    from mitai.train.outcome import Outcome
    from mitai.train.transcript.audit import audit

    manifests = {name: each.manifest_sha256 for name, each in inputs.items()}
    made = {name: PublicKey(each.owner) for name, each in inputs.items() if each.derived}
    files = audit(job, sources, manifests, made)
    return Outcome("report", files, {}, tuple(files))


def _lined_up(job: Job, sources: Mapping[str, FileSource], inputs: Mapping[str, OpenedInput], order: Order) -> Outcome:
    """Return the leaderboard of a job's reports, signed by the workload key."""
    from mitai.attest import Evidence
    from mitai.identity import Identity
    from mitai.train.methods.leaderboard import leaderboard
    from mitai.train.outcome import Outcome

    files = leaderboard(
        job,
        sources,
        inputs,
        sim_roots=order.sim_roots,
        signer=Identity.from_seed(order.seed),
        evidence=Evidence.decode(order.evidence),
        now=datetime.now(UTC),
    )
    return Outcome("report", files, {}, tuple(files))


def _signed(outcome: Outcome, job: Job, order: Order) -> Outcome:
    """Return an evaluation's outcome with its one file signed by the workload key."""
    from mitai.attest import Evidence
    from mitai.identity import Identity
    from mitai.train.evaluate.report import MEASURED_NAME, REPORT_NAME, InputRef, Measured, sign_report

    digests = {each.capsule: each.manifest_sha256 for each in order.inputs}
    inputs = [(cast("Role", each.role), each.capsule) for each in job.inputs()]  # signing checks them
    report = sign_report(
        Measured.decode(outcome.files[MEASURED_NAME]),
        [InputRef(role=role, capsule=capsule, manifest_sha256=digests[capsule]) for role, capsule in inputs],
        signer=Identity.from_seed(order.seed),
        evidence=Evidence.decode(order.evidence),
        now=datetime.now(UTC),
    )
    return replace(outcome, files={REPORT_NAME: report}, byproducts=(REPORT_NAME,))


def _end_with_the_worker() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _log_to(descriptor: int) -> None:
    """Let our own log lines, and no others, reach the worker's log."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(os.fdopen(descriptor, "w", buffering=1)),
    )
