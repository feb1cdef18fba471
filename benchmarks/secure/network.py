"""Two parties in network namespaces of their own, with a round-trip time and 1 Gbit/s between them. Linux, root.

Between the namespaces is a relay that holds every packet back, as not every kernel has netem: TCP itself is the
kernel's, and so are its slow starts. Each party is a process, and so is the dealer, whose links are not slowed down: it
works ahead. The model's owner is this process, which leaves shares in files: a party's memory has nothing but its side.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import progress
from benchmarks.secure.sides import Asked, shares
from mitai.mpc.ring import Ring
from mitai.mpc.sockets import Plain, SocketLink
from mitai.mpc.two.engine import Dealer, Party

NAMES = "mitai-bench-0", "mitai-bench-1"
ADDRESSES = "10.213.7.1", "10.213.7.2"
MTU = 65000
PORT, WAIT_S, BIT_S = 4713, 600.0, 1e9
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
HERE = Path(__file__).parent.parent.parent


class NotAllowedError(Exception):
    """No namespaces can be made here."""


def least_s(sent_bytes: float, sends: float, rtt: float) -> float:
    """Return what so many bytes, and sends one after the other, take of one party on such a network at least."""
    return sent_bytes * 8 / BIT_S + sends * rtt / 2


def measure(subject: Any, rtts: Sequence[float]) -> list[dict[str, float]]:
    """Run `subject` (load, infer, arrays, text) once for each round-trip time; the worse of both parties' figures."""
    asked = Asked()
    load, weights = asked.of(subject.load, None)
    infer, _ = asked.of(subject.infer, weights)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for owner, make, bits in (("model", subject.model.arrays, load), ("client", subject.text, infer)):
            for role in range(2):
                for number, share in enumerate(shares(make(), bits[owner], role)):
                    np.save(folder / f"{owner}-{role}-{number}.npy", share)
        try:
            with Relay(_namespaces()) as relay:
                return _runs(folder, rtts, relay)
        finally:
            for space in NAMES:
                subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def _runs(folder: Path, rtts: Sequence[float], relay: Relay) -> list[dict[str, float]]:
    ends, runs = [socket.socketpair() for _ in range(2)], len(rtts) + 1
    its = ",".join(str(end[0].fileno()) for end in ends)
    children = [_child([], "dealer", its, folder, runs, [end[0] for end in ends])]
    for role in range(2):
        space = ["ip", "netns", "exec", NAMES[role]]
        fd = str(ends[role][1].fileno())
        children.append(_child(space, str(role), fd, folder, runs, [ends[role][1]]))
    for end in (end for both in ends for end in both):
        end.close()
    found = []
    try:
        for rtt in (0.0, *rtts):  # the first makes tables, and is left out
            relay.delay_s = rtt / 2
            for child in children[1:]:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            both = [json.loads(child.stdout.readline()) for child in children[1:] if child.stdout is not None]
            found.append({key: max(one[key] for one in both) for key in both[0]})
            progress(f"round trip {rtt * 1000:g} ms: {found[-1]}")
    finally:
        for child in children:
            if len(found) < runs:
                child.terminate()
            child.wait()
    return found[1:]


