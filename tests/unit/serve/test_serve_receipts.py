"""Receipts: made once, sent until taken, bounded, and useless without the exchange's id."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from mitai.broker import protocol
from mitai.channel.exchange import Exchange
from mitai.errors import ServeError
from mitai.identity import Identity
from mitai.ledger import Log, MemoryStore, ReceiptBundle, verify_receipt
from mitai.ledger.entry import ReceiptEntry, utc
from mitai.ledger.receipt import CapsuleRef, Receipt, receipt_sha256
from mitai.serve import receipts
from mitai.serve.receipts import ReceiptBook, Served

SERVED = Served((CapsuleRef(id="c1", manifest_sha256="a" * 64),), {}, ("b" * 64,), "c" * 64)


class Broker:
    """A ledger that takes receipts, and can fail or lie first."""

    def __init__(self):
        self.log = Log(MemoryStore(), Identity.generate(), "test/ledger")
        self.calls = []
        self.trouble = []

    def __call__(self, body):
        request = protocol.decode(body, protocol.ReceiptsRequest, protocol.MAX_RECEIPTS_BYTES)
        self.calls.append(len(request.receipts))
        if self.trouble:
            raise self.trouble.pop(0)
        entries = [
            ReceiptEntry(
                time=utc(datetime.now(UTC)),
                exchange=Receipt.open(receipt, self.key).exchange,
                receipt_sha256=receipt_sha256(receipt),
            ).encode()
            for receipt in request.receipts
        ]
        indices = self.log.append(entries)
        size = indices[-1] + 1
        logged = tuple(
            protocol.LoggedEntry(index=at, entry=entry, proof=tuple(self.log.inclusion_proof(at, size)))
            for at, entry in zip(indices, entries, strict=True)
        )
        return protocol.encode(protocol.ReceiptsAnswer(entries=logged, checkpoint=self.log.checkpoint()))


@asynccontextmanager
async def book(broker, **options):
    key = Identity.generate()
    broker.key = key.public
    made = ReceiptBook(key, **options)
    made.serve(SERVED, broker)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def exchange(made, name):
    finished = Exchange("ohttp-chunked", id=name, request_sha256="1" * 64, response_sha256="2" * 64)
    made.note(name, "tiny", datetime.now(UTC), 5, 7)
    await made.on_exchange(finished)


async def test_receipts_are_batched_and_proven():
    broker = Broker()
    async with book(broker) as made:
        await asyncio.gather(*(exchange(made, f"e{at}") for at in range(20)))
        bundles = [ReceiptBundle.decode(await made.bundle(f"e{at}")) for at in range(20)]
    for at, bundle in enumerate(bundles):
        receipt = verify_receipt(
            bundle,
            receipt_key=broker.key,
            ledger_vkey=broker.log.vkey,
            request_sha256="1" * 64,
            response_sha256="2" * 64,
        )
        assert receipt.exchange == Exchange("ohttp", id=f"e{at}").name != f"e{at}"  # the id itself stays secret
        assert (receipt.model, receipt.usage.completion_tokens) == ("tiny", 7)
        assert receipt.capsules == SERVED.capsules
    assert sum(broker.calls) == 20
    assert len(broker.calls) < 5


async def test_a_ledger_in_trouble_is_asked_again(monkeypatch):
    monkeypatch.setattr(receipts, "_RETRY_S", (0.01,))
    broker = Broker()
    broker.trouble = [ServeError("serve.broker-unreachable", "gone"), RuntimeError("closed")]
    async with book(broker) as made:
        await exchange(made, "e")
        with pytest.raises(ServeError) as pending:
            await made.bundle("e", wait_s=0)
        assert pending.value.code == "serve.receipt-pending"
        assert await made.bundle("e")
    assert broker.calls == [1, 1, 1]


async def test_a_ledger_that_answers_for_other_receipts_is_not_believed(monkeypatch):
    monkeypatch.setattr(receipts, "_RETRY_S", (0.01,))
    broker = Broker()
    first = []

    def liar(body):
        answer = protocol.decode(broker(body), protocol.ReceiptsAnswer, 1 << 20)
        if not first:
            first.append(answer)
            return protocol.encode(answer)
        entries = first[0].entries if len(first) == 1 else ()
        first.append(answer)
        return protocol.encode(answer if len(first) > 3 else protocol.ReceiptsAnswer(entries=entries, checkpoint=b"x"))

    async with book(broker) as made:
        made.serve(SERVED, liar)
        await exchange(made, "one")
        await made.bundle("one")
        await exchange(made, "two")
        bundle = ReceiptBundle.decode(await made.bundle("two"))
    receipt = verify_receipt(bundle, receipt_key=broker.key, ledger_vkey=broker.log.vkey)
    assert receipt.exchange == Exchange("ohttp", id="two").name
    assert len(first) == 4


async def test_what_ran_no_model_has_no_receipt():
    broker = Broker()
    async with book(broker) as made:
        await made.on_exchange(Exchange("ohttp", id="models", request_sha256="1" * 64, response_sha256="2" * 64))
        made.note("cut", "tiny", datetime.now(UTC), 1, 1)
        await made.on_exchange(Exchange("ohttp", id="cut", request_sha256="1" * 64))
        for name in ("models", "cut", "never"):
            with pytest.raises(ServeError) as unknown:
                await made.bundle(name, wait_s=0)
            assert unknown.value.code == "serve.receipt-unknown"
        made.serve(None, None)
        made.note("idle", "tiny", datetime.now(UTC), 1, 1)
        assert not made._noted


async def test_memory_is_bounded():
    async with book(Broker(), keep=4) as made:
        made.serve(SERVED, None)  # the ledger is away
        for at in range(10):
            await exchange(made, f"e{at}")
            made.note(f"never ends {at}", "tiny", datetime.now(UTC), 1, 1)
        assert len(made._entries) == len(made._outbox) == len(made._noted) == 4
        assert list(made._entries) == ["e6", "e7", "e8", "e9"]
