"""From idle to serving: keys released against evidence, capsules streamed into memory, an engine over them.

Invariants:

- A data key is in memory only, for as long as the capsule is being read; it is in no log, error or status.
- Claims list a capsule only once it is open and loaded, and the channel's key is replaced at that moment without
  grace: a client that verified the machine before must verify it again, and sees what it talks to.
- What is served goes on until the broker has released the key of what is to replace it; a deployment that fails
  after that leaves the replica idle. The reason is in the status.
- A model is used only while the lease on its capsules holds. When it ends, requests are refused from that moment on,
  running answers end with an error, the model is unloaded, the channel's key is dropped, and claims show nothing.

Example:
    >>> deployment = Deployment(config, workload, book)
    >>> await deployment.start(DeployRequest(...))
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import httpx2
import msgspec
import structlog

from mitai.attest import CapsuleClaim, Claims, Evidence, LedgerClaim, Policy, evidence_sha256
from mitai.broker.lease_client import RENEW_S, Lease, boot_clock
from mitai.broker.release_client import OpenedKey, Release
from mitai.capsule import CapsuleSource, FolderStore, FsspecStore, ObjectStore, open_capsule
from mitai.channel import KeyRing
from mitai.client.again import again
from mitai.client.objects import HttpStore
from mitai.errors import MitaiError, ServeError
from mitai.identity import Identity
from mitai.ledger.receipt import CapsuleRef
from mitai.serve.config import DeployRequest, ServeConfig
from mitai.serve.engine import Engine
from mitai.serve.link import BrokerLink
from mitai.serve.receipts import ReceiptBook, Served
from mitai.serve.weights import begin

if TYPE_CHECKING:
    from mitai.serve.transformers_engine import EngineOptions

log = structlog.get_logger(__name__)
# What an owner allowed to training, and a capsule inherits, is not used up by answering: differential privacy is closed
# under post-processing.
_TRAINS_NOTHING = {"steps": "0", "epsilon_micros": "0"}


@dataclass
class Progress:
    """What `GET /control/status` shows of a deployment."""

    state: str = "idle"  # idle, deploying, ready, failed, withdrawn
    step: str = ""
    model: str = ""
    capsules: tuple[str, ...] = ()
    done_bytes: int = 0
    total_bytes: int = 0
    seconds: float = 0.0
    error: dict[str, str] | None = None


class Deployment:
    """What a replica serves, and how it came to it.

    Args:
        config: The replica's configuration.
        identity: The replica's receipt key.
        keyring: The channel's keys.
        evidence: Makes evidence over a nonce, with the claims of the moment.
        book: Where receipts are made.
        policy: What the broker must show.
    """

    def __init__(
        self,
        config: ServeConfig,
        identity: Identity,
        keyring: KeyRing,
        *,
        evidence: Callable[[bytes], Evidence],
        book: ReceiptBook,
        policy: Policy,
    ) -> None:
        self._config, self._identity, self._keyring = config, identity, keyring
        self._evidence, self._book, self._policy = evidence, book, policy
        self._engine: Engine | None = None
        self._lease: Lease | None = None
        self._withdrawal: asyncio.Task[None] | None = None
        self.progress = Progress()
        self.capsules: tuple[CapsuleClaim, ...] = ()
        self.policies: tuple[str, ...] = ()
        self.model = ""
        self.adapters: dict[str, CapsuleClaim] = {}  # by their names in the API
        self.about: dict[str, str] = {}  # what is served, in words, for claims and status
        self.ledger: LedgerClaim | None = None
        self._link: BrokerLink | None = None
        self._task: asyncio.Task[None] | None = None

    def engine(self) -> Engine | None:
        """Return what is served at this moment; raise `serve.withdrawn` when the right to use it has ended."""
        reason = self._lease.ended if self._lease is not None else None
        if reason is not None:
            raise _withdrawn(reason)
        return self._engine

    def start(self, request: DeployRequest) -> None:
        """Begin in the background; raise `ServeError` when something is served or on its way."""
        if self._task is not None and not self._task.done():
            raise ServeError("serve.deploying", "a deployment is in progress", hint="wait for it: GET /control/status")
        if self._engine is not None and not request.replace:
            raise ServeError("serve.deployed", f"{self.model} is served already", hint="ask for it with replace: true")
        self.progress = Progress("deploying", "release", request.model, request.capsules)
        self._task = asyncio.create_task(self._run(request, self.progress))

    async def stop(self) -> None:
        """Unload; end what is in progress: without a lease, what is being read is read no further."""
        if self._lease is not None:
            self._lease.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._withdrawal is not None:
            await self._withdrawal
        await self._unload()

    async def _run(self, request: DeployRequest, progress: Progress) -> None:
        began = time.monotonic()
        try:
            await self._deploy(request, progress)
            progress.state, progress.step = "ready", ""
            log.info("deployed", model=request.model, capsules=request.capsules, bytes=progress.total_bytes)
        except asyncio.CancelledError:
            progress.state = "failed"
            raise
        except MitaiError as error:
            progress.state, progress.error = "failed", error.to_dict()
            log.error("deployment failed", code=error.code, step=progress.step)
        except Exception as error:  # noqa: BLE001 - what an engine raises may hold anything; its kind is enough
            progress.state = "failed"
            progress.error = {"code": "serve.internal", "message": f"the deployment failed ({type(error).__name__})"}
            log.error("deployment failed", kind=type(error).__name__, step=progress.step)
        finally:
            progress.seconds = round(time.monotonic() - began, 3)

    async def _deploy(self, request: DeployRequest, progress: Progress) -> None:
        link = await anyio.to_thread.run_sync(BrokerLink, request.broker, self._policy)
        try:
            keys, asked = await anyio.to_thread.run_sync(again, lambda: self._release(request, link))
            progress.step = "unload"
            await self._unload()
        except BaseException:
            link.close()
            raise
        self._link, self._lease = link, (lease := self._begin_lease(link, request.capsules, asked))
        try:
            progress.step = "load"
            engine = await anyio.to_thread.run_sync(self._load, request, keys, progress)
            progress.step = "attest"
            self._engine = engine
            lease.check()
        except BaseException:
            await self._unload()
            raise
        self.capsules = tuple(CapsuleClaim(key.capsule, key.manifest_sha256) for key in keys)
        self.adapters = dict(zip(_adapter_names(request), self.capsules[1:], strict=True))
        self.policies = tuple(dict.fromkeys(policy for key in keys for policy in key.policies))
        self.model, self.ledger = request.model, link.claims.ledger
        self.about = {"model": self.model}
        self.about |= {f"adapter {name}": capsule.id for name, capsule in self.adapters.items()}
        self.about |= {f"derived {key.capsule}": " ".join(key.manifest.parents) for key in keys if key.derived}
        try:
            await self.renew(grace_s=0.0)
        except BaseException:  # without evidence of it and a place for receipts, nothing is served
            await self._unload()
            raise
        lease.check()  # it may have ended while the new key was made

    def _begin_lease(self, link: BrokerLink, capsules: tuple[str, ...], asked: float) -> Lease:
        loop, renew_s = asyncio.get_running_loop(), self._config.renew_s
        return Lease(
            self._identity,
            link.audience,
            capsules,
            partial(link.post, timeout_s=RENEW_S),
            on_end=lambda _: _soon(loop, self._on_lease_end),
            renew_s=renew_s,
            asked=asked,
        )

    def _on_lease_end(self) -> None:
        lease = self._lease
        if lease is not None and lease.ended is not None and self._engine is not None:
            self._withdrawal = asyncio.create_task(self._withdraw(lease.ended))

    async def _withdraw(self, reason: MitaiError) -> None:
        """Let go of everything; the lease stays to say why."""
        error = _withdrawn(reason)
        if self.progress.state == "ready":  # else something else is on its way already
            self.progress = Progress("withdrawn", "", self.model, self.progress.capsules, error=error.to_dict())
        log.error("withdrawn", model=self.model, reason=reason.code)
        await self._unload(error)

    def _release(self, request: DeployRequest, link: BrokerLink) -> tuple[tuple[OpenedKey, ...], float]:
        """Return the released keys, and when they were asked for."""
        challenge = link.post("/v1/challenge", b"")
        release = Release(
            challenge,
            self._evidence,
            purpose="inference",
            capsules=request.capsules,
            parameters=_TRAINS_NOTHING | request.parameters,
        )
        asked = boot_clock()
        answer = link.post("/v1/release", release.body)
        return release.open(answer, self._keyring), asked

    def _load(self, request: DeployRequest, keys: tuple[OpenedKey, ...], progress: Progress) -> Engine:
        lease = self._lease

        def report(done: int, total: int) -> None:
            progress.done_bytes, progress.total_bytes = done, total
            if lease is not None:
                lease.check()

        model, *others = keys
        for key in others:
            if key.manifest.parents and model.capsule not in key.manifest.parents:
                raise ServeError(
                    "serve.adapter-of-another-model",
                    f"adapter {key.capsule} was not derived from the model {model.capsule}",
                    hint="deploy it on a model that its manifest names as a parent",
                )
        with contextlib.ExitStack() as stores:
            source = _opened(stores.enter_context(object_store(request.objects, model.capsule)), model, "model")
            weights = begin(source, report)
            sources = [
                _opened(stores.enter_context(object_store(request.objects, key.capsule)), key, "adapter")
                for key in others
            ]
            from mitai.serve.transformers_engine import TransformersEngine

            return TransformersEngine.load(
                source,
                name=request.model,
                options=self._options(),
                weights=weights,
                adapters=dict(zip(_adapter_names(request), sources, strict=True)),
            )

    def _options(self) -> EngineOptions:
        from mitai.serve.transformers_engine import EngineOptions

        fields = msgspec.structs.asdict(self._config.engine)
        return EngineOptions(**fields, threads=self._config.threads or None)

    async def renew(self, *, grace_s: float | None = None) -> None:
        """Replace the channel's key; receipts name the evidence of the new one from here on."""
        self._keyring.rotate(grace_s=grace_s)
        link = self._link
        if self._engine is None or link is None:
            return
        evidence = await anyio.to_thread.run_sync(self._evidence, secrets.token_bytes(32))
        if self._link is not link:  # unloaded meanwhile
            return
        claims = Claims.decode(evidence.claims)
        served = Served(
            (_ref(claims.capsules[0]),),
            {name: _ref(capsule) for name, capsule in self.adapters.items()},
            claims.policies,
            evidence_sha256(evidence.tee, evidence.quote),
        )
        self._book.serve(served, lambda body: link.post("/v1/receipts", body))

    async def _unload(self, reason: ServeError | None = None) -> None:
        """End what is served; answers that run end with `reason`."""
        engine, self._engine = self._engine, None
        link, self._link = self._link, None
        self.capsules, self.policies, self.ledger, self.model = (), (), None, ""
        self.adapters, self.about = {}, {}
        self._book.serve(None, None)
        if self._lease is not None:
            self._lease.close()
        if reason is None:
            self._lease = None
        else:
            self._keyring.rotate(grace_s=0.0)
        if engine is not None:
            await anyio.to_thread.run_sync(engine.close, reason)
            del engine
            gc.collect()
        if link is not None:
            await anyio.to_thread.run_sync(link.close)


