"""`mitai train`: job files, curves, pictures, and what a worker's answers may not do to a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from mitai.cli import train
from mitai.errors import FleetError, MitaiError, TrainError
from mitai.fleet import platform, training

JOB = '[job]\nname = "joint"\nmethod = "sft"\nmodel = "m"\ndata = ["d1", "d2"]\n[limits]\nrows = 100\n'
ROWS = [{"step": float(at), "steps": 20.0, "loss": 10.0 - at / 2} for at in range(1, 21)]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """A gateway that answers what a test puts in, and what it was asked."""
    seen: list[tuple[str, object]] = []
    answers: dict[str, tuple[int, object]] = {}

    def ask(gateway, path, limit, headers=(), body=None):
        seen.append((path, body))
        assert dict(headers)["authorization"] == "Bearer operator-token-0"
        status, told = answers[path.removeprefix("/control/train/")]
        return status, json.dumps(told).encode()

    monkeypatch.setattr(training, "ask", ask)
    return answers, seen


HOST = {"url": "http://host.example", "operator_token": "operator-token-0"}


def test_check_says_what_is_declared(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.check(job, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["declared"] == {"method": "sft", "epochs": "1", "rows": "100"}
    assert [each["role"] for each in told["inputs"]] == ["model", "data", "data"]
    train.check(job)
    assert "rows" in capsys.readouterr().out
    job.write_text(JOB + "[plugins]\n")
    with pytest.raises(TrainError):
        train.check(job)


def test_submit_and_wait(asked, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    answers, seen = asked
    monkeypatch.setattr(train, "_POLL_S", 0)
    answers["jobs"] = 202, {"id": "j1"}
    answers["jobs/j1"] = 200, {"id": "j1", "state": "done", "kind": "adapter", "capsule": "c1", "newest": ROWS[-1]}
    answers["jobs/j1/logs?after=0"] = 200, {"numbers": ROWS}
    train.submit(job, wait=True, upload_token="upload-token-0000", **HOST)
    assert seen[0][1]["output"] == {"gateway": "http://host.example", "token": "upload-token-0000"}
    assert seen[0][1]["job"] == JOB
    printed = capsys.readouterr().out
    assert "adapter c1" in printed
    assert "loss of 20 steps" in printed
    train.submit(job, upload_token="upload-token-0000", **HOST)
    assert "mitai train logs j1" in capsys.readouterr().out


def test_a_job_of_several_workers_is_given_a_place(asked, job: Path) -> None:
    answers, seen = asked
    answers["jobs"] = 202, {"id": "j1"}
    train.submit(job, upload_token="upload-token-0000", rank=1, leader="10.0.0.1:7700", **HOST)
    assert seen[0][1]["place"] == {"rank": 1, "host": "10.0.0.1", "port": 7700}
    for wrong in ({"rank": 1}, {"leader": "a:1"}, {"rank": 1, "leader": "a"}, {"rank": 1, "leader": ":x"}):
        with pytest.raises(MitaiError) as caught:
            train.submit(job, upload_token="upload-token-0000", **wrong, **HOST)
        assert caught.value.code == "cli.place"


def test_a_failed_job_is_told_as_its_error(asked, job: Path) -> None:
    answers, _ = asked
    answers["jobs"] = 202, {"id": "j1"}
    error = {"code": "broker.policy-denied", "message": "an owner said no", "hint": "ask"}
    answers["jobs/j1"] = 200, {"id": "j1", "state": "failed", "error": error}
    with pytest.raises(MitaiError) as caught:
        train.submit(job, wait=True, upload_token="upload-token-0000", **HOST)
    assert (caught.value.code, caught.value.hint) == ("broker.policy-denied", "ask")


def test_status_logs_and_cancel(asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, seen = asked
    hostile = {"id": "j1\x1b[2J", "name": "[red]x", "state": "running", "newest": ROWS[2], "seconds": 1, "error": None}
    answers["jobs"] = 200, {"jobs": [hostile, "nonsense"], "simulated": True}
    answers["jobs/j1"] = 200, {**hostile, "error": {"code": "train.x", "message": "why\x1b"}}
    answers["jobs/j1/logs?after=0"] = 200, {"numbers": [*ROWS, {"step": 20.0, "eval_loss": 3.0}]}
    answers["jobs/j1/cancel"] = 200, {"id": "j1"}
    train.status(**HOST)
    train.status("j1", **HOST)
    train.logs("j1", png=tmp_path / "loss.png", **HOST)
    train.cancel("j1", **HOST)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[red]x" in printed
    assert "3/20" in printed
    assert "train.x" in printed
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert seen[-1] == ("/control/train/jobs/j1/cancel", {})


@pytest.mark.parametrize("numbers", [None, "x", [1], [{"loss": "x"}]])
def test_malformed_answers_are_errors(asked, numbers: object) -> None:
    asked[0]["jobs/j1/logs?after=0"] = 200, {"numbers": numbers}
    with pytest.raises(FleetError):
        train.logs("j1", **HOST)


def test_a_path_can_t_be_given_as_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = []

    def stream(method, url, **_):
        urls.append(url)
        raise httpx2.ConnectError("down")

    monkeypatch.setattr(platform.httpx2, "stream", stream)
    with pytest.raises(FleetError):
        train.cancel("../../deploy", **HOST)
    assert urls == ["http://host.example/control/train/jobs/..%2F..%2Fdeploy/cancel"]


def test_curves() -> None:
    assert train.curve([]) == train.curve([float("nan")]) == []
    lines = train.curve([3.0, 2.0, 1.0], height=2)
    assert lines == ["        3 ┤█▁ ", "        1 ┤██▁", "           loss of 3 steps"]
    assert len(train.curve([1.0] * 1000)[0]) == 11 + 64
