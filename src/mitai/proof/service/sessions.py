"""A client's sample of a service's answers: which are proven is drawn by a seed that the service can't know before.

Follows `docs/spec/proof-service.md`, "A sample by commit and reveal".

Invariants:

- The seed is shown once, and used once; receipts are fetched and checked before.
- The draws are the client's own; what the service says of them is compared.
- Who audits a session's file brings model identity and key id, and takes nothing from the file on trust.

Example:
    >>> sampled = Sampled.begin(service, one_in=8, answers=100, folder=Path("kept"))
    >>> sampled.add(service.receipt(answer_id, sampled.wanted, prompt=tokens, text=text))
    >>> sampled.reveal()
    >>> audit(SessionFile.parse(sampled.path.read_bytes()), identity, key_id, read)
    Audited(answers=100, drawn=11, missing={})
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from mitai.errors import MitaiError, ParseError, ProofError
from mitai.identity import PublicKey
from mitai.ledger.assurance import OneIn, Sample
from mitai.ledger.entry import Digest, Name
from mitai.ledger.lots import SEED_BYTES, Lots
from mitai.ledger.receipt import MAX_RECEIPT_BYTES, Receipt, receipt_sha256
from mitai.proof.service.client import Given, Service, Wanted
from mitai.proof.service.receipts import AnswerId, Terms, exchange_of, opened, proven
from mitai.wire import parse_json

MAX_SESSION_BYTES = 16 << 20
MAX_ANSWERS = 4096
_UNREADABLE = "the service's answer can't be read"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receipt, and its answer's id where that is told."""

    envelope: Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]
    id: AnswerId = ""

    @property
    def digest(self) -> str:
        """By which it is drawn."""
        return receipt_sha256(self.envelope)


class SessionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a client keeps of a session; secret until the seed is shown.

    Attributes:
        v: The format.
        session: Its id at the service; empty once the seed was shown.
        model: The model's name.
        identity: The model's.
        key: The service's, raw.
        one_in: One answer in so many is drawn.
        commitment: To the seed.
        seed: In hex.
        receipts: Of all answers.
    """

    v: Literal["mitai proof session v1"] = "mitai proof session v1"
    session: AnswerId
    model: Name
    identity: Digest
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    one_in: OneIn
    commitment: Digest
    seed: Digest
    receipts: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MAX_ANSWERS)]

    def __repr__(self) -> str:
        """Return it without the seed."""
        return f"SessionFile(commitment={self.commitment!r}, {len(self.receipts)} receipts)"

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.format(msgspec.json.encode(self))

    @staticmethod
    def parse(data: bytes) -> SessionFile:
        """Read a session's file.

        Raises:
            ParseError: `proof.session-malformed`.
        """
        message = "this file holds no session of a service of proofs"
        return parse_json(data, SessionFile, MAX_SESSION_BYTES, "proof.session-malformed", message)

    @property
    def sample(self) -> Sample:
        """As its receipts name it."""
        return Sample(one_in=self.one_in, commitment=self.commitment)

    def drawn(self) -> list[Entry]:
        """Return the drawn ones.

        Raises:
            LedgerError: `ledger.lots-commitment`: the seed is not what was committed to.
        """
        lots = Lots.open(self.sample, bytes.fromhex(self.seed))
        return [entry for entry in self.receipts if lots.draws(entry.digest)]


class _Opened(msgspec.Struct, frozen=True):
    id: AnswerId
    answers: int


class _Revealed(msgspec.Struct, frozen=True):
    answers: int
    drawn: Annotated[list[str], msgspec.Meta(max_length=MAX_ANSWERS)]


@dataclass
class Sampled:
    """A session of this client at a service.

    Attributes:
        service: Where.
        path: The session's file, always up to date.
        file: What it says.
    """

    service: Service
    path: Path
    file: SessionFile = field(repr=False)

    @staticmethod
    def begin(service: Service, one_in: int, answers: int, folder: Path) -> Sampled:
        """Open a session with a fresh seed, and keep its file in a folder."""
        lots = Lots(secrets.token_bytes(SEED_BYTES), one_in)
        body = {"one_in": one_in, "commitment": lots.sample.commitment, "answers": answers}
        content = service.reply("POST", "/v1/proof-sessions", body)
        reply = parse_json(content, _Opened, MAX_SESSION_BYTES, "client.answer-malformed", _UNREADABLE)
        file = SessionFile(
            session=reply.id,
            model=service.offer.model,
            identity=service.offer.identity,
            key=service.key.raw,
            one_in=one_in,
            commitment=lots.sample.commitment,
            seed=lots.seed.hex(),
            receipts=(),
        )
        sampled = Sampled(service, folder / f"{file.commitment[:32]}.session", file)
        sampled._keep(file)
        return sampled

    @property
    def wanted(self) -> Wanted:
        """What its answers' receipts promise."""
        return Wanted("sampled", self.file.sample)

    def add(self, given: Given) -> None:
        """Note an answer, whose receipt was checked.

        Raises:
            ProofError: `proof.receipt-again`: it is that of another answer.
        """
        entry = Entry(given.envelope, given.said.id)
        if any(entry.id == known.id for known in self.file.receipts):
            raise ProofError("proof.receipt-again", "the service gave a receipt that it has given before")
        self._keep(msgspec.structs.replace(self.file, receipts=(*self.file.receipts, entry)))

    def reveal(self) -> list[Entry]:
        """Show the seed, and return the receipts of the answers that the service now has to prove.

        Raises:
            ProofError: `proof.draws-differ`: the service says other draws.
        """
        drawn = self.file.drawn()
        if self.file.session:
            path = f"/v1/proof-sessions/{self.file.session}/reveal"
            content = self.service.reply("POST", path, {"seed": self.file.seed})
            reply = parse_json(content, _Revealed, MAX_SESSION_BYTES, "client.answer-malformed", _UNREADABLE)
            own = {entry.id for entry in drawn}
            self._keep(_shown(self.file, own))
            if set(reply.drawn) != own:
                raise ProofError(
                    "proof.draws-differ",
                    "the service says that other answers are drawn than the seed says",
                    hint="keep the session's file: it shows what the service owes",
                )
        return drawn

    def _keep(self, file: SessionFile) -> None:
        self.file = file
        part = self.path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as sink:
            sink.write(file.encode())
        part.replace(self.path)


