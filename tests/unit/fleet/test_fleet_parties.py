"""All sides of a secure computation as processes: waited for, recorded, and stopped when one does not come up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mitai.errors import FleetError
from mitai.fleet import parties
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home


def test_a_side_that_ends_while_starting_ends_all(tmp_path):
    home = Home(tmp_path)  # without any folder of a side
    with pytest.raises(FleetError, match=r"(?s)the p0 stopped while starting.*mpc\.shares-missing") as caught:
        parties.start(home, ("p0",), lambda: False)
    assert caught.value.code == "fleet.process-died"
    assert not (home.platform / "platform.json").exists()


def test_sides_are_recorded_once_they_are_ready(tmp_path, monkeypatch):
    home, said, checked = Home(tmp_path), [], []

    def start(name, module, arguments, health, logs, *, secret):
        assert (module, arguments, health) == ("mitai.cli", ["mpc", "party", str(home.parties / name)], "")
        assert secret == b""
        return SimpleNamespace(pid=len(said), check=lambda: checked.append(name))

    answers = iter([False, False, True])
    monkeypatch.setattr(platforms, "start_process", start)
    monkeypatch.setattr(parties, "_LOOK_EVERY_S", 0.0)
    platform = parties.start(home, ("p0", "p1"), lambda: next(answers), said.append)
    assert list(platform.processes) == ["p0", "p1"]
    assert checked == ["p0", "p1"] * 2
    assert len(said) == 3
    record = home.read_platform()
    assert (record.trust, record.gateway, record.pids) == ("mpc", "", {"p0": 1, "p1": 2})
