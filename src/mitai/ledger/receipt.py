"""Receipts: a replica's signed statement about one exchange, and the proof that the ledger holds it.

A receipt is canonical JSON in a DSSE envelope, signed by the receipt key of the replica's attested claims, or by the
key of a party that computes on shares (`PartyReceipt`). The ledger's entry holds SHA-256("mitai receipt digest v1" ‖
0x00 ‖ envelope). `docs/spec/receipt.md` has the format. A receipt of version 2 lists assurances of other tiers as
well, and may be of a service without hardware.

Invariants:

- Request and answer are named by the SHA-256 of their ciphertext as it was on the wire; nothing in the clear is hashed.
- A bundle is checked offline: envelope, entry, inclusion proof and checkpoint travel together.
- A receipt does not say whether the machine was simulated: that is for the verifier of its evidence to say.
- A receipt of a service without hardware says so (`evidence_sha256` is null), and `verify_receipt` refuses it.

Example:
    >>> key = Identity.generate()
    >>> envelope = example.sign(key)  # doctest: +SKIP
    >>> verify_receipt(bundle, receipt_key=key.public, ledger_vkey=log.vkey)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

import msgspec

from mitai.errors import LedgerError, ParseError
from mitai.identity import Envelope, Identity, PublicKey
from mitai.ledger.assurance import Assurance, Assurances, check_order
from mitai.ledger.entry import (
    Count,
    Digest,
    Digests,
    Id,
    Name,
    ReceiptEntry,
    Time,
    decode,
    decode_canonical,
    encode_canonical,
)
from mitai.ledger.note import verify_checkpoint
from mitai.ledger.proof import MAX_PROOF_HASHES, verify_inclusion
from mitai.ledger.tree import leaf_hash

RECEIPT_LABEL: Final = "mitai receipt v1"
ASSURED_LABEL: Final = "mitai receipt v2"
PARTY_LABEL: Final = "mitai party receipt v1"
DIGEST_LABEL: Final = "mitai receipt digest v1"
BUNDLE_LABEL: Final = "mitai receipt bundle v1"
MAX_RECEIPT_BYTES = 64 << 10
MAX_BUNDLE_BYTES = 1 << 20
A = TypeVar("A", bound=Assurance)


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was counted."""

    prompt_tokens: Count
    completion_tokens: Count


class CapsuleRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sealed folder, by id and by its signed manifest."""

    id: Id
    manifest_sha256: Digest


CapsuleRefs = Annotated[tuple[CapsuleRef, ...], msgspec.Meta(max_length=64)]


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all receipts have; `started` and `finished` are UTC, `YYYY-MM-DDThh:mm:ssZ`."""

    payload_type: ClassVar[str]

    exchange: Id
    request_sha256: Digest
    response_sha256: Digest
    started: Time
    finished: Time

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.started)  # `Time` alone would let a 30 February pass
        datetime.fromisoformat(self.finished)

    def sign(self, receipt_key: Identity) -> bytes:
        """Return the signed envelope; raise `ParseError` when a field is out of its bounds."""
        payload = encode_canonical(self, msgspec.json.Decoder(type(self)), "ledger.receipt-malformed")
        return receipt_key.sign(payload, self.payload_type).encode()

    @classmethod
    def open(cls, envelope: bytes, receipt_key: PublicKey) -> Self:
        """Return the receipt that `receipt_key` signed; raise `MitaiError` otherwise."""
        if len(envelope) > MAX_RECEIPT_BYTES:
            raise ParseError("ledger.receipt-malformed", f"a receipt of {len(envelope)} bytes is above the limit")
        payload = Envelope.decode(envelope).open(cls.payload_type, receipt_key)
        return decode_canonical(payload, msgspec.json.Decoder(cls), "ledger.receipt-malformed")


