"""One small request to a service beside the guest: JSON there, JSON back.

Invariants:

- No redirects, no proxies, no more than 1 MiB, no longer than the time limit: the other end is not trusted.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mitai.attest.collect.guest import TIMEOUT_S, Address, Guest, malformed, oversized, refusals
from mitai.errors import AttestError

MAX_ANSWER_BYTES = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service listens, and what it is asked by HTTP."""

    family: int
    address: Address
    host: str
    path: str


def post(guest: Guest, service: Service, body: dict[str, str], kind: type[T]) -> T:
    """Return what a service answers to a request: a `kind`.

    Raises:
        AttestError: `attest.collect-…`.
    """
    what = f"the service at {service.host}{service.path}"
    connection = http.client.HTTPConnection(service.host)
    try:
        with refusals(what):
            connection.sock = guest.connect(service.family, service.address)
            connection.request("POST", service.path, msgspec.json.encode(body), {"Content-Type": "application/json"})
            with connection.getresponse() as answer:
                content = _read(answer, what)
        if answer.status != 200:
            raise AttestError("attest.collect-failed", f"{what} answered with status {answer.status}")
        return msgspec.json.decode(content, type=kind)
    except http.client.HTTPException as error:
        raise malformed(what, f"this is not HTTP ({type(error).__name__})") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise malformed(what, "it is not the JSON that was expected") from error
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse, what: str) -> bytes:
    content, deadline = b"", time.monotonic() + TIMEOUT_S
    while chunk := answer.read1(1 << 16):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise oversized(what)
        if time.monotonic() > deadline:
            raise TimeoutError
    return content
