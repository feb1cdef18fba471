"""What two parties open: each piece uniform, and no two pieces under one mask, over all operations of an engine."""

import numpy as np

from mitai.mpc import nonlinear
from mitai.mpc.engine import concatenate
from mitai.mpc.link import QueueLink
from mitai.mpc.models.attention import Attention
from mitai.mpc.spline import Octaves
from mitai.mpc.two.local import run

RUNS = 128
ALIKE = 0.75  # of pieces that are uniform and independent, two are as much alike once in 10^9 tests


def program(engine):
    """Every operation, factors that come again, and numbers that a truncation has opened."""
    x = engine.input("client", (2, 3), np.array([[0.5, -2.0, 3.0], [-7.0, 1.5, 0.25]]))
    w = engine.weight(engine.input("model", (3, 2), np.arange(6.0).reshape(3, 2) / 4))
    bias = engine.input("model", (2,), np.array([0.5, -0.5]))
    cube = nonlinear.exact(x, engine.multiply(x, x))  # x with 48 bits, then whole
    y = engine.truncate(cube, 16)
    linear = engine.linear(x, w, bias)
    bent = engine.spline(linear, nonlinear.GELU) + engine.spline(linear, nonlinear.SILU)  # opened by a truncation
    bit = engine.less(y, 0.0)
    row = concatenate((y, x), 1)
    bound = engine.upper(row)
    inverse = engine.octaves(x + 9.0, Octaves(-1.0, 1.0, 0, 6, 16))
    chosen = engine.multiply(bit, x)
    scale = engine.masked(engine.input("model", (3,), np.array([1.0, 2.0, 0.5])))
    norm = nonlinear.rms_norm(x, 1e-5, scale=scale)
    norm = norm + nonlinear.rms_norm(engine.linear(x, engine.weight(engine.constant(np.eye(3))), x), 1e-5, scale=scale)
    kept = engine.masked(x)  # opened for all that follows
    both = engine.matmul(kept.swap(), y) + engine.matmul(kept[:, ::-1].swap(), norm)
    heads = x.reshape(1, 1, 2, 3)
    hidden = engine.input("client", (1, 2), np.array([0.0, 1.0]), 0)
    attended = Attention(1, 1, 1)(heads, heads, heads, hidden=hidden)
    total = bent.sum(1).sum(0) + (bound + inverse + chosen + norm + both[:2]).sum(1).sum(0)
    total = total + engine.truncate(attended).sum(2).sum(1)
    engine.reveal(total.reshape(1))


def messages(monkeypatch):
    """Run the program; return what each party sent to the other but for the run's name and the result, in bytes."""
    sent = {}

    def send(link, data, own=QueueLink.send):
        sent.setdefault(id(link), []).append(bytes(data))
        own(link, data)

    with monkeypatch.context() as patch:
        patch.setattr(QueueLink, "send", send)
        run(program)
    sizes = [[len(part) for part in parts] for parts in sent.values()]
    parties = [parts for parts, own in zip(sent.values(), sizes, strict=True) if sizes.count(own) == 2]
    return [np.frombuffer(b"".join(parts[1:-1]), np.uint8) for parts in parties]


def most_alike(pieces, turn):
    """Return how near pieces [runs, n] of 0 to `turn` - 1 are to a constant, and any two to a constant apart."""
    points = np.exp(2j * np.pi / turn * pieces).astype(np.complex64)
    alone = np.abs(points.mean(0))
    apart = np.abs(points.conj().T @ points) / len(pieces) - np.eye(pieces.shape[1])
    together = np.abs(points.T @ points) / len(pieces)
    if turn == 2:  # a bit and itself are always together
        together -= np.eye(pieces.shape[1])
    return max(alone.max(), apart.max(), together.max())


def test_nothing_is_opened_under_a_mask_that_was_used(monkeypatch):
    """Two numbers under one mask differ (or add up to, or XOR to) the same in every run; so does one without a mask."""
    seen = [messages(monkeypatch) for _ in range(RUNS)]
    one, other = (np.stack(parts) for parts in zip(*seen, strict=True))
    used = (one != 0).any(0)  # the rest is padding
    one, other = one[:, used], other[:, used]
    _, first = np.unique(one, axis=1, return_index=True)
    assert one.shape[1] - len(first) == 6 * 6  # x less its mask, whose 48 bits are told again among its 64
    one, other = one[:, np.sort(first)], other[:, np.sort(first)]
    for message in (one, other, one + other):
        assert most_alike(message, 256) < ALIKE
    for bit in range(8):
        assert most_alike((one ^ other) >> bit & 1, 2) < ALIKE
