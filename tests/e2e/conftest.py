"""One whole platform, in simulation, for all end-to-end tests: started, filled and stopped by the README's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mitai import demo_model
from mitai.attest import Policy
from mitai.fleet.home import Home


@dataclass
class Done:
    status: int
    stdout: str
    stderr: str

    @property
    def fields(self) -> dict:
        return json.loads(self.stdout)


@dataclass
class Running:
    home: Home
    gateway: str = ""
    capsule: str = ""

    def mitai(self, *arguments: str, stdin: str | None = None, status: int = 0, **environment: str) -> Done:
        """Run a `mitai` command in this home; assert its exit status."""
        environment = os.environ | {"MITAI_HOME": str(self.home.root), "COLUMNS": "200"} | environment
        warnings = [
            "-W",
            "error",
            "-W",
            "ignore:subprocess:ResourceWarning",
        ]  # detached processes outlive their starter
        command = [sys.executable, *warnings, "-m", "mitai.cli", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def policy(self) -> Policy:
        return Policy.from_toml(self.home.policy.read_text())

    @property
    def temporary(self) -> Path:
        """The folder for temporary files of every process."""
        return self.home.root / "tmp"

    def up(self) -> Done:
        """Start the platform; its processes log all that any library in them can say."""
        self.temporary.mkdir()
        path = os.pathsep.join([str(Path(__file__).parent / "talkative"), os.environ.get("PYTHONPATH", "")])
        talkative = {"PYTHONPATH": path, "PYTHONASYNCIODEBUG": "1", "TMPDIR": str(self.temporary)}
        return self.mitai("up", "--no-model", "--detach", "--capture", "--port", "0", "--json", **talkative)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.home.logs.glob("*.log")))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(Home(tmp_path_factory.mktemp("home")))
    try:
        up = running.up().fields
        assert up["simulated"] is True
        running.gateway = up["gateway"]
        sealed_at = running.home.root / "sealed"
        sealed = running.mitai(
            "seal", str(demo_model.path()), "--out", str(sealed_at), "--name", "demo", "--json"
        ).fields
        published = running.mitai("publish", str(sealed_at), "--uses", "5", "--json").fields
        assert published["capsule"] == sealed["capsule"]
        assert running.mitai("deploy", sealed["capsule"], "--json").fields["deployed"] is True
        running.capsule = sealed["capsule"]
        yield running
    finally:
        running.mitai("down")
