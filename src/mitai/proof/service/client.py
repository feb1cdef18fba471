"""A client of a service of answers with a proof: it knows model and key beforehand, and believes nothing else.

Follows `docs/spec/proof-service.md`, "Receipt" and "What a client knows beforehand". Asking is for any HTTP client, as
the stock `openai` one is; this is for what comes after.

Invariants:

- Address, key and identity are from the client's own folder; what the service says of itself is compared with it.
- An answer counts when its receipt is about the tokens that the client itself makes of its words, and what it was told.
- What the service sends is bounded, and waited for within a time.

Example:
    >>> service = Service(Path("service"))
    >>> given = service.receipt("chatcmpl-5f…", Wanted("follows"), prompt=service.tokens(messages), text="I am …")
    >>> proven(given.said.id, given.receipt, service.offer.identity, service.proof(given.said.id, within_s=600))
    101.9
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import httpx2
import msgspec

from mitai.bodies import PLAIN, bounded
from mitai.client.chat import refusal
from mitai.errors import MitaiError, ParseError, ProofError
from mitai.identity import PublicKey
from mitai.ledger.assurance import CommitAndAudit, Sample
from mitai.ledger.entry import Digest, Name
from mitai.ledger.receipt import MAX_RECEIPT_BYTES, Receipt
from mitai.mpc.text import end_tokens, read_tokenizer
from mitai.proof.answer import MAX_ANSWER_BYTES, Tokens
from mitai.proof.sampling import SEED_BYTES, Agreed
from mitai.proof.service.receipts import DRAW_HEADER, HEADER, Promise, Said, Terms, opened
from mitai.serve.engine import Sampling as Wish
from mitai.serve.prompts import Prompts
from mitai.serve.text import Telling
from mitai.wire import parse_json

OFFER = "service.json"
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_MALFORMED = "client.answer-malformed"
_MAX_OFFER_BYTES, _MAX_REPLY_BYTES = 64 << 10, 1 << 20
_TIMEOUT = httpx2.Timeout(30.0, read=600.0)
_LOOK_EVERY_S = 0.2


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a client knows of a service beforehand.

    Attributes:
        v: The format.
        address: Where it is.
        model: The model's name there.
        identity: The model's.
        key: Id of the key that signs receipts.
        unaudited: Receipts have no root of the answer's trace.
    """

    v: Literal["mitai proof service v1"] = "mitai proof service v1"
    address: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/?#]{1,2000}\Z")]
    model: Name
    identity: Digest
    key: Digest
    unaudited: bool = False

    @staticmethod
    def parse(data: bytes) -> Offer:
        """Read `service.json`.

        Raises:
            ParseError: `proof.offer-malformed`.
        """
        message = "this file does not say where a service is, and whose"
        return parse_json(data, Offer, _MAX_OFFER_BYTES, "proof.offer-malformed", message)

    @staticmethod
    def read(folder: Path) -> Offer:
        """Read it in a client's folder.

        Raises:
            ProofError: `proof.no-service`: it is not there.
            ParseError: `proof.offer-malformed`.
        """
        try:
            return Offer.parse((folder / OFFER).read_bytes())
        except OSError as error:
            raise ProofError("proof.no-service", f"{folder / OFFER} can't be read ({type(error).__name__})") from None


class Replied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a service says of an answer: its receipt, and its tokens."""

    envelope: Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]
    prompt: Tokens
    answer: Tokens


class _Model(msgspec.Struct, frozen=True):
    id: str
    identity: str = ""
    key: bytes = b""


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _Seed(msgspec.Struct, frozen=True):
    commitment: Digest


class Progress(msgspec.Struct, frozen=True):
    """How far a proof is; see `mitai.proof.service.store.Standing`."""

    state: str
    ahead: int = 0
    seconds: float = 0.0
    expected_s: float | None = None


@dataclass(frozen=True)
class Wanted:
    """What a client asked for of an answer's proof, and how the answer was to be drawn."""

    promise: Promise = "on-demand"
    sample: Sample | None = None
    agreed: Agreed | None = None

    def headers(self, session: str = "") -> dict[str, str]:
        """Return the headers of the request that asks so; `session` is the id where it is for a sample."""
        headers = {HEADER: session or self.promise}
        if self.agreed is not None:
            headers[DRAW_HEADER] = f"{self.agreed.commitment} {(self.agreed.nonce or b'').hex()}"
        return headers


@dataclass(frozen=True)
class Given:
    """An answer whose receipt holds."""

    said: Said
    envelope: bytes
    receipt: Receipt


