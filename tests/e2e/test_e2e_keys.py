"""The broker's keys by their commands, against processes: what is served goes on."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_the_root_key_is_rotated_and_backed_up_while_a_model_is_served(running, tmp_path):
    before = running.mitai("broker", "rotate", "--json").fields["epoch"]
    assert running.mitai("broker", "rotate", "--json").fields["epoch"] == before + 1
    assert running.mitai("recovery", "show", "--json").fields["recovery_sha256"] is None
    backup, there = tmp_path / "broker.backup", tmp_path / "there.toml"
    rows = running.mitai("broker", "backup", str(backup), "--json").fields["rows"]
    there.write_text(f'state = "sqlite:///{tmp_path / "there.db"}"\npublish = "{tmp_path}"\npolicy = "policy.toml"\n')
    assert running.mitai("broker", "restore", str(backup), "--config", str(there), "--json").fields["rows"] == rows
    over = running.mitai("broker", "restore", str(backup), "--json", status=1).fields
    assert over["error"]["code"] == "broker.restore-not-empty"
    assert running.mitai("chat", "-m", "hello", "--json").fields["answer"]
    entries = running.mitai("ledger", "show", "--json").stdout
    assert '"root-key"' in entries


def test_a_capsule_gets_a_new_data_key(running, tmp_path):
    notes, sealed, anew = tmp_path / "notes", tmp_path / "notes.capsule", tmp_path / "notes-2.capsule"
    notes.mkdir()
    (notes / "a.txt").write_text("a")
    capsule = running.mitai("seal", str(notes), str(sealed), "--kind", "data", "--json").fields["capsule"]
    running.mitai("publish", str(sealed))
    done = running.mitai("rotate", str(sealed), str(anew), "--json").fields
    assert done["capsule"] == capsule
    again = running.mitai("rotate", str(sealed), str(anew), "--json").fields
    assert again["manifest_sha256"] == done["manifest_sha256"]
