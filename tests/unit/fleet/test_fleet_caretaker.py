"""Processes that die: which are started again, when, and what ends the platform."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from mitai.errors import FleetError
from mitai.fleet import caretaker as caretakers
from mitai.fleet.caretaker import Caretaker
from mitai.fleet.home import Home


class Platform:
    """Processes that die when a test says so."""

    def __init__(self, root: Path, *names: str) -> None:
        self.home = Home(root)
        self.processes = {name: self.process(name) for name in names}
        self.restarted: list[str] = []
        self.comes_up = True

    def process(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            name=name,
            health=f"http://{name}.test/healthz",
            log=Path(f"{name}.log"),
            last_words=lambda: "alas",
            popen=SimpleNamespace(returncode=None),
        )

    def kill(self, name: str, returncode: int = -9) -> None:
        self.processes[name].popen.returncode = returncode

    def dead(self) -> list[SimpleNamespace]:
        return [process for process in self.processes.values() if process.popen.returncode is not None]

    def restart(self, name: str) -> None:
        self.restarted.append(name)
        self.processes[name] = self.process(name)
        if not self.comes_up:
            self.kill(name, 1)
            raise FleetError("fleet.process-died", "no")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path, "broker-0", "broker-1", "broker", "replica-0", "replica-1")


class Watch:
    def __init__(self, platform: Platform) -> None:
        self.now, self.said = 1000.0, []
        self.caretaker = Caretaker(platform, self.said.append, clock=lambda: self.now)

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.caretaker.look()


@pytest.fixture
def watch(platform: Platform) -> Watch:
    return Watch(platform)


def test_a_replica_is_started_again_after_a_pause(platform, watch):
    watch.after(0)
    platform.kill("replica-1")
    watch.after(0)
    watch.after(0.9)
    assert platform.restarted == []
    watch.after(0.2)
    assert platform.restarted == ["replica-1"]
    watch.after(10)
    assert platform.restarted == ["replica-1"]
    assert platform.dead() == []


def test_one_that_keeps_dying_is_started_less_and_less_often_and_then_ends_the_platform(platform, watch):
    pauses = []

    def die_again_and_again():
        while True:
            platform.kill("replica-0", 1)
            before, begun = len(platform.restarted), watch.now
            while len(platform.restarted) == before:
                watch.after(0.5)
            pauses.append(watch.now - begun)

    with pytest.raises(FleetError) as ended:
        die_again_and_again()
    assert ended.value.code == "fleet.process-died"
    assert "alas" in ended.value.message
    assert [int(pause) for pause in pauses[:7]] == [1, 2, 4, 8, 16, 32, 60]
    assert len(pauses) == caretakers.MAX_QUICK_DEATHS


def test_one_that_ran_for_long_begins_anew(platform, watch):
    for _ in range(30):
        platform.kill("replica-0")
        watch.after(0)
        watch.after(1.1)
        watch.after(120)
    assert len(platform.restarted) == 30


def test_one_that_does_not_come_up_is_tried_again(platform, watch):
    platform.comes_up = False
    platform.kill("replica-0")
    watch.after(0)
    watch.after(1.1)
    platform.comes_up = True
    watch.after(0)
    watch.after(1.9)
    assert len(platform.restarted) == 1
    watch.after(0.2)
    assert len(platform.restarted) == 2
    assert any("did not come up" in line for line in watch.said)


def test_it_is_told_what_was_deployed_last(platform, watch, monkeypatch):
    asked = []

    def post(address, content, timeout):
        asked.append((address, json.loads(content)))
        if len(asked) == 3:
            raise httpx2.ConnectError("gone")
        return httpx2.Response(202 if len(asked) == 1 else 409)

    monkeypatch.setattr(caretakers.httpx2, "post", post)
    platform.home.deployment.parent.mkdir(parents=True)
    platform.home.deployment.write_text('{"model": "m"}')
    for _ in range(3):
        platform.kill("replica-0")
        watch.after(100)
        watch.after(1.1)
    assert asked[0] == ("http://replica-0.test/control/deploy", {"model": "m"})
    assert [line for line in watch.said if "is up" in line] == [
        "replica-0 is up and loads what was deployed last",
        "replica-0 is up",
        "replica-0 is up, and took no deployment (ConnectError)",
    ]


def test_a_killed_broker_comes_back_at_once_and_other_deaths_end_the_platform(platform, watch):
    platform.kill("broker-1")
    watch.after(0)
    assert platform.restarted == ["broker-1"]
    platform.kill("broker-0", 1)  # it ended by itself: it would again
    with pytest.raises(FleetError, match="broker-0"):
        watch.after(0)
    platform.processes["broker-0"].popen.returncode = None
    platform.kill("broker")  # the only one
    with pytest.raises(FleetError, match="the broker has stopped"):
        watch.after(0)
