"""The key ring: one current key, and old ones for as long as requests may still be on their way to them.

Invariants:

- Keys live in memory only: a restart makes fresh ones, and old requests die with the old keys.
- After its grace period a key is dropped before anything else happens; what was sealed to it can't be opened again.
- Key ids start at random and go up, so that a request for a key of an earlier process is recognised as such.

Example:
    >>> ring = KeyRing.generate(grace_s=600)
    >>> KeyConfig.decode(ring.current_config()).kem
    <Kem.X25519: 32>
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final, Literal

from mitai.channel.hpke import Aead, Kem, PrivateKey
from mitai.channel.ohttp import KeyConfig

KEMS: Final = {"x25519": Kem.X25519, "x-wing": Kem.X_WING}
_KEY_IDS = 256


class RingKey:
    """A private key and the configuration under which it is published."""

    def __init__(self, key_id: int, kem: Kem, aeads: tuple[Aead, ...]) -> None:
        self.private = PrivateKey.generate(kem)
        self.config = KeyConfig(key_id, kem, self.private.public, aeads)
        self.encoded = self.config.encode()

    def __repr__(self) -> str:
        return f"RingKey({self.config.key_id}, {self.config.kem.name})"


class KeyRing:
    """The keys that a server holds; make one with `KeyRing.generate`.

    Args:
        kem: The KEM of all its keys.
        grace_s: How long an old key is still honoured after `rotate`.
        aeads: What is accepted; exactly one for EHBP's clients.
        clock: Monotonic seconds.
    """

    def __init__(self, kem: Kem, *, grace_s: float, aeads: tuple[Aead, ...], clock: Callable[[], float]) -> None:
        self.kem = kem
        self._aeads = aeads
        self._grace_s = grace_s
        self._clock = clock
        self._current = RingKey(secrets.randbelow(_KEY_IDS), kem, aeads)
        self._old: list[tuple[float, RingKey]] = []  # until when, oldest first

    @staticmethod
    def generate(
        kem: Literal["x25519", "x-wing"] = "x25519",
        *,
        grace_s: float = 600.0,
        aeads: tuple[Aead, ...] = (Aead.AES_256_GCM,),
        clock: Callable[[], float] = time.monotonic,
    ) -> KeyRing:
        """Make a ring with one fresh key."""
        return KeyRing(KEMS[kem], grace_s=grace_s, aeads=aeads, clock=clock)

    def current_config(self) -> bytes:
        """Return the RFC 9458 key configuration of the current key: what goes into attested claims."""
        return self._current.encoded

    def rotate(self, *, grace_s: float | None = None) -> None:
        """Make a fresh key current; honour the former for `grace_s` more seconds (default: the ring's own).

        With 0 no former key is honoured any more: every client has to verify the server again.
        """
        grace_s = self._grace_s if grace_s is None else grace_s
        key_id = (self._current.config.key_id + 1) % _KEY_IDS
        self._old = [(until, key) for until, key in self._live_old() if key.config.key_id != key_id] if grace_s else []
        self._old.append((self._clock() + grace_s, self._current))
        self._current = RingKey(key_id, self.kem, self._aeads)

    def live(self) -> list[RingKey]:
        """Return the keys that are honoured now, the current one first."""
        self._old = self._live_old()
        return [self._current, *(key for _, key in reversed(self._old))]

    def find(self, key_id: int) -> RingKey | None:
        """Return the key with this id if it is honoured now."""
        for key in self.live():
            if key.config.key_id == key_id:
                return key
        return None

    def _live_old(self) -> list[tuple[float, RingKey]]:
        now = self._clock()
        return [(until, key) for until, key in self._old if now < until]

    def __repr__(self) -> str:
        return f"KeyRing({self._current!r}, {len(self._old)} old)"
