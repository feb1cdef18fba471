"""Noise is the same everywhere and makes a softmax of an argmax; it hangs on all that a draw depends on."""

import hashlib
from math import erfc, log, sqrt

import msgspec
import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.mpc import reproducible
from mitai.proof.sampling import MOST_NOISE, MOST_TEMPERATURE, NOISE_BITS, Agreed, Sampling, commitment

IDENTITY = "5a" * 32
SAMPLING = Sampling(temperature=800, seed=b"s" * 32, nonce=b"n" * 32)


def draws(logits, temperature, count, nonce=b"n" * 32):
    """How often each token is drawn."""
    sampling = msgspec.structs.replace(SAMPLING, temperature=round(1000 * temperature), nonce=nonce)
    noise = sampling.noise(IDENTITY, [1], len(logits)).rows(0, count)
    return np.bincount((np.rint(np.array(logits) * 2**20) + noise).argmax(-1), minlength=len(logits))


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.0, 2.0])
def test_draws_follow_softmax(temperature):
    logits, count = [2.0, 1.5, 1.0, 0.0, -1.0, 1.9], 3_000
    weights = np.exp(np.array(logits) / temperature)
    wanted = count * weights / weights.sum()
    found = draws(logits, temperature, count)
    chi_square = ((found - wanted) ** 2 / wanted).sum()
    # Wilson and Hilferty: the seeds are fixed, so this holds or it does not
    normal = ((chi_square / 5) ** (1 / 3) - (1 - 2 / 45)) / sqrt(2 / 45)
    assert erfc(normal / sqrt(2)) / 2 > 0.001
    colder = count * weights**1.5 / (weights**1.5).sum()
    assert ((found - colder) ** 2 / colder).sum() > 20


def test_tokens_of_a_flat_distribution_are_all_alike():
    """A table of few noises would prefer the first of equals here."""
    noise = SAMPLING.noise(IDENTITY, [1], 1 << 15).rows(0, 100).argmax(-1)
    assert len(set(noise.tolist())) == 100
    assert abs(noise.mean() / 2**15 - 0.5) < 4 * sqrt(1 / 12 / 100)


def test_noise_is_as_it_is_written_down():
    parts = bytes.fromhex(IDENTITY) + (800).to_bytes(8, "little") + b"s" * 32 + b"n" * 32 + (7).to_bytes(8, "little")
    key = hashlib.sha256(b"mitai proof sampling v1\0" + parts).digest()
    stream = hashlib.shake_256(b"mitai proof noise v1\0" + key + (3).to_bytes(8, "little")).digest(8 * 5)
    [row] = SAMPLING.noise(IDENTITY, [7], 5).rows(3, 4)
    for j in range(5):
        k = int.from_bytes(stream[8 * j : 8 * j + 8], "little") >> 12
        assert abs(row[j] + 0.8 * 2**20 * log(-log((2 * k + 1) / 2**53))) <= 0.5001


def test_noise_has_these_bits_on_every_machine():
    row = SAMPLING.noise(IDENTITY, [7], 20_000).rows(0, 1)
    assert hashlib.sha256(row.astype("<i8").tobytes()).hexdigest()[:16] == "4316e6828834d4be"


def test_noise_depends_on_all_of_it():
    rows = [SAMPLING.noise(IDENTITY, [7], 9).rows(0, 1), SAMPLING.noise(IDENTITY, [7], 9).rows(1, 2)]
    rows += [SAMPLING.noise("5b" * 32, [7], 9).rows(0, 1), SAMPLING.noise(IDENTITY, [7, 0], 9).rows(0, 1)]
    for other in ({"temperature": 801}, {"seed": b"t" * 32}, {"nonce": b"m" * 32}):
        rows.append(msgspec.structs.replace(SAMPLING, **other).noise(IDENTITY, [7], 9).rows(0, 1))
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_what_was_agreed_on():
    Agreed(800, b"n" * 32, commitment(b"s" * 32)).require(SAMPLING)
    Agreed(800).require(SAMPLING)
    for other in (Agreed(801), Agreed(800, b"m" * 32), Agreed(800, None, commitment(b"t" * 32))):
        with pytest.raises(ProofError) as refused:
            other.require(SAMPLING)
        assert refused.value.code == "proof.sampling-differs"


def test_nobody_has_to_make_noise_without_end():
    noise = SAMPLING.noise(IDENTITY, [7], 1 << 20)
    with pytest.raises(ProofError) as refused:
        noise.rows(0, MOST_NOISE >> 19)
    assert refused.value.code == "proof.statement-invalid"


def test_seeds_are_not_shown():
    assert "sss" not in repr(SAMPLING) + repr(SAMPLING.noise(IDENTITY, [7], 2))


def test_extremes_fit():
    ends = np.array([2.0**-53, 1 - 2.0**-53])
    most = np.abs(reproducible.log(-reproducible.log(ends))).max()
    assert MOST_TEMPERATURE / 1000 * 2**20 * most < 1 << (NOISE_BITS - 1)
