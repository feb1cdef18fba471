"""An attestation service: challenge and response over HTTP, an attestation result (EAR) out.

For relying parties that don't run Python. Evidence is appraised under one policy; what is refused gets a result too,
contraindicated and with its reason. `docs/spec/attestation-service.md` has the protocol, `/openapi.json` the schema.

- `POST /v1/challenge`: 32 bytes that fresh evidence must cover.
- `POST /v1/appraise[?nonce=…]`: evidence in, a signed result out that echoes the relying party's nonce.
- `GET /v1/keys` (JWKS), `/v1/policy`, `/openapi.json`, `/healthz`.

Invariants:

- A challenge is authenticated by a MAC and ends after a minute; nothing is kept while it is out. Within that minute the
  same evidence gets the same verdict again, and never more than that.
- Work is bounded: bodies by size, appraisals by number; who comes on top is told to come back.
- Nothing of the evidence is logged.

Example:
    >>> app = create_app(Service(policy, signing_key))
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import structlog
from anyio import CapacityLimiter, WouldBlock, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mitai.attest.cache import VerifiedCache
from mitai.attest.evidence import NONCE_BYTES, Evidence
from mitai.attest.machine import Hardware
from mitai.attest.openapi import DOCUMENT
from mitai.attest.policy import Policy
from mitai.attest.results import cmw, ear, tokens
from mitai.attest.results.ear import AttestationResult, Submodule
from mitai.attest.verify import verify, verify_hardware
from mitai.errors import AttestError, MitaiError, ParseError
from mitai.problem import problem, problem_of

CHALLENGE_LIFE_S: Final = 60
MAX_BODY_BYTES: Final = 8 << 20
MAX_WAITING: Final = 64
READ_WITHIN_S: Final = 30.0
EVIDENCE_TYPE: Final = "application/vnd.mitai.evidence+json"
HARDWARE_TYPE: Final = "application/vnd.mitai.hardware+json"
CMW_TYPES: Final = ("application/cmw+json", "application/cmw+cbor")
RESULT_TYPE: Final = "application/eat+jwt"
_LABEL: Final = b"mitai attestation challenge v1\0"
log = structlog.get_logger("mitai.attest")


class Service:
    """Appraises evidence under one policy and signs what it finds.

    Args:
        policy: What is accepted.
        signing_key: A private JWK (ES256, ES384 or Ed25519).
        profile: How results are written.
        lifetime: How long a result may be used.
        clock: The time, for tests.
    """

    def __init__(
        self,
        policy: Policy,
        signing_key: dict[str, str],
        *,
        profile: ear.Profile = ear.IETF,
        lifetime: timedelta = timedelta(minutes=5),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.policy_toml = policy.to_toml()
        self.policy_id = f"sha256:{policy.sha256}"
        self.public_key = tokens.public_key(signing_key)
        self._policy, self._key, self._profile, self._lifetime, self._clock = (
            policy,
            signing_key,
            profile,
            lifetime,
            clock,
        )
        self._mac_key = secrets.token_bytes(32)
        self._cache = VerifiedCache()

    def challenge(self) -> bytes:
        """Return 32 bytes: 4 of end time, 12 random, 16 of a MAC."""
        body = (int(time.monotonic()) + CHALLENGE_LIFE_S).to_bytes(4) + secrets.token_bytes(12)
        return body + self._mac(body)

    def appraise(self, message: Evidence | Hardware, nonce: bytes = b"") -> str:
        """Return a signed result for evidence over one of our challenges, whatever the verdict."""
        now = self._clock()
        name = "".join(character for character in message.tee if character.isalnum() or character == "-")[:32]
        try:
            submod = self._accepted(message, now)
        except MitaiError as error:
            submod = Submodule.refused(error, policy_id=self.policy_id)
        submods = {name or "tee": submod}
        result = AttestationResult.of(submods, now=now, lifetime=self._lifetime, nonce=nonce, profile=self._profile)
        return tokens.sign(result, self._key)

    def _accepted(self, message: Evidence | Hardware, now: datetime) -> Submodule:
        if isinstance(message, Evidence):
            self._check_challenge(message.nonce)
            appraisal = verify(message, self._policy, nonce=message.nonce, now=now, cache=self._cache)
            return Submodule.accepted(
                appraisal.machine, policy_id=self.policy_id, nonce=message.nonce, workload=appraisal.workload
            )
        machine = verify_hardware(message, self._policy, now=now, cache=self._cache)
        challenge = machine.report_data[:NONCE_BYTES]
        self._check_challenge(challenge)
        known = "by reference values" if self._policy.workloads else None
        return Submodule.accepted(machine, policy_id=self.policy_id, nonce=challenge, workload=known)

    def _check_challenge(self, challenge: bytes) -> None:
        ours = len(challenge) == NONCE_BYTES and hmac.compare_digest(self._mac(challenge[:16]), challenge[16:])
        if not ours or int.from_bytes(challenge[:4]) <= time.monotonic():
            raise AttestError(
                "attest.challenge-unknown",
                "the evidence covers no challenge of this service, or one that has ended",
                step="0 challenge",
                hint="ask for a challenge, and make evidence over it within a minute",
            )

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._mac_key, _LABEL + body, "sha256")[:16]


def parse_message(content_type: str, body: bytes) -> Evidence | Hardware:
    """Parse evidence of one of our media types, bare or in a conceptual message wrapper."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in CMW_TYPES:
        wrapped = cmw.decode(body)
        if not isinstance(wrapped, cmw.Record) or not isinstance(wrapped.type, str):
            raise ParseError("attest.media-type-unsupported", "the wrapper is not one record with a media type")
        kind, body = wrapped.type.partition(";")[0].strip().lower(), wrapped.value
    if kind == EVIDENCE_TYPE:
        return Evidence.decode(body)
    if kind == HARDWARE_TYPE:
        return Hardware.decode(body)
    raise ParseError(
        "attest.media-type-unsupported",
        f"content of type {kind[:80]!r}",
        hint=f"send {EVIDENCE_TYPE}, {HARDWARE_TYPE}, or one of them in {' or '.join(CMW_TYPES)}",
    )


