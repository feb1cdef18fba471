"""Collateral for guests that send a bare quote or report: asked from the vendors, on behalf of strangers.

Guests of Confidential Containers send no collateral; the broker asks for it, as Trustee does.

Invariants:

- What strangers write decides what is asked, so asking is rationed; what is known already costs nothing.
- As little is remembered: after so many questions the memory begins anew.
- Nothing is believed of an answer: the verifier checks its signatures, like those that come with evidence.

Example:
    >>> hardware = Endorser(Services.behind_pccs("https://pccs.example:8081"))(hardware)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mitai.attest.collateral import Cache, HttpTransport, Resource, Services, Transport, complete
from mitai.attest.machine import Hardware
from mitai.broker.service import Meter
from mitai.errors import AttestError

ASKED_PER_S = 1.0
ASKED_AT_ONCE = 60
ASKED_BEFORE_RENEWAL = 4096


class Endorser:
    """Puts collateral beside evidence; safe to use from several threads."""

    def __init__(
        self,
        services: Services,
        transport: Transport | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        asked_before_renewal: int = ASKED_BEFORE_RENEWAL,
    ) -> None:
        self._services, self._transport = services, transport or HttpTransport()
        self._meter, self._lock = Meter(ASKED_PER_S, ASKED_AT_ONCE, clock), threading.Lock()
        self._asked, self._before_renewal = 0, asked_before_renewal
        self._cache = Cache(self)

    def __call__(self, hardware: Hardware) -> Hardware:
        """Return the evidence with what it lacks; raise `AttestError` where that can't be had."""
        return complete(hardware, self._cache, self._services)

    def ask(self, resource: Resource) -> tuple[bytes, str]:
        """Ask a service, as `Transport` does, unless too much was asked."""
        with self._lock:
            if not self._meter.take():
                raise AttestError(
                    "attest.collateral-rationed",
                    "too much collateral was asked for",
                    hint="try again in a minute, or send endorsements with the evidence",
                )
            self._asked += 1
            if self._asked % self._before_renewal == 0:
                self._cache = Cache(self)
        return self._transport.ask(resource)