def _adapter_names(request: DeployRequest) -> tuple[str, ...]:
    return tuple(f"{request.model}:{name}" for name in request.adapters)


def _opened(store: ObjectStore, key: OpenedKey, kind: str) -> CapsuleSource:
    return open_capsule(
        store, key.envelope, key.data_key, owner=key.owner, manifest_sha256=key.manifest_sha256, kind=kind
    )


def _ref(capsule: CapsuleClaim) -> CapsuleRef:
    return CapsuleRef(id=capsule.id, manifest_sha256=capsule.manifest_sha256)


def _withdrawn(reason: MitaiError) -> ServeError:
    return ServeError(
        "serve.withdrawn",
        f"this model is not served any more: {reason.message} ({reason.code})",
        hint="its owners decide; ask who operates this service",
    )


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: everything ends anyway
        loop.call_soon_threadsafe(function)


@contextlib.contextmanager
def object_store(objects: str, capsule: str) -> Iterator[ObjectStore]:
    """Open the store of a capsule's objects under an HTTP address, a folder or another fsspec URL."""
    url = f"{objects.rstrip('/')}/{capsule}"
    if url.startswith("file://"):
        yield FolderStore(Path(url.removeprefix("file://")))
        return
    if not url.startswith(("http://", "https://")):
        yield FsspecStore(url)
        return
    with httpx2.Client(timeout=60.0) as http:
        yield HttpStore(url, http)
