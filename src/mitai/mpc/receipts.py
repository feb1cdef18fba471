"""Receipts of parties: each signs what it computed for a client, who checks that all of them say the same.

Follows `docs/spec/receipt.md`, "Parties". A receipt is a `mitai.ledger.receipt.PartyReceipt`, signed by the key that
the party has on its links.

Invariants:

- Digests are of shares after random bytes that no other party knows: a receipt reveals nothing of question or answer,
  not even to a party who has the other shares and guesses.
- Whoever logs receipts is never waited for.

Example:
    >>> fields = about(offer, question, session)
    >>> found = check(envelopes, keys, fields, digests)
    >>> found["p0"].task
    'generate 64 16 greedy'
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from mitai import __version__
from mitai.errors import MitaiError, MpcError
from mitai.identity import PublicKey
from mitai.ledger.entry import utc
from mitai.ledger.receipt import PartyReceipt, check_bytes
from mitai.mpc.attested import Credentials
from mitai.mpc.tasks import Offer, Question

WAITING = 1024  # receipts that wait to be logged
_OWN = ("role", "parties", "evidence_sha256", "request_sha256", "response_sha256", "started", "finished")
Hook = Callable[[str, bytes], object]


class Transcript:
    """SHA-256 over the bytes between a client and a party: those that the client gave, and these and the party's."""

    def __init__(self) -> None:
        self._asked, self._all = sha256(), sha256()

    def asked(self, shares: bytes | memoryview) -> None:
        """Take what the client gave."""
        self._asked.update(shares)
        self._all.update(shares)

    def told(self, shares: bytes | memoryview) -> None:
        """Take what the party gave."""
        self._all.update(shares)

    @property
    def digests(self) -> tuple[str, str]:
        """Request and response, as a receipt names them."""
        return self._asked.hexdigest(), self._all.hexdigest()


def about(offer: Offer[Any], question: Question[Any], session: bytes) -> dict[str, Any]:
    """Return the fields of a receipt that client and parties know alike."""
    return {
        "exchange": session.hex(),
        "protocol": offer.setting.name,
        "version": __version__,
        "shares": offer.shares_id.hex(),
        "config_sha256": offer.config_sha256,
        "approximation": offer.approximation,
        "task": question.task.name,
        "temperature": question.sampling.temperature,
        "top_p": question.sampling.top_p,
    }


class Signer:
    """Signs receipts for a party.

    Args:
        role: Its own.
        credentials: Its key, and what others have proven to it.
        others: The other sides' key ids by role.
    """

    def __init__(self, role: str, credentials: Credentials, others: Mapping[str, str]) -> None:
        self._role, self._identity = role, credentials.identity
        self._parties = {**others, role: credentials.identity.key_id}
        proven = credentials.appraisals
        self._evidence = {role: proven[key].evidence_sha256 for role, key in others.items() if key in proven}

    def sign(self, fields: Mapping[str, Any], transcript: Transcript, started: datetime) -> bytes:
        """Return the signed receipt of an answer that is finished now."""
        asked, told = transcript.digests
        receipt = PartyReceipt(
            **fields,
            role=self._role,
            parties=self._parties,
            evidence_sha256=self._evidence,
            request_sha256=asked,
            response_sha256=told,
            started=utc(started),
            finished=utc(datetime.now(UTC)),
        )
        return receipt.sign(self._identity)


def check(
    envelopes: Mapping[str, bytes],
    keys: Mapping[str, PublicKey],
    fields: Mapping[str, Any],
    digests: Mapping[str, tuple[str, str]],
    known: Mapping[str, str],
) -> dict[str, PartyReceipt]:
    """Return the receipts of an answer's parties when all of these hold.

    1. Each is signed by its party's key, and is a receipt.
    2. It is about what this client asked, and the shares that it sent and got.
    3. All agree, and name no others as parties than those whom the client knows.

    Args:
        envelopes: As they came, by role.
        keys: The parties' keys, by role: pinned, and proven on the links.
        fields: What the client knows of its question, as `about` gives it.
        digests: SHA-256 of the shares that it sent to a party, and of these and those that it got, by role.
        known: Key ids of sides that the client knows, by role.

    Raises:
        MpcError: `mpc.receipt-wrong`.
    """
    found = {role: opened(role, envelope, keys[role]) for role, envelope in envelopes.items()}  # 1.
    for role, receipt in found.items():  # 2.
        if any(getattr(receipt, name) != value for name, value in fields.items()):
            raise _wrong(role, "it is about another question, or another model")
        try:
            check_bytes(receipt, *digests[role])
        except MitaiError as error:
            raise _wrong(role, f"{error.message} ({error.code})") from None
        if any(known.get(name, key_id) != key_id for name, key_id in receipt.parties.items()):  # 3.
            raise _wrong(role, "it names other parties than this client's configuration")
    agree(found)
    return found


def opened(role: str, envelope: bytes, key: PublicKey) -> PartyReceipt:
    """Return a party's receipt; raise `MpcError` unless it has signed it, in this role."""
    try:
        receipt = PartyReceipt.open(envelope, key)
    except MitaiError as error:
        raise _wrong(role, f"{error.message} ({error.code})") from None
    if receipt.role != role or receipt.parties.get(role) != key.key_id:
        raise _wrong(role, "it is another party's")
    return receipt


def agree(receipts: Mapping[str, PartyReceipt]) -> None:
    """Check that the receipts of all parties are about one answer, and that none names another key for a role.

    Raises:
        MpcError: `mpc.receipt-wrong`.
    """
    first, parties = None, dict[str, str]()
    for role, receipt in receipts.items():
        fields = {name: value for name, value in msgspec.structs.asdict(receipt).items() if name not in _OWN}
        first = fields if first is None else first
        named = parties | receipt.parties
        if fields != first or named != receipt.parties | parties:
            raise _wrong(role, "it does not say what the others' say")
        parties = named


class Log:
    """Hands receipts to whoever logs them, in a thread of its own.

    Args:
        hook: Is given the exchange's name and the envelope; may take its time, and may fail.
        note: Told of a receipt that was not logged.
    """

    def __init__(self, hook: Hook, note: Callable[[str], None]) -> None:
        self._hook, self._note = hook, note
        self._waiting: queue.Queue[tuple[str, bytes]] = queue.Queue(WAITING)
        threading.Thread(target=self._work, name="mitai-mpc-receipts", daemon=True).start()

    def put(self, exchange: str, envelope: bytes) -> None:
        """Let a receipt be logged; never waits."""
        try:
            self._waiting.put_nowait((exchange, envelope))
        except queue.Full:
            self._note(f"the receipt of {exchange} is not logged: too many wait")

    def _work(self) -> None:
        while True:
            exchange, envelope = self._waiting.get()
            try:
                self._hook(exchange, envelope)
            except Exception as error:  # noqa: BLE001 - whatever it is, answers go on
                self._note(f"the receipt of {exchange} is not logged: {type(error).__name__}")


def missing(role: str) -> MpcError:
    """Return the error for a party that gave its share of an answer, and no receipt."""
    return MpcError(
        "mpc.receipt-missing",
        f"{role} gave its shares of the whole answer, and no receipt for it",
        hint="the answer is as good as the parties; ask their operators why it stopped there",
    )


def _wrong(role: str, why: str) -> MpcError:
    return MpcError(
        "mpc.receipt-wrong",
        f"the receipt of {role} does not hold: {why}",
        hint="don't rely on the answer, and show the receipts to the parties' operators",
    )
