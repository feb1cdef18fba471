"""Any program gives with two parties and a dealer what it gives in plain numbers.

What a protocol knows of a number, such as that it has been opened, is found by the array of its share: programs that
use the same secrets again, renamed, cut, put together, and in later runs, would show where the sides disagree on that.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.mpc.engine import concatenate
from mitai.mpc.ring import encode
from mitai.mpc.spline import Spline
from mitai.mpc.two.engine import Owner
from mitai.mpc.two.local import Local

N = 4
TANH = Spline.fit(np.tanh, low=-8, high=8, segments=128, degree=2, below=(-1, 0), above=(1, 0))


def read(x, fraction):
    return x.map(lambda part: part, fraction)


def whole(x, y):
    product = x.engine.multiply(read(x, 0), read(y, 0))
    return read(product, x.fraction + y.fraction + 3)


def cut(x, y):
    first, second = x.engine.truncate_all(whole(x, y), read(y.times(4), y.fraction + 2))
    return first * 0.5 - second * 0.25


STEPS = {  # on secrets, and on numbers; none makes more than 7 out of 7
    "sum": (lambda e, x, y, w: (x + y) * 0.5, lambda x, y, w: (x + y) / 2),
    "difference": (lambda e, x, y, w: (x - y) * 0.5, lambda x, y, w: (x - y) / 2),
    "negative": (lambda e, x, y, w: -x, lambda x, y, w: -x),
    "public": (lambda e, x, y, w: (x + 1.0) * 0.5, lambda x, y, w: (x + 1) / 2),
    "product": (lambda e, x, y, w: x * y * 0.125, lambda x, y, w: x * y / 8),
    "square": (lambda e, x, y, w: x * x * 0.125, lambda x, y, w: x * x / 8),
    "renamed": (lambda e, x, y, w: read(x, 16) * x * 0.125, lambda x, y, w: x * x / 8),
    "row": (lambda e, x, y, w: x * y[0] * 0.125, lambda x, y, w: x * y[0] / 8),
    "whole": (lambda e, x, y, w: e.truncate(whole(x, y)), lambda x, y, w: x * y / 8),
    "cut": (lambda e, x, y, w: cut(x, y), lambda x, y, w: x * y / 16 - y / 4),
    "matrices": (lambda e, x, y, w: x @ y.swap() * 0.03125, lambda x, y, w: x @ y.T / 32),
    "masked": (lambda e, x, y, w: e.masked(x), lambda x, y, w: x),
    "layer": (lambda e, x, y, w: e.linear(x, w, y[0]) * 0.03125, lambda x, y, w: (x @ w + y[0]) / 32),
    "turned": (lambda e, x, y, w: concatenate((x[1:], y[:1]), 0), lambda x, y, w: np.concatenate((x[1:], y[:1]))),
    "smaller": (lambda e, x, y, w: e.select(e.less(x, y), x, y), lambda x, y, w: np.minimum(x, y)),
    "table": (lambda e, x, y, w: e.spline(x, TANH), lambda x, y, w: np.tanh(x)),
}
steps = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=9
)


def walked(program, pool, choose):
    pool = list(pool)
    for name, left, right in program:
        pool.append(choose(STEPS[name])(pool[left % len(pool)], pool[right % len(pool)]))
    return pool


@pytest.mark.parametrize("masked", [False, True])
@settings(max_examples=60, deadline=None)
@given(first=steps, second=steps, seed=st.integers(0, 1 << 30))
def test_programs(masked, first, second, seed):
    rng = np.random.default_rng(seed)
    w, *numbers = rng.uniform(-7, 7, (4, N, N))

    def load(engine):
        weight = engine.weight(engine.input("model", w.shape, w))
        pool = [engine.input("model", number.shape, number) for number in numbers]
        return weight, [engine.masked(x) for x in pool] if masked else pool

    def compute(engine, weight, pool, program):
        return walked(program, pool, lambda step: lambda x, y: step[0](engine, x, y, weight))

    local = Local()
    states = local.do((load,) * 3, Owner().inputs(load))
    plain = numbers
    for program in (first, second):
        sides = tuple(
            lambda engine, weight=weight, pool=pool, program=program: compute(engine, weight, pool, program)
            for weight, pool in states
        )
        pools = local.do(sides)
        plain = walked(program, plain, lambda step: lambda x, y: step[1](x, y, w))
        states = [(weight, pool) for (weight, _), pool in zip(states, pools, strict=True)]
        shares = zip(pools[0], pools[1], plain, strict=True)
        for one, other, number in shares:
            got = (one.parts[0] + other.parts[0]).view(np.int64)
            assert one.fraction == 16
            assert np.abs(got - encode(number).view(np.int64)).max() < 2000  # 0.03
