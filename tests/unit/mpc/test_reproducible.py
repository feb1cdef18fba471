"""Functions, fits and noise that are the same bits on every machine: whatever units numpy and its libraries use."""

import hashlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from mitai.mpc import noise, nonlinear, reproducible
from mitai.mpc.models.config import Rope
from mitai.mpc.models.llama import turns_of
from mitai.mpc.spline import Octaves
from mitai.mpc.two.pieces import Piece, octaves_of, pieces_of

TABLES = {
    "gelu": nonlinear.GELU,
    "gelu_tanh": nonlinear.GELU_TANH,
    "silu": nonlinear.SILU,
    "tanh": nonlinear.TANH,
    "exp": nonlinear.exp_table(6),
    "exp of a narrow range": nonlinear.exp_table(6),
    "1/sqrt": Octaves(-0.5, math.sqrt(768), -1, 27, 28),
    "1/x": Octaves(-1.0, 1.0, 0, 14, 30),
}
WITHIN = {"exp of a narrow range": (-524.0, 0.0)}
DIGESTS = {
    "gelu": "40d085ad504d0a71",
    "gelu_tanh": "2b197bfffd9e0b10",
    "silu": "1269dfa03921b883",
    "tanh": "29df0575d7143c4d",
    "exp": "c90f5a076a4b02ea",
    "exp of a narrow range": "231fa2cb226acf71",
    "1/sqrt": "aa866f4ec404c994",
    "1/x": "02850b3e990b44ee",
    "noise": "89b96d0abc65197e",
    "turns": "d0d930be13157289",
}


def _pieces(name, table) -> tuple[Piece, ...]:
    return (octaves_of(table, 32)[1] if isinstance(table, Octaves) else pieces_of(table, WITHIN.get(name))).pieces


def digests() -> dict[str, str]:
    """Return a digest of all that twins, or two parties, compute with floating-point numbers."""
    found = {}
    for name, table in TABLES.items():
        parts = [getattr(table, "coefficients", np.zeros(0))]
        for form in (piece.form for piece in _pieces(name, table)):
            if hasattr(form, "cosines"):
                parts += [np.array([form.constant]), form.cosines, form.sines]
        found[name] = np.concatenate([part.ravel() for part in parts])
    found["noise"] = noise.gumbel((5000,), lambda size: hashlib.shake_128(b"noise").digest(size))
    found["turns"] = np.stack(turns_of(Rope(rope_theta=1e4), 64, 0, 512))
    return {name: hashlib.sha256(array.astype("<f8").tobytes()).hexdigest()[:16] for name, array in found.items()}


if __name__ == "__main__":  # in a process of its own, by a test below
    sys.stdout.write(json.dumps(digests()))


def test_fits_are_the_same_everywhere():
    assert digests() == DIGESTS


@pytest.mark.parametrize(
    "settings",
    [
        {
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL",
            "OMP_NUM_THREADS": "1",
        },
        pytest.param({"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "4"}, marks=pytest.mark.slow),
    ],
)
def test_fits_do_not_depend_on_the_units_of_a_processor(settings):
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | settings, capture_output=True, text=True, check=True, timeout=100
    )
    assert json.loads(done.stdout) == DIGESTS


def test_functions_are_those_of_libraries():
    x = np.linspace(-30, 30, 10_001)
    assert np.abs(reproducible.exp(x) / np.exp(x) - 1).max() < 1e-15
    assert np.abs(reproducible.tanh(x) - np.tanh(x)).max() < 1e-15
    assert np.abs(reproducible.erf(x) - [math.erf(one) for one in x]).max() < 3e-15
    y = np.geomspace(1e-16, 1e16, 10_001)
    assert np.abs(reproducible.log(y) - np.log(y)).max() < 1e-14
    for exponent in (-1, -0.5, 1.5):
        assert np.abs(reproducible.power(y, exponent) / y**exponent - 1).max() < 1e-13
    cosine, sine = reproducible.angle(x)
    assert np.abs(cosine + 1j * sine - np.exp(2j * np.pi * x)).max() < 2e-9  # half of 2^-32 of a turn


def test_noise_near_its_ends_is_exact():
    for word, uniform in ((0, 2.0**-53), ((1 << 64) - 1, 1 - 2.0**-53)):
        drawn = noise.gumbel((1,), lambda _, word=word: word.to_bytes(8, "little"))[0]
        assert math.isclose(drawn, -math.log(-math.log(uniform)), rel_tol=1e-12)


def test_least_squares_of_more_and_more_columns():
    rng = np.random.default_rng(1)
    matrix, values = rng.normal(size=(50, 7)), rng.normal(size=(50, 3))
    squares = reproducible.LeastSquares(matrix, values)
    for count in (1, 4, 7):
        squares.take(count)
        expected = np.linalg.lstsq(matrix[:, :count], values, rcond=None)[0]
        assert np.abs(squares.solution() - expected).max() < 1e-13
        assert np.abs(squares.residual() - (values - matrix[:, :count] @ expected)).max() < 1e-13
    single = reproducible.LeastSquares(matrix, values[:, 0])
    single.take(7)
    assert np.abs(single.solution() - expected[:, 0]).max() < 1e-13
