"""An auditor's client of a service: asks for the trace of an answer whose receipt is kept, and checks it.

Follows `docs/spec/proof-service.md`, "Traces". The auditor has the client's folder, the receipt as the client kept it,
and a key of the model that the service has never seen.

Invariants:

- The root is the receipt's, which was signed before the service could know of any audit; the challenge is drawn now.
- The trace is read to its end whatever it says: the service sees the same of an audit that fails.
- It is read as it comes, within a time; how much of it follows from the challenge.

Example:
    >>> audit_answer(Service(Path("service")), Kept.parse(content), key, steps=20).report.checked
    20
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import httpx2
from typing_extensions import Buffer

from mitai.bodies import bounded
from mitai.client.chat import refusal
from mitai.errors import ProofError
from mitai.identity import PublicKey
from mitai.ledger.assurance import CommitAndAudit
from mitai.ledger.receipt import Receipt, verify_assured
from mitai.proof.audit.check import Auditor, Report, draw
from mitai.proof.audit.files import MAX_COMMITTED_BYTES, Challenge, Committed
from mitai.proof.audit.key import AuditKey
from mitai.proof.service.client import Service
from mitai.proof.service.receipts import Kept, agreed_for, exchange_of, traced
from mitai.proof.verify.soundness import LEAST_BITS

_MAX_ERROR_BYTES = 1 << 20
_TRACE_S = 3600.0


@dataclass(frozen=True)
class AuditedAnswer:
    """An answer in whose trace nothing false was found.

    Attributes:
        receipt: What the service signed.
        committed: The answer, and its trace's root.
        report: What was checked.
    """

    receipt: Receipt
    committed: Committed
    report: Report


def audit_answer(
    service: Service, kept: Kept, key: AuditKey, steps: int | None = None, least_bits: int = LEAST_BITS
) -> AuditedAnswer:
    """Audit an answer.

    1. The receipt is signed by the service's key, and has a root, for the model that is known; the key is for it too.
    2. What the service shows as the answer is the receipt's, with its root.
    3. A challenge is drawn, and the trace that follows holds.

    Args:
        service: Where the answer is from.
        kept: The answer's receipt.
        key: Of the auditor.
        steps: How many are drawn; None for all.
        least_bits: Of security, which the audit has to have.

    Raises:
        MitaiError: One of these does not hold, or the service does not show the trace.
    """
    # 1. the receipt
    public = PublicKey(kept.key)
    if public.key_id != service.offer.key:
        raise ProofError("proof.service-differs", "the receipt is of another service than the one that is known")
    receipt, assurance = verify_assured(kept.envelope, CommitAndAudit, receipt_key=public)
    if exchange_of(kept.id) != receipt.exchange:
        raise ProofError("proof.receipt-differs", "the receipt is about another answer than the one of this id")
    traced(receipt, service.offer.identity)
    if key.model != service.offer.identity:
        raise ProofError("proof.model-differs", "the auditor's key is for another model", step="model")
    # 2. the answer
    committed = Committed.parse(service.reply("GET", f"/v1/traces/{kept.id}", limit=MAX_COMMITTED_BYTES))
    if committed.root.hex() != assurance.trace:
        raise ProofError("proof.trace-refuted", "the service shows another root than it signed", step="root")
    auditor = Auditor(committed, key, agreed_for(kept.id, receipt, committed.unproven))
    # 3. the trace
    challenge = draw(auditor.plan, steps) if steps else None
    with _asked(service, kept.id, challenge) as stream:
        return AuditedAnswer(receipt, committed, auditor.check(challenge, stream, least_bits))


@contextmanager
def _asked(service: Service, answer_id: str, challenge: Challenge | None) -> Iterator[BinaryIO]:
    """Ask for a trace, to be read while this lasts."""
    body = challenge.encode() if challenge else b"all"
    try:
        with service.http.stream("POST", f"/v1/traces/{answer_id}", content=body) as answer:
            if answer.status_code != 200:
                raise refusal(answer.status_code, bounded(answer, _MAX_ERROR_BYTES) or b"")
            yield io.BufferedReader(_Body(answer))
    except httpx2.HTTPError as error:
        raise service.unreachable(error) from error


class _Body(io.RawIOBase):
    """An answer's body as a file."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._parts = iter(cast("httpx2.SyncByteStream", answer.stream))
        self._request, self._until, self._rest = answer.request, time.monotonic() + _TRACE_S, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._rest:
            if time.monotonic() > self._until:
                raise httpx2.ReadTimeout(f"the trace takes longer than {_TRACE_S:g} s", request=self._request)
            if (part := next(self._parts, None)) is None:
                return 0
            self._rest = part
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
