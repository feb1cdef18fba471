"""Several brokers of one platform: what they need, and which one is started again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mitai.errors import FleetError
from mitai.fleet import platform as platforms
from mitai.fleet.caretaker import Caretaker
from mitai.fleet.home import Home


@pytest.mark.parametrize("database", ["", "sqlite:///state.db"])
def test_several_brokers_need_a_database_that_all_reach(tmp_path: Path, database: str) -> None:
    with pytest.raises(FleetError) as caught:
        platforms.start(Home(tmp_path), platforms.Settings(brokers=3, database=database))
    assert caught.value.code == "fleet.brokers-database"
    assert not list(tmp_path.iterdir())


class Ended:
    """A platform one of whose processes has ended, with that status."""

    def __init__(self, name: str, status: int) -> None:
        process = SimpleNamespace(name=name, popen=SimpleNamespace(returncode=status), last_words=lambda: "x", log="l")
        self.dead = lambda: [process]
        self.restarted: list[str] = []
        self.restart = self.restarted.append


def test_a_killed_broker_is_started_again() -> None:
    platform = Ended("broker-1", -9)
    Caretaker(platform, lambda _: None).look()
    assert platform.restarted == ["broker-1"]


@pytest.mark.parametrize(("name", "status"), [("broker-1", 1), ("broker", -9), ("gateway", 0)])
def test_what_ended_by_itself_or_is_alone_stops_the_platform(name: str, status: int) -> None:
    """A broker that ends by itself has found something: it is not started again and again."""
    platform = Ended(name, status)
    with pytest.raises(FleetError) as caught:
        Caretaker(platform, lambda _: None).look()
    assert (caught.value.code, platform.restarted) == ("fleet.process-died", [])
