"""What every measured process has: evidence in the clear, everything else behind the sealed channel.

- `GET /.well-known/mitai/evidence?nonce=HEX` answers with an evidence bundle over that nonce (32 bytes, chosen by the
  verifier) and the claims of this moment: the channel's current key is always among them.
- The claims in evidence that is shown to anybody say so (`SHOWN`): a broker releases no keys on it, or else whoever can
  ask here could use up owners' budgets in this workload's name.
- A sealed request reaches the inner app; nothing reaches it in the clear.
- Evidence is costly on real hardware, so few are made at a time; more callers are told to come back.

Example:
    >>> app = Workload(attester, keyring, claims).app(inner)
"""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from mitai.attest import Attester, Claims, Evidence
from mitai.channel import ChannelMiddleware, KeyRing
from mitai.problem import problem

EVIDENCE_PATH = "/.well-known/mitai/evidence"
EVIDENCE_TYPE = "application/vnd.mitai.evidence+json"
SHOWN = {"shown": "anybody"}  # in `extra`
_NONCE = re.compile(r"[0-9a-f]{64}")


class Workload:
    """An attester, a key ring and the claims that bind them.

    Args:
        attester: The hardware's interface (or the simulator's).
        keyring: The channel's keys; the current one goes into every claims object.
        claims: Returns the claims of this moment; its `key_config` is replaced by the key ring's current one.
        max_evidence: How many evidence bundles are made at once; as many again may wait.
    """

    def __init__(
        self, attester: Attester, keyring: KeyRing, claims: Callable[[], Claims], *, max_evidence: int = 4
    ) -> None:
        self.attester = attester
        self.keyring = keyring
        self._claims = claims
        self._making = anyio.Semaphore(max_evidence)
        self._waiting, self._max_waiting = 0, 16 * max_evidence

    def evidence(self, nonce: bytes) -> Evidence:
        """Return evidence over `nonce` (32 bytes) and the claims of this moment, for this process's own use."""
        return self._make(nonce, {})

    def shown(self, nonce: bytes) -> Evidence:
        """Return evidence for whoever asks."""
        return self._make(nonce, SHOWN)

    def _make(self, nonce: bytes, mark: dict[str, str]) -> Evidence:
        # The key first: a deployment that ends meanwhile drops it, and evidence never ties a new key to former claims.
        key_config = self.keyring.current_config()
        claims = self._claims()
        claims = msgspec.structs.replace(claims, key_config=key_config, extra=claims.extra | mark)
        return self.attester.evidence(claims.encode(), nonce)

    def app(self, inner: ASGIApp, public: list[Route | Mount] | None = None, **channel: object) -> ASGIApp:
        """Return the process's ASGI app: evidence, `public` routes in the clear, `inner` behind the channel."""
        outside = Starlette(routes=[Route(EVIDENCE_PATH, self._answer), *(public or [])])
        return ChannelMiddleware(inner, self.keyring, public=outside, **channel)  # type: ignore[arg-type]

    async def _answer(self, request: Request) -> Response:
        nonce = request.query_params.get("nonce", "")
        if not _NONCE.fullmatch(nonce):
            return problem(
                400, "workload.nonce", "the nonce is 64 lower-case hex digits, chosen afresh by the verifier"
            )
        if self._waiting >= self._max_waiting:
            return problem(503, "workload.busy", "too many callers ask for evidence at once: try again in a second")
        self._waiting += 1
        try:
            async with self._making:
                bundle = await anyio.to_thread.run_sync(self.shown, bytes.fromhex(nonce))
        finally:
            self._waiting -= 1
        return Response(bundle.encode(), media_type=EVIDENCE_TYPE, headers={"cache-control": "no-store"})