def _child(before: list[str], role: str, fds: str, folder: Path, runs: int, ends: list[socket.socket]) -> Any:
    command = [*before, sys.executable, "-m", "benchmarks.secure.network", role, fds, str(folder), str(runs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=HERE, pass_fds=[end.fileno() for end in ends], **pipes)


class Relay:
    """Carries packets between two devices, each after `delay_s` and no faster than 1 Gbit/s."""

    def __init__(self, devices: tuple[int, int]) -> None:
        self.delay_s = 0.0
        self._devices = devices
        self._queues: list[deque[tuple[float, bytes]]] = [deque(), deque()]
        self._free = [0.0, 0.0]  # when each direction has sent what it has
        self._ended = False
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        for device in self._devices:
            os.close(device)

    def _carry(self) -> None:
        while not self._ended:
            due = min((queue[0][0] for queue in self._queues if queue), default=math.inf)
            wait = min(max(due - time.perf_counter(), 0), 0.1)
            readable, _, _ = select.select(self._devices, [], [], wait)
            now = time.perf_counter()
            for side, device in enumerate(self._devices):
                if device in readable:
                    packet = os.read(device, MTU + 100)
                    self._free[side] = max(self._free[side], now) + len(packet) * 8 / BIT_S
                    self._queues[side].append((self._free[side] + self.delay_s, packet))
                while self._queues[side] and self._queues[side][0][0] <= now:
                    os.write(self._devices[1 - side], self._queues[side].popleft()[1])


def _namespaces() -> tuple[int, int]:
    """Make both namespaces, each with a device; return the devices' other ends."""
    devices = []
    try:
        for number, space in enumerate(NAMES):
            name = f"mitai-tun{number}"
            devices.append(os.open("/dev/net/tun", os.O_RDWR))
            fcntl.ioctl(devices[-1], TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
            _ip("netns", "add", space)
            _ip("link", "set", name, "netns", space)
            _ip("-n", space, "address", "add", f"{ADDRESSES[number]}/24", "dev", name)
            _ip("-n", space, "link", "set", name, "mtu", str(MTU), "txqueuelen", "100000", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotAllowedError(f"needs root, ip and /dev/net/tun: {error}") from error
    return devices[0], devices[1]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# --- the sides ---


def _given(folder: Path, owner: str, role: int) -> Iterator[Ring]:
    number = 0
    while (path := folder / f"{owner}-{role}-{number}.npy").exists():
        yield np.load(path)
        number += 1


def _subject() -> Any:
    from benchmarks.mpc import BertProgram

    return BertProgram()


def _deal(links: Any, runs: int) -> None:
    subject, dealer = _subject(), Dealer()
    (weights,) = dealer.deal([lambda engine: subject.load(engine, None)], links)
    dealer.deal([lambda engine: subject.infer(engine, weights)] * runs, links)


def _party(role: int, dealer: SocketLink, folder: Path, runs: int) -> None:
    subject, party = _subject(), Party(role, _peer(role))
    tapes = [tempfile.TemporaryFile() for _ in range(runs + 1)]  # noqa: SIM115  # as long as this process

    def compute(program: Any, plan: Any, tape: Any) -> Any:
        tape.seek(0)
        return party.run(program, plan, tape, {owner: _given(folder, owner, role) for owner in ("model", "client")})

    def load(engine: Any) -> Any:
        return subject.load(engine, None)

    def infer(engine: Any) -> Any:
        return subject.infer(engine, weights)

    (plan,) = party.prepare([load], dealer, lambda _: tapes[runs])
    weights = compute(load, plan, tapes[runs])
    plans = party.prepare([infer] * runs, dealer, tapes.__getitem__)
    assert party.link is not None
    for plan, tape in zip(plans, tapes, strict=False):
        sys.stdin.readline()
        party.link.traffic.sent_bytes = party.link.traffic.rounds = 0
        start, used = time.perf_counter(), time.process_time()
        compute(infer, plan, tape)
        figures = {
            "wall_s": round(time.perf_counter() - start, 3),
            "cpu_s": round(time.process_time() - used, 3),
            "rounds": party.link.traffic.rounds,
            "sent_bytes": party.link.traffic.sent_bytes,
            "memory_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024,
        }
        print(json.dumps(figures), flush=True)


def _peer(role: int) -> SocketLink:
    if role == 0:
        with socket.create_server((ADDRESSES[0], PORT)) as server:
            return SocketLink(Plain(server.accept()[0]), WAIT_S)
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return SocketLink(Plain(socket.create_connection((ADDRESSES[0], PORT))), WAIT_S)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def main() -> None:
    """Be one of the sides, for `measure`."""
    side, fds, folder, runs = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3]), int(sys.argv[4])
    links = [SocketLink(Plain(socket.socket(fileno=int(fd))), WAIT_S) for fd in fds]
    if side == "dealer":
        _deal((links[0], links[1]), runs)
        for link in links:
            link.close()
    else:
        _party(int(side), links[0], folder, runs)


if __name__ == "__main__":
    main()
