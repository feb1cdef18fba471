"""Functions of transformers in fixed point, against floating point, over the ranges that they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mitai.mpc import nonlinear
from mitai.mpc.clear import ClearEngine
from mpc_rig import CountingEngine

seeds = st.integers(0, 1 << 32)


def computed(function, *arrays):
    """What a function gives for these numbers, in the clear engine."""
    engine = ClearEngine()
    return engine.reveal(function(*(engine.constant(array) for array in arrays)))


def bits(array):
    """0s and 1s as a secret without fraction."""
    return ClearEngine().constant(array.astype(float), fraction=0)


def shares(scores, counts):
    """Softmax in floating point, over what counts; zeros where nothing does."""
    powers = np.exp(scores - scores.max(-1, keepdims=True)) * counts
    total = powers.sum(-1, keepdims=True)
    return np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)


# --- softmax ---


@given(seeds, st.integers(1, 300), st.floats(0, 25))
def test_softmax(seed, n, spread):
    scores = np.clip(np.random.default_rng(seed).standard_normal((3, n)) * spread, -120, 120)
    result = computed(nonlinear.softmax, scores)
    assert np.abs(result - shares(scores, np.ones_like(scores))).max() < 5e-4
    assert np.abs(result.sum(-1) - 1).max() < 1e-3 + n * 2.0**-16


@pytest.mark.parametrize("place", [-120.0, 0.0, 120.0])
@pytest.mark.parametrize("function", [nonlinear.softmax, nonlinear.quad_softmax])
def test_masked_and_hidden_scores_get_nothing(function, place):
    rng = np.random.default_rng(1)
    scores = rng.uniform(-7, 7, (4, 50)) + (0 if function is nonlinear.quad_softmax else place)
    mask, hidden = rng.random((4, 50)) < 0.7, rng.random((4, 50)) < 0.3
    mask[3] = False
    hidden[2] = True
    result = computed(lambda x: function(x, mask, bits(hidden)), scores)
    counts = mask & ~hidden
    assert (result[~counts] == 0).all()
    assert (np.abs(result[:2].sum(-1) - 1) < 1e-3).all()
    if function is nonlinear.softmax:
        assert np.abs(result - shares(scores - 500.0 * ~counts, counts)).max() < 5e-4


@pytest.mark.parametrize("reach", [128, 512])
def test_scores_that_are_hidden_are_seen_nowhere(reach):
    """However large they are beside the others; where all are hidden, too."""
    least, most = -reach, reach - 0.001
    scores = np.array([[least, most, most, least], [least, least, most, most], [most, least, least, most]])
    away = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]], bool)
    result = computed(lambda x: nonlinear.softmax(x, hidden=bits(away), reach=reach), scores)
    assert np.abs(result - [[0.5, 0, 0, 0.5], [0.5, 0.5, 0, 0], [0.5, 0, 0, 0.5]]).max() < 5e-4
    assert (computed(lambda x: nonlinear.softmax(x, hidden=bits(away | True), reach=reach), scores) < 1e-4).all()


def test_softmax_of_scores_beyond_the_usual_reach():
    scores = np.random.default_rng(2).uniform(-500, 500, (20, 60))
    scores[0] = np.linspace(480, 500, 60)
    scores[1] = np.linspace(-500, -480, 60)
    result = computed(lambda x: nonlinear.softmax(x, reach=512), scores)
    assert np.abs(result - shares(scores, np.ones_like(scores))).max() < 5e-4
    with pytest.raises(OverflowError, match="a bound on numbers"):
        computed(nonlinear.softmax, scores)
    with pytest.raises(OverflowError, match="not within"):
        computed(lambda x: x.engine.spline(x, nonlinear.TANH, (-400, 400)), scores)


def test_softmax_of_a_long_row():
    scores = np.random.default_rng(3).standard_normal((2, 9000))
    assert np.abs(computed(nonlinear.softmax, scores) - shares(scores, np.ones_like(scores))).max() < 1e-4


def test_quad_softmax():
    scores = np.random.default_rng(4).standard_normal((5, 128)) * 8
    squares = (scores + 5) ** 2
    assert np.abs(computed(nonlinear.quad_softmax, scores) - squares / squares.sum(-1, keepdims=True)).max() < 1e-4


# --- norms ---


def normalised(x, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


@given(seeds, st.sampled_from([16, 288, 768, 896, 3584]), st.floats(-4.5, 5), st.booleans())
def test_rms_norm(seed, n, magnitude, outlier):
    x = normalised(np.random.default_rng(seed).standard_normal((4, n)), 0) * 2**magnitude
    if outlier and n > 16:
        x[1:, 7] = (2000, -3000, 6000)
    result = computed(lambda x: nonlinear.rms_norm(x, 1e-5), x)
    expected = normalised(x, 1e-5)
    assert np.abs(result - expected).max() < 1e-4 * np.abs(expected).max() + 2.0**-15 / 2**magnitude


@given(seeds, st.floats(-3, 4))
def test_a_norm_with_a_scale(seed, magnitude):
    rng = np.random.default_rng(seed)
    x, scale = rng.standard_normal((4, 768)) * 2**magnitude, 1 + rng.standard_normal(768) / 4
    x[1:, 7] = (100, -300, 3000)
    result = computed(lambda x, scale: nonlinear.rms_norm(x, 1e-5, 1, scale), x, scale)
    expected = normalised(x, 1e-5) * scale
    error = np.abs(result - expected)
    assert (error < 2.0**-17 * np.abs(x * scale) + 1e-4 * np.abs(expected).max(-1, keepdims=True) + 1e-3).all()


@pytest.mark.parametrize("n", [32, 288, 768, 2048, 8192])
def test_rms_norm_up_to_the_end_of_its_range(n):
    longest = min(2 ** ((17 + n.bit_length()) / 2), 2**15)
    x = np.zeros((2, n))
    x[0, 0] = min(longest, 2**14) * 0.999
    x[1] = min(longest / np.sqrt(n), 2**14) * 0.999
    result = computed(lambda x: nonlinear.rms_norm(x, 1e-6), x)
    assert np.abs(result / [[np.sqrt(n)], [1]] - (x != 0)).max() < 1e-4


def test_small_rows_take_a_gain():
    x = np.random.default_rng(5).standard_normal((10, 512)) * 0.003
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    assert np.abs(computed(lambda x: nonlinear.rms_norm(x, 1e-6, nonlinear.EMBEDDING_GAIN), x) - expected).max() < 0.01
    without = computed(lambda x: nonlinear.rms_norm(x, 1e-6), x)
    assert (np.abs(without) <= np.abs(expected) + 0.01).all()


def test_rows_of_zeros_stay_zeros():
    assert (computed(lambda x: nonlinear.rms_norm(x, 0.0), np.zeros((2, 64))) == 0).all()


# --- activations ---


@pytest.mark.parametrize(
    ("name", "function", "tolerance"),
    [
        ("gelu", torch.nn.functional.gelu, 2e-4),
        ("gelu_new", lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 2e-4),
        ("silu", torch.nn.functional.silu, 1e-4),
    ],
)
def test_activations(name, function, tolerance):
    x = np.concatenate([np.linspace(-20, 20, 40001), [-16383.9, 16383.9]])
    result = computed(lambda x: nonlinear.activation(x, name), x)
    assert np.abs(result - function(torch.tensor(x)).numpy()).max() < tolerance


def test_tanh():
    x = np.concatenate([np.linspace(-20, 20, 40001), [-16383.9, 16383.9]])
    assert np.abs(computed(lambda x: x.engine.spline(x, nonlinear.TANH), x) - np.tanh(x)).max() < 1e-4


def test_quad_gelu():
    x = np.linspace(-250, 250, 4001)
    result = computed(lambda x: nonlinear.activation(x, "gelu", "mpcformer"), x)
    assert np.abs(result - (x**2 / 8 + x / 4 + 0.5)).max() < 2e-3 + 1e-5 * 250


# --- cost ---


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (nonlinear.softmax, {"upper": 1, "spline": 1, "octaves": 1, "multiply": 1, "truncate": 1}),
        (lambda x: nonlinear.rms_norm(x, 1e-5), {"multiply": 2, "octaves": 1, "truncate": 1}),
        (lambda x: nonlinear.activation(x, "gelu"), {"spline": 1}),
    ],
)
def test_a_function_asks_for_few_operations(function, calls):
    engine = CountingEngine()
    function(engine.constant(np.ones((8, 96))))
    assert engine.count() == calls
