"""A training worker: evidence in the clear, jobs for its host.

```
GET  /healthz                            anyone     the process is up
GET  /.well-known/mitai/evidence?nonce=  anyone     what it is
POST /control/jobs                       the host   submit a job, answered with its id
GET  /control/jobs                       the host   all jobs
GET  /control/jobs/ID                    the host   one job
GET  /control/jobs/ID/logs?after=N       the host   numbers of its steps from the N-th on, 1000 at most
POST /control/jobs/ID/cancel             the host   end it
```

A gateway lets only operators through to `/control`. Nothing secret is said there or taken, but the token by which the
host lets the output be stored.

Invariants:

- The host decides which jobs run, never what they may read: keys come from the broker against evidence only.

Example:
    >>> uvicorn.run(create_worker(TrainConfig(port=8702, sim="platform/sim", …)).app())
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from mitai.attest import Attester, Claims, Policy
from mitai.attester import own_attester
from mitai.channel import KeyRing
from mitai.errors import TrainError
from mitai.identity import Identity
from mitai.problem import problem, problem_of
from mitai.train.config import SubmitRequest, TrainConfig
from mitai.train.worker import WORKLOAD, Jobs
from mitai.workload import Workload

MAX_CONTROL_BYTES = 256 << 10
PAGE = 1000
_STATUS = {"train.job-unknown": 404, "train.queue-full": 429}


class Worker:
    """One worker and its parts.

    Args:
        config: What its file says.
        attester: The hardware's interface.
        policy: What brokers must show.
    """

    def __init__(self, config: TrainConfig, attester: Attester, policy: Policy) -> None:
        self._config, self._started = config, time.monotonic()
        self.jobs = Jobs(config, attester, policy)
        self._identity = Identity.generate()
        self._workload = Workload(attester, KeyRing.generate(config.kem), self._claims)

    def app(self) -> ASGIApp:
        """Return the ASGI app of the whole worker; behind the channel there is nothing."""
        public: list[Route | Mount] = [
            Route("/healthz", self._health),
            Route("/control/jobs", self._submit, methods=["POST"]),
            Route("/control/jobs", self._all, methods=["GET"]),
            Route("/control/jobs/{job}", self._show),
            Route("/control/jobs/{job}/logs", self._logs),
            Route("/control/jobs/{job}/cancel", self._cancel, methods=["POST"]),
        ]
        return self._workload.app(Starlette(lifespan=self._lifespan), public)

    def _claims(self) -> Claims:
        return Claims(
            workload=WORKLOAD,
            key_config=b"",  # the workload puts the current one in
            receipt_key=self._identity.public.raw,
            extra={"broker_policy_sha256": self.jobs.policy_sha256},
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(self.jobs.close)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _submit(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_CONTROL_BYTES:
                return problem(413, "train.control-too-large", f"a request has at most {MAX_CONTROL_BYTES} bytes")
        try:
            run = self.jobs.submit(SubmitRequest.parse(body))
        except TrainError as error:
            return problem_of(_STATUS.get(error.code, 400), error)
        return JSONResponse(run.shown(), 202)

    async def _all(self, _: Request) -> Response:
        simulated = self._config.sim is not None
        return JSONResponse({"jobs": [run.shown() for run in self.jobs.all()], "simulated": simulated})

    async def _show(self, request: Request) -> Response:
        try:
            return JSONResponse(self.jobs.find(request.path_params["job"]).shown())
        except TrainError as error:
            return problem_of(_STATUS[error.code], error)

    async def _logs(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 9:
            return problem(400, "train.control-malformed", "after is a number")
        try:
            numbers = self.jobs.find(request.path_params["job"]).numbers
        except TrainError as error:
            return problem_of(_STATUS[error.code], error)
        return Response(msgspec.json.encode({"numbers": numbers[int(after) :][:PAGE]}), media_type="application/json")

    async def _cancel(self, request: Request) -> Response:
        try:
            run = self.jobs.find(request.path_params["job"])
        except TrainError as error:
            return problem_of(_STATUS[error.code], error)
        await anyio.to_thread.run_sync(self.jobs.cancel, run)
        return JSONResponse(run.shown())


def create_worker(config: TrainConfig) -> Worker:
    """Return a worker on the hardware that the configuration names.

    Raises:
        MitaiError: The hardware or the broker policy can't be read.
    """
    attester = own_attester(WORKLOAD, sim=config.sim, gpus=config.gpus)
    return Worker(config, attester, Policy.from_toml(Path(config.broker_policy).read_text()))