class Service:
    """A service that a folder describes: `service.json`, and a tokenizer's files.

    Args:
        folder: The client's.
        transport: For tests.

    Attributes:
        offer: What is known of it.
        http: A client to ask with.

    Raises:
        ProofError: `proof.no-service`: there is no such folder.
        ParseError: `proof.offer-malformed`.
    """

    def __init__(self, folder: Path, transport: httpx2.BaseTransport | None = None) -> None:
        self.offer, self._folder = Offer.read(folder), folder
        self.http = httpx2.Client(base_url=self.offer.address, timeout=_TIMEOUT, headers=PLAIN, transport=transport)

    def close(self) -> None:
        """Close the connection."""
        self.http.close()

    @cached_property
    def key(self) -> PublicKey:
        """The service's key: what it says, if that is the one that is known.

        Raises:
            ProofError: `proof.service-differs`: it has another key, or another model.
        """
        message = "the service's list of models can't be read"
        models = parse_json(self.reply("GET", "/v1/models"), _Models, _MAX_REPLY_BYTES, _MALFORMED, message).data
        found = next((model for model in models if model.id == self.offer.model), None)
        if found is None or found.identity != self.offer.identity:
            raise _differs("it does not say that it serves the model that is known")
        key = PublicKey(found.key)
        if key.key_id != self.offer.key:
            raise _differs("it has another key than the one that is known")
        return key

    @cached_property
    def _prompts(self) -> Prompts:
        return Prompts(read_tokenizer(self._folder), self.offer.model)

    def tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return a conversation as tokens, by the client's own tokenizer."""
        return self._prompts.chat(messages)

    def words(self, answer: Sequence[int]) -> str:
        """Return what is told of an answer, by the client's own tokenizer."""
        ends = end_tokens(self._folder, read_tokenizer(self._folder))
        telling = Telling(self._prompts.tokenizer, Wish(len(answer)))
        return "".join(telling.step(token, end=token in ends).text for token in answer)

    def terms(self, promise: Promise, sample: Sample | None) -> Terms:
        """Return what a receipt has to say."""
        return Terms(self.offer.model, self.offer.identity, promise, sample)

    def receipt(self, answer_id: str, wanted: Wanted, *, prompt: Sequence[int], text: str) -> Given:
        """Fetch the receipt of an answer, and check it.

        Args:
            answer_id: The answer's id.
            wanted: What was asked for.
            prompt: What was asked, in tokens.
            text: What was told.

        Raises:
            MitaiError: There is none, or it does not hold.
        """
        if not _ID.fullmatch(answer_id):
            raise ParseError(_MALFORMED, "the service's answer has no usable id")
        message = "the service's receipt can't be read"
        content = self.reply("GET", f"/v1/receipts/{answer_id}")
        reply = parse_json(content, Replied, _MAX_REPLY_BYTES, _MALFORMED, message)
        said = Said(answer_id, reply.prompt, reply.answer, wanted.agreed)
        receipt = opened(reply.envelope, self.key, said, self.terms(wanted.promise, wanted.sample))
        if not self.offer.unaudited and receipt.assurance(CommitAndAudit) is None:
            raise _differs("its receipt has no root of the answer's trace")
        if list(reply.prompt) != list(prompt):
            raise _differs("its receipt is about another question")
        if self.words(reply.answer) != text:
            raise _differs("its receipt is about another answer than it told")
        return Given(said, reply.envelope, receipt)

    def ask(self, answer_id: str) -> None:
        """Ask for the proof of an answer."""
        self.reply("POST", f"/v1/proofs/{answer_id}", {})

    def draw(self, temperature: float) -> Agreed:
        """Agree on how the next answer is drawn: get the commitment to the service's seed, and choose a nonce."""
        message = "the service's seed can't be read"
        reply = parse_json(self.reply("POST", "/v1/proof-seeds", {}), _Seed, _MAX_REPLY_BYTES, _MALFORMED, message)
        return Agreed(round(temperature * 1000), secrets.token_bytes(SEED_BYTES), reply.commitment)

    def proof(self, answer_id: str, within_s: float, tell: Callable[[Progress], None] = lambda _: None) -> bytes:
        """Wait for the proof of an answer; it is not checked (`receipts.proven`).

        Raises:
            ProofError: It is not there in time (`proof.late`), or larger than proofs are.
            MitaiError: It can't be had.
        """
        until = time.monotonic() + within_s
        while True:
            status, content = self._exchange("GET", f"/v1/proofs/{answer_id}", None, MAX_ANSWER_BYTES)
            if status == 200:
                return content
            if status != 202:
                raise refusal(status, content)
            message = "the service does not say how far it is"
            tell(parse_json(content, Progress, _MAX_REPLY_BYTES, _MALFORMED, message))
            if time.monotonic() > until:
                raise ProofError("proof.late", f"the proof is not there after {within_s:g} s", hint="ask again later")
            time.sleep(_LOOK_EVERY_S)

    def reply(
        self, method: str, path: str, body: Mapping[str, object] | None = None, limit: int = _MAX_REPLY_BYTES
    ) -> bytes:
        """Return what the service answers; raise `MitaiError` where it refuses."""
        status, content = self._exchange(method, path, body, limit)
        if status not in {200, 201, 202}:
            raise refusal(status, content)
        return content

    def _exchange(self, method: str, path: str, body: Mapping[str, object] | None, limit: int) -> tuple[int, bytes]:
        try:
            with self.http.stream(method, path, json=body) as answer:
                content = bounded(answer, limit)
        except httpx2.HTTPError as error:
            raise self.unreachable(error) from error
        if content is None:
            raise ProofError("proof.answer-too-large", f"the service answers with more than {limit} bytes")
        return answer.status_code, content

    def unreachable(self, error: httpx2.HTTPError) -> ProofError:
        """Return the error of a service that does not answer, or not to the end."""
        return ProofError(
            "proof.service-unreachable",
            f"the service at {self.offer.address} does not answer ({type(error).__name__})",
            hint="is it up? mitai status",
        )


def _differs(why: str) -> MitaiError:
    return ProofError(
        "proof.service-differs",
        f"this is not the service that is known: {why}",
        step="service",
        hint="don't rely on it; ask whoever told you of this service",
    )
