"""Every step of every verifier has an explanation, in words that fit on a line or two."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mitai.attest
from mitai.attest.explain import EXPLANATIONS, explain

ROOT = Path(mitai.attest.__file__).parent
TEES = {"dcap": "tdx", "azure": "az-snp-vtpm", "gcp": "gcp-vtpm"}
STEP = re.compile(r'\.step\(\s*f?"([^"]+)"')


def steps() -> list[tuple[str, str]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        folder = path.parent.name
        tee = TEES.get(folder, folder if path.parent != ROOT else "tdx")
        names = STEP.findall(path.read_text())
        found += [(tee, name.replace("{name}", "0" if "nras" in name else "gpu 0")) for name in names]
    return [(tee, name) for tee, name in found if name not in {"tee", "…"}]


@pytest.mark.parametrize(("tee", "step"), sorted(set(steps())))
def test_every_step_is_explained(tee, step):
    assert explain(tee, f"7 {step}")


def test_steps_were_found():
    assert len(set(steps())) > 35
    assert explain("sgx", "8 enclave") == EXPLANATIONS["enclave"]
    assert explain("tdx", "1 something new") == ""
