"""Receipts of a replica: signed when an answer is complete, sent to the ledger in batches, handed out with proof.

Follows `docs/spec/receipt.md`. A receipt holds digests of ciphertext, counts and ids: nothing of what was asked or
answered.

Invariants:

- One receipt per exchange that ran the model to the end of its answer; what was refused or cut off has none.
- Memory is bounded: the oldest receipts go first. A receipt that the ledger has not taken is sent again until it is
  dropped.
- Who asks for a receipt must know its exchange id, 128 random bits that only the exchange's client was told, under
  the seal. Receipt and ledger hold a digest of the id (`Exchange.name`), which fetches nothing.

Example:
    >>> book = ReceiptBook(Identity.generate())
    >>> ChannelMiddleware(app, keyring, on_exchange=book.on_exchange)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio.to_thread
import msgspec
import structlog

from mitai.broker import protocol
from mitai.channel.exchange import Exchange
from mitai.errors import MitaiError, ServeError
from mitai.identity import Identity
from mitai.ledger.assurance import AnyAssurance
from mitai.ledger.receipt import (
    ASSURED_LABEL,
    RECEIPT_LABEL,
    CapsuleRef,
    Receipt,
    ReceiptBundle,
    Usage,
    receipt_sha256,
)

log = structlog.get_logger(__name__)
BATCH = 256
KEEP = 16384  # receipts in memory, some 2 KiB each
_LINGER_S = 0.02  # receipts of neighbours travel together
_RETRY_S = (0.2, 1.0, 5.0)
Send = Callable[[bytes], bytes]  # a ReceiptsRequest in, a ReceiptsAnswer out


@dataclass(frozen=True)
class Served:
    """What all receipts of one deployment say; `adapters` by the model's name in the API that uses each.

    Without hardware there is no evidence: `evidence_sha256` is `None`, and each exchange is noted with assurances.
    """

    capsules: tuple[CapsuleRef, ...]
    adapters: Mapping[str, CapsuleRef]
    policies: tuple[str, ...]
    evidence_sha256: str | None


@dataclass
class _Noted:
    """What the API told about an exchange in progress."""

    model: str
    started: str
    usage: Usage
    served: Served
    assurances: tuple[AnyAssurance, ...]


@dataclass
class _Entry:
    """A signed receipt on its way into the ledger."""

    exchange: str
    envelope: bytes
    bundle: bytes | None = None
    ledgered: asyncio.Event = field(default_factory=asyncio.Event)


class ReceiptBook:
    """The receipts of one replica.

    Args:
        key: The receipt key of the replica's claims.
        keep: How many receipts are held.
    """

    def __init__(self, key: Identity, *, keep: int = KEEP) -> None:
        self._key, self._keep = key, keep
        self._served: Served | None = None
        self._send: Send | None = None
        self._noted: OrderedDict[str, _Noted] = OrderedDict()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._outbox: list[_Entry] = []
        self._wake = asyncio.Event()

    def serve(self, served: Served | None, send: Send | None) -> None:
        """Say what is served from now on and where receipts go; `None` while nothing is served."""
        self._served, self._send = served, send
        self._wake.set()

    def note(
        self,
        exchange: str,
        model: str,
        started: datetime,
        prompt_tokens: int,
        completion_tokens: int,
        *,
        assurances: tuple[AnyAssurance, ...] = (),
    ) -> None:
        """Remember what an exchange used, and what is promised about it, before its answer's end is sent."""
        if self._served is None:
            return
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        self._noted[exchange] = _Noted(model, _rfc3339(started), usage, self._served, assurances)
        while len(self._noted) > self._keep:
            self._noted.popitem(last=False)

    async def on_exchange(self, exchange: Exchange) -> None:
        """Sign the receipt of a complete exchange (the channel's hook)."""
        noted = self._noted.pop(exchange.id, None)
        if noted is None or exchange.request_sha256 is None or exchange.response_sha256 is None:
            return
        served = noted.served
        receipt = Receipt(
            v=ASSURED_LABEL if noted.assurances else RECEIPT_LABEL,
            exchange=exchange.name,
            request_sha256=exchange.request_sha256,
            response_sha256=exchange.response_sha256,
            model=noted.model,
            capsules=served.capsules,
            adapters=(served.adapters[noted.model],) if noted.model in served.adapters else (),
            policies=served.policies,
            usage=noted.usage,
            evidence_sha256=served.evidence_sha256,
            started=noted.started,
            finished=max(noted.started, _rfc3339(datetime.now(UTC))),
            assurances=noted.assurances or msgspec.UNSET,
        )
        entry = _Entry(exchange.id, receipt.sign(self._key))
        self._entries[exchange.id] = entry
        self._outbox.append(entry)
        while len(self._entries) > self._keep:
            self._entries.popitem(last=False)
        if len(self._outbox) > self._keep:
            dropped, self._outbox = len(self._outbox) - self._keep, self._outbox[-self._keep :]
            log.error("receipts dropped: the ledger takes none", dropped=dropped)
        self._wake.set()

    async def bundle(self, exchange: str, wait_s: float = 10.0) -> bytes:
        """Return the receipt of an exchange with its proof; wait while the ledger has not taken it.

        Raises:
            ServeError: There is no such receipt (`serve.receipt-unknown`), or none yet (`serve.receipt-pending`).
        """
        entry = self._entries.get(exchange)
        if entry is None:
            raise ServeError("serve.receipt-unknown", "there is no receipt of that exchange here")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await entry.ledgered.wait()
        if entry.bundle is None:
            raise ServeError("serve.receipt-pending", "the ledger has not taken this receipt yet", hint="ask again")
        return entry.bundle

    async def run(self) -> None:
        """Send what is due, for ever."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(_LINGER_S)
            while self._outbox and self._send is not None:
                batch = self._outbox[:BATCH]
                try:
                    await self._submit(batch, self._send)
                except Exception as error:  # noqa: BLE001 - whatever it was, receipts are sent again
                    reason = error.code if isinstance(error, MitaiError) else type(error).__name__
                    log.warning("receipts not taken", reason=reason, waiting=len(self._outbox))
                    await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                    failures += 1
                    continue
                failures = 0
                sent = set(map(id, batch))
                self._outbox = [entry for entry in self._outbox if id(entry) not in sent]

    async def _submit(self, batch: list[_Entry], send: Send) -> None:
        """Send a batch and keep the proofs that come back."""
        request = protocol.ReceiptsRequest(
            receipt_key=self._key.public.raw, receipts=tuple(entry.envelope for entry in batch)
        )
        body = await anyio.to_thread.run_sync(send, protocol.encode(request))
        answer = protocol.decode(body, protocol.ReceiptsAnswer, protocol.MAX_RECEIPTS_BYTES)
        if len(answer.entries) != len(batch):
            raise ServeError("serve.receipts-mismatch", "the ledger answered for another number of receipts")
        for entry, logged in zip(batch, answer.entries, strict=True):
            if receipt_sha256(entry.envelope).encode() not in logged.entry:
                raise ServeError("serve.receipts-mismatch", "the ledger answered for other receipts")
            entry.bundle = ReceiptBundle(
                envelope=entry.envelope,
                entry=logged.entry,
                index=logged.index,
                proof=logged.proof,
                checkpoint=answer.checkpoint.decode(),
            ).encode()
            entry.ledgered.set()


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
