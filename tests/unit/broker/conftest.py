"""A simulated platform for the whole run, a fresh broker for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_rig import Rig
from mitai.attest.sim import SimPlatform


@pytest.fixture(scope="session")
def sim(tmp_path_factory: pytest.TempPathFactory) -> SimPlatform:
    return SimPlatform.create(tmp_path_factory.mktemp("sim") / "sim")


@pytest.fixture
def rig(tmp_path: Path, sim: SimPlatform) -> Iterator[Rig]:
    made = Rig(tmp_path, sim)
    yield made
    made.close()


@pytest.fixture
def ready(rig: Rig) -> Rig:
    rig.register()
    return rig