def create_app(service: Service, *, workers: int = 4) -> Starlette:
    """Return the HTTP app; `workers` appraisals run at once."""
    running, waiting = CapacityLimiter(workers), CapacityLimiter(MAX_WAITING)

    async def challenge(_request: Request) -> Response:
        made = base64.urlsafe_b64encode(service.challenge()).decode()
        return _json({"challenge": made, "expires_in": CHALLENGE_LIFE_S})

    async def appraise(request: Request) -> Response:
        nonce = _nonce(request.query_params.get("nonce"))
        try:
            waiting.acquire_on_behalf_of_nowait(request)
        except WouldBlock:
            return problem(503, "attest.busy", "too many appraisals at once", "try again in a moment")
        try:
            body = await _body(request)
            kind = request.headers.get("content-type", "")
            message = await to_thread.run_sync(parse_message, kind, body, limiter=running)
            token = await to_thread.run_sync(service.appraise, message, nonce, limiter=running)
        finally:
            waiting.release_on_behalf_of(request)
        return Response(token, media_type=RESULT_TYPE, headers={"cache-control": "no-store"})

    async def keys(_request: Request) -> Response:
        return _json({"keys": [service.public_key]})

    async def policy(_request: Request) -> Response:
        return _json({"id": service.policy_id, "toml": service.policy_toml})

    async def openapi(_request: Request) -> Response:
        return _json(DOCUMENT)

    async def healthz(_request: Request) -> Response:
        return _json({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/challenge", challenge, methods=["POST"]),
            Route("/v1/appraise", appraise, methods=["POST"]),
            Route("/v1/keys", keys),
            Route("/v1/policy", policy),
            Route("/openapi.json", openapi),
            Route("/healthz", healthz),
        ],
        exception_handlers=_HANDLERS,
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        with anyio.fail_after(READ_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise ParseError("attest.body-too-large", f"evidence has at most {MAX_BODY_BYTES} bytes")
    except (TimeoutError, ClientDisconnect):
        raise ParseError("attest.body-too-slow", "the evidence did not arrive in time") from None
    return bytes(body)


def _nonce(text: str | None) -> bytes:
    if text is None:
        return b""
    try:
        nonce = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError:
        nonce = b""
    if not 8 <= len(nonce) <= 64:
        raise ParseError("attest.nonce-malformed", "`nonce` is 8 to 64 bytes in base64url")
    return nonce


def _json(content: object) -> Response:
    return JSONResponse(content, headers={"cache-control": "no-store"})


_STATUS = {"attest.media-type-unsupported": 415, "attest.body-too-large": 413, "attest.body-too-slow": 408}


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MitaiError)  # noqa: S101 - registered for it
    return problem_of(_STATUS.get(error.code, 400), error)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    answer = problem(error.status_code, "attest.not-found", "this service has no such method and path")
    answer.headers.update(error.headers or {})
    return answer


async def _failed(_request: Request, error: Exception) -> Response:
    log.error("request failed", kind=type(error).__name__)
    return problem(500, "attest.internal", "the service failed on this request")


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    MitaiError: _refused,
    HTTPException: _http_error,
    Exception: _failed,
}
