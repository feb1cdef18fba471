"""Jobs, one after the other: keys released against evidence, a process of its own for each, its output registered.

Invariants:

- Every job has a fresh workload key and channel key, so that what it makes has its own inputs as parents and no others.
- What the job states is what the broker is told; a job whose inputs' owners don't allow it never starts.
- When the lease ends or the host cancels, the job's process is killed at once: nothing of it stays in memory.
- The host sees states, codes and numbers. Keys go to the job's process and nowhere else.

Example:
    >>> jobs = Jobs(config, attester, policy)
    >>> jobs.submit(SubmitRequest(…)).id
    '5f1c…'
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from mitai.attest import Attester, CapsuleClaim, Claims, Policy
from mitai.broker.derive_client import Derivation
from mitai.broker.lease_client import Lease, boot_clock
from mitai.broker.release_client import OpenedKey, Release
from mitai.capsule import ObjectStore, Sealed
from mitai.channel import KeyRing
from mitai.client.again import again
from mitai.client.objects import upload
from mitai.errors import MitaiError, TrainError
from mitai.identity import Identity
from mitai.serve.deployment import object_store
from mitai.serve.link import BrokerLink
from mitai.train import history
from mitai.train.checkpoints import KEY_LABEL, binding
from mitai.train.config import SubmitRequest, TrainConfig
from mitai.train.history import ENDED, Past
from mitai.train.job import Job
from mitai.train.meeting import Link, Meeting
from mitai.train.methods import METHODS
from mitai.train.peers import Own
from mitai.train.relay import (
    TO_WORKER,
    Answer,
    Done,
    Failed,
    Followed,
    LinkEnd,
    Numbers,
    OpenedInput,
    Order,
    Read,
    Relay,
    SealingKey,
    Size,
    Step,
)
from mitai.workload import Workload

log = structlog.get_logger(__name__)
WORKLOAD = "train"
MAX_FINISHED = 200  # jobs that are still shown
MAX_NUMBERS = 100_000  # steps of a job that are still shown
# The job's process gets nothing of this one's environment; what could make Python or the loader run other code is not
# in it, and its own flag -I ignores what is.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mitai.train.child import main; main()"
Tell = Callable[[dict[str, float]], None]


@dataclass
class Run:
    """A job and how far it is; what the host sees of it is `shown`."""

    id: str
    job: Job
    request: SubmitRequest = field(repr=False)
    state: str = "queued"  # queued, running, done, failed, cancelled
    step: str = ""
    capsule: str = ""
    kind: str = ""
    error: dict[str, str] | None = None
    numbers: list[dict[str, float]] = field(default_factory=list, repr=False)
    began: float = 0.0
    seconds: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    withdrawn: MitaiError | None = None
    sealing_label: bytes = field(default=b"", repr=False)  # of the one key of the TEE that its process is given
    tell: Tell = field(default=lambda _: None, repr=False)

    def shown(self) -> dict[str, object]:
        """Return what the host is told."""
        running = self.state == "running"
        return {
            "id": self.id,
            "name": self.job.job.name,
            "method": self.job.job.method,
            "job_sha256": self.job.sha256(),
            "state": self.state,
            "step": self.step,
            "capsule": self.capsule,
            "kind": self.kind,
            "error": self.error,
            "newest": self.numbers[-1] if self.numbers else None,
            "seconds": round(time.monotonic() - self.began if running else self.seconds, 1),
        }

    def stop(self) -> None:
        """Kill the job's process; its memory goes with it."""
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()


