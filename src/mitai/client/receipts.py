"""A user's proof of an answer: the receipt, its place in the ledger, and the evidence of the machine that signed it.

A kept file holds all three, so that anyone can check it later, offline, with that file and an appraisal policy.

Invariants:

- The receipt's key and the ledger's key come from the evidence, which is verified first; never from the receipt.
- The digests of request and answer are those that this device computed from the bytes it sent and received.
- A proof can't be dated back: the receipt was logged within a day of the time for which the evidence is verified.
- A ledger that shows an older or another history than this user has seen before is refused.

Example:
    >>> proof = fetch(http, session, answer.exchange_id, request_sha256, response_sha256)
    >>> check(proof, policy).usage.completion_tokens
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import httpx2
import msgspec

from mitai.attest import Appraisal, Evidence, Policy, verify
from mitai.bodies import PLAIN, bounded
from mitai.channel.exchange import Exchange
from mitai.client.session import Session
from mitai.errors import ClientError, LedgerError, ParseError
from mitai.identity import PublicKey
from mitai.ledger import (
    Checkpoint,
    Receipt,
    ReceiptBundle,
    TileReader,
    verify_checkpoint,
    verify_receipt,
)
from mitai.ledger.entry import decode as decode_entry
from mitai.problem import error_from

MAX_PROOF_BYTES = 12 << 20
MAX_GAP = timedelta(days=1)  # a session, a long answer, a ledger that was away for a while, clocks that differ
_MAX_TILE_BYTES = 32 << 20  # an entry bundle of 256 entries of at most 64 KiB, and some


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user keeps of one exchange."""

    v: Literal["mitai proof v1"] = "mitai proof v1"
    bundle: ReceiptBundle
    evidence: Evidence
    nonce: bytes
    verified_at: Annotated[datetime, msgspec.Meta(tz=True)]
    request_sha256: str
    response_sha256: str

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.format(msgspec.json.encode(self))

    @staticmethod
    def decode(data: bytes) -> Proof:
        """Parse a kept proof; raise `ParseError` on anything else or above 12 MiB."""
        if len(data) > MAX_PROOF_BYTES:
            raise ParseError("client.proof-too-large", f"a proof of {len(data)} bytes is above the limit")
        try:
            return msgspec.json.decode(data, type=Proof)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError("client.proof-malformed", "this file is not a proof that mitai has kept") from error


def fetch(
    http: httpx2.Client,
    session: Session,
    exchange: Exchange | None,
    wait_s: float = 10.0,
) -> Proof:
    """Fetch the receipt of an exchange, through the sealed channel, and put it together with the evidence.

    Raises:
        ClientError: The replica has no such receipt, or none yet after `wait_s`.
    """
    if exchange is None or exchange.request_sha256 is None or exchange.response_sha256 is None:
        raise ClientError("client.answer-unfinished", "an answer that did not end has no receipt")
    deadline = time.monotonic() + wait_s
    while True:
        answer = http.get(f"{session.base_url}/v1/receipts/{exchange.id}")
        if answer.status_code == 200:
            break
        if answer.status_code not in {202, 404, 503} or time.monotonic() > deadline:
            raise error_from(
                ClientError, answer.status_code, answer.content, code="client.no-receipt", who="the replica"
            )
        time.sleep(0.1)
    return Proof(
        bundle=ReceiptBundle.decode(answer.content),
        evidence=session.evidence,
        nonce=session.evidence.nonce,
        verified_at=session.verified_at,
        request_sha256=exchange.request_sha256,
        response_sha256=exchange.response_sha256,
    )