class Receipt(Statement, frozen=True, kw_only=True):
    """What a replica says about one exchange; digests are of the bytes on the wire, as a rule of ciphertext.

    Version 1 is for evidence and nothing else. Version 2 names assurances, and evidence where there is hardware.
    """

    payload_type = "application/vnd.mitai.receipt+json"

    v: Literal["mitai receipt v1", "mitai receipt v2"] = RECEIPT_LABEL
    model: Name
    capsules: CapsuleRefs
    adapters: CapsuleRefs = ()
    policies: Digests
    usage: Usage
    evidence_sha256: Digest | None
    assurances: Assurances | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.assurances is not msgspec.UNSET:
            check_order(self.assurances)
        if (self.v == ASSURED_LABEL) != (self.assurances is not msgspec.UNSET):
            raise ValueError("assurances are for version 2, and all that it is for")
        if self.v == RECEIPT_LABEL and self.evidence_sha256 is None:
            raise ValueError("a receipt is about evidence, or says what else there is")

    def assurance(self, kind: type[A]) -> A | None:
        """Return what this receipt says of a tier, or `None`."""
        assurances = () if self.assurances is msgspec.UNSET else self.assurances
        return next((one for one in assurances if isinstance(one, kind)), None)


class PartyReceipt(Statement, frozen=True, kw_only=True):
    """What a party that computes on shares says about one answer.

    Attributes:
        exchange: The client's session, in hex.
        request_sha256: Of the random bytes and the shares that this party got, as they were on the link.
        response_sha256: Of these and the shares that it gave.
        role: Which party signs.
        protocol: The setting in which it was computed, such as `2+1`.
        version: Of the program, at all of them.
        parties: Key ids by role, the dealer's among them.
        evidence_sha256: By role, of what others of them have proven to this one; only of whom this was demanded.
        shares: Which cut of a model.
        config_sha256: Of the model's `config.json`.
        approximation: What stood in for functions of the model; `exact`: nothing.
        task: What was computed, with all lengths.
        temperature: How tokens were chosen; 0: the likeliest.
        top_p: Likewise.
    """

    payload_type = "application/vnd.mitai.party-receipt+json"

    v: Literal["mitai party receipt v1"] = PARTY_LABEL
    role: Id
    protocol: Name
    version: Name
    parties: Annotated[dict[Id, Digest], msgspec.Meta(max_length=8)]
    evidence_sha256: Annotated[dict[Id, Digest], msgspec.Meta(max_length=8)]
    shares: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    config_sha256: Digest
    approximation: Name
    task: Name
    temperature: Annotated[float, msgspec.Meta(ge=0, le=20)]
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)]


Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class ReceiptBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receipt with all that its check needs: what a client keeps in a file."""

    v: Literal["mitai receipt bundle v1"] = BUNDLE_LABEL
    envelope: bytes  # the signed receipt, exact bytes
    entry: bytes  # the ledger entry, exact bytes
    index: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    proof: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MAX_PROOF_HASHES)]
    checkpoint: str  # a signed note

    def encode(self) -> bytes:
        """Return the bundle as canonical JSON; raise `ParseError` when a field is out of its bounds."""
        return encode_canonical(self, _BUNDLE, "ledger.receipt-bundle-malformed")

    @staticmethod
    def decode(data: bytes) -> ReceiptBundle:
        """Parse a bundle; raise `ParseError` on anything else or above 1 MiB."""
        if len(data) > MAX_BUNDLE_BYTES:
            raise ParseError(
                "ledger.receipt-bundle-malformed", f"a receipt bundle of {len(data)} bytes is above the limit"
            )
        return decode_canonical(data, _BUNDLE, "ledger.receipt-bundle-malformed")


_BUNDLE = msgspec.json.Decoder(ReceiptBundle)


def receipt_sha256(envelope: bytes) -> str:
    """Return the digest of a signed receipt that the ledger holds."""
    return sha256(DIGEST_LABEL.encode() + b"\x00" + envelope).hexdigest()


def verify_receipt(
    bundle: ReceiptBundle,
    *,
    receipt_key: PublicKey,
    ledger_vkey: str,
    request_sha256: str | None = None,
    response_sha256: str | None = None,
    witnesses: Sequence[str] = (),
    threshold: int = 0,
) -> Receipt:
    """Return the receipt of a machine with evidence when all of these hold.

    1. The envelope is signed by the receipt key of the attested claims, and is a receipt that names evidence.
    2. It is about this request and this answer, where the caller knows them.
    3. The ledger's entry is about this receipt.
    4. The checkpoint is signed by the ledger, and cosigned by enough witnesses.
    5. The entry is in the tree of that checkpoint, at the index that the bundle says.

    Args:
        bundle: What was kept of the exchange.
        receipt_key: From verified claims, never from the bundle.
        ledger_vkey: From verified claims or a policy, never from the bundle.
        request_sha256: Digest of the request's ciphertext, hex.
        response_sha256: Digest of the answer's ciphertext, hex.
        witnesses: Verifier keys of trusted witnesses.
        threshold: How many of them must have cosigned.

    Raises:
        MitaiError: One of the steps failed; `step` names it for those of this module.
    """
    # 1. the envelope
    receipt = Receipt.open(bundle.envelope, receipt_key)
    if receipt.evidence_sha256 is None:
        raise LedgerError(
            "ledger.receipt-unattested",
            "this receipt is of a service without hardware: it names no evidence",
            hint="check the assurances that it names (docs/tiers.md)",
            step="envelope",
        )
    check_bytes(receipt, request_sha256, response_sha256)
    check_logged(receipt, bundle, ledger_vkey, witnesses, threshold)
    return receipt


def verify_assured(
    envelope: bytes,
    kind: type[A],
    *,
    receipt_key: PublicKey,
    request_sha256: str | None = None,
    response_sha256: str | None = None,
) -> tuple[Receipt, A]:
    """Return a receipt and its assurance of one tier when all of these hold; hardware is none of them.

    1. The envelope is signed by the service's key, and is a receipt.
    2. It is about this request and this answer, where the caller knows them.
    3. It names an assurance of this tier.

    An assurance is a promise: what it names is checked by the tier's own means. Where the receipt is logged,
    `check_logged` checks that as well.

    Args:
        envelope: The signed receipt.
        kind: The tier that the caller relies on.
        receipt_key: Pinned by the caller, or from verified claims; never from what came with the receipt.
        request_sha256: Digest of the request on the wire, hex.
        response_sha256: Digest of the answer on the wire, hex.

    Raises:
        MitaiError: One of the steps failed.
    """
    # 1. the envelope
    receipt = Receipt.open(envelope, receipt_key)
    # 2. the exchange
    check_bytes(receipt, request_sha256, response_sha256)
    # 3. the tier
    if (assurance := receipt.assurance(kind)) is None:
        tier = kind.__struct_config__.tag
        raise LedgerError("ledger.receipt-assurance", f"this receipt says nothing of {tier}", step="tier")
    return receipt, assurance


def check_bytes(receipt: Statement, request_sha256: str | None, response_sha256: str | None) -> None:
    """Do step 2 of `verify_receipt`, for any kind of receipt."""
    # 2. the exchange
    if request_sha256 is not None and receipt.request_sha256 != request_sha256:
        raise LedgerError("ledger.receipt-request", "this receipt is about another request", step="exchange")
    if response_sha256 is not None and receipt.response_sha256 != response_sha256:
        raise LedgerError("ledger.receipt-response", "this receipt is about another answer", step="exchange")


def check_logged(
    receipt: Statement, bundle: ReceiptBundle, ledger_vkey: str, witnesses: Sequence[str] = (), threshold: int = 0
) -> None:
    """Do steps 3 to 5 of `verify_receipt`, for any kind of receipt that the bundle holds and that was opened."""
    # 3. the entry
    entry = decode(bundle.entry)
    if not isinstance(entry, ReceiptEntry) or entry.exchange != receipt.exchange:
        raise LedgerError("ledger.receipt-entry", "the ledger's entry is not about this exchange", step="entry")
    if entry.receipt_sha256 != receipt_sha256(bundle.envelope):
        raise LedgerError("ledger.receipt-entry", "the ledger's entry is about other bytes", step="entry")
    # 4. the checkpoint
    checkpoint = verify_checkpoint(bundle.checkpoint.encode(), ledger_vkey, witnesses, threshold)
    # 5. inclusion
    verify_inclusion(leaf_hash(bundle.entry), bundle.index, checkpoint.size, bundle.proof, checkpoint.root)
