"""Receipts: a replica that was given keys has its signed receipts logged.

Invariants:

- Only receipts of a receipt key that stood in the attested claims of a release are taken.
- A receipt sent again (its answer was lost) gives the entry that it has, while it is remembered; it never gets lost.

Example:
    >>> writer.submit(prepare(body, now, Known())).result()
    (('9f…', 41), ('03…', 42))
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from mitai.broker import protocol
from mitai.broker.commands import public_key
from mitai.broker.protocol import ReceiptsRequest
from mitai.broker.records import Replica
from mitai.broker.store import Draft
from mitai.broker.writer import Job
from mitai.errors import DeniedError
from mitai.ledger.entry import ReceiptEntry, utc
from mitai.ledger.receipt import Receipt, receipt_sha256


class Known:
    """The newest receipts' ledger indices by digest; added after their commit."""

    def __init__(self, size: int = 65_536) -> None:
        self._size = size
        self._indices: OrderedDict[str, int] = OrderedDict()

    def get(self, digest: str) -> int | None:
        """Return the index of a receipt that is remembered."""
        return self._indices.get(digest)

    def add(self, digest: str, index: int) -> None:
        """Remember a receipt, and forget the oldest above the limit."""
        self._indices[digest] = index
        if len(self._indices) > self._size:
            self._indices.popitem(last=False)


def prepare(body: bytes, now: datetime, known: Known) -> Job[tuple[tuple[str, int], ...]]:
    """Check receipts on their own and return the job that logs them; its result is each one's digest and index.

    Raises:
        ParseError: The request or a receipt is malformed.
        MitaiError: A receipt is not signed by the receipt key.
    """
    request = protocol.decode(body, ReceiptsRequest, protocol.MAX_RECEIPTS_BYTES)
    key = public_key(request.receipt_key)
    entries = []
    for envelope in request.receipts:
        receipt = Receipt.open(envelope, key)
        digest = receipt_sha256(envelope)
        entry = ReceiptEntry(time=utc(now), exchange=receipt.exchange, receipt_sha256=digest)
        entries.append((digest, entry.encode()))

    def log(draft: Draft) -> tuple[tuple[str, int], ...]:
        if draft.get(Replica, request.receipt_key.hex()) is None:
            raise DeniedError("broker.replica-unknown", "no keys were released to a replica with this receipt key")
        return tuple((digest, _logged(draft, known.get(digest), entry)) for digest, entry in entries)

    return Job(log, ((Replica, request.receipt_key.hex()),))


def _logged(draft: Draft, known: int | None, entry: bytes) -> int:
    return draft.append(entry) if known is None else known
