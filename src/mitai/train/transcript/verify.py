"""Says whether weights follow from the data that a transcript claims, and how sure that is.

`docs/spec/transcript.md`, "Checking" and "What is caught".

Invariants:

- What is re-executed is drawn here, after the transcript was signed.
- The verdict states the probability that holds against a forger who knows this code; what cheap tests add is measured,
  not promised.

Example:
    >>> verify(envelope, worker_key, claim, build, rng=…).words  # doctest: +SKIP
    'the weights follow from the claimed data …'
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

from mitai.errors import TrainError
from mitai.identity import PublicKey
from mitai.train.transcript import memorisation, sampling
from mitai.train.transcript.commitment import Commitment, Record
from mitai.train.transcript.document import Asset, Transcript
from mitai.train.transcript.recorder import software
from mitai.train.transcript.replay import Replay, States

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

MOVED = 1  # segments re-executed because weights or optimizer moved unlike their neighbours
SUSPECT = 2  # segments re-executed in the block that the memorisation test finds odd
ODD = 20.0  # units of the usual distance
BLOCKS = 10


@dataclass(frozen=True)
class Claim:
    """What the verifier holds itself, to compare the transcript with."""

    job_sha256: str
    inputs: tuple[Asset, ...]
    records: Iterable[Record] = field(repr=False)
    secret: bytes = field(repr=False)
    states: Mapping[str, bytes] = field(repr=False)
    published: Mapping[str, Tensor] = field(repr=False)  # the weights that were given out


@dataclass(frozen=True)
class Verdict:
    """What was checked, and found to hold."""

    steps: int
    segments: int
    drawn: int
    re_executed: int
    distance: float  # the largest; 0: bit-equal
    below_median: float | None  # share of claimed samples that the memorisation test finds untrained; None: not applied
    same_software: bool

    @property
    def words(self) -> str:
        """The verdict for people."""
        equal = "bit for bit" if self.distance == 0 else f"up to a distance of {self.distance:.2g}"
        sure = "All segments were re-executed."
        if self.re_executed < self.segments:
            share, one = sampling.surely_caught(0.95, self.drawn), sampling.caught(1 / self.segments, self.drawn)
            sure = (
                f"A forgery that touches {share:.0%} of the segments or more would have been caught with a probability "
                f"of at least 95 %, one that touches a single segment with at least {one:.1%}."
            )
        text = (
            f"The weights follow from the claimed data, as far as this check sees. The batches of all {self.steps} "
            f"steps are those of the job's data, in the job's order; the chain of {self.segments} segments leads from "
            f"the base model to the published weights; {self.re_executed} segments, re-executed, ended where they "
            f"should, {equal}. {sure}"
        )
        if self.below_median is not None:
            text += (
                f" Memorisation test: {self.below_median:.0%} of the claimed samples look as if they had not been "
                f"trained on; about 50 % would if none had been."
            )
        if not self.same_software:
            text += " Software, device or number of threads differ from those of the run."
        return text


def verify(
    envelope: bytes,
    signer: PublicKey,
    claim: Claim,
    build: Callable[[], Trainer],
    *,
    share: float = 0.1,
    tolerance: float = 0.0,
    rng: random.Random | None = None,
) -> Verdict:
    """Return the verdict when all of these hold.

    1. The workload's key signed the transcript.
    2. It is about this job and these inputs.
    3. The Merkle root is that of these records.
    4. Every kept state is the one that the chain names; the published weights are those of the boundary it names.
    5. The run starts from the base model under the job's seed, and every batch is the job's, in its order.
    6. Drawn segments, re-executed, end where the transcript says, with its losses and random numbers.
    7. So do those that the movement of the weights and the memorisation test point at.

    Args:
        envelope: The signed transcript.
        signer: The workload's receipt key, from verified evidence.
        claim: What the verifier holds.
        build: Makes the job's trainer, seeded, over the claimed data; called once or twice.
        share: Of the segments, to re-execute: the last one, the one that moved oddest, and the others drawn.
        tolerance: The distance that counts as equal; 0 needs the same software, device and number of threads.
        rng: The verifier's randomness; the system's, if not given.

    Raises:
        MitaiError: One of the steps failed; `step` names it.
    """
    rng = rng or random.SystemRandom()
    # 1. signature
    transcript = Transcript.open(envelope, signer)
    # 2. job and inputs
    if transcript.job_sha256 != claim.job_sha256:
        raise refused("job", "the transcript is that of another job")
    if transcript.inputs != claim.inputs:
        raise refused("inputs", "the transcript is about other inputs")
    # 3. records
    data = Commitment.of(claim.secret, transcript.data.columns, claim.records)
    if len(data.entries) != transcript.data.records or data.root.hex() != transcript.data.root:
        raise refused("data", "the transcript is about other records")
    # 4. states
    states = States(transcript, claim.states)
    moved = sampling.movements(transcript, states)
    check_published(claim.published, states(transcript.published).weights)
    # 5, 6. start, order, drawn segments
    pointed = {len(moved) - 1, *_largest(moved, MOVED)}
    left = [index for index in range(len(moved)) if index not in pointed]
    count = max(1, math.ceil(share * len(moved)) - len(pointed))
    drawn = [left[index] for index in sampling.draw(len(left), min(len(left), count), rng)]
    chosen = pointed.union(drawn)
    trainer = build()
    replay = Replay(trainer, transcript, claim.secret, states, drawn=chosen, tolerance=tolerance, rows=2, rng=rng).run()
    distances = dict(replay.distances)
    # 7. where the memorisation test points
    found = memorisation.blocks(trainer, states, replay.rows, BLOCKS)
    suspect = [found[index] for index in _suspects(found)]
    if suspect:
        left = sorted(set(range(suspect[0].first, suspect[0].last)) - distances.keys())
        again = rng.sample(left, min(SUSPECT, len(left)))
        distances |= (
            Replay(build(), transcript, claim.secret, states, drawn=again, tolerance=tolerance, whole=False)
            .run()
            .distances
        )
    return Verdict(
        steps=transcript.steps,
        segments=len(transcript.segments),
        drawn=len(drawn),
        re_executed=len(distances),
        distance=max(distances.values()),
        below_median=fmean(block.below_median for block in found) if found else None,
        same_software=transcript.software == software(),
    )


def check_published(published: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise `TrainError` unless the published tensors are exactly the trained ones, under the names that files have."""
    import torch

    named = {re.sub(r"(\.modules_to_save)?\.default\.", ".", name): value for name, value in weights.items()}
    if named.keys() != published.keys() or any(
        value.dtype != published[name].dtype or not torch.equal(value, published[name]) for name, value in named.items()
    ):
        raise refused("published", "the published weights are not those with which the transcript ends")


def _suspects(found: Sequence[memorisation.Block]) -> list[int]:
    """Return the block that gained least, where that is far from its neighbours and looks untrained."""
    gains = [block.gain for block in found]
    odd = sampling.outliers(gains)
    low = [i for i, gain in enumerate(gains) if gain < median(gains) and found[i].below_median >= 0.5]
    return [i for i in sorted(low, key=odd.__getitem__, reverse=True)[:1] if odd[i] > ODD]


def _largest(values: list[float], count: int) -> list[int]:
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:count]


def refused(step: str, message: str) -> TrainError:
    """Return the error of a check that failed."""
    return TrainError("train.transcript-refused", message, step=step)
