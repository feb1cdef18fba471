"""Asks the vendors' services: bounded in size and time, following no redirect, patient with a busy one."""

from __future__ import annotations

import time
from urllib.parse import unquote

import httpx2

from mitai.attest.collateral.resource import MAX_BODY_BYTES, MAX_CHAIN_BYTES, Resource
from mitai.bodies import PLAIN, bounded
from mitai.errors import AttestError

_BUSY = frozenset({429, 500, 502, 503, 504})
_MAX_PAUSE_S = 5.0


class HttpTransport:
    """Asks over HTTP.

    Args:
        client: For tests, proxies and private authorities; one of our own when not given.
        attempts: How often a busy service is asked.
        within_s: How long one answer may take.
    """

    def __init__(self, client: httpx2.Client | None = None, attempts: int = 3, within_s: float = 20.0) -> None:
        self._client = client or httpx2.Client(timeout=10.0)
        self._attempts, self._within_s = attempts, within_s

    def ask(self, resource: Resource) -> tuple[bytes, str]:
        """Return body and issuer chain (PEM)."""
        for attempt in range(self._attempts):
            answer, body = self._once(resource)
            if answer.status_code not in _BUSY or attempt == self._attempts - 1:
                break
            time.sleep(_pause(answer, attempt))
        if answer.status_code != 200:
            missing = answer.status_code == 404
            raise AttestError(
                "attest.collateral-unknown" if missing else "attest.collateral-unavailable",
                f"{resource.url} answers with status {answer.status_code}",
                hint="the vendor does not know this machine" if missing else "try again later",
            )
        if body is None:
            raise AttestError("attest.collateral-too-large", f"{resource.url} answers with more than 4 MiB")
        chain = answer.headers.get(resource.chain_header, "") if resource.chain_header else ""
        if resource.chain_header and not 0 < len(chain) <= MAX_CHAIN_BYTES:
            raise AttestError("attest.collateral-answer-malformed", f"{resource.url} answers without an issuer's chain")
        return body, unquote(chain)

    def _once(self, resource: Resource) -> tuple[httpx2.Response, bytes | None]:
        headers = dict(PLAIN)
        if resource.request:
            headers["content-type"] = resource.media_type
        method = "POST" if resource.request else "GET"
        try:
            with self._client.stream(
                method, resource.url, content=resource.request or None, headers=headers, follow_redirects=False
            ) as answer:
                return answer, bounded(answer, MAX_BODY_BYTES, self._within_s)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise AttestError(
                "attest.collateral-unavailable",
                f"{resource.url} can't be asked ({type(error).__name__})",
                hint="check the network, or use a bundle: mitai collateral pack",
            ) from error


def _pause(answer: httpx2.Response, attempt: int) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told) if told.isdecimal() and len(told) < 6 else 0.2 * 2**attempt, _MAX_PAUSE_S)
