"""Ranks prove themselves to each other; whatever a host does in between ends the handshake, or the link."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import msgspec
import pytest

from mitai.attest import CapsuleClaim, Claims, Policy
from mitai.attest.evidence import LedgerClaim
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.errors import MitaiError, TrainError
from mitai.train import peers
from mitai.train.config import Place
from mitai.train.links import FRAME_BYTES, KEY_BYTES, SealedLink
from mitai.train.meeting import Meeting, _cut
from mitai.train.peers import MAX_MESSAGE_BYTES, Hello, Join, Keys, Own, follow, lead

CLAIMS = Claims(
    workload="train",
    key_config=b"",
    receipt_key=bytes(32),
    capsules=(CapsuleClaim("model", "aa" * 32), CapsuleClaim("data", "bb" * 32)),
    ledger=LedgerClaim("origin", "vkey", b""),
    extra={"job_sha256": "cc" * 32, "broker_policy_sha256": "dd" * 32},
)


@dataclass
class Lab:
    """A simulated platform with the workers' build, and another one."""

    sim: SimPlatform
    policy: Policy

    def own(self, rank: int, build: int = 0, data_key: bytes = b"k" * 32, **changes: object) -> Own:
        claims = msgspec.structs.replace(CLAIMS, receipt_key=bytes([rank]) * 32, **changes)
        keys = {"model": bytes(32), "data": data_key}
        name = str(changes.get("workload", "train"))
        return Own(self.sim.attester(Workload(name, bytes([build]) * 48)), claims, rank, self.policy, keys)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    sim = SimPlatform.create(tmp_path_factory.mktemp("sim"))
    references = (reference_values(Workload("train", bytes(48))), reference_values(Workload("train", b"\1" * 48)))
    return Lab(sim, Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=references[:1]))


Said = list[tuple[str, bytes]]


@dataclass
class Host:
    """Carries the messages of a handshake, sees each, and may give on another one."""

    change: Callable[[int, bytes], bytes | None] = lambda _, body: body
    said: Said = field(default_factory=list)

    def carry(self, source: socket.socket, target: socket.socket, who: str) -> None:
        with source, target:
            with suppress(OSError):
                while head := source.recv(4, socket.MSG_WAITALL):
                    body = source.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                    self.said.append((who, body))
                    given = self.change(len(self.said) - 1, body)
                    if given is None:
                        break
                    target.sendall(len(given).to_bytes(4, "big") + given)
            _cut(source, target)


def meet(leader: Own, other: Own, host: Host | None = None, awaited: tuple[int, ...] = (1,)) -> list[Keys | str]:
    """Return what each side came to: keys, or the code of its error."""
    host, until = host or Host(), time.monotonic() + 5.0
    (one, near), (two, far) = socket.socketpair(), socket.socketpair()
    carriers = [
        threading.Thread(target=host.carry, args=(near.dup(), far.dup(), "leader")),
        threading.Thread(target=host.carry, args=(far.dup(), near.dup(), "rank")),
    ]
    near.close()
    far.close()

    def side(end: socket.socket, work: Callable[[], Keys]) -> Keys | str:
        try:
            return work()
        except MitaiError as error:
            return error.code
        finally:
            end.shutdown(socket.SHUT_RDWR)
            end.close()

    for carrier in carriers:
        carrier.start()
    with ThreadPoolExecutor(2) as pool:
        sides: list[Future[Keys | str]] = [
            pool.submit(side, one, lambda: lead(one, leader, awaited, until)),
            pool.submit(side, two, lambda: follow(two, other, until)),
        ]
    for carrier in carriers:
        carrier.join()
    return [each.result() for each in sides]


def test_two_ranks_of_one_job_agree_on_keys(lab: Lab) -> None:
    leader, other = meet(lab.own(0), lab.own(1))
    assert isinstance(leader, Keys)
    assert isinstance(other, Keys)
    assert (leader.rank, other.rank) == (1, 0)
    assert (leader.sending, leader.receiving) == (other.receiving, other.sending)
    assert leader.sending != leader.receiving
    again = meet(lab.own(0), lab.own(1))[0]
    assert isinstance(again, Keys)
    assert len({leader.sending, leader.receiving, again.sending, again.receiving}) == 4
    assert leader.sending.hex() not in repr(leader)


