"""A verified server: its evidence was checked against the user's policy, and its key comes from the checked bytes.

Invariants:

- Nothing is sealed to a key before `attest.verify` accepted the evidence that holds it; there is no way around it.
- The nonce is fresh for every verification, so evidence can't be replayed.
- A session ages: after `max_age_s`, or when the server's keys have changed, it verifies again before the next request.

Example:
    >>> session = Session("http://127.0.0.1:8700", Policy.from_toml(text))
    >>> session.appraisal.workload
    'serve'
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx2
import msgspec

from mitai.attest import Appraisal, Evidence, Policy, verify
from mitai.bodies import PLAIN, bounded, tls
from mitai.errors import ClientError, MitaiError
from mitai.problem import error_from

EVIDENCE_PATH = "/.well-known/mitai/evidence"
MAX_EVIDENCE_BYTES = 4 << 20


class _Saved(msgspec.Struct, frozen=True):
    """A session on disk: public bytes that are verified again when they are read."""

    base_url: str
    policy_sha256: str
    replica: str | None
    nonce: bytes
    verified_at: Annotated[datetime, msgspec.Meta(tz=True)]
    evidence: bytes


class Session:
    """A server that was verified, and the key to seal to.

    Args:
        base_url: Where the server answers; any host may stand in between.
        policy: What the server's evidence must show.
        workload: The workload that must answer; another one, however genuine, is refused.
        cache: A folder to keep the verified evidence in, for other processes of this user.
        max_age_s: How long one verification is relied upon.
        http: The HTTP client to fetch evidence with; a fresh connection each time when not given.

    Raises:
        AttestError: The evidence was refused; nothing was sent.
        ClientError: The server can't be reached or answers nonsense.
    """

    def __init__(
        self,
        base_url: str,
        policy: Policy,
        *,
        workload: str = "serve",
        cache: Path | None = None,
        max_age_s: float = 600.0,
        http: httpx2.Client | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.policy = policy
        self.workload = workload
        self._http = http
        self.also: Callable[[Appraisal], None] = lambda _: None  # raises for what is not to be sealed to, policy or not
        self._max_age = timedelta(seconds=max_age_s)
        self._lock = threading.Lock()
        self._policy_sha256 = policy.sha256
        name = hashlib.sha256(f"{self.base_url}\0{workload}\0{self._policy_sha256}".encode()).hexdigest()[:32]
        self._path = cache / f"{name}.json" if cache else None
        self.appraisal: Appraisal
        self.evidence: Evidence
        self.replica: str | None
        self.verified_at: datetime
        if not self._load():
            self.renew()

    @property
    def key_config(self) -> bytes:
        """The key configuration (RFC 9458) from the verified claims; verifies again when the session is too old."""
        if self.stale:
            self.renew()
        return self.appraisal.claims.key_config

    @property
    def stale(self) -> bool:
        """Whether the verification is too old to be relied upon."""
        return datetime.now(UTC) >= self._stale_at

    def renew(self) -> None:
        """Verify the server afresh; raise and keep no key when it does not hold."""
        with self._lock:
            self._stale_at = datetime.min.replace(tzinfo=UTC)
            nonce = secrets.token_bytes(32)
            body, replica = self._fetch(nonce)
            self._accept(body, nonce, replica, datetime.now(UTC))
            self._save(body, nonce)

    def _fetch(self, nonce: bytes) -> tuple[bytes, str | None]:
        url = f"{self.base_url}{EVIDENCE_PATH}"
        try:
            stream = self._http.stream if self._http else partial(httpx2.stream, timeout=30.0, verify=tls())
            with stream("GET", url, params={"nonce": nonce.hex()}, headers=PLAIN) as answer:
                body = bounded(answer, MAX_EVIDENCE_BYTES)
            if body is None:
                raise ClientError("client.evidence-too-large", f"{self.base_url} sent more than 4 MiB as evidence")
        except httpx2.TimeoutException as error:
            raise ClientError(
                "client.timeout", f"{self.base_url} did not answer in time", hint="try again, or ask the operator"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ClientError(
                "client.unreachable",
                f"{self.base_url} can't be reached ({type(error).__name__})",
                hint="is the platform up? start one here with: mitai up",
            ) from error
        if answer.status_code != 200:
            raise error_from(ClientError, answer.status_code, body, code="client.no-evidence", who=self.base_url)
        return body, answer.headers.get("mitai-replica")

    def _accept(self, body: bytes, nonce: bytes, replica: str | None, verified_at: datetime) -> None:
        evidence = Evidence.decode(body)
        appraisal = verify(evidence, self.policy, nonce=nonce, now=datetime.now(UTC))
        if appraisal.workload != self.workload:
            raise ClientError(
                "client.other-workload",
                f"{self.base_url} is a genuine {appraisal.workload!r}, but {self.workload!r} is expected here",
            )
        self.also(appraisal)
        self.appraisal, self.evidence, self.replica, self.verified_at = appraisal, evidence, replica, verified_at
        self._stale_at = min(verified_at + self._max_age, self.appraisal.not_after)

    # -- the cache: evidence, not verdicts ------------------------------------------------------------------

    def _load(self) -> bool:
        """Take up a session that another process of this user verified; its evidence is verified again."""
        if self._path is None or not self._path.exists():
            return False
        try:
            saved = msgspec.json.decode(self._path.read_bytes(), type=_Saved)
            fresh = datetime.now(UTC) - self._max_age <= saved.verified_at <= datetime.now(UTC)
            if not fresh or (saved.base_url, saved.policy_sha256) != (self.base_url, self._policy_sha256):
                return False
            self._accept(saved.evidence, saved.nonce, saved.replica, saved.verified_at)
        except (MitaiError, msgspec.MsgspecError, OSError):
            return False  # a damaged or outdated file costs one verification, nothing else
        return True

    def _save(self, body: bytes, nonce: bytes) -> None:
        if self._path is None:
            return
        saved = _Saved(self.base_url, self._policy_sha256, self.replica, nonce, self.verified_at, body)
        temporary = self._path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(msgspec.json.encode(saved))
            temporary.replace(self._path)
        except OSError:  # on a full disk the next process verifies for itself
            with contextlib.suppress(OSError):
                temporary.unlink()
