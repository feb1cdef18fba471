"""`mitai proof audit-key`, `challenge`, `trace` and `audit`, from an answer's file to what an auditor knows."""

from __future__ import annotations

import json
import stat

import msgspec
import pytest

import proof_audit_rig as rig
from mitai.cli.commands import app
from mitai.errors import MitaiError
from mitai.proof.prepared import Prepared

MODEL = rig.prepared().card.identity


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(Prepared, "open", lambda _: rig.prepared())

    def command(*words: str | object) -> dict[str, object]:
        app(["proof", *map(str, words), "--json"], result_action="return_value")
        return json.loads(capsys.readouterr().out)

    return command


def test_an_audit_by_commands(run, tmp_path):
    answer, key, whole, some, asked = (tmp_path / name for name in ("answer", "key", "whole", "some", "asked"))
    answer.write_bytes(rig.committed().encode())
    assert run("audit-key", "prepared", key)["model"] == MODEL
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    run("trace", "prepared", answer, whole)
    checked = run("audit", answer, "--key", key, "--trace", whole)
    assert (checked["verdict"], checked["model"], checked["checked"]) == ("holds", MODEL, checked["steps"])
    assert checked["root"] == rig.committed().root.hex()
    assert (checked["prompt"], checked["answer"]) == (list(rig.PROMPT), list(rig.committed().answer))
    drawn = run("challenge", answer, asked, "--model", MODEL, "--steps", 4)
    assert run("trace", "prepared", answer, some, "--challenge", asked)["bytes"] < whole.stat().st_size
    checked = run("audit", answer, "--key", key, "--trace", some, "--challenge", asked)
    assert (checked["verdict"], checked["checked"], checked["caught"]) == ("nothing found", 4, drawn["caught"])
    other = tmp_path / "other"
    other.write_bytes(msgspec.structs.replace(rig.committed(), root=bytes(32)).encode())
    for words, code in (
        (("trace", "prepared", other, tmp_path / "never"), "proof.answer-differs"),
        (("audit", answer, "--key", key, "--trace", some), "proof.trace-malformed"),
        (("audit", answer, "--key", answer, "--trace", whole), "proof.audit-key-malformed"),
        (("audit", tmp_path / "none", "--key", key, "--trace", whole), "proof.no-file"),
        (("audit", answer, "--key", key, "--trace", whole, "--temperature", "0.5"), "proof.sampling-differs"),
        (("audit-key", "prepared", key), "proof.out-exists"),
        (("challenge", answer, asked, "--model", "0" * 64), "proof.model-differs"),
    ):
        with pytest.raises(MitaiError) as refused:
            run(*words)
        assert refused.value.code == code
    assert not (tmp_path / "never").exists()
