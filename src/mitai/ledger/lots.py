"""Lots: which answers of a service are checked, so that neither side can choose and the service can't know beforehand.

Commit and reveal, as in `docs/spec/receipt.md`, "Lots". Who will check commits to a seed; the service signs the
commitment into the receipt of every answer; the seed is shown when the answers and their receipts are there.

Invariants:

- Until the seed is shown, an answer is drawn with probability 1/k whatever the service does: HMAC-SHA256 under a key
  that it does not know.
- A lot is about a signed receipt, which the service alone makes: who knows the seed can't choose which are drawn.
- A seed that was shown draws no further: a new one is committed to for what comes after.

Example:
    >>> lots = Lots(bytes(32), one_in=2)
    >>> lots.sample.one_in, lots.draws("5f" * 32)
    (2, False)
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from math import log, log1p
from typing import Self

from mitai.errors import LedgerError
from mitai.ledger.assurance import Sample

COMMITMENT_LABEL = "mitai lots commitment v1"
DRAW_LABEL = "mitai lots draw v1"
SEED_BYTES = 32


@dataclass(frozen=True)
class Lots:
    """A seed that draws one receipt in so many; whoever knows it knows all draws.

    Args:
        seed: 32 random bytes, used for one commitment.
        one_in: One answer in so many is drawn.

    Raises:
        LedgerError: The seed has another length, or the rate is out of bounds.
    """

    seed: bytes = field(repr=False)
    one_in: int

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES or not 1 <= self.one_in <= 1 << 32:
            raise LedgerError("ledger.lots-invalid", "a seed has 32 bytes, and draws one in 1 to 2^32")

    @property
    def sample(self) -> Sample:
        """What is committed to, as receipts name it."""
        data = COMMITMENT_LABEL.encode() + b"\x00" + self.one_in.to_bytes(8, "little") + self.seed
        return Sample(one_in=self.one_in, commitment=sha256(data).hexdigest())

    def draws(self, receipt_sha256: str) -> bool:
        """Say whether a receipt, by its digest (`receipt.receipt_sha256`), is drawn."""
        tag = hmac.digest(self.seed, DRAW_LABEL.encode() + b"\x00" + bytes.fromhex(receipt_sha256), "sha256")
        return int.from_bytes(tag[:16], "little") < (1 << 128) // self.one_in

    @classmethod
    def open(cls, sample: Sample, seed: bytes) -> Self:
        """Return the lots of a seed that was shown; raise `LedgerError` when it is not what was committed to."""
        lots = cls(seed, sample.one_in)
        if lots.sample != sample:
            raise LedgerError("ledger.lots-commitment", "this seed is not the one that was committed to")
        return lots


def caught(cheats: int, one_in: int) -> float:
    """Return the probability that at least one of so many wrong answers is drawn: 1 - (1 - 1/k)^cheats."""
    return 1 - (1 - 1 / one_in) ** cheats


def needed(share: float, confidence: float) -> int:
    """Return how many answers drawn evenly at random show a wrong one with this probability.

    With a share f of wrong answers, n of them miss all with (1 - f)^n: n = log(1 - confidence) / log(1 - f).

    Args:
        share: Of all answers, those that are wrong; above 0, below 1.
        confidence: Above 0, below 1.
    """
    n = max(1, int(log(1 - confidence) / log1p(-share)))
    return n if 1 - (1 - share) ** n >= confidence else n + 1
