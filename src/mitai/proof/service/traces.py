"""A service shows traces: of answers that it has signed the root of, to whoever knows an answer's id.

Follows `docs/spec/proof-service.md`, "Traces". A trace is computed again for each auditor, as it is sent.

Invariants:

- The root was signed with the answer, and its salt follows from the answer's id: a challenge can change neither.
- Few traces at once, each for a limited time, and none that is too large: who reads slowly is cut off.
- There is none of a model whose weights are hidden.

Example:
    >>> traces = Traces(prepared, store, key.public, config)
    >>> Committed.parse(traces.committed("chatcmpl-5f…").encode()).root.hex() == receipt.assurance(CommitAndAudit).trace
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import anyio
import anyio.to_thread
import msgspec
import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mitai.errors import ParseError, ProofError
from mitai.identity import PublicKey
from mitai.ledger.receipt import Receipt
from mitai.proof.audit.files import Challenge, Committed
from mitai.proof.audit.trace import respond
from mitai.proof.prepared import Prepared
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.receipts import traced
from mitai.proof.service.store import Store
from mitai.serve.schema import RequestError

log = structlog.get_logger(__name__)
ALL = b"all"  # in place of a challenge
MAX_CHALLENGE_BYTES = 64 << 10


class Traces:
    """What a service shows to auditors.

    Args:
        prepared: The model.
        store: Has the answers.
        key: Signs receipts.
        config: How many traces, how large, how long.
    """

    def __init__(self, prepared: Prepared, store: Store, key: PublicKey, config: ServiceConfig) -> None:
        self._prepared, self._store, self._key, self._config = prepared, store, key, config
        self._free = config.traces

    def committed(self, answer_id: str) -> Committed:
        """Return an answer and its trace's root.

        Raises:
            RequestError: `proof.answer-unknown`, `proof.not-committed`.
        """
        said, envelope, sampling = self._store.whole(answer_id)
        card = self._prepared.card
        try:
            found = traced(Receipt.open(envelope, self._key), card.identity)
        except ProofError:  # of the model that was served before
            found = None
        if found is None or card.uses:
            raise RequestError("proof.not-committed", "this answer's receipt has no root of a trace", status=404)
        return Committed(
            card=card.encode(),
            prompt=tuple(said.prompt),
            answer=tuple(said.answer),
            salt=said.salt,
            root=bytes.fromhex(found.trace),
            sampling=sampling or msgspec.UNSET,
        )

    async def show(self, answer_id: str, challenge: bytes) -> Response:
        """Answer a challenge.

        Raises:
            RequestError: There is no such answer, or no such challenge; or too many auditors (`proof.traces-busy`).
        """
        committed = await anyio.to_thread.run_sync(self.committed, answer_id)  # strangers take nobody's place
        if not self._free:
            raise RequestError("proof.traces-busy", "other traces are being shown", status=429, hint="ask again later")
        self._free -= 1
        try:
            parts = await anyio.to_thread.run_sync(self._parts, committed, challenge)
        except BaseException:
            self._release()
            raise
        return Shown(parts, within_s=self._config.trace_s, ended=self._release)

    def _parts(self, committed: Committed, challenge: bytes) -> Iterator[bytes]:
        try:
            asked = None if challenge == ALL else Challenge.parse(challenge)
            return respond(self._prepared, committed, asked, self._config.trace_mib << 20)
        except (ParseError, ProofError) as error:
            hint = "ask for fewer steps" if error.code == "proof.trace-too-large" else error.hint
            raise RequestError(error.code, error.message, hint=hint) from None

    def _release(self) -> None:
        self._free += 1


class Shown(StreamingResponse):
    """A file on its way: ended when it takes too long, broken off when it fails."""

    def __init__(
        self,
        parts: Iterator[bytes],
        *,
        size: int | None = None,
        within_s: float = math.inf,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        headers = {} if size is None else {"content-length": str(size)}
        super().__init__(parts, headers=headers, media_type="application/octet-stream")
        self._within_s, self._ended = within_s, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            with anyio.move_on_after(self._within_s):
                await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - a traceback could hold a prompt
            log.error("not shown to its end", kind=type(error).__name__)
        finally:
            self._ended()