class Jobs:
    """The queue of a worker, and the thread that works it off.

    Args:
        config: What the worker's file says.
        attester: The hardware's interface.
        policy: What brokers must show.

    Raises:
        TrainError: `train.scratch-taken`.
    """

    def __init__(self, config: TrainConfig, attester: Attester, policy: Policy) -> None:
        self._config, self._attester, self._policy = config, attester, policy
        self.policy_sha256 = hashlib.sha256(policy.to_toml().encode()).hexdigest()
        self._scratch = Path(config.scratch)
        self._held = _hold(self._scratch)
        self._runs: dict[str, Run] = {}
        self._history = self._scratch / "jobs.json"
        self._past = history.read(self._history, MAX_FINISHED)
        self._waiting: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="mitai-jobs", daemon=True)
        shutil.rmtree(self._scratch / "output", ignore_errors=True)  # of a killed worker: ciphertext without keys
        self._thread.start()

    def submit(self, request: SubmitRequest, tell: Tell = lambda _: None) -> Run:
        """Put a job at the end of the queue; `tell` gets the numbers of each of its steps.

        Raises:
            TrainError: The job file is not valid, or the queue is full.
        """
        job = Job.parse(request.job)
        workers, place = job.distributed.workers if job.distributed else 0, request.place
        if (place.rank >= workers) if place else bool(workers):
            raise TrainError("train.place", "a job of several workers, and no other, is given one of its ranks")
        run = Run(secrets.token_hex(8), job, request, tell=tell)
        with self._lock:
            if sum(each.state == "queued" for each in self._runs.values()) > self._config.queue:
                raise TrainError("train.queue-full", f"{self._config.queue} jobs wait already", hint="try again later")
            ended = [each.id for each in self._runs.values() if each.state in ENDED]
            for old in ended[:-MAX_FINISHED]:
                del self._runs[old]
            self._runs[run.id] = run
            self._keep()
        self._waiting.put(run)
        return run

    def find(self, run: str) -> Run | Past:
        """Return a job; raise `TrainError` when there is none of this id."""
        found = self._runs.get(run) or self._past.get(run)
        if found is None:
            raise TrainError("train.job-unknown", "there is no such job here", hint="mitai train status")
        return found

    def all(self) -> list[Run | Past]:
        """Return the newest jobs that are known, in the order of submission; the first may be of a worker before."""
        runs = list(self._runs.values())
        past = list(self._past.values())
        return [*past[max(0, len(past) + len(runs) - MAX_FINISHED) :], *runs]

    def cancel(self, run: Run | Past) -> None:
        """End a job, or take it out of the queue."""
        if isinstance(run, Past):
            return
        run.cancelled.set()
        if run.state == "queued":
            run.state = "cancelled"
        run.stop()
        with self._lock:
            self._keep()

    def close(self) -> None:
        """End the running job and all that wait."""
        for run in list(self._runs.values()):
            if run.state in {"queued", "running"}:
                self.cancel(run)
        self._waiting.put(None)
        self._thread.join(30.0)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _keep(self) -> None:
        """Write down what the host is shown; whoever calls this has the lock."""
        history.keep(self._history, [run.shown() for run in self.all()])

    def _work(self) -> None:
        while (run := self._waiting.get()) is not None:
            if run.state == "queued":
                self._one(run)

    def _one(self, run: Run) -> None:
        run.state, run.began = "running", time.monotonic()
        with self._lock:
            self._keep()
        try:
            with ExitStack() as stack:
                self._do(run, stack)
            run.state, run.step = "done", ""
        except Exception as error:  # noqa: BLE001 - a job never takes the worker down; its words may hold anything
            known = error if isinstance(error, MitaiError) else None
            reason = run.withdrawn or known
            run.state = "cancelled" if run.cancelled.is_set() else "failed"
            run.error = (
                reason.to_dict()
                if reason
                else {"code": "train.internal", "message": f"the job failed ({type(error).__name__})"}
            )
            log.error("job ended", job=run.id, state=run.state, code=run.error["code"], step=run.step)
        else:
            log.info("job done", job=run.id, capsule=run.capsule)
        finally:
            run.seconds = time.monotonic() - run.began
            with self._lock:
                self._keep()

    def _do(self, run: Run, stack: ExitStack) -> None:
        """Release, train, register; what `stack` holds is let go of at the end.

        1. A fresh workload key and channel key; evidence over both and the job's digest.
        2. The inputs' keys, released for what the job states.
        3. A lease on them: when it ends, the job's process is killed.
        4. A job of several workers: links to the others.
        5. The job's process: it opens, trains and seals.
        6. Registered with the broker as a derived capsule, stored where the host said.
        """
        # 1. keys
        identity, keyring = Identity.generate(), KeyRing.generate(self._config.kem, grace_s=self._config.renew_s)
        given: list[CapsuleClaim] = []
        run.step = "release"
        link = BrokerLink(run.request.broker, self._policy)
        stack.callback(link.close)
        workload = Workload(self._attester, keyring, lambda: self._claims(run, identity, given, link))
        # 2. release
        asked = boot_clock()
        inputs = self._release(run, link, workload, keyring)
        given += [CapsuleClaim(key.capsule, key.manifest_sha256) for key in inputs]
        # 3. lease
        lease = Lease(
            identity,
            link.audience,
            tuple(key.capsule for key in inputs),
            lambda path, body: link.post(path, body, timeout_s=self._config.renew_s),
            on_end=lambda reason: _withdraw(run, reason),
            renew_s=self._config.renew_s,
            asked=asked,
        )
        stack.callback(lease.close)
        # 4. links
        met = self._meeting(run, stack, self._claims(run, identity, given, link), inputs, lease)
        # 5. the job's process
        run.sealing_label = KEY_LABEL + binding(run.job.sha256(), {key.capsule: key.manifest_sha256 for key in inputs})
        derivation = Derivation(identity, link.audience, inputs)
        folder = self._scratch / "output" / run.id
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        order = Order(
            job=run.request.job,
            inputs=tuple(
                OpenedInput(key.capsule, key.data_key, key.envelope, key.manifest_sha256, key.owner.raw, key.derived)
                for key in inputs
            ),
            seed=identity.seed(),
            parents=derivation.parents,
            checkpoints=str(self._scratch / "checkpoints"),
            output=str(folder),
            threads=self._config.threads,
            evidence=self._report_evidence(run, workload),
            sim_roots=self._policy.sim_roots,
            rank=run.request.place.rank if run.request.place else 0,
            links=tuple(LinkEnd(each.end.fileno(), each.keys.sending, each.keys.receiving) for each in met),
            silence_s=self._config.silence_s,
        )

        # 6. register
        def finish(done: Done) -> None:
            run.step = "store"
            made = Sealed(done.capsule, done.envelope, done.manifest_sha256, done.data_key)
            to = run.request.output
            upload(folder, to.gateway, to.token, owner=identity.public)
            run.step = "register"
            lease.check()
            ledger = link.claims.ledger
            body = derivation.request(made, done.byproducts)
            answer = again(lambda: link.post("/v1/derived", body))
            derivation.index(answer, ledger.vkey if ledger else "")
            run.capsule, run.kind = done.capsule, done.kind

        self._supervise(run, order, lease, finish)

    def _meeting(
        self, run: Run, stack: ExitStack, claims: Claims, inputs: tuple[OpenedKey, ...], lease: Lease
    ) -> list[Link]:
        """Return the links to the other ranks; none for a job of one worker."""
        place, asked = run.request.place, run.job.distributed
        if place is None or asked is None:
            return []
        run.step = "meet"

        def check() -> None:
            lease.check()
            _go_on(run)

        own = Own(self._attester, claims, place.rank, self._policy, {key.capsule: key.data_key for key in inputs})
        until = time.monotonic() + self._config.silence_s
        return stack.enter_context(Meeting(own, asked.workers, place, until, check)).links

    def _claims(self, run: Run, identity: Identity, given: list[CapsuleClaim], link: BrokerLink) -> Claims:
        return Claims(
            workload=WORKLOAD,
            key_config=b"",  # the workload puts the current one in
            receipt_key=identity.public.raw,
            capsules=tuple(given),
            ledger=link.claims.ledger,  # where what is made of them is registered
            extra={"broker_policy_sha256": self.policy_sha256, "job_sha256": run.job.sha256()},
        )

    def _report_evidence(self, run: Run, workload: Workload) -> bytes:
        """Return what vouches for the key that signs a report; nobody asked for it, so the nonce is our own."""
        signed = METHODS[run.job.job.method].signed
        return workload.evidence(secrets.token_bytes(32)).encode() if signed else b""

    def _release(self, run: Run, link: BrokerLink, workload: Workload, keyring: KeyRing) -> tuple[OpenedKey, ...]:
        release = Release(
            link.post("/v1/challenge", b""),
            workload.evidence,
            purpose=METHODS[run.job.job.method].purpose,
            capsules=tuple(each.capsule for each in run.job.inputs()),
            parameters=run.job.declared(),
        )
        return release.open(link.post("/v1/release", release.body), keyring)

    def _supervise(self, run: Run, order: Order, lease: Lease, finish: Callable[[Done], None]) -> None:
        """Start the job's process, answer what it asks, and see it end."""
        ours, theirs = Relay.pair()
        relay = Relay(ours, self._config.stall_s)
        try:
            with theirs:
                run.process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(self._config.threads),
                    start_new_session=True,
                    pass_fds=[each.descriptor for each in order.links],
                )
            lease.check()
            _go_on(run)
            relay.send(order)
            with ExitStack() as stack:
                stores = {
                    each.capsule: stack.enter_context(object_store(run.request.objects, each.capsule))
                    for each in order.inputs
                }
                self._answer(run, relay, stores, finish)
        except (OSError, EOFError):
            raise _ended(run) from None
        finally:
            run.stop()
            if run.process is not None:
                run.process.wait()
            relay.close()

    def _answer(self, run: Run, relay: Relay, stores: dict[str, ObjectStore], finish: Callable[[Done], None]) -> None:
        while True:
            match relay.receive(TO_WORKER):
                case None:
                    raise EOFError
                case Failed() as failed:
                    raise failed.error()
                case Step(name):
                    run.step = name
                case Numbers(values):
                    run.numbers.append(values)
                    del run.numbers[:-MAX_NUMBERS]
                    run.tell(values)
                case Done() as done:
                    finish(done)
                    with suppress(OSError, subprocess.TimeoutExpired):  # it is registered; the rest is tidying up
                        relay.send(Answer())
                        if run.process is not None:
                            run.process.wait(60.0)
                    return
                case Followed() if run.request.place and run.request.place.rank:
                    return
                case Size() | Read() | SealingKey() as question:
                    relay.send(self._told(run, question, stores))

    def _told(self, run: Run, question: Size | Read | SealingKey, stores: dict[str, ObjectStore]) -> Answer | Failed:
        try:
            match question:
                case Size(capsule, name):
                    return Answer(stores[capsule].size(name))
                case Read(capsule, name, offset, length):
                    buffer = bytearray(length)
                    got = stores[capsule].read_into(name, offset, memoryview(buffer))
                    return Answer(got, bytes(buffer[:got]))
                case SealingKey(label) if label == run.sealing_label:
                    return Answer(data=self._attester.sealing_key(label))
            return Failed("train.relay", "the job asked for what it must not have")
        except MitaiError as error:
            return Failed.of(error)


