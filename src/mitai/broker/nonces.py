"""Single-use nonces of 32 bytes: 4 of end time, 12 random, 16 of a MAC under a key of this process.

Nothing is kept while a nonce is out, so asking for many costs nobody anything. Used ones are remembered until they end.

Invariants:

- A nonce decides one request: the same bytes again get the same answer, other bytes are refused.
- A request whose evidence proves nothing leaves its nonce unused; it was given nothing.
- A nonce ends with the process that made it: after a restart, an old request is refused, never decided twice.

Example:
    >>> nonces = Nonces(time.monotonic)
    >>> answer, mine = nonces.claim(nonces.issue(), "digest of the request")
    >>> mine
    True
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future

from mitai.errors import BrokerError

NONCE_LIFE_S = 60
_NONCE_LABEL = b"mitai release nonce v1\x00"
_AGAIN = "ask for a new challenge and make new evidence"


class Nonces:
    """Issues nonces and remembers the used ones; for one thread.

    Args:
        clock: Monotonic seconds; a nonce does not outlive the process.
        max_used: How many used nonces are remembered; above, releases wait (`broker.busy`).
        max_kept_bytes: How many bytes of answers are kept for repeated requests.
    """

    def __init__(self, clock: Callable[[], float], *, max_used: int = 65_536, max_kept_bytes: int = 64 << 20) -> None:
        self._clock, self._max_used, self._max_kept = clock, max_used, max_kept_bytes
        self._key = secrets.token_bytes(32)
        self._used: OrderedDict[bytes, tuple[float, str, Future[bytes]]] = OrderedDict()  # oldest first
        self._kept: deque[tuple[bytes, Future[bytes]]] = deque()  # answers, oldest first
        self._kept_bytes = 0

    def issue(self) -> bytes:
        """Return a fresh nonce."""
        body = (int(self._clock()) + NONCE_LIFE_S).to_bytes(4) + secrets.token_bytes(12)
        return body + self._mac(body)

    def claim(self, nonce: bytes, request_sha256: str) -> tuple[Future[bytes], bool]:
        """Use a nonce for a request: return where its answer will be, and whether this caller must make it.

        Raises:
            BrokerError: The nonce is not ours, has ended, or decided another request.
        """
        now = self._clock()
        self._forget(now)
        known = self._used.get(nonce)
        if known is not None:
            if known[1] != request_sha256:
                raise BrokerError("broker.nonce-used", "this nonce has decided another request", hint=_AGAIN)
            return known[2], False
        ends = int.from_bytes(nonce[:4])
        if not hmac.compare_digest(self._mac(nonce[:16]), nonce[16:]) or ends <= now:
            raise BrokerError("broker.nonce-unknown", "this nonce is not ours, or has ended", hint=_AGAIN)
        if len(self._used) >= self._max_used:
            raise BrokerError("broker.busy", "too many releases are remembered", hint="try again in a minute")
        answer: Future[bytes] = Future()
        self._used[nonce] = (ends, request_sha256, answer)
        return answer, True

    def give_back(self, nonce: bytes) -> None:
        """Forget a claim that proved nothing: strangers can't fill the memory of used nonces."""
        self._used.pop(nonce, None)

    def keep(self, nonce: bytes, answer: Future[bytes], data: bytes) -> None:
        """Settle a claimed nonce with its answer; the oldest answers are let go when they take too much room."""
        answer.set_result(data)
        self._kept_bytes += len(data)
        self._kept.append((nonce, answer))
        while self._kept_bytes > self._max_kept and len(self._kept) > 1:
            oldest, let_go = self._kept.popleft()
            self._kept_bytes -= len(let_go.result())
            if oldest in self._used:  # stays used, fits no request any more
                self._used[oldest] = (self._used[oldest][0], "", Future())

    def _forget(self, now: float) -> None:
        while self._used and next(iter(self._used.values()))[0] <= now:
            self._used.popitem(last=False)
        while self._kept and self._kept[0][0] not in self._used:
            self._kept_bytes -= len(self._kept.popleft()[1].result())

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, _NONCE_LABEL + body, "sha256")[:16]
