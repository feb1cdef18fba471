"""Three friends: the average, what a friend who leaves or cheats gets, and the command in three real processes."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mitai.cli import mpc
from mitai.cli.commands import app
from mitai.cli.output import Output
from mitai.errors import MpcError, ParseError
from mitai.identity import Identity
from mitai.mpc import salary as module
from mitai.mpc.meeting import Address
from mitai.mpc.salary import First, Guest, Invitation, salary
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tls import secured

HERE = Address("127.0.0.1", 0)


def friends(first, guests, play):
    """Let three meet and `play(number, friends)`; return what each got."""

    def guest(number):
        with Guest(Invitation.parse(str(first.invitation))) as meeting:
            return play(number, meeting.meet())

    with ThreadPoolExecutor(2) as pool, first:
        others = [pool.submit(guest, number) for number in guests]
        mine = play(0, first.meet())
        return [mine, *(other.result() for other in others)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((52000, 48000, 60000.01), 160000.01 / 3), ((0, 0, 0), 0), ((1e12, 1e12, 1e12), 1e12), ((0.01, 0, 0), 0.01 / 3)],
)
def test_the_average_is_exact(numbers, expected):
    found = friends(First(HERE), (1, 2), lambda number, three: three.average(numbers[number]))
    assert found == [pytest.approx(expected, rel=1e-15)] * 3


def test_all_see_one_check_code_and_every_meeting_another():
    codes = [friends(First(HERE), (1, 2), lambda _, three: three.check_code) for _ in range(2)]
    assert [len(set(three)) for three in codes] == [1, 1]
    assert codes[0] != codes[1]
    assert re.fullmatch(r"[A-Z2-7]{5}(-[A-Z2-7]{5}){4}", codes[0][0])


def test_a_friend_who_leaves_ends_it_for_all():
    def play(number, three):
        if number == 1:
            raise KeyError
        with pytest.raises(MpcError) as caught:
            three.average(1)
        assert caught.value.code == "mpc.friend-left"
        raise KeyError

    with pytest.raises(KeyError):
        friends(First(HERE), (1, 2), play)


def test_a_friend_who_leaves_is_missed_while_another_one_still_thinks():
    told = threading.Event()

    def play(number, three):
        if number == 1:
            with pytest.raises(MpcError) as caught:
                three.average(1)
            told.set()
            return caught.value.code
        if number == 0:
            assert told.wait(60)  # the first friend has not typed yet
        return None

    assert "mpc.friend-left" in friends(First(HERE), (1, 2), play)


def test_who_does_not_know_the_code_is_turned_away():
    told = []
    with First(HERE) as first, ThreadPoolExecutor(3) as pool:
        meeting = pool.submit(first.meet, told.append)
        wrong = Invitation(first.invitation.address, bytes(10))
        with Guest(wrong) as guest, pytest.raises(MpcError) as caught:
            guest.meet()
        assert caught.value.code == "mpc.invitation"
        guests = [Guest(first.invitation) for _ in range(2)]
        met = [pool.submit(guest.meet) for guest in guests]
        codes = {three.result().check_code for three in (meeting, *met)}
        for guest in guests:
            guest.__exit__(None, None, None)
    assert len(codes) == 1
    assert [error.code for error in told if error] == ["mpc.invitation"]


def test_a_first_friend_who_does_not_know_the_code_is_found_out():
    server = socket.create_server(("127.0.0.1", 0))
    invitation = Invitation(Address(*server.getsockname()), bytes(10))

    def impostor():
        end, _ = server.accept()
        with SocketLink(secured(end, Identity.generate(), lambda _: True, serving=True), 60) as link:
            told = bytes(link.receive(34))
            link.send(told[:32])  # the guest's own proof, sent back

    with ThreadPoolExecutor(1) as pool, server:
        false = pool.submit(impostor)
        with Guest(invitation) as guest, pytest.raises(MpcError) as caught:
            guest.meet()
        false.result()
    assert caught.value.code == "mpc.invitation"


def test_a_first_friend_who_names_other_keys_is_found_out(monkeypatch):
    """The roster is changed: either it is refused, or the check codes differ, and no link comes about."""
    real = module._roster
    eve = Identity.generate().public
    monkeypatch.setattr(module, "_roster", lambda keys, second: real([keys[0], keys[1], eve], second))
    monkeypatch.setattr(module, "BESIDE_S", 1.0)
    results = []

    def guest(invitation):
        try:
            with Guest(invitation) as meeting:
                results.append(meeting.meet())
        except MpcError as error:
            results.append(error.code)

    with First(HERE) as first:
        threads = [threading.Thread(target=guest, args=(first.invitation,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        first.meet()
        for thread in threads:
            thread.join()
    assert sorted(results) == ["mpc.invitation", "mpc.peer-absent"]


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1:1", "127.0.0.1:1/AAAA", "127.0.0.1:1/AAAA-BBBB-CCCC-DDD1", "x/AAAA-BBBB-CCCC-DDDD"]
)
def test_what_is_no_invitation(text):
    with pytest.raises(MpcError) as caught:
        Invitation.parse(text)
    assert caught.value.code in {"mpc.invitation", "mpc.address"}


def test_an_invitation_is_read_as_people_type_it():
    invitation = Invitation.parse(" LOCALHOST:1/aaaa-bbbb-cccc-dddd ")
    assert str(invitation) == "localhost:1/AAAA-BBBB-CCCC-DDDD"
    assert "AAAA" not in repr(invitation)


@pytest.mark.parametrize(
    ("text", "value"), [("52000", 52000), (" 0\n", 0), ("52000.5", 52000.5), ("1000000000000", 1e12), ("2\x1c", 2)]
)
def test_salaries(text, value):
    assert salary(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "52,000", "5e3", "nan", "inf", "1.234", "٣", "1000000000001", "12345678901234", "1_000"]
)
def test_what_is_no_salary(text):
    with pytest.raises(ParseError) as caught:
        salary(text)
    assert caught.value.code == "mpc.salary"
    assert not text.strip() or text not in caught.value.message


class Terminal:
    """`mitai mpc salary` in a process of its own."""

    def __init__(self, folder, *options):
        self._out, self._err = (folder / name for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            command = [sys.executable, "-m", "mitai.cli", "mpc", "salary", *options]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err)

    def wait_for(self, pattern):
        until = time.monotonic() + 200
        while not (found := re.search(pattern, self._out.read_text() + self._err.read_text())):
            assert time.monotonic() < until
            time.sleep(0.02)
        return found

    def end(self, typed=""):
        self.process.communicate(typed.encode(), timeout=200)
        return self.process.returncode, self._out.read_text(), self._err.read_text()

    def join(self):
        """Return what the others have to give."""
        return self.wait_for(r"\S+/([A-Z2-7]{4}-){3}[A-Z2-7]{4}")[0].strip('{"}')


@pytest.fixture
def terminal(tmp_path):
    started = []

    def start(*options):
        (folder := tmp_path / str(len(started))).mkdir()
        started.append(Terminal(folder, *options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_three_terminals(terminal):
    first = terminal()
    join = first.join()
    others = [terminal("--join", join), terminal("--join", join, "--json")]
    numbers = ["52000", "48000.50", "61000"]
    with ThreadPoolExecutor(3) as pool:
        first, second, third = pool.map(lambda t, n: t.end(n + "\n"), [first, *others], numbers)
    assert (first[0], second[0], third[0]) == (0, 0, 0), (first, second, third)
    assert "The average is 53666.83." in first[1]
    assert "The average is 53666.83." in second[1]
    assert json.loads(third[1])["average"] == 53666.83
    for own, (_, out, err) in zip(numbers, (first, second, third), strict=True):
        assert not any(number in out + err for number in numbers), own
    assert "can work out the third" in second[1]


def test_what_is_no_number_ends_it_for_all(terminal):
    first = terminal("--json")
    join = first.join()
    others = [terminal("--join", join, "--json"), terminal("--join", join)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda t, n: t.end(n), [first, *others], ["52000\n", "a lot\n", "1\n"]))
    assert [code for code, _, _ in results] == [1, 1, 1]
    assert json.loads(results[0][1].splitlines()[-1])["error"]["code"] == "mpc.friend-left"
    assert json.loads(results[1][1])["error"]["code"] == "mpc.salary"
    assert "a friend left" in results[2][2]


def test_the_input_ends_before_a_number(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(MpcError) as caught:
        mpc._number(Output(as_json=True))
    assert caught.value.code == "mpc.no-number"


@pytest.mark.parametrize(("typed", "goes_on"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False)])
def test_friends_on_several_machines_compare_a_code_first(monkeypatch, capsys, typed, goes_on):
    class Three:
        check_code = "AAAAA-BBBBB"

    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    codes = []
    try:
        mpc._compare(Output(as_json=True), Three())
    except MpcError as error:
        codes.append(error.code)
    assert codes == ([] if goes_on else ["mpc.not-compared"])
    assert "AAAAA-BBBBB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a.example", False)],
)
def test_whether_all_are_on_one_machine(host, here):
    assert mpc._here(host) is here


def test_a_killed_friend_ends_it_at_once(terminal):
    first = terminal("--json")
    join = first.join()
    others = [terminal("--join", join, "--json") for _ in range(2)]
    for each in (first, others[1]):
        each.process.stdin.write(b"5\n")
        each.process.stdin.flush()
    others[0].wait_for("Your salary")
    others[0].process.kill()
    began = time.monotonic()
    for each in (first, others[1]):
        code, out, _ = each.end()
        assert (code, json.loads(out.splitlines()[-1])["error"]["code"]) == (1, "mpc.friend-left")
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--join", "127.0.0.1:1"), "mpc.invitation"),
        (("--join", "127.0.0.1:70000/AAAA-AAAA-AAAA-AAAA"), "mpc.address"),
        (("--listen", "somewhere"), "mpc.address"),
        (("--listen", "0.0.0.0:0"), "mpc.address"),
    ],
)
def test_wrong_options(options, code):
    with pytest.raises(MpcError) as caught:
        app(["mpc", "salary", *options], exit_on_error=False, print_error=False, result_action="return_value")
    assert caught.value.code == code
