"""`mitai report` and `mitai leaderboard`, on reports in files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from evaluate_lab import Lab, number, ref

from mitai.capsule import seal
from mitai.cli.commands import run
from mitai.identity import Identity
from mitai.train.evaluate.board import Chosen, Compare, ReportRef, line_of, make_board
from mitai.train.evaluate.report import InputRef, Result


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    found = Lab(tmp_path / "sim")
    (tmp_path / "policy.toml").write_text(found.policy.to_toml())
    for name, value in (("a", 500_000), ("b", 700_000)):
        (tmp_path / f"{name}.json").write_bytes(found.report(name, value))
    return found


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in the folder; return its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mitai", *arguments])
        try:
            run()
        except SystemExit as stopped:
            return int(stopped.code or 0), "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    return call


def signed(lab: Lab, reports: dict[str, bytes]) -> bytes:
    refs = [ReportRef(capsule=f"report-{name}", manifest_sha256=name * 64) for name in reports]
    return make_board(
        Compare(reports=tuple(each.capsule for each in refs), evaluation="e" * 64, numbers=(Chosen("triage", "acc"),)),
        {each.capsule: (each, lab.signer.public, file) for each, file in zip(refs, reports.values(), strict=True)},
        lab.policy,
        signer=lab.signer,
        evidence=lab.evidence(inputs=refs),
        now=datetime.now(UTC),
    )


def test_a_report_is_shown_with_who_signed_it(lab, told):
    status, text = told("report", "a.json", "--policy", "policy.toml")
    assert status == 0
    assert "triage  acc     (all)  40       0.5000  0.4990 … 0.5010" in text
    assert "triage  acc     north  25" in text
    assert "SIMULATED" in text
    status, text = told("report", "a.json", "--policy", "policy.toml", "--json")
    fields = json.loads(text)
    assert (fields["verdict"], fields["simulated"]) == ("verified", True)
    assert fields["results"][0]["numbers"][0] == {
        "metric": "acc",
        "group": "",
        "n": 40,
        "value": 0.5,
        "low": 0.499,
        "high": 0.501,
    }


def test_a_report_that_does_not_hold_is_named(lab, told, tmp_path):
    (tmp_path / "forged.json").write_bytes(lab.report("c", signer=Identity.generate()))
    for command in (("report",), ("leaderboard", "verify", "a.json")):
        status, text = told(*command, "forged.json", "--policy", "policy.toml")
        assert status == 1
        assert "forged.json" in text
        assert "identity.signature-invalid" in text
    status, text = told("report", "none.json", "--policy", "policy.toml")
    assert status == 1
    assert "none.json" in text


def test_a_leaderboard_is_verified_and_shown(lab, told, tmp_path):
    status, text = told("leaderboard", "verify", "a.json", "b.json", "--policy", "policy.toml")
    assert status == 0
    assert "2 reports of one evaluation" in text
    status, text = told("leaderboard", "show", "a.json", "b.json", "--policy", "policy.toml")
    lines = text.splitlines()
    assert lines[1].startswith("1  b      0.7000")
    assert lines[2].startswith("2  a      0.5000")
    assert "SIMULATED" in text
    status, text = told("leaderboard", "verify", "a.json", "b.json", "--policy", "policy.toml", "--json")
    assert json.loads(text) == {"verdict": "comparable", "reports": 2, "simulated": True}


def test_a_name_is_revealed(lab, told, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    sealed = seal(tmp_path / "model", tmp_path / "sealed", owner=Identity.generate(), name="Ours [red]7B[/]")
    capsule = InputRef(role="model", capsule=sealed.capsule_id, manifest_sha256=sealed.manifest_sha256)
    (tmp_path / "c.json").write_bytes(lab.report(inputs=(capsule, ref("data", "records"))))
    arguments = ("leaderboard", "show", "a.json", "c.json", "--policy", "policy.toml")
    assert "Ours" not in told(*arguments)[1]
    assert "Ours [red]7B[/]" in told(*arguments, "--reveal", "sealed/manifest.json")[1]
    text = told(*arguments, "--reveal", "sealed/manifest.json", "--json")[1]
    assert {line["name"] for line in json.loads(text)["lines"]} == {None, "Ours [red]7B[/]"}


def test_a_signed_leaderboard_is_verified_and_a_line_revealed(lab, told, tmp_path):
    reports = {name: (tmp_path / f"{name}.json").read_bytes() for name in ("a", "b")}
    (tmp_path / "board.json").write_bytes(signed(lab, reports))
    status, text = told("leaderboard", "verify", "board.json", "--policy", "policy.toml")
    assert status == 0
    assert "✔ verified" in text
    assert "SIMULATED" in text
    fields = json.loads(told("leaderboard", "verify", "board.json", "--policy", "policy.toml", "--json")[1])
    assert (fields["verdict"], fields["reports"], len(fields["lines"])) == ("verified", ["report-a", "report-b"], 2)
    show = ("leaderboard", "show", "board.json", "--policy", "policy.toml")
    status, text = told(*show)
    assert text.splitlines()[1].split()[:3] == ["1", f"{line_of(reports['b'])[:16]}…", "0.7000"]
    assert text.splitlines()[2].split()[:3] == ["2", f"{line_of(reports['a'])[:16]}…", "0.5000"]
    assert told(*show, "--reveal", "b.json")[1].splitlines()[1].split()[:3] == ["1", "b", "0.7000"]
    (tmp_path / "c.json").write_bytes(lab.report("c"))
    status, text = told(*show, "--reveal", "c.json")
    assert status == 1
    assert "train.reveal-unknown" in text
    status, text = told("leaderboard", "verify", "board.json", "b.json", "--policy", "policy.toml")
    assert status == 1
    assert "train.report-malformed" in text


def test_reports_of_different_tests_make_no_table(lab, told, tmp_path):
    (tmp_path / "c.json").write_bytes(lab.report("c", results=(Result(task="other", numbers=(number(),)),)))
    for command in ("verify", "show"):
        status, text = told("leaderboard", command, "a.json", "c.json", "--policy", "policy.toml", "--json")
        assert status == 1
        assert json.loads(text)["error"]["code"] == "train.board-mismatch"
