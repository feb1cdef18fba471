"""One of several broker processes: the broker's app while this process leads, a refusal while it stands by.

Invariants:

- While it stands by, a process holds no state: it gives no evidence and answers nothing but its role at `/healthz`.
- At every take-over the whole state is loaded and checked, as at a start, before the first request is answered; the
  channel's keys are new, so a client that verified this process in an earlier term verifies it again.
- A request is let in only while this process leads; what it decides is committed only while nobody else has led since
  (`leadership`).
- A state that was rolled back ends the process; whatever else keeps it from leading leaves the lock to another one.

Example:
    >>> app = StandBy(Leadership(url), open_broker, serving, stop)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio.to_thread
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mitai.broker.leadership import Leadership
from mitai.broker.service import Broker
from mitai.broker.writer import standby
from mitai.errors import MitaiError, RollbackError
from mitai.problem import problem_of

LOOK_EVERY_S = 0.05
log = structlog.get_logger("mitai.broker")

Open = Callable[[Callable[[], bool]], Broker]  # given: whether the broker may decide
Serving = Callable[[Broker], AbstractAsyncContextManager[ASGIApp]]


class StandBy:
    """The whole process as one ASGI app.

    Args:
        leadership: Says when this process leads.
        open_broker: Loads and checks the state.
        serving: Makes the app that serves a broker, for one term.
        stop: Ends the process; `failure` then says why.
    """

    def __init__(self, leadership: Leadership, open_broker: Open, serving: Serving, stop: Callable[[], None]) -> None:
        self._leadership, self._open, self._serving, self._stop = leadership, open_broker, serving, stop
        self._lifespan_app = Starlette(lifespan=self._lifespan)
        self._leading: tuple[int, Broker, ASGIApp] | None = None
        self._obstacle: str | None = None  # what kept it from leading last, a code
        self.failure: RollbackError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan_app(scope, receive, send)
            return
        leading = self._leading
        if leading is not None and leading[0] != self._leadership.term():
            leading = None
        if scope["type"] == "http" and scope["path"] == "/healthz":
            await JSONResponse(self._role(leading and leading[1]))(scope, receive, send)
        elif leading is not None:
            await leading[2](scope, receive, send)
        else:
            refusal = problem_of(503, standby())
            refusal.headers["mitai-role"] = "standby"  # the gateway asks another process
            await refusal(scope, receive, send)

    def _role(self, broker: Broker | None) -> dict[str, object]:
        if broker is not None:
            return {"status": "ok", "role": "leader", "ledger_size": broker.size}
        return {"status": "ok", "role": "standby", "code": self._obstacle}

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await anyio.to_thread.run_sync(self._leadership.close)

    async def _run(self) -> None:
        while self.failure is None:
            term = self._leadership.term()
            if term is None:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            try:
                await self._lead(term)
            except RollbackError as error:
                self.failure = error
            except (MitaiError, SQLAlchemyError, OSError) as error:
                self._obstacle = error.code if isinstance(error, MitaiError) else type(error).__name__
                self._leadership.give_up()
                log.error("this broker can't lead now", code=self._obstacle)
        self._stop()

    async def _lead(self, term: int) -> None:
        """Open the broker and serve it until the term is over."""
        began = time.monotonic()
        broker = await anyio.to_thread.run_sync(self._open, lambda: self._leadership.term() == term)
        log.info("took over", term=term, entries=broker.size, seconds=round(time.monotonic() - began, 3))
        try:
            async with self._serving(broker) as app:
                self._leading, self._obstacle = (term, broker, app), None
                while self._leadership.term() == term:  # noqa: ASYNC110 - a clock changes it too
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._leading = None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(broker.close)
