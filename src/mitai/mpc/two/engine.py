"""The sides of the setting `2+1`: two parties, the dealer, and owners who share their inputs.

A run of a program has three stages (`docs/spec/mpc.md`, "A run"):

1. `plan` (everybody): walk through the program without data, to know what it draws.
2. `Dealer.deal` and `Party.prepare`, together: the dealer makes correlated randomness for a batch of runs, the parties
   write it on tapes. Products of all runs with one weight are one product.
3. `Party.run`, both together: compute, with a tape that is used up.

Example:
    >>> from mitai.mpc.two.local import run
    >>> done = run(lambda engine: engine.reveal(engine.input("client", (2,), np.array([1.5, -2.0])) + 2.0))
    >>> done.results[0]
    array([3.5, 0. ])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from mitai.errors import MpcError
from mitai.mpc import kernels
from mitai.mpc.engine import Secret, Shape, Weight
from mitai.mpc.link import Link
from mitai.mpc.ring import Real, Ring, encode
from mitai.mpc.spline import Octaves, Spline
from mitai.mpc.two import algebra, compare, octaves, splines, upper
from mitai.mpc.two.batch import Outgoing, by_weight, mask_rows, pieces, result_rows
from mitai.mpc.two.core import Feeds, Program, Two
from mitai.mpc.two.pads import KEY_BYTES, DealerPads, MaskedWeight, Plan, Sink, Source
from mitai.mpc.two.tape import TapeHeader, open_tape

T = TypeVar("T")
RUN_BYTES, DIGEST_BYTES = 16, 32


class Side(Two):
    """The operations, in the protocols of this setting."""

    def truncate(self, x: Secret, fraction: int | None = None) -> Secret:
        """See `Engine.truncate`."""
        bits = self.fraction if fraction is None else fraction
        return x if x.fraction == bits else algebra.truncate(self, (x,), bits)[0]

    def truncate_all(self, *secrets: Secret) -> tuple[Secret, ...]:
        """See `Engine.truncate_all`."""
        return algebra.truncate(self, secrets, self.fraction)

    def multiply(self, x: Secret, y: Secret) -> Secret:
        """See `Engine.multiply`."""
        return algebra.multiply(self, x, y)

    def matmul(self, x: Secret, y: Secret) -> Secret:
        """See `Engine.matmul`."""
        return algebra.matmul(self, x, y)

    def masked(self, x: Secret) -> Secret:
        """See `Engine.masked`."""
        return algebra.masked(self, x)

    def weight(self, w: Secret) -> Weight:
        """See `Engine.weight`."""
        return algebra.weight(self, w)

    def tied(self, w: Secret, fold: int = 1) -> tuple[Weight, Weight]:
        """See `Engine.tied`."""
        return algebra.tied(self, w, fold)

    def linear(self, x: Secret, w: Weight, bias: Secret | None = None) -> Secret:
        """See `Engine.linear`."""
        if not isinstance(w, MaskedWeight):
            raise TypeError("a weight of another engine")
        return algebra.linear(self, x, w, bias)

    def less(self, x: Secret, y: Secret | float) -> Secret:
        """See `Engine.less`."""
        return compare.less(self, x, y)

    def spline(self, x: Secret, table: Spline, within: tuple[float, float] | None = None) -> Secret:
        """See `Engine.spline`."""
        return splines.spline(self, x, table, within)

    def octaves(self, x: Secret, table: Octaves) -> Secret:
        """See `Engine.octaves`."""
        return octaves.octaves(self, x, table)

    def upper(self, x: Secret) -> Secret:
        """See `Engine.upper`."""
        return upper.upper(self, x)


class Owner(Side):
    """Somebody with inputs: walks through the program to find out what to share, and in which order."""

    def __init__(self) -> None:
        super().__init__(2)
        self._inputs: dict[str, list[Ring]] = {}

    def inputs(self, program: Program[object]) -> dict[str, list[Ring]]:
        """Return the arrays that the program gives values for, by owner."""
        self._inputs = {}
        self.plan(program)
        return self._inputs

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """Note the values; see `Engine.input`."""
        if values is not None:
            encoded = encode(values, self.fraction if fraction is None else fraction).reshape(shape)
            self._inputs.setdefault(owner, []).append(encoded)
        return super().input(owner, shape, values, fraction)


class Dealer(Side):
    """Who supplies correlated randomness ahead of time, and has no part in what follows."""

    def __init__(self) -> None:
        super().__init__(2)

    def deal(self, programs: Sequence[Program[T]], links: tuple[Link, Link]) -> list[T]:
        """Deal the randomness of a batch of runs to both parties.

        Returns:
            What the programs return: weights with their masks, and blank secrets.
        """
        plans = [self.plan(program)[0] for program in programs]
        names = [self.draw(RUN_BYTES) for _ in plans]
        keys = [[self.draw(KEY_BYTES) for _ in plans] for _ in links]
        for link, its in zip(links, keys, strict=True):
            link.send(b"".join(name + plan.digest + key for name, plan, key in zip(names, plans, its, strict=True)))
        for weight, uses in by_weight(plans):
            products = kernels.matmul(mask_rows(keys[0], uses) + mask_rows(keys[1], uses), weight.mask)
            products -= result_rows(keys[0], uses)
            links[1].send(products.data.cast("B"))
        results = []
        for program, plan, first, second in zip(programs, plans, *keys, strict=True):
            outgoing = Outgoing(links[1])
            pads = DealerPads((first, second), outgoing)
            results.append(self.walk(pads, program))
            pads.keep_to(plan)
            outgoing.flush()
        return results


class Party(Side):
    """One of the two who compute.

    Args:
        role: 0 or 1.
        link: The way to the other party.
    """

    def __init__(self, role: int, link: Link) -> None:
        super().__init__(role, link)
        self._used: set[bytes] = set()

    def prepare(self, programs: Sequence[Program[T]], dealer: Link, tape: Callable[[int], Sink]) -> list[Plan]:
        """Take the dealer's randomness of a batch of runs, and write a tape for each.

        Args:
            programs: What will be run.
            dealer: The way from the dealer.
            tape: Opens the place for the tape with this number.

        Raises:
            MpcError: `mpc.plan-mismatch`: the dealer walks through another program.
        """
        plans = [self.plan(program)[0] for program in programs]
        headers = self._headers(plans, dealer)
        results = [np.empty(plan.product_words, np.uint64) for plan in plans]
        keys = [header.key for header in headers]
        for weight, uses in by_weight(plans):
            halves = kernels.matmul(mask_rows(keys, uses), weight.opened)
            if self.role == 0:
                halves += result_rows(keys, uses)
            else:
                halves += np.frombuffer(dealer.receive(halves.nbytes), np.uint64).reshape(halves.shape)
            at = 0
            for run, use in uses:
                results[run][use.result_at : use.result_at + use.result_words] = halves[at : at + use.rows].reshape(-1)
                at += use.rows
        for number, (header, products) in enumerate(zip(headers, results, strict=True)):
            sink = tape(number)
            sink.write(header.encode())
            sink.write(products.view(np.uint8).data)
            for size in pieces(header.corrections):
                sink.write(dealer.receive(size))
        return plans

    def run(self, program: Program[T], plan: Plan, tape: Source, feeds: Feeds | None = None) -> T:
        """Run a program with a tape, together with the other party.

        Args:
            program: What is computed.
            plan: Its plan, as `prepare` returned it.
            tape: This party's tape; what holds it must not give it a second time.
            feeds: Owners' shares in the order in which the program asks for them.

        Raises:
            MpcError: `mpc.tape-damaged`, `mpc.tape-used`, `mpc.tape-mismatch`; `mpc.input-missing`, `mpc.input-shape`;
                `mpc.plan-mismatch`: the program did something else than when it was planned; the link's.
        """
        header, pads = open_tape(tape, self.role, plan)
        if header.run in self._used:
            raise MpcError("mpc.tape-used", "the tape was used before")
        self._used.add(header.run)
        self._agree(header)
        result = self.walk(pads, program, feeds)
        pads.keep_to(plan)
        pads.end()
        return result

    def _agree(self, header: TapeHeader) -> None:
        assert self.link is not None  # noqa: S101  # a party has one
        self.link.send(header.run + header.digest)
        if bytes(self.link.receive(RUN_BYTES + DIGEST_BYTES)) != header.run + header.digest:
            raise MpcError("mpc.tape-mismatch", "the other party has the tape of another run")

    def _headers(self, plans: Sequence[Plan], dealer: Link) -> list[TapeHeader]:
        size = RUN_BYTES + DIGEST_BYTES + KEY_BYTES
        data = bytes(dealer.receive(size * len(plans)))
        headers = []
        for number, plan in enumerate(plans):
            part = data[number * size : (number + 1) * size]
            run, digest, key = part[:RUN_BYTES], part[RUN_BYTES:-KEY_BYTES], part[-KEY_BYTES:]
            if digest != plan.digest:
                raise MpcError("mpc.plan-mismatch", "the dealer walks through another program than this party")
            corrections = plan.corrections if self.role else 0
            headers.append(TapeHeader(self.role, run, digest, key, plan.product_words, corrections))
        return headers
