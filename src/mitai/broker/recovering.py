"""A broker that waits for its owners: it proves itself, takes their shares, and puts the root key together.

Follows `docs/spec/broker-keys.md`, "From the owners".

Invariants:

- Each share is checked by the digest in the document before it counts: a false one is refused and spoils nothing.
- The key is kept only if it opens the newest state of the database; shares live in memory alone, and end with it.
- As the host could have made shares, document and state itself, what comes of it is told as inherited, for ever.
- Nothing else is served: no state is open, and no key is there that could be released.

Example:
    >>> recovering = Recovering(database, database.document(SHARES))
    >>> (await recovering.take(body)).have
    1
"""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread
import structlog

from mitai.attest import Claims
from mitai.broker import protocol
from mitai.broker.peers import WORKLOAD
from mitai.broker.protocol import sha256_hex
from mitai.broker.records import Root
from mitai.broker.recovery import RecoveryProgress, RecoveryShare, check_share, combine, read_shares
from mitai.broker.store import Database
from mitai.errors import BrokerError, MitaiError

MAX_SHARE_BYTES = 8 << 10
log = structlog.get_logger("mitai.broker")


class Recovering:
    """Collects shares until there are enough.

    Args:
        database: With a state that this machine can't open.
        document: The signed document of shares beside it.
        finished: Called once the root key is kept.

    Raises:
        MitaiError: The document is none, or was changed.
    """

    def __init__(self, database: Database, document: bytes, finished: Callable[[], None] = lambda: None) -> None:
        if not document:
            raise BrokerError(
                "broker.recovery-impossible",
                "there are no shares beside this state: no recovery plan with members was ever in force",
            )
        self.shares = read_shares(document)
        self.document, self._database, self._finished = document, database, finished
        self._sha256, self._words, self._need = (
            sha256_hex(document),
            dict[int, str](),
            self.shares.read_plan().threshold,
        )
        self.done = False

    def claims(self, key_config: bytes, policy_sha256: str) -> Claims:
        """Return what the evidence says: a broker that waits for the shares of exactly this document."""
        extra = {"recovering": self._sha256, "audience": self.shares.audience}
        policies = (policy_sha256, sha256_hex(self.shares.plan))
        return Claims(workload=WORKLOAD, key_config=key_config, policies=policies, extra=extra)

    async def take(self, body: bytes) -> RecoveryProgress:
        """Take a member's share; with the last one, put the root key together and keep it.

        1. The request parses, and its share is of this very document.
        2. It is the one that the document names at its place.
        3. Once there are enough: the key that they give opens the newest state.

        Raises:
            BrokerError: A check failed; what was collected before still counts, unless the state does not open.
        """
        # 1. which document
        share = protocol.decode(body, RecoveryShare, MAX_SHARE_BYTES)
        if share.document != self._sha256:
            raise BrokerError(
                "broker.recovery-other-shares",
                f"this share is of another epoch or plan: this broker waits for those of epoch {self.shares.epoch}",
                hint="take the document that it shows: mitai recovery show",
            )
        # 2. which share
        check_share(self.shares, share.index, share.words)
        self._words[share.index] = share.words
        log.info("share of the root key", have=len(self._words), need=self._need)
        # 3. enough
        have = len(self._words)
        if have >= self._need and not self.done:
            root = Root(self.shares.epoch, combine(self.shares, self._words.items()), recovered=True, inherited=True)
            try:
                await anyio.to_thread.run_sync(self._database.adopt, root)
            except MitaiError:
                self._words.clear()
                raise
            self._words.clear()
            self.done = True
            self._finished()
        return RecoveryProgress(have=have, need=self._need)
