"""The home folder: private files, whole or not at all, and names that lead nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mitai.errors import FleetError
from mitai.fleet.home import Home, PlatformFile, write_private

PLATFORM = PlatformFile("http://127.0.0.1:8700", "upload-secret", "operator-secret", {"broker": 17}, simulated=True)


def test_default_is_the_environment_variable_or_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "here"))
    assert Home.default().root == tmp_path / "here"
    for unset in (lambda: monkeypatch.setenv("MITAI_HOME", ""), lambda: monkeypatch.delenv("MITAI_HOME")):
        unset()
        monkeypatch.setenv("HOME", str(tmp_path))
        assert Home.default().root == tmp_path / ".mitai"


def test_every_name_lies_inside(tmp_path):
    home = Home(tmp_path)
    places = [
        getattr(home, name) for name, value in vars(Home).items() if isinstance(value, property) and name != "root"
    ]
    assert len(places) == len(set(places)) >= 9
    assert all(tmp_path in place.parents for place in places)


def test_the_owner_is_made_once_and_privately(tmp_path):
    home = Home(tmp_path)
    first = home.owner()
    assert home.owner().key_id == first.key_id
    assert (tmp_path / "owner/identity.pem").stat().st_mode & 0o777 == 0o600


def test_data_keys_are_kept(tmp_path):
    home = Home(tmp_path)
    home.save_data_key("cap-1_A", b"k" * 32)
    assert home.data_key("cap-1_A") == b"k" * 32
    assert home.data_key_path("cap-1_A").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FleetError) as caught:
        home.data_key("other")
    assert caught.value.code == "fleet.data-key-missing"
    assert "MITAI_HOME" in (caught.value.hint or "")


@pytest.mark.parametrize("capsule_id", ["", "..", "../x", "/etc/passwd", "a/b", "a\0b", "a" * 129, "é", "a\n"])
def test_a_capsule_id_leads_nowhere_else(tmp_path, capsule_id):
    home = Home(tmp_path)
    for use in (home.data_key, home.data_key_path, lambda name: home.save_data_key(name, b"")):
        with pytest.raises(FleetError) as caught:
            use(capsule_id)
        assert caught.value.code == "fleet.capsule-id"
    assert list(tmp_path.iterdir()) == []


def test_the_platform_file_survives_a_round_trip_and_shows_no_token(tmp_path):
    home = Home(tmp_path)
    home.write_platform(PLATFORM)
    assert home.read_platform() == PLATFORM
    assert (tmp_path / "platform/platform.json").stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(PLATFORM)


def test_no_platform(tmp_path):
    with pytest.raises(FleetError) as caught:
        Home(tmp_path).read_platform()
    assert caught.value.code == "fleet.no-platform"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"gateway":1}', b'{"gateway":"\xff"}', b"[" * 100_000])
def test_a_damaged_platform_file(tmp_path, content):
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform/platform.json").write_bytes(content)
    with pytest.raises(FleetError) as caught:
        Home(tmp_path).read_platform()
    assert caught.value.code == "fleet.platform-file"


def test_a_write_replaces_the_whole_file_and_makes_it_private(tmp_path):
    path = tmp_path / "deep" / "file"
    write_private(path, b"first, longer")
    path.chmod(0o644)
    write_private(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    path = tmp_path / "file"
    write_private(path, b"old")
    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(OSError, match="no space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
