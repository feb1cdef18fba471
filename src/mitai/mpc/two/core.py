"""What all operations of the setting `2+1` stand on: a side's randomness, openings, and what is local.

`Two` is one side: a party (role 0 or 1) or somebody without data (the dealer, an owner, whoever plans), for whom every
secret is blank. A protocol is a function of it, in three steps that each side walks through in the same order:

    r = engine.pads.random(shape, np.uint64)       # draw; the same lines at all sides
    if engine.offline:                             # without data, that is all
        return engine.blank(shape, fraction)
    (opened,) = engine.open(x.parts[0] + r[0])     # one round; then what is local
"""

from __future__ import annotations

import itertools
import secrets
import threading
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mitai.errors import MpcError
from mitai.mpc import noise
from mitai.mpc.engine import Engine, Secret, Shape
from mitai.mpc.link import Link
from mitai.mpc.ring import Real, Ring, decode, encode
from mitai.mpc.two.blank import blank
from mitai.mpc.two.factors import Factor, Known
from mitai.mpc.two.pads import MaskedWeight, Pads, Plan, PlanPads

if TYPE_CHECKING:
    from mitai.mpc.two.masked import Opened

T = TypeVar("T")
Program = Callable[[Engine], T]
Feeds = Mapping[str, Iterable[Ring]]
Words = NDArray[Any]  # of any unsigned type


class Two(Engine, ABC):
    """One side of the protocols.

    Attributes:
        role: 0 or 1 at a party, 2 at a dealer.
        pads: The randomness of the run that is going on.
        offline: Whether there is no data, just shapes.
    """

    def __init__(self, role: int, link: Link | None = None) -> None:
        self.role = role
        self.link = link
        self.made: list[MaskedWeight] = []
        self.factors: Known[Factor] = Known()
        self.opened: Known[Opened] = Known()
        self._pads: Pads | None = None
        self._feeds: dict[str, Iterator[Ring]] = {}
        self._walking = threading.Lock()

    @property
    def pads(self) -> Pads:
        """The randomness of the run that is going on."""
        if self._pads is None:
            raise RuntimeError("an operation outside of a run")
        return self._pads

    @property
    def offline(self) -> bool:
        """Whether there is no data."""
        return self.pads.offline

    def plan(self, program: Program[T]) -> tuple[Plan, T]:
        """Walk through a program without data; waits for the end of a run that is going on.

        Returns:
            What it draws, and what it returns, with blank secrets.
        """
        pads = PlanPads()
        result = self.walk(pads, program)
        return pads.plan(), result

    def walk(self, pads: Pads, program: Program[T], feeds: Feeds | None = None) -> T:
        """Run a program with this randomness, and owners' shares in the order in which it asks for them."""
        with self._walking:
            self._pads = pads
            self._feeds = {owner: iter(shares) for owner, shares in (feeds or {}).items()}
            try:
                with np.errstate(over="ignore"):  # numpy warns where single ring elements wrap around
                    return program(self)
            finally:
                self._pads = None
                self.factors, self.opened = Known(), Known()
                for weight in self.made:
                    weight.fresh = False
                self.made.clear()

    # --- openings ---

    def exchange(self, *shares: Words) -> tuple[Words, ...]:
        """Send arrays to the other party, in one message, and return its arrays of the same shapes and types.

        The arrays must not be changed afterwards: they may still be on their way.
        """
        if self.link is None or self.offline:
            raise RuntimeError("nobody to exchange with")
        places = list(itertools.accumulate((-(-share.nbytes // 8) * 8 for share in shares), initial=0))
        size = places[-1]
        if not size:
            return shares
        if len(shares) == 1 and shares[0].flags.c_contiguous and shares[0].nbytes == size:
            message = shares[0].reshape(-1).view(np.uint8)
        else:
            message = np.zeros(size, np.uint8)
            for share, at in zip(shares, places, strict=False):
                message[at : at + share.nbytes].view(share.dtype).reshape(share.shape)[...] = share
        self.link.send(message.data)
        received = np.frombuffer(self.link.receive(size), np.uint8)
        return tuple(
            received[at : at + share.nbytes].view(share.dtype).reshape(share.shape)
            for share, at in zip(shares, places, strict=False)
        )

    def open(self, *shares: Words) -> tuple[Words, ...]:
        """Open additively shared arrays, modulo their types' sizes, in one round."""
        return tuple(mine + its for mine, its in zip(shares, self.exchange(*shares), strict=True))

    def open_xor(self, *shares: Words) -> tuple[Words, ...]:
        """Open arrays that are shared by XOR, in one round."""
        return tuple(mine ^ its for mine, its in zip(shares, self.exchange(*shares), strict=True))

    # --- in and out ---

    def blank(self, shape: Shape, fraction: int) -> Secret:
        """Return a secret of which only the shape is known here."""
        return Secret(self, (blank(shape),), fraction)

    def secret(self, share: Ring, fraction: int) -> Secret:
        """Return a party's share as a secret; it is a number of its own, even where its owner has given it twice."""
        return Secret(self, (share.view(),), fraction)

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """Take the next array of an owner's shares; `values` are the owner's alone and not looked at (`Engine.input`).

        Raises:
            MpcError: `mpc.input-missing`, `mpc.input-shape`.
        """
        del values
        bits = self.fraction if fraction is None else fraction
        self.pads.note("input", owner, shape, bits)
        if self.offline:
            return self.blank(shape, bits)
        share = next(self._feeds.get(owner, iter(())), None)
        if share is None:
            raise MpcError("mpc.input-missing", f"{owner} gave no share of an array {shape}")
        if share.shape != shape or share.dtype != np.uint64:
            raise MpcError("mpc.input-shape", f"{owner} gave a share {share.dtype} {share.shape} of an array {shape}")
        return self.secret(share, bits)

    def reveal(self, x: Secret) -> Real:
        """See `Engine.reveal`."""
        if self.offline:
            return np.zeros(x.shape)
        (values,) = self.open(x.parts[0])
        return decode(values, x.fraction)

    def constant(self, values: Real | float, shape: Shape | None = None, fraction: int | None = None) -> Secret:
        """See `Engine.constant`."""
        bits = self.fraction if fraction is None else fraction
        encoded = encode(values, bits)
        whole = encoded.shape if shape is None else shape
        if self.offline:
            return self.blank(whole, bits)
        return self.secret(np.broadcast_to(self.public(encoded), whole), bits)

    def draw(self, size: int) -> bytes:
        """Return bytes that nobody else knows: a run's names and keys, and noise, at a dealer."""
        return secrets.token_bytes(size)

    def gumbel(self, shape: Shape) -> Secret:
        """See `Engine.gumbel`: the dealer draws, who sees nothing of what it is used for."""
        share = self.pads.given(shape, np.uint64, lambda: encode(noise.gumbel(shape, self.draw), self.fraction))
        return self.blank(shape, self.fraction) if self.offline else self.secret(share, self.fraction)

    def add_public(self, x: Secret, values: Ring) -> Secret:
        """See `Engine.add_public`."""
        return Secret(self, (x.parts[0] + self.public(values),), x.fraction)

    def public(self, values: Ring) -> Ring:
        """Return this side's share of what everybody knows: all of it at party 0, nothing at the others."""
        return values if self.role == 0 else np.zeros_like(values)
