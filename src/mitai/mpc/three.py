"""The setting `3pc`: three parties, no dealer, replicated shares (`docs/spec/mpc-parties.md`).

A secret is x = x0 + x1 + x2, and party i holds x_i and x_(i+1). Products are local: each party adds up the terms that
it can, and the three sums are shares of the product. What is not linear runs between the parties 0 and 1, in the
protocols of `2+1`, on x0 + x1 and x2; party 2 deals the randomness for it while the run goes on.

Invariants:

- Party 2 sends the other two their keys and what it deals. It has its own shares and is sent nothing but what is
  revealed.
- Whatever the parties 0 and 1 tell each other is masked by words that only the other one and party 2, or party 2
  alone, know; and party 2 does not see it.
- Keys serve for one run.

Example:
    >>> from mitai.mpc.three_local import run
    >>> done = run(lambda engine: engine.reveal(engine.input("client", (2,), np.array([1.5, -2.0])) * 2.0))
    >>> done.results[0]
    array([ 3., -4.])
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mitai.errors import MpcError
from mitai.mpc import kernels
from mitai.mpc.engine import Engine, Secret, Shape, Weight
from mitai.mpc.kernels import Packed
from mitai.mpc.link import Link
from mitai.mpc.ring import Real, Ring, decode, encode
from mitai.mpc.spline import Octaves, Spline
from mitai.mpc.two import algebra
from mitai.mpc.two.blank import blank
from mitai.mpc.two.engine import DIGEST_BYTES, Side
from mitai.mpc.two.pads import KEY_BYTES, DealerPads, Pads, Plan, PlanPads, Stream, TapePads

T = TypeVar("T")
Pair = tuple[Ring, Ring]
Feeds = Mapping[str, Iterable[Sequence[Ring]]]
Program = Callable[[Engine], T]

DEALER = 2
RESHARE = 2  # the stream of a key from which new shares are drawn; 0 and 1 are those of `2+1`


class ReplicatedWeight(Weight):
    """A matrix W as party i holds it: w_i + w_(i+1), and w_i; nothing where only shapes are known."""

    both: Ring | Packed[np.uint64]
    first: Ring | Packed[np.uint64]

    def __init__(self, shape: Shape, fraction: int, *matrices: Ring | Packed[np.uint64]) -> None:
        rows, columns = shape
        self.shape = rows, columns
        self.fraction = fraction
        if matrices:
            self.both, self.first = matrices


class Flow:
    """What party 2 deals to party 1, a message for each draw, as the place where pads write and read."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def write(self, data: bytes | memoryview, /) -> None:
        """Send it."""
        if data:
            self._link.send(data)

    def read(self, size: int, /) -> bytes:
        """Receive as much."""
        return bytes(self._link.receive(size)) if size else b""


