"""A service of proofs as processes: what its queue says, and which of them are started again."""

from __future__ import annotations

import base64
import os
from types import SimpleNamespace

import httpx2
import pytest

from mitai.errors import FleetError
from mitai.fleet import platform as platforms
from mitai.fleet import proofs
from mitai.fleet.caretaker import FIRST_PAUSE_S, Caretaker
from mitai.fleet.home import Home
from mitai.fleet.platform import Platform
from mitai.fleet.processes import Process, start


@pytest.mark.parametrize("name", [proofs.SERVER, proofs.PROVER])
def test_both_processes_are_started_again(tmp_path, name):
    popen = SimpleNamespace(returncode=-9)
    process = SimpleNamespace(name=name, health="", log="x.log", last_words=lambda: "alas", popen=popen)
    dead, restarted, said, now = [process], [], [], 1000.0

    def restart(one):
        restarted.append(one)
        dead.clear()

    platform = SimpleNamespace(home=Home(tmp_path), processes={name: process}, dead=lambda: list(dead), restart=restart)
    Home(tmp_path).platform.mkdir()
    Home(tmp_path).deployment.write_text("{}")  # of a platform that was here before: not for these processes
    caretaker = Caretaker(platform, said.append, clock=lambda: now)
    caretaker.look()
    assert restarted == []
    now += FIRST_PAUSE_S
    caretaker.look()
    assert restarted == [name]
    assert said[-1] == f"{name} is up"


def test_a_queue_that_does_not_answer_or_says_nonsense_is_an_error(monkeypatch):
    answers = iter([httpx2.Response(200, content=b'{"waiting": 2}'), httpx2.Response(200, content=b'["waiting"]')])
    answers = iter([*answers, httpx2.Response(200, content=b"x" * (1 << 20))])
    client = httpx2.Client(transport=httpx2.MockTransport(lambda _: next(answers)))
    monkeypatch.setattr(proofs.httpx2, "stream", client.stream)
    assert proofs.counts("http://service.test") == {"waiting": 2}
    for _ in range(2):
        with pytest.raises(FleetError) as refused:
            proofs.counts("http://service.test")
        assert refused.value.code == "fleet.gateway-unreachable"


def test_a_secret_is_on_the_input_alone_and_again_after_a_restart(tmp_path):
    platform, secret = Platform(Home(tmp_path)), b"a secret of the platform"
    platform.home.platform.mkdir()
    one = platform.processes["one"] = start("one", "base64", ["-e"], "", platform.home.logs, secret=secret)
    one.popen.wait(60)
    platform.restart("one")
    platform.processes["one"].popen.wait(60)
    assert [base64.b64decode(line) for line in one.log.read_bytes().split()] == [secret] * 2
    assert secret.decode() not in repr(platform) + str(one.popen.args) + str(os.environ)


def test_both_processes_get_one_key_which_is_new_each_time(tmp_path, monkeypatch):
    forbidden = []
    monkeypatch.setattr(proofs, "forbid_core_dumps", lambda: forbidden.append(len(keys)))
    monkeypatch.setattr(Process, "wait_healthy", lambda _: None)
    home, config, keys, said = Home(tmp_path), tmp_path / "service.toml", [], []
    config.write_text('port = 1\nprepared = "p"\nname = "n"\nkey = "k"\nstate = "state"\n')
    home.platform.mkdir()
    popen = SimpleNamespace(poll=lambda: None)

    def started(name, module, arguments, health, logs, *, secret):
        keys.append(secret)
        return Process(name, module, arguments, health, 0, logs, 0, popen, secret)

    monkeypatch.setattr(platforms, "start_process", started)
    for _ in range(2):
        proofs.start(home, config, 1, said.append)
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "state" / "answers.db").touch()
    one, again, other, _ = keys
    assert (one == again != other, len(one)) == (True, 32)
    assert forbidden == [0, 2]  # core dumps, before there is a key
    assert sum("deleted" in line for line in said) == 1  # who starts anew is told
    assert one not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