EXTRA = CLAIMS.extra


@pytest.mark.parametrize(
    "changes",
    [
        {"build": 1},
        {"data_key": b"other key"},  # as it claims to have the inputs, but the broker gave it none
        {"extra": EXTRA | {"job_sha256": "ee" * 32}},
        {"extra": EXTRA | {"broker_policy_sha256": "ee" * 32}},
        {"extra": EXTRA | {"more": ""}},
        {"capsules": CLAIMS.capsules[:1]},
        {"capsules": (CLAIMS.capsules[0], CapsuleClaim("data", "ee" * 32))},
        {"ledger": LedgerClaim("origin", "another", b"")},
        {"ledger": None},
    ],
)
def test_another_job_build_or_input_is_refused(lab: Lab, changes: dict[str, object]) -> None:
    assert "train.peer-refused" in meet(lab.own(0), lab.own(1, **changes))
    assert "train.peer-refused" in meet(lab.own(0, **changes), lab.own(1))


def test_the_order_of_inputs_does_not_matter(lab: Lab) -> None:
    assert isinstance(meet(lab.own(0), lab.own(1, capsules=CLAIMS.capsules[::-1]))[0], Keys)


@pytest.mark.parametrize(("rank", "awaited"), [(2, (1,)), (1, (2,)), (1, ())])
def test_a_rank_that_is_not_awaited_is_refused(lab: Lab, rank: int, awaited: tuple[int, ...]) -> None:
    assert meet(lab.own(0), lab.own(rank), awaited=awaited) == ["train.peer-refused", "train.peer-gone"]


def test_swapped_ranks_are_refused(lab: Lab) -> None:
    def swap(number: int, body: bytes) -> bytes:
        message = peers.decode(body)
        return msgspec.msgpack.encode(msgspec.structs.replace(message, rank=2)) if number == 1 else body

    assert meet(lab.own(0), lab.own(1), Host(swap), awaited=(1, 2))[0] == "train.peer-refused"
    assert meet(lab.own(2), lab.own(1))[1] == "train.peer-refused"  # the leader is rank 0


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("place", [1, 24, 60, -40, -1])
def test_a_changed_message_ends_the_handshake(lab: Lab, number: int, place: int) -> None:
    def flip(index: int, body: bytes) -> bytes:
        changed = bytearray(body)
        changed[place if -len(body) <= place < len(body) else 2] ^= 1
        return bytes(changed) if index == number else body

    host = Host(flip)
    leader, other = meet(lab.own(0), lab.own(1), host)
    assert len(host.said) > number
    assert other in {"train.peer-refused", "train.peer-gone"}
    assert number == 4 or leader in {"train.peer-refused", "train.peer-gone"}


@pytest.mark.parametrize("number", range(5))
def test_a_replayed_or_withheld_message_ends_the_handshake(lab: Lab, number: int) -> None:
    former = Host()
    leader, other = lab.own(0), lab.own(1)
    meet(leader, other, former)
    replayed = meet(leader, other, Host(lambda index, body: former.said[index][1] if index == number else body))
    assert replayed[1] in {"train.peer-refused", "train.peer-gone"}
    assert number == 4 or "train.peer-refused" in replayed
    withheld = meet(leader, other, Host(lambda index, body: None if index == number else body))
    assert withheld[1] == "train.peer-gone"


