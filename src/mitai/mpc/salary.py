"""Three friends learn the average of their salaries, and nothing else: the smallest use of `mitai.mpc`.

Follows `docs/spec/mpc-links.md`, "Three friends". One friend listens and gives the other two a code; each of them
proves to know it. The first tells each who the three are, and the other two link up, too. Then every friend's
number is split into three random summands (`mitai.mpc.additive`): whoever has two of them knows nothing.

Invariants:

- A number leaves its process in summands only; the code, the keys and what is on the wire say nothing about it.
- Whoever does not know the code is turned away before anything is said. It is 80 bits, good for one meeting.
- All three see the same check code only if all three have the same three keys: the first friend could stand between
  the other two otherwise. Friends on several machines compare it before they type.

Example:
    >>> with First(Address("127.0.0.1", 0)) as meeting:
    ...     print(meeting.invitation)
    ...     print(meeting.meet().average(52000.0))
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mitai.errors import MpcError, ParseError
from mitai.identity import Identity, PublicKey
from mitai.mpc.additive import AdditiveEngine
from mitai.mpc.meeting import Address, connected, gathered, listening
from mitai.mpc.program import Party, total
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tls import HANDSHAKE_S, secured

_NAMES = ("0", "1", "2")
FRIENDS = len(_NAMES)
LIMIT = 1e12  # so that the sum is exact in hundredths
MEET_S, BESIDE_S, ENTER_S = 600.0, 60.0, 1800.0
_LOOK_EVERY_S = 0.2
_LABEL = b"mitai mpc salary v1\0"
_READY = b"\1"
_CODE_BYTES, _PROOF_BYTES, _KEY_BYTES, _PORT_BYTES, _HOST_BYTES = 10, 32, 32, 2, 46
_ROSTER_BYTES = FRIENDS * _KEY_BYTES + _PORT_BYTES + _HOST_BYTES
_SALARY = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,2})?")
_INVITATION = re.compile(r"(.+)/([A-Z2-7]{4}(?:-[A-Z2-7]{4}){3})")


@dataclass(frozen=True)
class Invitation:
    """Where the first friend is, and the code that lets others in."""

    address: Address
    code: bytes = field(repr=False)

    @staticmethod
    def parse(text: str) -> Invitation:
        """Read `HOST:PORT/XXXX-XXXX-XXXX-XXXX`."""
        found = _INVITATION.fullmatch(text.strip().upper())
        if found is None:
            raise MpcError(
                "mpc.invitation",
                "this is no invitation",
                hint="take it as the first friend's terminal shows it: HOST:PORT/XXXX-XXXX-XXXX-XXXX",
            )
        return Invitation(Address.parse(found[1].lower()), base64.b32decode(found[2].replace("-", "")))

    def __str__(self) -> str:
        return f"{self.address}/{_grouped(base64.b32encode(self.code).decode(), 4)}"


def average(party: Party, friends: Sequence[str]) -> float:
    """The program: all give a number, and learn the average."""
    numbers = [party.secret(friend, fraction=0) for friend in friends]
    return party.reveal_number(total(numbers)) / len(friends)


class Friends:
    """Three friends who are linked; this one is `number` 0, 1 or 2, in the order of their coming."""

    def __init__(self, number: int, links: Mapping[str, SocketLink], keys: Sequence[PublicKey]) -> None:
        self._name, self._links = str(number), links
        self._engine = AdditiveEngine(self._name, links)
        digest = hashlib.sha256(_LABEL + b"check\0" + b"".join(sorted(key.raw for key in keys))).digest()
        self.check_code = _grouped(base64.b32encode(digest).decode()[:25], 5)

    def average(self, own: float) -> float:
        """Return the average of all three numbers; waits for the others to give theirs.

        Raises:
            MpcError: `mpc.friend-left`.
        """
        hundredths = round(own * 100)
        try:
            self._wait_for_all()
            return average(Party(self._engine, {self._name: hundredths}), _NAMES) / 100
        except MpcError as error:
            if error.code != "mpc.link-lost":
                raise
            raise MpcError(
                "mpc.friend-left",
                "a friend left before the average was known here",
                hint="nobody can work out your number from what was sent; begin anew together",
            ) from None

    def _wait_for_all(self) -> None:
        """Say that this friend is ready, and wait for the others; whoever of them leaves ends it at once."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_LOOK_EVERY_S):
                if any(link.ended() for link in self._links.values()):
                    for link in self._links.values():
                        link.abort()
                    return

        watching = threading.Thread(target=watch, name="mitai-mpc-watch")
        watching.start()
        try:
            for link in self._links.values():
                link.send(_READY)
            for link in self._links.values():
                link.receive(len(_READY))
        finally:
            done.set()
            watching.join()


class _Meeting:
    """How three friends come together; leaving it cuts what is open."""

    invitation: Invitation

    def __init__(self) -> None:
        self._identity = Identity.generate()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _proof(self, who: bytes, first: PublicKey, guest: PublicKey) -> bytes:
        """Return what only those who know the code can say, about these two keys alone."""
        return hmac.digest(self.invitation.code, _LABEL + who + b"\0" + first.raw + guest.raw, "sha256")