def _hold(scratch: Path) -> int:
    """Keep other workers away from a folder, until the descriptor is closed or this process ends."""
    scratch.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TrainError(
            "train.scratch-taken",
            f"another training worker uses {scratch}",
            hint="give each worker a scratch folder of its own",
        ) from None
    return descriptor


def _go_on(run: Run) -> None:
    if run.cancelled.is_set():
        raise TrainError("train.cancelled", "the job was cancelled")


def _withdraw(run: Run, reason: MitaiError) -> None:
    run.withdrawn = TrainError(
        "train.withdrawn",
        f"the job's inputs may not be used any more: {reason.message} ({reason.code})",
        hint="their owners decide; a job that was stopped resumes from its checkpoint when they allow it again",
    )
    run.stop()


def _ended(run: Run) -> TrainError:
    if run.cancelled.is_set():
        return TrainError("train.cancelled", "the job was cancelled")
    status = run.process.wait(10.0) if run.process is not None else None
    return TrainError(
        "train.process-died",
        f"the job's process ended before the job did (status {status})",
        hint="was there enough memory? submit the job again: it resumes from its newest checkpoint",
    )


def _environment(threads: int) -> dict[str, str]:
    count = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    # Which GPUs there are is the host's to say; it chooses no code.
    devices = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    return _ENVIRONMENT | count | devices