def test_a_mirror_is_no_peer(lab: Lab) -> None:
    one, mirror = socket.socketpair()
    with one, mirror, ThreadPoolExecutor(1) as pool:
        leading = pool.submit(lead, one, lab.own(0), (1,), time.monotonic() + 5.0)
        head = mirror.recv(4, socket.MSG_WAITALL)
        mirror.sendall(head + mirror.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        with pytest.raises(TrainError, match="its turn") as caught:
            leading.result()
    assert caught.value.code == "train.peer-refused"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", "train.peer-silent"),
        (b"\0", "train.peer-silent"),
        ((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), "train.peer-refused"),
        (b"\0\0\0\1\xc1", "train.peer-refused"),
        (b"\0\0\0\0", "train.peer-refused"),
    ],
)
def test_a_stranger_who_says_nonsense_or_nothing(lab: Lab, said: bytes, code: str) -> None:
    one, stranger = socket.socketpair()
    with one, stranger:
        stranger.sendall(said)
        began = time.monotonic()
        with pytest.raises(TrainError) as caught:
            lead(one, lab.own(0), (1,), began + 0.3)
    assert caught.value.code == code
    assert time.monotonic() - began < 3.0


def test_another_version_is_refused() -> None:
    encoded = msgspec.msgpack.encode(Hello(2, bytes(32), bytes(32)))  # type: ignore[arg-type]
    with pytest.raises(TrainError, match="this version"):
        peers.decode(encoded)
    assert "00" not in repr(Join(1, bytes(32), b"00"))


def test_a_machine_that_cannot_say_what_it_runs(lab: Lab) -> None:
    class Carried:
        tee = "tdx"

    with pytest.raises(TrainError) as caught:
        Own(Carried(), CLAIMS, 0, lab.policy, {})  # type: ignore[arg-type]
    assert caught.value.code == "train.peer-unmeasured"


# --- meeting ---


