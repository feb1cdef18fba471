"""Products and truncation of the setting 2+1, against plain numbers."""

import numpy as np

from mitai.mpc.two.local import run


def test_products_are_those_of_plain_numbers():
    rng = np.random.default_rng(1)
    x, w, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)

    def program(engine):
        secret = engine.input("client", x.shape, x)
        weight = engine.weight(engine.input("model", w.shape, w))
        y = engine.linear(secret, weight, engine.input("model", b.shape, b))
        return [
            engine.reveal(result)
            for result in (y, secret @ secret.swap(), secret * secret, secret * secret[0], y * 0.5 + 1.0)
        ]

    expected = [x @ w + b, x @ x.T, x * x, x * x[0], (x @ w + b) * 0.5 + 1]
    done = run(program)
    for results in done.results:
        for result, plain in zip(results, expected, strict=True):
            assert np.abs(result - plain).max() * 65536 < 8
