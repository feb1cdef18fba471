"""`mitai policy`: from a template to a tried policy."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from mitai.broker.protocol import Amounts
from mitai.cli.commands import run

VALUES = ["--set", "workload=serve", "--set", "mrtd=00ff", "--set", "until=2027-01-01"]


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mitai", "policy", *arguments])
    try:
        run()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "policy.cedar"
    limits = ["--set", "columns=age, sex", "--set", "rows=10", "--out", str(path)]
    assert ended(monkeypatch, "new", "inference-until", "columns-rows", *VALUES, *limits) == 0
    capsys.readouterr()
    return path


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out)


def test_templates_are_listed_and_shown(monkeypatch, capsys) -> None:
    assert ended(monkeypatch, "templates", "--json") == 0
    assert {"name", "values", "explanation"} == set(answer(capsys)["templates"][0])
    assert ended(monkeypatch, "templates", "expiring") == 0
    assert "forbid (principal" in capsys.readouterr().out
    assert ended(monkeypatch, "templates", "exprng") == 1
    assert "did you mean expiring?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing"], "broker.template-unknown"),
        (["expiring"], "broker.template-value"),
        (["expiring", "--set", "until"], "cli.usage"),
        (["expiring", "--set", "until=2027-01-01", "--set", "rows=1"], "broker.template-value"),
        (["expiring", "--set", "until=soon"], "broker.policy-invalid"),
    ],
)
def test_wrong_values_are_told(monkeypatch, capsys, arguments: list[str], code: str) -> None:
    assert ended(monkeypatch, "new", *arguments, "--json") == 1
    assert answer(capsys)["error"]["code"] == code


def test_check(monkeypatch, capsys, written: Path, tmp_path: Path) -> None:
    assert ended(monkeypatch, "check", str(written), "--json") == 0
    assert answer(capsys) == {"valid": True, "findings": []}
    wrong = tmp_path / "wrong.cedar"
    wrong.write_text("permit (principal, action, resource)\nwhen { context.epochs < 3 };")
    assert ended(monkeypatch, "check", str(wrong)) == 1
    assert "line 2: there is no fact `context.epochs`; did you mean `context.job.epochs`?" in capsys.readouterr().out
    assert ended(monkeypatch, "explain", str(wrong)) == 1
    wrong.write_bytes(b"\xff")
    assert ended(monkeypatch, "check", str(wrong)) == 1


def test_explain(monkeypatch, capsys, written: Path, tmp_path: Path) -> None:
    assert ended(monkeypatch, "explain", str(written)) == 0
    assert "PERMIT inference-until: workload serve, for inference" in capsys.readouterr().out
    request = tmp_path / "request.toml"
    request.write_text('workload = "serve"\nmeasurements = {mrtd = "00ff"}\nparameters = {columns = "age", rows = 5}\n')
    time = ["--time", "2026-12-01T00:00:00"]
    assert ended(monkeypatch, "explain", str(written), str(request), *time, "--json") == 0
    assert answer(capsys)["allowed"] is True
    assert ended(monkeypatch, "explain", str(written), str(request), *time, "--purpose", "export", "--json") == 0
    told = answer(capsys)
    assert told["allowed"] is False
    assert any("it is for the purpose inference, not for export" in line for line in told["why"])


def test_diff(monkeypatch, capsys, written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cedar"
    other.write_text(written.read_text().replace("rows <= 10", "rows <= 9"))
    assert ended(monkeypatch, "diff", str(written), str(other), "--json") == 0
    told = answer(capsys)
    assert {(change["before"], change["after"]) for change in told["changes"]} == {(True, False)}
    assert any(line.startswith("-") for line in told["lines"])
    assert ended(monkeypatch, "diff", str(written), str(written)) == 0
    assert "the texts are the same" in capsys.readouterr().out


def test_cases(monkeypatch, capsys, written: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases.toml"
    cases.write_text(
        'request = {workload = "serve", time = 2026-01-01T00:00:00Z, measurements = {mrtd = "00ff"}}\n'
        '[[case]]\nname = "undeclared"\nallow = false\nreason = "context.job.columns"\n'
    )
    assert ended(monkeypatch, "test", str(written), str(cases)) == 0
    assert "1 case, 0 failed" in capsys.readouterr().out
    for wrong in ("allow = true\n", 'allow = false\nreason = "simulated"\n'):
        cases.write_text(f'[[case]]\nname = "x"\n{wrong}')
        assert ended(monkeypatch, "test", str(written), str(cases), "--json") == 1
        assert answer(capsys)["passed"] is False


def test_import_trustflow(monkeypatch, capsys, tmp_path: Path) -> None:
    rule = {"rule_id": "r", "grantee_party_ids": ["bob"], "columns": ["a"], "op_constraints": [{"op_name": "OP_LR"}]}
    file, out = tmp_path / "policy.json", tmp_path / "policy.cedar"
    file.write_text(json.dumps({"data_uuid": "d", "rules": [rule]}))
    arguments = ["import-trustflow", str(file), "--workload", "train", "--owner", "a11ce"]
    assert ended(monkeypatch, *arguments, "--party", "bob=b0b", "--out", str(out)) == 0
    assert 'context.owners.contains("b0b")' in out.read_text()
    assert ended(monkeypatch, *arguments) == 1
    assert "--party bob=KEY_ID" in capsys.readouterr().err


def test_set_hands_the_policy_and_its_limits_to_the_verified_broker(monkeypatch, written, capsys) -> None:
    calls = []

    class Verified:
        session = SimpleNamespace(appraisal=SimpleNamespace(simulated=True))

        def set_policy(self, *arguments, **limits):
            calls.append((arguments, limits))
            return 7

        def close(self):
            calls.append("closed")

    monkeypatch.setattr("mitai.cli.policy.verified_broker", lambda *_: Verified())
    monkeypatch.setattr("mitai.cli.policy.read_policy", lambda *_: None)
    limits = ["--replaces", "3", "--uses", "5", "--steps", "0", "--epsilon", "0.5", "--url", "http://gateway.test"]
    assert ended(monkeypatch, "set", "c" * 32, str(written), *limits, "--json") == 0
    told = answer(capsys)
    assert (told["capsule"], told["ledger_index"], told["simulated"]) == ("c" * 32, 7, True)
    ((arguments, given), closed) = calls
    assert (arguments, closed) == (("c" * 32, written.read_text()), "closed")
    assert (given["uses"], given["replaces"]) == (5, 3)
    assert given["amounts"] == Amounts(steps=0, epsilon_micros=500_000)
    assert timedelta(days=29) < given["not_after"] - datetime.now(UTC) < timedelta(days=31)
    written.write_text("permit (principal, action);")
    assert ended(monkeypatch, "set", "c" * 32, str(written), "--url", "http://gateway.test") == 1
    assert len(calls) == 2  # a policy with mistakes goes nowhere
