"""A replica: evidence in the clear, the OpenAI API and receipts behind the sealed channel, deployment by its host.

```
GET  /healthz                            anyone       the process is up
GET  /.well-known/mitai/evidence?nonce=  anyone       what it is and what it serves
POST /control/deploy, GET /control/status  the host  nothing secret is said or taken here; a gateway lets only operators
                                                     through
POST /ohttp …                            sealed       /v1/…, /v1/receipts/EXCHANGE, /v1/fingerprints/EXCHANGE
```

Invariants:

- The API is not reachable in the clear, unless the process was started with `--insecure-plaintext`.
- The host decides what is deployed, never what is in the clear: keys come from the broker against evidence only.

Example:
    >>> uvicorn.run(create_replica(ServeConfig(port=8701, sim="platform/sim", broker_policy="policy.toml")))
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import anyio.to_thread
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from mitai.attest import Attester, Claims, Policy
from mitai.attester import own_attester
from mitai.channel import KeyRing
from mitai.errors import ServeError
from mitai.identity import Identity
from mitai.ledger.assurance import ReExecution, Sample
from mitai.problem import problem, problem_of
from mitai.serve.api import create_app
from mitai.serve.config import DeployRequest, ServeConfig
from mitai.serve.deployment import Deployment
from mitai.serve.printing import PrintBook
from mitai.serve.receipts import ReceiptBook
from mitai.workload import Workload

log = structlog.get_logger(__name__)
WORKLOAD = "serve"
MAX_CONTROL_BYTES = 64 << 10
_STATUS = {
    "serve.deploying": 409,
    "serve.deployed": 409,
    "serve.receipt-unknown": 404,
    "serve.receipt-pending": 202,
    "serve.fingerprints-unknown": 404,
}


class Replica:
    """One replica and its parts.

    Args:
        config: What its file says.
        attester: The hardware's interface.
        policy: What brokers must show; its digest is in the claims, since the host chose it.
        simulated: Whether the hardware is simulated, for status; verifiers find out by themselves.
    """

    def __init__(self, config: ServeConfig, attester: Attester, policy: Policy, *, simulated: bool = False) -> None:
        self._config, self._simulated = config, simulated
        self._policy_sha256 = hashlib.sha256(policy.to_toml().encode()).hexdigest()
        self._started = time.monotonic()
        self._keyring = KeyRing.generate(config.kem, grace_s=config.grace_s)
        self._receipt_key = Identity.generate()
        self._book = ReceiptBook(self._receipt_key)
        self._prints = PrintBook()
        self._workload = Workload(attester, self._keyring, self._claims)
        self.deployment = Deployment(
            config,
            self._receipt_key,
            self._keyring,
            evidence=self._workload.evidence,
            book=self._book,
            policy=policy,
        )

    def app(self, *, insecure_plaintext: bool = False) -> ASGIApp:
        """Return the ASGI app of the whole replica.

        Args:
            insecure_plaintext: Serve the API in the clear too; for benchmarks only.
        """
        api = create_app(self.deployment.engine, self._config.limits, on_usage=self._note, on_prints=self._prints.keep)
        inner = Starlette(
            routes=[
                Route("/v1/receipts/{exchange}", self._receipt),
                Route("/v1/fingerprints/{exchange}", self._fingerprints),
                Mount("/", api),
            ],
            lifespan=self._lifespan,
        )
        public: list[Route | Mount] = [
            Route("/healthz", self._health),
            Route("/control/deploy", self._deploy, methods=["POST"]),
            Route("/control/status", self._status),
        ]
        if insecure_plaintext:
            log.warning("INSECURE: prompts and answers travel in the clear (--insecure-plaintext)")
            public.append(Mount("/", inner))
        return self._workload.app(inner, public, on_exchange=self._book.on_exchange)

    def _claims(self) -> Claims:
        serving = self.deployment
        return Claims(
            workload=WORKLOAD,
            key_config=b"",  # the workload puts the current one in
            receipt_key=self._receipt_key.public.raw,
            capsules=serving.capsules,
            policies=serving.policies,
            ledger=serving.ledger,
            extra=serving.about | {"broker_policy_sha256": self._policy_sha256},
        )

    def _note(self, exchange: str, model: str, started: datetime, prompt_tokens: int, completion_tokens: int) -> None:
        promised = self._prints.assurances(exchange)
        if (rerun := self._config.rerun) is not None:
            promised += (ReExecution(sample=Sample(one_in=rerun.one_in, commitment=rerun.commitment)),)
        self._book.note(exchange, model, started, prompt_tokens, completion_tokens, assurances=promised)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (self._book.run(), self._rotate(), _warm_up())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.deployment.stop()

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(self._config.rotate_s)
            try:
                await self.deployment.renew()
            except Exception as error:  # noqa: BLE001 - the next round tries again
                log.error("key rotation failed", kind=type(error).__name__)

    # ------------------------------------------------------------------ in the clear

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _deploy(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_CONTROL_BYTES:
                return problem(
                    413, "serve.control-too-large", f"a control request is at most {MAX_CONTROL_BYTES} bytes"
                )
        try:
            wanted = msgspec.json.decode(body, type=DeployRequest)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return problem(400, "serve.control-malformed", f"this is no deploy request: {error}"[:300])
        try:
            self.deployment.start(wanted)
        except ServeError as error:
            return problem_of(_STATUS.get(error.code, 400), error)
        return JSONResponse({"state": "deploying"}, 202)

    async def _status(self, _: Request) -> Response:
        shown = dataclasses.asdict(self.deployment.progress)
        shown |= {
            "serving": self.deployment.model,
            "about": self.deployment.about,
            "simulated": self._simulated,
            "uptime_s": round(time.monotonic() - self._started, 1),
        }
        return JSONResponse(shown)

    # ------------------------------------------------------------------ sealed

    async def _receipt(self, request: Request) -> Response:
        try:
            bundle = await self._book.bundle(request.path_params["exchange"])
        except ServeError as error:
            return problem_of(_STATUS[error.code], error)
        return Response(bundle, media_type="application/vnd.mitai.receipt-bundle+json")

    async def _fingerprints(self, request: Request) -> Response:
        try:
            file = self._prints.file(request.path_params["exchange"])
        except ServeError as error:
            return problem_of(_STATUS[error.code], error)
        return Response(file, media_type="application/vnd.mitai.fingerprints+msgpack")


async def _warm_up() -> None:
    """Import what an engine needs while the replica is idle: it takes seconds that a deployment need not wait for."""
    await anyio.to_thread.run_sync(importlib.import_module, "mitai.serve.transformers_engine")


def create_replica(config: ServeConfig) -> Replica:
    """Return a replica on the hardware that the configuration names.

    Raises:
        MitaiError: The hardware or the broker policy can't be read.
    """
    attester = own_attester(WORKLOAD, sim=config.sim, gpus=config.gpus)
    policy = Policy.from_toml(Path(config.broker_policy).read_text())
    return Replica(config, attester, policy, simulated=config.sim is not None)