def check(proof: Proof, policy: Policy) -> tuple[Receipt, Appraisal]:
    """Check a kept proof, offline.

    1. The evidence held under `policy` when the exchange took place.
    2. The receipt is signed by the key in that evidence and is about these bytes.
    3. The ledger that the evidence names holds it, at the index that the receipt's bundle says.
    4. It is about capsules (the model, and the adapter where one was used) that the evidence lists as open.
    5. It was logged around the time for which the evidence was verified: old collateral serves no new answers.

    Raises:
        AttestError, LedgerError, MitaiError: The first thing that does not hold.
    """
    # 1. the machine
    appraisal = verify(proof.evidence, policy, nonce=proof.nonce, now=proof.verified_at)
    claims = appraisal.claims
    if claims.ledger is None or not claims.receipt_key:
        raise LedgerError(
            "client.no-receipt-key", "the machine's claims name no receipt key or no ledger", step="machine"
        )
    # 2, 3. the receipt and its place in the ledger
    receipt = verify_receipt(
        proof.bundle,
        receipt_key=PublicKey(claims.receipt_key),
        ledger_vkey=claims.ledger.vkey,
        request_sha256=proof.request_sha256,
        response_sha256=proof.response_sha256,
    )
    # 4. the model
    opened = {(capsule.id, capsule.manifest_sha256) for capsule in claims.capsules}
    if any((each.id, each.manifest_sha256) not in opened for each in (*receipt.capsules, *receipt.adapters)):
        raise LedgerError(
            "client.receipt-capsule", "the receipt names a model or adapter that was not open there", step="model"
        )
    # 5. the time
    logged = datetime.fromisoformat(decode_entry(proof.bundle.entry).time)
    if abs(logged - proof.verified_at) > MAX_GAP:
        raise LedgerError(
            "client.receipt-time",
            f"the receipt was logged at {logged:%F %T} UTC, the machine verified at {proof.verified_at:%F %T} UTC",
            step="time",
        )
    return receipt, appraisal


class LedgerMemory:
    """The newest checkpoint that this user has seen of each ledger: a second one must extend it.

    Args:
        folder: Where they are kept, one file a ledger.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, vkey: str) -> Checkpoint | None:
        """Return the remembered checkpoint of the ledger with this key."""
        path = self._path(vkey)
        return verify_checkpoint(path.read_bytes(), vkey) if path.exists() else None

    def observe(
        self, note: bytes, vkey: str, fetch_resource: Callable[[str], bytes | None], wait_s: float = 10.0
    ) -> Checkpoint:
        """Check that `note` and what is remembered are prefixes of the published log, and remember its head.

        Args:
            note: A checkpoint that somebody showed, such as a receipt's.
            vkey: The ledger's verifier key.
            fetch_resource: Reads the published log, which follows the ledger after a moment.
            wait_s: How long to wait for that moment.

        Raises:
            LedgerError: The ledger was rolled back or forked since, or is not published.
        """
        seen, known = verify_checkpoint(note, vkey), self.recall(vkey)
        earlier = [checkpoint for checkpoint in (seen, known) if checkpoint is not None]
        needed, deadline = max(checkpoint.size for checkpoint in earlier), time.monotonic() + wait_s
        while (published := fetch_resource("checkpoint")) is None or verify_checkpoint(published, vkey).size < needed:
            if time.monotonic() > deadline:
                raise LedgerError(
                    "ledger.rolled-back",
                    f"a ledger of {needed} entries was seen, but what is published stays behind that",
                    step="memory",
                )
            time.sleep(0.05)
        reader = TileReader(fetch_resource, verify_checkpoint(published, vkey))
        for checkpoint in earlier:
            if reader.root(checkpoint.size) != checkpoint.root:
                raise LedgerError(
                    "ledger.forked",
                    f"the ledger's first {checkpoint.size} entries are not what they were",
                    step="memory",
                )
        self._remember(published, vkey)
        return seen

    def _remember(self, published: bytes, vkey: str) -> None:
        """Keep a checkpoint, unless another process has kept a newer one meanwhile."""
        known = self.recall(vkey)
        if known is not None and known.size > verify_checkpoint(published, vkey).size:
            return
        path = self._path(vkey)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{secrets.token_hex(4)}")
        temporary.write_bytes(published)
        temporary.replace(path)

    def _path(self, vkey: str) -> Path:
        return self._folder / hashlib.sha256(vkey.encode()).hexdigest()[:32]


def ledger_fetcher(base_url: str, http: httpx2.Client) -> Callable[[str], bytes | None]:
    """Return a function from a tlog-tiles path to its bytes, over HTTP; what it returns is checked by its callers."""

    def fetch_resource(path: str) -> bytes | None:
        url = f"{base_url.rstrip('/')}/broker/ledger/{path}"
        try:
            with http.stream("GET", url, headers=PLAIN) as answer:
                if answer.status_code == 404:
                    return None
                body = bounded(answer, _MAX_TILE_BYTES)
            if body is None:
                raise ClientError("client.ledger-too-large", f"{url} is larger than any ledger resource")
        except httpx2.HTTPError as error:
            raise ClientError("client.unreachable", f"{url} can't be reached ({type(error).__name__})") from error
        if answer.status_code != 200:
            raise error_from(ClientError, answer.status_code, body, code="client.ledger-refused", who=url)
        return body

    return fetch_resource