@dataclass(frozen=True)
class Audited:
    """What a session's file and its proofs say.

    Attributes:
        answers: How many there are.
        drawn: How many of them the seed draws.
        missing: Why what is drawn is not proven, by exchange; empty if all is.
    """

    answers: int
    drawn: int
    missing: dict[str, str]


def audit(file: SessionFile, identity: str, key_id: str, read: Callable[[str], bytes | None]) -> Audited:
    """Check a session.

    1. It is of the key and the model that are known, and its seed opens the commitment.
    2. Each receipt is this service's, for this model and this sample, and there once.
    3. Of each that is drawn there is a proof; it holds, and is about the answer of the receipt.

    Args:
        file: The session.
        identity: The model's, as its publisher tells it.
        key_id: The service's.
        read: Returns the proof of an exchange, or None.

    Raises:
        MitaiError: Step 1 or 2 does not hold: then the file says nothing.
    """
    key = PublicKey(file.key)  # 1.
    if (key.key_id, file.identity) != (key_id, identity):
        raise ProofError("proof.service-differs", "the session is of another service or model", step="service")
    drawn = {entry.digest for entry in file.drawn()}
    terms = Terms(file.model, identity, "sampled", file.sample)  # 2.
    receipts = [(entry, opened(entry.envelope, key, None, terms)) for entry in file.receipts]
    if len({receipt.exchange for _, receipt in receipts}) != len(receipts):
        raise ParseError("proof.session-malformed", "a receipt is there twice")
    missing = {}
    for entry, receipt in receipts:  # 3.
        if entry.digest in drawn:
            try:
                _check(entry, receipt, identity, read(receipt.exchange))
            except MitaiError as error:
                missing[receipt.exchange] = error.code
    return Audited(len(receipts), len(drawn), missing)


def _check(entry: Entry, receipt: Receipt, identity: str, data: bytes | None) -> None:
    if exchange_of(entry.id) != receipt.exchange:
        raise ProofError("proof.id-missing", "the id of an answer that is drawn is not told")
    if data is None:
        raise ProofError("proof.withheld", "there is no proof of an answer that is drawn")
    proven(entry.id, receipt, identity, data)


def _shown(file: SessionFile, drawn: Container[str]) -> SessionFile:
    """Return a file as it may be given to others: with ids of drawn answers alone."""
    receipts = tuple(entry if entry.id in drawn else Entry(entry.envelope) for entry in file.receipts)
    return msgspec.structs.replace(file, session="", receipts=receipts)
