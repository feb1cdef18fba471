"""The choice of a token, against plain numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import MpcError
from mitai.mpc import noise, sampling
from mitai.mpc.clear import ClearEngine
from mitai.mpc.engine import Engine
from mitai.mpc.sampling import Sampling
from mpc_rig import CountingEngine

ENGINE = ClearEngine()


def opened(secret):
    return ENGINE.reveal(secret)


@given(st.integers(0, 1 << 32), st.sampled_from([1, 2, 3, 7, 64, 65, 129, 700]), st.booleans())
def test_argmax_sets_one_bit_at_the_first_of_the_largest(seed, n, ties):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 3, (3, n)).astype(float) if ties else rng.standard_normal((3, n)) * 100
    logits = np.rint(logits * 65536) / 65536
    bits = opened(sampling.argmax(ENGINE.constant(logits)))
    assert (bits == (np.arange(n) == logits.argmax(-1)[:, None])).all()


def test_argmax_over_a_vocabulary_takes_four_levels():
    logits = np.random.default_rng(1).standard_normal((2, 50257))
    engine = CountingEngine()
    chosen = sampling.argmax(engine.constant(logits))
    assert (opened(sampling.index(chosen)) == logits.argmax(-1)).all()
    calls = engine.count()
    assert calls["less"] == 8
    assert sum(np.prod(shape) for name, shape, *_ in engine.calls if name == "less") < 2 * 300_000


def test_temperature_adds_noise_to_scaled_logits(monkeypatch):
    drawn = noise.gumbel((4, 100))
    monkeypatch.setattr(noise, "gumbel", lambda shape: drawn.reshape(shape))
    logits = np.random.default_rng(2).standard_normal((4, 100)) * 3
    noisy = logits / 1.7 + drawn
    best = np.sort(noisy, -1)
    clear = best[:, -1] - best[:, -2] > 1e-3
    chosen = opened(sampling.index(sampling.choose(ENGINE.constant(logits), Sampling(temperature=1.7))))
    assert (chosen == noisy.argmax(-1))[clear].all()
    assert clear.any()


def test_noise_is_gumbels():
    drawn = np.sort(noise.gumbel((200_000,)))
    expected = np.exp(-np.exp(-drawn))
    distance = np.abs(expected - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert distance < 0.01  # Kolmogorov and Smirnov: by chance once in 10^17 tries


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_noise_is_finite(byte):
    assert np.isfinite(noise.gumbel((2,), lambda size: byte * size)).all()


def test_a_setting_without_noise_says_so():
    with pytest.raises(MpcError) as error:
        Engine.gumbel(ENGINE, (1, 2))
    assert error.value.code == "mpc.no-noise"


@given(st.integers(0, 1 << 32), st.floats(0.05, 0.99), st.floats(0.2, 6))
def test_nucleus_is_the_likeliest_tokens_with_this_mass(seed, mass, spread):
    logits = np.random.default_rng(seed).standard_normal((2, 400)) * spread
    kept = opened(sampling.nucleus(ENGINE.constant(logits), mass)) == 1
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    for row, bits, share in zip(logits, kept, shares, strict=True):
        lowest = row[bits].min()
        assert (row[~bits] <= lowest + 1e-4).all()
        assert share[bits].sum() > mass - 0.01
        assert share[row > lowest + 1 / 16 + 1e-3].sum() < mass + 0.01


def test_choices_stay_within_the_nucleus():
    logits = np.array([[5.0, 4.9, 0.0, -1.0]]).repeat(50, 0)
    chosen = opened(sampling.index(sampling.choose(ENGINE.constant(logits), Sampling(temperature=1.0, top_p=0.9))))
    assert set(chosen) <= {0, 1}


@pytest.mark.parametrize("values", [{"temperature": -1}, {"temperature": 0.01}, {"top_p": 0}, {"top_p": 1.1}])
def test_refused_parameters(values):
    with pytest.raises(ValueError, match="temperature"):
        Sampling(**values)