class First(_Meeting):
    """The friend who begins, at an address of this machine."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        if address.host in {"0.0.0.0", "::"}:
            raise MpcError(
                "mpc.address", "the others need one address", hint="give the one by which they reach this machine"
            )
        self._server = self._stack.enter_context(listening(address))
        here = Address(address.host, self._server.getsockname()[1])
        self.invitation = Invitation(here, secrets.token_bytes(_CODE_BYTES))
        self._guests: dict[str, tuple[PublicKey, Address]] = {}

    def meet(self, arrived: Callable[[MpcError | None], None] = lambda _: None, within_s: float = MEET_S) -> Friends:
        """Wait for the others; `arrived` is told of each who comes, or why one was turned away.

        Raises:
            MpcError: Somebody does not come.
        """
        links = gathered(self._server, self._welcome, FRIENDS - 1, time.monotonic() + within_s, arrived)
        self._server.close()
        keys = [self._identity.public, *(self._guests[name][0] for name in links)]
        roster = _roster(keys, self._guests[next(iter(links))][1])
        for link in links.values():
            self._stack.push(link)
            link.be_patient(ENTER_S)
            link.send(roster)
        return Friends(0, dict(zip(_NAMES[1:], links.values(), strict=True)), keys)

    def _welcome(self, end: socket.socket) -> tuple[str, SocketLink]:
        channel = secured(end, self._identity, lambda _: True, serving=True)
        own, guest = self._identity.public, channel.peer
        link = SocketLink(channel, HANDSHAKE_S)
        try:
            told = bytes(link.receive(_PROOF_BYTES + _PORT_BYTES))
            if not hmac.compare_digest(told[:_PROOF_BYTES], self._proof(b"guest", own, guest)):
                raise _not_invited("somebody without the right code was turned away")
            link.send(self._proof(b"first", own, guest))
        except MpcError:
            link.abort()
            raise
        self._guests[guest.key_id] = guest, Address(end.getpeername()[0], int.from_bytes(told[_PROOF_BYTES:], "big"))
        return guest.key_id, link


class Guest(_Meeting):
    """One of the two who come."""

    def __init__(self, invitation: Invitation) -> None:
        super().__init__()
        self.invitation = invitation

    def meet(self, arrived: Callable[[MpcError | None], None] = lambda _: None, within_s: float = 20) -> Friends:
        """Come in, and wait for the others; `arrived` is told when the first friend has let this one in.

        Raises:
            MpcError: Nobody is there, or not who gave the code.
        """
        end = self._stack.enter_context(connected(self.invitation.address, time.monotonic() + within_s))
        with listening(Address(end.getsockname()[0], 0)) as server:
            channel = secured(end, self._identity, lambda _: True, serving=False)
            own, host = self._identity.public, channel.peer
            first = self._stack.enter_context(SocketLink(channel, HANDSHAKE_S))
            first.send(self._proof(b"guest", host, own) + server.getsockname()[1].to_bytes(_PORT_BYTES, "big"))
            try:
                proof = first.receive(_PROOF_BYTES)
            except MpcError:
                raise _not_invited("the first friend does not take this code, or already has two guests") from None
            if not hmac.compare_digest(proof, self._proof(b"first", host, own)):
                raise _not_invited("who answers there is not the friend who gave you the code")
            arrived(None)
            first.be_patient(ENTER_S)
            keys, second = _read_roster(bytes(first.receive(_ROSTER_BYTES)))
            if keys[0] != host or own not in keys[1:] or len(set(keys)) != FRIENDS:
                raise _not_invited("the first friend names others than those who are here")
            number = keys.index(own)
            other = self._beside(number, keys[FRIENDS - number], server, second)
        links = {_NAMES[0]: first, _NAMES[FRIENDS - number]: self._stack.enter_context(other)}
        return Friends(number, links, keys)

    def _beside(self, number: int, peer: PublicKey, server: socket.socket, second: Address) -> SocketLink:
        """Return the link of the two guests: the earlier one listens."""
        until = time.monotonic() + BESIDE_S

        def welcome(end: socket.socket) -> tuple[str, SocketLink]:
            serving = number == 1
            return "", SocketLink(secured(end, self._identity, lambda key: key == peer, serving=serving), ENTER_S)

        if number == 1:
            return gathered(server, welcome, 1, until)[""]
        return welcome(self._stack.enter_context(connected(second, until)))[1]


def salary(text: str) -> float:
    """Read what a person types as a salary.

    Raises:
        ParseError: It is no number of the kind.
    """
    text = text.strip()
    if not _SALARY.fullmatch(text) or float(text) > LIMIT:
        raise ParseError(
            "mpc.salary", "a salary is digits, with at most two after the point", hint="such as 52000 or 52000.50"
        )
    return float(text)


def _roster(keys: list[PublicKey], second: Address) -> bytes:
    """Say who the three are, and where the second listens."""
    place = second.port.to_bytes(_PORT_BYTES, "big") + second.host.encode().ljust(_HOST_BYTES, b"\0")
    return b"".join(key.raw for key in keys) + place


def _read_roster(data: bytes) -> tuple[list[PublicKey], Address]:
    """Parse what `_roster` says."""
    cut = FRIENDS * _KEY_BYTES
    host = data[cut + _PORT_BYTES :].rstrip(b"\0")
    try:
        keys = [PublicKey(data[start : start + _KEY_BYTES]) for start in range(0, cut, _KEY_BYTES)]
        place = str(ipaddress.ip_address(host.decode()))
    except (ParseError, ValueError):
        raise _not_invited("the first friend names nobody") from None
    return keys, Address(place, int.from_bytes(data[cut : cut + _PORT_BYTES], "big"))


def _grouped(text: str, size: int) -> str:
    return "-".join(text[start : start + size] for start in range(0, len(text), size))


def _not_invited(why: str) -> MpcError:
    return MpcError("mpc.invitation", why, hint="begin anew: the first friend's terminal shows a new code")
