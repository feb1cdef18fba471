"""Differential privacy of a run: the plan before it, and the noise of each of its steps.

DP-SGD (Abadi et al. 2016, arXiv:1607.00133): each step takes every record with probability `sample_rate`, independent
of the others; clips each taken record's gradient to length `clip`; adds Gaussian noise of standard deviation `clip` x
`noise_multiplier` to the sum. The noise multiplier comes from opacus' accountant of privacy loss random variables
(Gopi et al. 2021, arXiv:2106.02848), by its upper bound, for exactly the planned number of steps.

Invariants:

- The unit of privacy is one record: the run's outcome is (epsilon, delta)-close to that of a run without any one of
  them. How many records there are is public.
- Which records a step takes and its noise come from a secret that never leaves the TEE, not from the job's public seed:
  ChaCha20 under keys from HKDF, others for every job. Who knew the seed could subtract the noise.
- The secret is another at every start, each of which is paid for. Were it the same, a host that starts a job again with
  another number of threads would see the same records taken under other noise, and average that away.
- Noise is bound to what it hides, as nonces of deterministic signatures are bound to the message (RFC 6979): its key
  holds the digest of the sum. Even if a secret came twice, two sums would never share noise, and none can be told from
  their difference.

Example:
    >>> plan = Plan.of(epsilon=3.0, delta=1e-5, batch=16, rows=1000, steps=200, clip=1.0)
    >>> randomness = Randomness(secret, job.sha256())
    >>> taken = randomness.sample(step=0, rows=1000, rate=plan.sample_rate)
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mitai.errors import TrainError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_SAMPLE_LABEL = b"mitai dp sample v1\x00"
_NOISE_LABEL = b"mitai dp noise v1\x00"
MIN_NOISE = 0.3  # below it a bound of epsilon says little, and the accountant needs memory without end


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what that costs."""

    epsilon: float
    """The budget that was asked for."""
    delta: float
    batch: int
    """How many records a step takes on average."""
    rows: int
    steps: int
    clip: float
    """The greatest length of one record's gradient."""
    noise_multiplier: float
    """The noise's standard deviation, in units of `clip`."""
    spent: float
    """The epsilon that the accountant gives these steps; at most `epsilon`."""

    @property
    def sample_rate(self) -> float:
        """The probability with which a step takes a record."""
        return self.batch / self.rows

    @classmethod
    def of(cls, *, epsilon: float, delta: float, batch: int, rows: int, steps: int, clip: float) -> Plan:
        """Find the least noise with which all steps stay within the budget.

        Args:
            epsilon: The budget.
            delta: The probability with which epsilon may not hold; below one in `rows`.
            batch: How many records a step takes on average.
            rows: How many records there are.
            steps: How many steps the run makes.
            clip: The greatest length of one record's gradient.

        Raises:
            TrainError: No noise keeps the budget, or these values promise nothing.
        """
        if not 0 < batch <= rows:
            raise TrainError("train.batch-too-large", f"a step can't take {batch} of {rows} records on average")
        if delta * rows >= 1:
            raise TrainError(
                "train.delta-too-large",
                f"a delta of {delta} lets {rows} records leak one whole record",
                hint=f"choose a delta well below {1 / rows:.1g}",
            )
        noise, spent = _least_noise(epsilon, delta, batch / rows, steps)
        if not spent <= epsilon:
            raise TrainError("train.budget-unreachable", f"these steps cost {spent}, more than {epsilon}")
        return cls(epsilon, delta, batch, rows, steps, clip, noise, spent)


@functools.lru_cache
def _least_noise(epsilon: float, delta: float, rate: float, steps: int) -> tuple[float, float]:
    """Return the least noise multiplier that keeps the budget, and what is spent with it; this takes seconds."""
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            noise = get_noise_multiplier(
                target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="prv"
            )
    except ValueError as error:
        raise TrainError(
            "train.budget-unreachable",
            f"no noise keeps {steps} steps within an epsilon of {epsilon}",
            hint="ask for fewer steps or a greater epsilon",
        ) from error
    noise = max(float(noise), MIN_NOISE)
    return noise, epsilon_spent(noise, rate, steps, delta)


def epsilon_spent(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return the accountant's upper bound of epsilon."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with _quiet():
        return float(accountant.get_epsilon(delta))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what opacus' accountant says on its way, none of which concerns its result."""
    # log(0) at a rate of 1 and exp(710) far out in a tail are infinite, as they should be
    with warnings.catch_warnings(), np.errstate(divide="ignore", over="ignore"):
        warnings.filterwarnings("ignore", "Optimal order is the (largest|smallest) alpha")  # of a first, rough bound
        yield


class Randomness:
    """Cryptographic randomness of one job: which records a step takes, and its noise."""

    def __init__(self, secret: bytes, job_sha256: str) -> None:
        if len(secret) < 32:
            raise TrainError("train.secret-too-short", f"noise needs a secret of 32 bytes, not {len(secret)}")
        self._secret, self._job = secret, bytes.fromhex(job_sha256)

    def sample(self, step: int, rows: int, rate: float) -> list[int]:
        """Return the records that a step takes: each with probability `rate`, rounded down to 2^-64."""
        if rate >= 1:
            return list(range(rows))
        drawn = self._words(_SAMPLE_LABEL + step.to_bytes(8, "big"), rows)
        taken: list[int] = np.flatnonzero(drawn < np.uint64(rate * 2.0**64)).tolist()
        return taken

    def noise(self, step: int, hidden: bytes, part: int, count: int) -> NDArray[np.float64]:
        """Return independent numbers of the standard normal distribution.

        Each is half the sum of four, as opacus' secure mode does it: rounding of a single one would tell what it was
        added to (Mironov 2012; Holohan and Braghin 2021, arXiv:2107.10138, section 5.1).

        Args:
            step: The step that they are for.
            hidden: The digest of what they hide, 32 bytes.
            part: Which tensor of the step.
            count: How many.
        """
        import torch

        context = _NOISE_LABEL + step.to_bytes(8, "big") + part.to_bytes(4, "big") + hidden
        words = self._words(context, 4 * count)
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1), never at an end
        normal = torch.special.ndtri(torch.from_numpy(uniform)).numpy()
        summed: NDArray[np.float64] = normal.reshape(4, count).sum(axis=0) / 2
        return summed

    def _words(self, context: bytes, count: int) -> NDArray[np.uint64]:
        """Return 64-bit words of a ChaCha20 key stream; each context has a key of its own, used once."""
        key = HKDF(SHA256(), 32, salt=self._job, info=context).derive(self._secret)
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        return np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")
