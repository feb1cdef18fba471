"""A workload's lease on what it was given: renewed at the broker, and over when it can't be.

Follows `docs/spec/broker.md`, "Leases". Serving and training hold one for as long as they use released keys.

Invariants:

- It ends at once when the broker refuses, and at the latest `lease_s` after the last request that was granted was
  *sent*: an answer that was held back prolongs nothing.
- An answer counts only for the statement whose fresh nonce it repeats, and comes sealed for that very request.
- It ends once, for good, with one reason. `check` looks at the clock itself: a process that was stopped and woken up
  uses nothing more, even before the lease's own threads have run.
- Two clocks count: the machine's (which runs on while it sleeps), and the pauses between failed attempts.

Example:
    >>> lease = Lease(identity, audience, ("capsule-1",), link.post, on_end=stop_serving)
    >>> lease.check()  # before every request, every step
    >>> lease.close()
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

import structlog

from mitai.broker import protocol
from mitai.broker.protocol import LEASE_S, LeaseAnswer, LeaseRequest, LeaseStatement
from mitai.errors import BrokerError, DeniedError, MitaiError
from mitai.identity import Identity

RENEW_S = 10.0
RETRY_S = 1.0
_WATCH_S = 0.5
_REFUSALS = frozenset(("broker.revoked", "broker.policy-expired", "broker.capsule-unknown", "broker.replica-unknown"))
Post = Callable[[str, bytes], bytes]  # path and body of a sealed request in, the answer's body out
log = structlog.get_logger(__name__)


def boot_clock() -> float:
    """Return seconds that run on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The right to go on with released capsules; it begins with the release and is renewed from its own threads.

    Args:
        identity: The workload's receipt key, as in the claims that were given the keys.
        audience: The broker that released them.
        capsules: What the workload holds keys or plaintext of.
        post: Sends a sealed request to that broker; raises the error that the broker answers.
        on_end: Called once with the reason, from a thread of the lease; not after `close`.
        renew_s: How often it is renewed.
        lease_s: How long it holds without; never more than `LEASE_S`.
        asked: When the release was asked for, by `clock`: an answer that was held back gives no longer lease.
        clock: Seconds that run on while the machine sleeps.
    """

    def __init__(
        self,
        identity: Identity,
        audience: str,
        capsules: tuple[str, ...],
        post: Post,
        *,
        on_end: Callable[[MitaiError], None] | None = None,
        renew_s: float = RENEW_S,
        lease_s: float = LEASE_S,
        asked: float | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._identity, self._audience, self._capsules, self._post = identity, audience, capsules, post
        self._on_end, self._renew_s, self._lease_s, self._clock = on_end, renew_s, min(lease_s, LEASE_S), clock
        self._until = (clock() if asked is None else asked) + self._lease_s
        self._last = False  # an owner's time ends with the lease that was granted last
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._reason: MitaiError | None = None
        for work in (self._renew_until_refused, self._watch):
            threading.Thread(target=work, name="lease", daemon=True).start()

    @property
    def ended(self) -> MitaiError | None:
        """Why it is over; None while it holds."""
        if self._reason is None and self._clock() >= self._until:
            self._end(_expired() if self._last else _lapsed())
        return self._reason

    def check(self) -> None:
        """Raise the reason when it is over."""
        reason = self.ended
        if reason is not None:
            raise reason

    def close(self) -> None:
        """Give it back: nothing is renewed or told any more, and `check` refuses."""
        self._on_end = None
        self._end(BrokerError("broker.lease-closed", "what was released is not used any more"))

    def _end(self, reason: MitaiError) -> None:
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        self._stop.set()
        on_end = self._on_end
        if on_end is not None:
            on_end(reason)

    def _watch(self) -> None:
        """End it in time, whatever the thread that renews it waits for."""
        while self.ended is None:
            self._stop.wait(_WATCH_S)

    def _renew_until_refused(self) -> None:
        paused = 0.0  # since the last renewal: a clock that stands still does not keep a lease alive
        while self.ended is None:
            began = self._clock()
            try:
                granted = self._ask()
            except MitaiError as error:
                if error.code in _REFUSALS:
                    self._end(error)
                    return
                log.warning("lease not renewed", code=error.code)
                pause = min(RETRY_S, self._renew_s)
            except Exception as error:  # noqa: BLE001 - whatever it was, the lease was not renewed
                log.warning("lease not renewed", kind=type(error).__name__)
                pause = min(RETRY_S, self._renew_s)
            else:
                self._last = granted < self._lease_s
                self._until, paused = began + min(granted, self._lease_s), 0.0
                pause = min(self._renew_s, granted / 2)
            self._stop.wait(pause)
            paused += pause
            if paused >= self._lease_s:
                self._until = self._clock()

    def _ask(self) -> float:
        """Return for how long the broker lets the workload go on, from before it was asked."""
        statement = LeaseStatement(
            broker=self._audience,
            party=self._identity.key_id,
            capsules=self._capsules,
            time_s=int(time.time()),
            nonce=secrets.token_hex(32),
        )
        signed = self._identity.sign(protocol.encode(statement), protocol.LEASE_TYPE)
        body = protocol.encode(LeaseRequest(receipt_key=self._identity.public.raw, lease=signed))
        answer = protocol.decode(self._post("/v1/lease", body), LeaseAnswer, protocol.MAX_LEASE_BYTES)
        if answer.nonce != statement.nonce:
            raise BrokerError("broker.answer-mismatch", "the broker answered another lease statement")
        return answer.lease_s


def _lapsed() -> BrokerError:
    return BrokerError(
        "broker.lease-lapsed",
        "the key broker could not be asked for so long that the right to go on has lapsed",
        hint="is the broker up? then begin anew",
    )


def _expired() -> DeniedError:
    return DeniedError("broker.policy-expired", "the time that an owner allowed is over")
