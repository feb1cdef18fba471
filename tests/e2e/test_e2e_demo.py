"""`mitai demo` ends 0, tries every attack, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
def test_the_demo_holds(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "MITAI_HOME": str(tmp_path / "untouched")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mitai.cli", "demo"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it held" in done.stdout
    for code in (
        "attest.measurement-mismatch",
        "attest.quote-signature-invalid",
        "attest.report-data-mismatch",
        "attest.simulation-refused",
        "channel.replayed",
        "capsule.object-truncated",
        "capsule.object-swapped",
        "broker.budget-exhausted",
        "broker.policy-expired",
        "broker.revoked",
        "broker.rolled-back",
    ):
        assert code in done.stdout
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torch")] == []