class Three(Engine):
    """One of the three parties.

    Args:
        role: 0, 1 or 2.
        links: The ways to the other parties, by their roles.
    """

    def __init__(self, role: int, links: Mapping[int, Link]) -> None:
        self.role = role
        self._links = links
        self._side = Side(role, links.get(1 - role)) if role < DEALER else Side(DEALER)
        self._fresh: tuple[Stream, ...] = ()
        self._feeds: dict[str, Iterator[Sequence[Ring]]] = {}
        self._known_noise = False

    def plan(self, program: Program[T]) -> Plan:
        """Walk through a program without data, to know what it draws.

        Raises:
            MpcError: `mpc.known-noise`.
        """
        self._known_noise = False
        return self._side.plan(lambda _: program(self))[0]

    def run(self, program: Program[T], feeds: Feeds | None = None, plan: Plan | None = None) -> T:
        """Run a program, together with the other two.

        Args:
            program: What is computed; depends on nothing secret.
            feeds: Owners' shares, as pairs (x_i, x_(i+1)), in the order in which the program asks for them.
            plan: The program's, if it is known; without it the program is walked through twice.

        Raises:
            MpcError: `mpc.plan-mismatch`: the parties run different programs, or the program does something else than
                when it was planned; `mpc.known-noise`; `mpc.input-missing`, `mpc.input-shape`; the links'.
        """
        plan = plan or self.plan(program)
        keys = self._keys(plan)
        pads = self._pads(keys)
        self._fresh = tuple(Stream(key, RESHARE) for key in keys)
        self._feeds = {owner: iter(shares) for owner, shares in (feeds or {}).items()}
        self._known_noise = False
        try:
            result = self._side.walk(pads, lambda _: program(self))
        finally:
            self._fresh = ()
            self._feeds = {}
        pads.keep_to(plan)
        return result

    def _keys(self, plan: Plan) -> tuple[bytes, ...]:
        """Let party 2 draw a key with each of the others; return those that this party has."""
        if self.role == DEALER:
            keys = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
            for role, key in enumerate(keys):
                self._links[role].send(plan.digest + key)
            return keys
        told = bytes(self._links[DEALER].receive(DIGEST_BYTES + KEY_BYTES))
        if told[:DIGEST_BYTES] != plan.digest:
            raise MpcError("mpc.plan-mismatch", "the third party runs another program than this one")
        return (told[DIGEST_BYTES:],)

    def _pads(self, keys: tuple[bytes, ...]) -> Pads:
        if self.role == DEALER:
            return DealerPads((keys[0], keys[1]), Flow(self._links[1]))
        return TapePads(self.role, keys[0], np.empty(0, np.uint64), Flow(self._links[DEALER]))

    # --- between the two kinds of shares ---

    @property
    def _planning(self) -> bool:
        return isinstance(self._side.pads, PlanPads)

    def _two(self, x: Secret) -> Secret:
        """Return x as the parties 0 and 1 share it: x0 + x1 and x2."""
        if self._side.offline:
            return self._side.blank(x.shape, x.fraction)
        return self._side.secret(x.parts[0] + x.parts[1] if self.role == 0 else x.parts[1], x.fraction)

    def _three(self, x: Secret) -> Secret:
        """Share anew what the parties 0 and 1 share: x0 and x2 are drawn with party 2, x1 is what is missing."""
        if self._planning:
            return self._blank(x.shape, x.fraction)
        drawn = tuple(stream.take(x.shape, np.uint64) for stream in self._fresh)
        if self.role == DEALER:
            return Secret(self, (drawn[1], drawn[0]), x.fraction)
        mine = x.parts[0] - drawn[0]
        (its,) = self._side.exchange(mine)
        middle = mine + its.astype(np.uint64, copy=False)
        return Secret(self, (drawn[0], middle) if self.role == 0 else (middle, drawn[0]), x.fraction)

    def _gathered(self, z: Ring, fraction: int) -> Secret:
        """Return z0 + z1 + z2, of which each party has one, cut to the engine's fraction, as a secret."""
        its = self._side.pads.given(z.shape, np.uint64, lambda: z)
        side = self._side
        whole = side.blank(z.shape, fraction) if side.offline else side.secret(z + its, fraction)
        return self._three(algebra.cut(side, whole))

    def _blank(self, shape: Shape, fraction: int) -> Secret:
        return Secret(self, (blank(shape), blank(shape)), fraction)

    # --- in and out ---

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """Take the next array of an owner's shares; `values` are not looked at. See `Engine.input`."""
        del values
        bits = self.fraction if fraction is None else fraction
        self._side.pads.note("input", owner, shape, bits)
        if self._planning:
            return self._blank(shape, bits)
        shares = next(self._feeds.get(owner, iter(())), None)
        if shares is None:
            raise MpcError("mpc.input-missing", f"{owner} gave no share of an array {shape}")
        for share in shares:
            if share.shape != shape or share.dtype != np.uint64:
                raise MpcError("mpc.input-shape", f"{owner} gave a share {share.dtype} {share.shape}, not {shape}")
        first, second = shares
        return Secret(self, (first, second), bits)

    def reveal(self, x: Secret) -> Real:
        """See `Engine.reveal`; each party sends the next one the share that it lacks.

        Raises:
            MpcError: `mpc.known-noise`: the run has drawn noise, which party 2 knows.
        """
        if self._known_noise:
            raise MpcError(
                "mpc.known-noise",
                "one of the three parties knows the noise of this run: what depends on it is not for the parties",
                hint="let a client add up the shares of the choice",
            )
        if self._planning:
            return np.zeros(x.shape)
        first = np.ascontiguousarray(x.parts[0])
        self._links[(self.role + 1) % 3].send(first.reshape(-1).view(np.uint8).data)
        missing = np.frombuffer(self._links[(self.role + 2) % 3].receive(first.nbytes), np.uint64).reshape(x.shape)
        return decode(x.parts[0] + x.parts[1] + missing, x.fraction)

    def constant(self, values: Real | float, shape: Shape | None = None, fraction: int | None = None) -> Secret:
        """See `Engine.constant`."""
        bits = self.fraction if fraction is None else fraction
        encoded = encode(values, bits)
        zeros = np.zeros(encoded.shape if shape is None else shape, np.uint64)
        return self.add_public(Secret(self, (zeros, zeros), bits), encoded)

    def add_public(self, x: Secret, values: Ring) -> Secret:
        """See `Engine.add_public`; x0 takes them."""
        first, second = x.parts
        parts = {0: (first + values, second), 1: (first, second), 2: (first, second + values)}[self.role]
        return Secret(self, parts, x.fraction)

    # --- products ---

    def truncate(self, x: Secret, fraction: int | None = None) -> Secret:
        """See `Engine.truncate`."""
        bits = self.fraction if fraction is None else fraction
        return x if x.fraction == bits else self._three(self._side.truncate(self._two(x), bits))

    def multiply(self, x: Secret, y: Secret) -> Secret:
        """See `Engine.multiply`."""
        (a, b), (c, d) = x.parts, y.parts
        return self._gathered(a * (c + d) + b * c, x.fraction + y.fraction)

    def matmul(self, x: Secret, y: Secret) -> Secret:
        """See `Engine.matmul`."""
        if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-2]:
            raise ValueError(f"no product of shapes {x.shape} and {y.shape}")
        if self._planning:
            return self._gathered(blank((*x.shape[:-1], y.shape[-1])), x.fraction + y.fraction)
        (a, b), (c, d) = x.parts, y.parts
        return self._gathered(kernels.matmul(a, c + d) + kernels.matmul(b, c), x.fraction + y.fraction)

    def weight(self, w: Secret) -> ReplicatedWeight:
        """See `Engine.weight`; nothing is sent."""
        return ReplicatedWeight(w.shape, w.fraction, *map(kernels.pack, self._matrices(w)))

    def tied(self, w: Secret, fold: int = 1) -> tuple[Weight, Weight]:
        """See `Engine.tied`."""
        folded, matrices = (w.shape[0] // fold, fold * w.shape[1]), self._matrices(w)
        table = ReplicatedWeight(folded, w.fraction, *(matrix.reshape(folded) for matrix in matrices))
        return table, ReplicatedWeight(w.shape[::-1], w.fraction, *(matrix.T for matrix in matrices))

    def _matrices(self, w: Secret) -> tuple[Ring, ...]:
        return () if self._planning else (w.parts[0] + w.parts[1], w.parts[0])

    def linear(self, x: Secret, w: Weight, bias: Secret | None = None) -> Secret:
        """See `Engine.linear`."""
        if not isinstance(w, ReplicatedWeight):
            raise TypeError("a weight of another engine")
        if x.shape[-1] != w.shape[0]:
            raise ValueError(f"no product of shapes {x.shape} and {w.shape}")
        shape = (*x.shape[:-1], w.shape[1])
        if self._planning:
            z: Ring = blank(shape)
        else:
            a, b = (part.reshape(-1, w.shape[0]) for part in x.parts)
            z = (kernels.matmul(a, w.both) + kernels.matmul(b, w.first)).reshape(shape)
        product = self._gathered(z, x.fraction + w.fraction)
        return product if bias is None else product + bias

    # --- what is not linear ---

    def less(self, x: Secret, y: Secret | float) -> Secret:
        """See `Engine.less`."""
        return self._three(self._side.less(self._two(x - y), 0.0))

    def spline(self, x: Secret, table: Spline, within: tuple[float, float] | None = None) -> Secret:
        """See `Engine.spline`."""
        return self._three(self._side.spline(self._two(x), table, within))

    def octaves(self, x: Secret, table: Octaves) -> Secret:
        """See `Engine.octaves`."""
        return self._three(self._side.octaves(self._two(x), table))

    def upper(self, x: Secret) -> Secret:
        """See `Engine.upper`."""
        return self._three(self._side.upper(self._two(x)))

    def gumbel(self, shape: Shape) -> Secret:
        """See `Engine.gumbel`; but party 2 draws them and knows them: this run reveals nothing any more to parties."""
        self._known_noise = True
        return self._three(self._side.gumbel(shape))
