"""`mitai residency`: what an auditor signs, and what others see of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mitai.broker.residency import Residency, read_residency, sign_residency
from mitai.cli import residency
from mitai.errors import ParseError
from mitai.fleet.home import Home
from mitai.identity import Identity

MACHINE = "amd-chip:" + "a1" * 64


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "home"))
    return Home.default()


def test_an_auditor_signs_and_others_look(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hall.json"
    residency.sign((MACHINE,), country="DE", zone="hall 3", days=30, out=path)
    told = capsys.readouterr().out
    residency.show(path)
    assert capsys.readouterr().out == told
    assert home.owner().key_id in told
    assert "DE, hall 3" in told
    said = read_residency(path.read_bytes()).said
    assert said.not_after - said.not_before == timedelta(days=30)
    residency.show(path, json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["auditor"], shown["country"], shown["zone"]) == (home.owner().key_id, "DE", "hall 3")
    assert (shown["machines"], shown["valid"]) == ([MACHINE], True)


def test_with_a_key_of_its_own(tmp_path: Path) -> None:
    auditor, path = Identity.generate(), tmp_path / "hall.json"
    auditor.save(tmp_path / "auditor.pem")
    residency.sign((MACHINE,), country="FR", sign=tmp_path / "auditor.pem", out=path)
    assert read_residency(path.read_bytes()).auditor == auditor.key_id


def test_one_that_has_ended_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, now = tmp_path / "hall.json", datetime.now(UTC)
    ended = Residency("DE", now - timedelta(days=2), now - timedelta(days=1))
    path.write_bytes(sign_residency(ended, [MACHINE], Identity.generate()))
    residency.show(path)
    assert "not valid now" in capsys.readouterr().out
    residency.show(path, json=True)
    assert json.loads(capsys.readouterr().out)["valid"] is False


@pytest.mark.parametrize(
    ("machine", "country", "zone", "why"),
    [
        ("", "DE", "", "machines"),
        ("amd-chip:a1", "DE", "", "machines"),
        (MACHINE, "Germany", "", "country"),
        (MACHINE, "DE", "hall 3, left", "zone"),
    ],
)
def test_nothing_is_written_that_nobody_could_use(
    machine: str, country: str, zone: str, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "hall.json"
    with pytest.raises(ParseError) as caught:
        residency.sign((machine,), country=country, zone=zone, out=path)
    assert caught.value.code == "broker.residency-malformed"
    assert why in caught.value.message
    assert not path.exists()
