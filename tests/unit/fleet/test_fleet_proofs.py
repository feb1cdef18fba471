"""A service of proofs as processes: what its queue says, and which of them are started again."""

from __future__ import annotations

from types import SimpleNamespace

import httpx2
import pytest

from mitai.errors import FleetError
from mitai.fleet import proofs
from mitai.fleet.caretaker import FIRST_PAUSE_S, Caretaker
from mitai.fleet.home import Home


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
