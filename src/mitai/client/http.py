"""HTTP clients that talk to one verified server, for the stock `openai` client or for use as they are.

Example:
    >>> import openai, mitai.client
    >>> http = mitai.client.http_client("http://127.0.0.1:8700", policy="policy.toml")
    >>> openai.OpenAI(base_url="http://127.0.0.1:8700/v1", api_key="unused", http_client=http)
"""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import httpx2

from mitai.attest import Policy
from mitai.client.session import Session
from mitai.client.transport import AsyncOhttpTransport, OhttpTransport
from mitai.errors import ClientError

_TIMEOUT = httpx2.Timeout(30.0, read=600.0)


def connect(
    base_url: str, policy: Policy | str | Path, *, workload: str = "serve", cache: Path | None = None
) -> Session:
    """Verify the server at `base_url` and return the session.

    Args:
        base_url: The gateway's address.
        policy: An appraisal policy, or the path of its TOML file.
        workload: Which workload must answer.
        cache: A folder that keeps verified sessions for a few minutes.

    Raises:
        AttestError: The evidence was refused; nothing else was sent.
        ClientError: The server or the policy can't be had.
    """
    return Session(base_url, _read(policy), workload=workload, cache=cache)


def http_client(base_url: str, policy: Policy | str | Path, *, cache: Path | None = None) -> httpx2.Client:
    """Verify the server, and return a client that seals every request to it; see `connect`."""
    return session_client(connect(base_url, policy, cache=cache))


def async_http_client(base_url: str, policy: Policy | str | Path, *, cache: Path | None = None) -> httpx2.AsyncClient:
    """Verify the server (this call blocks while it does), and return an asynchronous client that seals to it."""
    session = connect(base_url, policy, cache=cache)
    transport = _AsyncTransport(session)
    return httpx2.AsyncClient(transport=transport, base_url=session.base_url, timeout=_TIMEOUT)


def session_client(session: Session) -> httpx2.Client:
    """Return a client that seals every request to a session's server."""
    transport = OhttpTransport(httpx2.HTTPTransport(), session, session.base_url)
    return httpx2.Client(transport=transport, base_url=session.base_url, timeout=_TIMEOUT)


class _AsyncSession:
    """A session whose verification runs in a thread, so that the event loop never waits for it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def key_config(self) -> bytes:
        return self._session.appraisal.claims.key_config

    @property
    def replica(self) -> str | None:
        return self._session.replica

    async def renew(self) -> None:
        await anyio.to_thread.run_sync(self._session.renew)

    async def refresh(self) -> None:
        """Verify again when the session is too old."""
        if self._session.stale:
            await self.renew()


class _AsyncTransport(httpx2.AsyncBaseTransport):
    """Looks at the session's age before every request."""

    def __init__(self, session: Session) -> None:
        self._session = _AsyncSession(session)
        self._sealed = AsyncOhttpTransport(httpx2.AsyncHTTPTransport(), self._session, session.base_url)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await self._session.refresh()
        return await self._sealed.handle_async_request(request)

    async def aclose(self) -> None:
        await self._sealed.aclose()


def _read(policy: Policy | str | Path) -> Policy:
    if isinstance(policy, Policy):
        return policy
    path = Path(policy).expanduser()
    try:
        return Policy.from_toml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(
            "client.no-policy",
            f"the appraisal policy {path} can't be read ({type(error).__name__}), so no machine can be trusted",
            hint="get one from whoever publishes the release, or start a simulated platform: mitai up",
        ) from error