def met(lab: Lab, *others: Own, disturb: Callable[[Place], None] = lambda _: None, wait: float = 20.0) -> list[int]:
    """Return the ranks that the leader of three let in, with the sealed bytes of each link tried."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = Place(0, "127.0.0.1", free.getsockname()[1])
    until = time.monotonic() + wait

    def follower(own: Own) -> None:
        with Meeting(own, 3, place, until, lambda: None) as other:
            (link,) = other.links
            assert link.end.recv(2) == b"hi"

    with ThreadPoolExecutor(len(others) + 2) as pool:
        leading = pool.submit(Meeting, lab.own(0), 3, place, until, lambda: None)
        disturb(place)
        following = [pool.submit(follower, own) for own in others]
        with leading.result() as leader:
            for link in leader.links:
                link.end.sendall(b"hi")
            for each in following:
                each.result()
            return [link.keys.rank for link in leader.links]


def connected(place: Place) -> socket.socket:
    while True:
        with suppress(OSError):
            return socket.create_connection((place.host, place.port), 5.0)
        time.sleep(0.01)


def test_strangers_at_the_leaders_port_change_nothing(lab: Lab) -> None:
    strangers = ExitStack()

    def disturb(place: Place) -> None:
        said = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4, b"\0\0\0\1x", b"\0\x10\0\0"]
        for each in [*said, *[b""] * 20]:  # most of them say nothing, and stay
            end = strangers.enter_context(connected(place))
            end.sendall(each)
        connected(place).close()
        for own in (lab.own(1, build=1), lab.own(2, extra=EXTRA | {"job_sha256": "ee" * 32}), lab.own(3)):
            with pytest.raises(MitaiError):  # another build, another job, and a rank that the job does not have
                Meeting(own, 3, place, time.monotonic() + 10.0, lambda: None)

    with strangers:
        began = time.monotonic()
        assert met(lab, lab.own(2), lab.own(1), disturb=disturb) == [1, 2]
        assert time.monotonic() - began < 15.0


def test_what_was_wrong_with_who_came_is_said_in_the_end(lab: Lab) -> None:
    def disturb(place: Place) -> None:
        with pytest.raises(MitaiError):
            Meeting(lab.own(1, build=1), 3, place, time.monotonic() + 10.0, lambda: None)

    with pytest.raises(MitaiError) as caught:
        met(lab, disturb=disturb, wait=2.0)
    assert caught.value.code == "train.peer-refused"
    with pytest.raises(MitaiError) as caught:
        met(lab, wait=0.5)
    assert caught.value.code == "train.peer-silent"


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def wire():
    """Return (sender, the raw end that it writes to, the raw end that is read, receiver)."""
    there, back = bytes(KEY_BYTES), b"\1" * KEY_BYTES
    (a, raw_a), (raw_b, b) = socket.socketpair(), socket.socketpair()
    sender, receiver = SealedLink(a, there, back, 0.5), SealedLink(b, back, there, 0.5)
    yield sender, raw_a, raw_b, receiver
    for each in (sender, raw_a, raw_b, receiver):
        each.close()


def frames(sender: SealedLink, raw: socket.socket, *sent: bytes) -> list[bytes]:
    taken = []
    for data in sent:
        sender.send(b"add", data)
        taken.append(raw.recv(len(data) + 16, socket.MSG_WAITALL))
    return taken


def test_long_messages_arrive(wire) -> None:
    sender, raw_a, raw_b, receiver = wire
    data = bytes(range(256)) * (FRAME_BYTES // 128) + b"end"
    with ThreadPoolExecutor(2) as pool:
        sending = pool.submit(sender.send, b"add", data)

        def carry() -> None:
            for _ in range(3):
                raw_b.sendall(raw_a.recv(min(FRAME_BYTES, 1 << 30) + 16, socket.MSG_WAITALL) if _ < 2 else rest())

        def rest() -> bytes:
            return raw_a.recv(3 + 16, socket.MSG_WAITALL)

        carrying = pool.submit(carry)
        assert receiver.receive(b"add", len(data)) == data
        sending.result()
        carrying.result()


@pytest.mark.parametrize(
    "host",
    [
        lambda one, two: [bytes([one[0] ^ 1]) + one[1:]],
        lambda one, two: [one[:-1] + bytes([one[-1] ^ 1])],
        lambda one, two: [two],  # dropped
        lambda one, two: [two, one],  # reordered
    ],
)
def test_frames_that_were_touched_do_not_open(wire, host: Callable[[bytes, bytes], list[bytes]]) -> None:
    sender, raw_a, raw_b, receiver = wire
    for frame in host(*frames(sender, raw_a, b"1234", b"5678")):
        raw_b.sendall(frame)
    with pytest.raises(TrainError) as caught:
        receiver.receive(b"add", 4)
    assert caught.value.code == "train.link-broken"


def test_repeated_reflected_and_misplaced_frames_do_not_open(wire) -> None:
    sender, raw_a, raw_b, receiver = wire
    one, two = frames(sender, raw_a, b"1234", b"5678")
    raw_b.sendall(one + one)
    assert receiver.receive(b"add", 4) == b"1234"
    with pytest.raises(TrainError, match="not what the other rank sent"):
        receiver.receive(b"add", 4)
    raw_a.sendall(one)
    with pytest.raises(TrainError, match="not what the other rank sent"):
        sender.receive(b"add", 4)
    raw_b.sendall(two)
    with pytest.raises(TrainError, match="not what the other rank sent"):
        receiver.receive(b"sum", 4)


def test_silence_and_cuts_end_a_wait(wire) -> None:
    sender, raw_a, raw_b, receiver = wire
    (frame,) = frames(sender, raw_a, b"1234")
    raw_b.sendall(frame[:-1])
    began = time.monotonic()
    with pytest.raises(TrainError) as caught:
        receiver.receive(b"add", 4)
    assert (caught.value.code, time.monotonic() - began < 3.0) == ("train.peer-silent", True)
    with pytest.raises(TrainError) as caught:
        sender.send(b"add", bytes(64 * FRAME_BYTES))  # nobody reads
    assert caught.value.code == "train.peer-silent"
    raw_b.close()
    with pytest.raises(TrainError) as caught:
        receiver.receive(b"add", 4)
    assert caught.value.code == "train.peer-gone"
    with pytest.raises(TrainError) as caught:
        receiver.send(b"add", b"1234")
    assert caught.value.code == "train.peer-gone"
