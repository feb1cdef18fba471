"""Sides as processes of this machine, to see what one takes by itself: memory above all.

Party 0 has layers of its own in memory, as many as the model has; party 1 and the dealer, who share the machine with
it, use one layer again and again. The model's owner is party 1's process, so that party 0 is a party and nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.secure.sides import Asked, shares
from mitai.mpc import kernels
from mitai.mpc.kernels import Packed
from mitai.mpc.models.decoder import Cache
from mitai.mpc.ring import Ring
from mitai.mpc.sockets import Plain, SocketLink
from mitai.mpc.two.engine import Dealer, Party

ROLES = "0", "1", "dealer"
WAIT_S = 1200.0
HERE = Path(__file__).parent.parent.parent


def measure(runs: int) -> list[dict[str, Any]]:
    """Run `benchmarks.mpc.qwen_token` so many times, twice; the second time's figures of party 0, party 1, dealer."""
    lines = {pair: socket.socketpair() for pair in ((0, 1), (0, 2), (1, 2))}
    children = []
    for role, name in enumerate(ROLES):
        ends = [both[pair.index(role)] for pair, both in lines.items() if role in pair]  # in the order of the others
        command = [
            sys.executable,
            "-m",
            "benchmarks.secure.apart",
            name,
            str(runs),
            *(str(end.fileno()) for end in ends),
        ]
        fds = [end.fileno() for end in ends]
        children.append(subprocess.Popen(command, cwd=HERE, pass_fds=fds, stdout=subprocess.PIPE, text=True))
    for end in (end for both in lines.values() for end in both):
        end.close()
    told = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("a side has failed")
    return [json.loads(text) for text in told]


# --- the sides ---


def repeated(state: Any, layers: int, *, apart: bool = False) -> Any:
    """Return weights and a cache of one layer with that many times: as weights of their own, for which all is prepared.

    Args:
        state: Weights, cache, and bits of what is padding.
        layers: How many.
        apart: Whether each has memory of its own, too.
    """
    weights, cache, hidden = state
    (first,) = weights.layers
    layer = tuple(_anew(first, apart=apart) for _ in range(layers))
    return dataclasses.replace(weights, layers=layer), Cache(cache.layers * layers, cache.length), hidden


def _anew(layer: Any, *, apart: bool) -> Any:
    fields = {field.name: copy.copy(getattr(layer, field.name)) for field in dataclasses.fields(layer)}
    for value in fields.values():
        for name in ("share", "opened") if apart and hasattr(value, "fresh") else ():
            setattr(value, name, _copied(getattr(value, name)))
    return dataclasses.replace(layer, **fields)


def _copied(matrix: Packed[Any]) -> Packed[Any]:
    words = np.empty(matrix.words.size + 8, matrix.words.dtype)
    words = words[-words.ctypes.data % 64 // 8 :][: matrix.words.size]
    words[...] = matrix.words
    return dataclasses.replace(matrix, words=words)


def _drawn(shapes: Iterable[tuple[int, ...]]) -> Iterator[Ring]:
    """Yield party 0's shares, as `shares` gives them, without the numbers."""
    for number, shape in enumerate(shapes):
        yield kernels.prg(bytes(16), number, 0, math.prod(shape)).reshape(shape)


def _dealer(first: SocketLink, second: SocketLink, runs: int) -> dict[str, Any]:
    from benchmarks.mpc import qwen_token

    (subject, layers), dealer = qwen_token(numbers=False), Dealer()
    (loaded,) = dealer.deal([partial(subject.load, _=None)], (first, second))
    program = partial(_infer, subject, repeated(loaded, layers))
    for _ in range(2):
        sent, used = first.traffic.sent_bytes + second.traffic.sent_bytes, time.process_time()
        dealer.deal([program] * runs, (first, second))
        sent, used = first.traffic.sent_bytes + second.traffic.sent_bytes - sent, time.process_time() - used
    return {"ahead_s": used, "dealt_bytes": sent}


def _party(role: int, other: SocketLink, dealer: SocketLink, runs: int) -> dict[str, Any]:
    from benchmarks.mpc import qwen_token

    (subject, layers), party, asked = qwen_token(numbers=role == 1), Party(role, other), Asked()

    def feeds(program: Any, state: Any, **values: Any) -> Callable[[], dict[str, Iterator[Ring]]]:
        bits, shapes = asked.of(program, state)[0], asked.shapes
        if role == 0:
            return lambda: {owner: _drawn(shapes[owner]) for owner in values}
        return lambda: {owner: shares(make(), bits[owner], role) for owner, make in values.items()}

    with tempfile.TemporaryFile() as tape:
        load = partial(subject.load, _=None)
        (plan,) = party.prepare([load], dealer, lambda _: tape)
        tape.seek(0)
        given = feeds(lambda engine, _: load(engine), None, model=subject.model.arrays, client=subject.before)
        loaded = party.run(load, plan, tape, given())
    blank = asked.of(lambda engine, _: load(engine), None)[1]
    state, without = repeated(loaded, layers, apart=role == 0), repeated(blank, layers)
    del loaded
    given = feeds(subject.infer, without, client=subject.text)
    for _ in range(2):
        tapes = [tempfile.TemporaryFile() for _ in range(runs)]  # noqa: SIM115  # closed below
        used = time.process_time()
        plans = party.prepare([partial(_infer, subject, state)] * runs, dealer, tapes.__getitem__)
        ahead, sent, rounds = time.process_time() - used, other.traffic.sent_bytes, other.traffic.rounds
        used, began = time.process_time(), time.perf_counter()
        for plan, tape in zip(plans, tapes, strict=True):
            with tape:
                tape.seek(0)
                party.run(partial(_infer, subject, state), plan, tape, given())
        figures = {"ahead_s": ahead, "online_s": time.process_time() - used, "wall_s": time.perf_counter() - began}
        sent, rounds = other.traffic.sent_bytes - sent, other.traffic.rounds - rounds
    return {**figures, "sent_bytes": sent, "rounds": rounds}


def _infer(subject: Any, state: Any, engine: Any) -> Any:
    return subject.infer(engine, state)


def main() -> None:
    """Be one of the sides, for `measure`."""
    name, runs, *fds = sys.argv[1:]
    first, second = (SocketLink(Plain(socket.socket(fileno=int(fd))), WAIT_S) for fd in fds)
    figures = _dealer(first, second, int(runs)) if name == ROLES[2] else _party(int(name), first, second, int(runs))
    first.close()
    second.close()
    print(json.dumps({**figures, "memory_gb": peak_kib() / 1e6}))


def peak_kib() -> int:
    """Return the largest that this process got; the kernel's `ru_maxrss` begins with that of who started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
