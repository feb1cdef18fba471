"""From idle to serving: keys released against evidence, the capsule streamed into memory, an engine over it.

Invariants:

- A data key is in memory only, for as long as the capsule is being read; it is in no log, error or status.
- Claims list a capsule only once it is open and loaded, and the channel's key is replaced at that moment without
  grace: a client that verified the machine before must verify it again, and sees what it talks to.
- What is served goes on until the broker has released the key of what is to replace it; a deployment that fails
  after that leaves the replica idle. The reason is in the status.

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
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import httpx2
import msgspec
import structlog

from mitai.attest import CapsuleClaim, Claims, Evidence, LedgerClaim, Policy, evidence_sha256
from mitai.broker.release_client import OpenedKey, Release
from mitai.capsule import FolderStore, FsspecStore, ObjectStore, open_capsule
from mitai.channel import KeyRing
from mitai.client.objects import HttpStore
from mitai.errors import MitaiError, ServeError
from mitai.ledger.receipt import CapsuleRef
from mitai.serve.config import DeployRequest, ServeConfig
from mitai.serve.engine import Engine
from mitai.serve.link import BrokerLink
from mitai.serve.receipts import ReceiptBook, Served
from mitai.serve.weights import begin

if TYPE_CHECKING:
    from mitai.serve.transformers_engine import EngineOptions

log = structlog.get_logger(__name__)


@dataclass
class Progress:
    """What `GET /control/status` shows of a deployment."""

    state: str = "idle"  # idle, deploying, ready, failed
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
        keyring: The channel's keys.
        evidence: Makes evidence over a nonce, with the claims of the moment.
        book: Where receipts are made.
        policy: What the broker must show.
    """

    def __init__(
        self,
        config: ServeConfig,
        keyring: KeyRing,
        evidence: Callable[[bytes], Evidence],
        book: ReceiptBook,
        policy: Policy,
    ) -> None:
        self._config, self._keyring, self._evidence, self._book, self._policy = config, keyring, evidence, book, policy
        self.engine: Engine | None = None
        self.progress = Progress()
        self.capsules: tuple[CapsuleClaim, ...] = ()
        self.policies: tuple[str, ...] = ()
        self.model = ""
        self.ledger: LedgerClaim | None = None
        self._link: BrokerLink | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, request: DeployRequest) -> None:
        """Begin in the background; raise `ServeError` when something is served or on its way."""
        if self._task is not None and not self._task.done():
            raise ServeError("serve.deploying", "a deployment is in progress", hint="wait for it: GET /control/status")
        if self.engine is not None and not request.replace:
            raise ServeError("serve.deployed", f"{self.model} is served already", hint="ask for it with replace: true")
        self.progress = Progress("deploying", "release", request.model, request.capsules)
        self._task = asyncio.create_task(self._run(request, self.progress))

    async def stop(self) -> None:
        """Unload; end what is in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
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
            key = await anyio.to_thread.run_sync(self._release, request, link)
            progress.step = "unload"
            await self._unload()
        except BaseException:
            link.close()
            raise
        self._link = link
        progress.step = "load"
        engine = await anyio.to_thread.run_sync(self._load, request, key, progress)
        progress.step = "attest"
        self.capsules = (CapsuleClaim(key.capsule, key.manifest_sha256),)
        self.policies, self.model = key.policies, request.model
        self.ledger = link.claims.ledger
        self.engine = engine
        await self.renew(grace_s=0.0)

    def _release(self, request: DeployRequest, link: BrokerLink) -> OpenedKey:
        challenge = link.post("/v1/challenge", b"")
        release = Release(
            challenge,
            self._evidence,
            purpose="inference",
            capsules=request.capsules,
            parameters=request.parameters,
        )
        answer = link.post("/v1/release", release.body)
        return release.open(answer, self._keyring)[0]

    def _load(self, request: DeployRequest, key: OpenedKey, progress: Progress) -> Engine:
        def report(done: int, total: int) -> None:
            progress.done_bytes, progress.total_bytes = done, total

        with object_store(request.objects, key.capsule) as store:
            source = open_capsule(
                store,
                key.envelope,
                key.data_key,
                owner=key.owner,
                manifest_sha256=key.manifest_sha256,
                kind="model",
            )
            weights = begin(source, report)
            from mitai.serve.transformers_engine import TransformersEngine

            return TransformersEngine.load(source, name=request.model, options=self._options(), weights=weights)

    def _options(self) -> EngineOptions:
        from mitai.serve.transformers_engine import EngineOptions

        fields = msgspec.structs.asdict(self._config.engine)
        return EngineOptions(**fields, threads=self._config.threads or None)

    async def renew(self, *, grace_s: float | None = None) -> None:
        """Replace the channel's key; receipts name the evidence of the new one from here on."""
        self._keyring.rotate(grace_s=grace_s)
        if self.engine is None or self._link is None:
            return
        evidence = await anyio.to_thread.run_sync(self._evidence, secrets.token_bytes(32))
        claims = Claims.decode(evidence.claims)
        served = Served(
            self.model,
            tuple(CapsuleRef(id=each.id, manifest_sha256=each.manifest_sha256) for each in claims.capsules),
            claims.policies,
            evidence_sha256(evidence.tee, evidence.quote),
        )
        link = self._link
        self._book.serve(served, lambda body: link.post("/v1/receipts", body))

    async def _unload(self) -> None:
        engine, self.engine = self.engine, None
        self.capsules, self.policies, self.ledger, self.model = (), (), None, ""
        self._book.serve(None, None)
        link, self._link = self._link, None
        if link is not None:
            await anyio.to_thread.run_sync(link.close)
        if engine is not None:
            await anyio.to_thread.run_sync(engine.close)
            del engine
            gc.collect()


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
