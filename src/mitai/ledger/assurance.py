"""Assurances: what a receipt promises beside, or in place of, hardware evidence, one type per tier.

`docs/spec/receipt.md` has the format, `docs/tiers.md` says what each tier is worth. An assurance is the signer's word
about what can be checked later: a receipt with a `Proof` is not a proof, it says which model a proof would be about.

Invariants:

- There is none of hardware among them: that tier is a receipt's `evidence_sha256`, and nothing else.
- Each tier is there at most once, in alphabetical order, so that there is one spelling of each promise.
- Unknown tiers, members and promises are refused; all members are there, and bounded.
- A digest of what follows from prompt and answer is over random bytes of its own first: nobody tries guesses on it.

Example:
    >>> Proof(identity="0" * 64, promise="sampled", sample=Sample(one_in=10, commitment="1" * 64)).sample.one_in
    10
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mitai.ledger.entry import Digest

OneIn = Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]
Small = Annotated[int, msgspec.Meta(ge=1, le=(1 << 16) - 1)]


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer in so many is checked; which ones a seed says that was committed to before (`ledger.lots`)."""

    one_in: OneIn
    commitment: Digest


class Assurance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="tier"):
    """What a service promises about an answer."""


class CommitAndAudit(Assurance, frozen=True, tag="commit-and-audit"):
    """All numbers of the computation are behind a root; an audit opens those that it asks for.

    Attributes:
        identity: The model's, hex.
        trace: Root of the committed trace.
        scheme: Version of the scheme.
    """

    identity: Digest
    trace: Digest
    scheme: Small


class Fingerprint(Assurance, frozen=True, tag="fingerprint"):
    """Fingerprints of the activations are kept, to be compared with those of who has the same weights.

    Attributes:
        digest: SHA-256 of the file of fingerprints, which begins with random bytes.
        block_tokens: Tokens of the answer for one fingerprint.
        top_k: Activations in one fingerprint.
    """

    digest: Digest
    block_tokens: Small
    top_k: Small


class Proof(Assurance, frozen=True, tag="proof"):
    """A succinct proof that the model with this identity gives this answer.

    Attributes:
        identity: The model's: digest of its card, hex.
        promise: The proof follows each answer, is made when somebody asks, or is made of a sample of answers.
        sample: Which, where the promise is a sample; otherwise `None`.
    """

    identity: Digest
    promise: Literal["follows", "on-demand", "sampled"]
    sample: Sample | None

    def __post_init__(self) -> None:
        if (self.promise == "sampled") != (self.sample is not None):
            raise ValueError("a sample is for the promise of a sample alone")


class ReExecution(Assurance, frozen=True, tag="re-execution"):
    """A second replica computes a sample of answers again."""

    sample: Sample


AnyAssurance = CommitAndAudit | Fingerprint | Proof | ReExecution
Assurances = Annotated[tuple[AnyAssurance, ...], msgspec.Meta(min_length=1, max_length=4)]


def tier(assurance: Assurance) -> str:
    """Return the name that an assurance's tier has in receipts."""
    return str(assurance.__struct_config__.tag)


def check_order(assurances: tuple[AnyAssurance, ...]) -> None:
    """Raise `ValueError` unless each tier is there once, in alphabetical order."""
    tiers = [tier(assurance) for assurance in assurances]
    if tiers != sorted(set(tiers)):
        raise ValueError("each tier has its one place")
