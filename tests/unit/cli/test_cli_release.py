"""`mitai verify --release`: what runs is judged by a signed manifest, under a policy that pins no register itself."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from attest_lab import NOW, WORKLOAD, Lab, replace
from mitai.attest.refvalues.release import Measurements, Release, sign_release
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import intel, reference_values, registers
from mitai.cli.commands import app
from mitai.errors import MitaiError
from mitai.identity import Identity

PUBLISHER = Identity.generate()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "home"))
    lab = Lab.build(tmp_path / "platform")
    trust = ReleaseTrust("serve", key=PUBLISHER.public.raw.hex(), min_version=2)
    values = reference_values(WORKLOAD)
    other = {**values.registers, "mrtd": "ab" * 48}

    def manifest(version: int, measured: dict[str, str]) -> bytes:
        release = Release("serve", version, NOW - timedelta(days=1), (Measurements("tdx", measured),))
        return sign_release(release, PUBLISHER)

    for name, content in {
        "quote.bin": lab.platform.quote(intel.td_report(registers(WORKLOAD), bytes(64))),
        "collateral.json": lab.platform.collateral("tdx").encode(),
        "policy.toml": replace(lab.policy, workloads=(), releases=(trust,)).to_toml().encode(),
        "release.json": manifest(2, dict(values.registers)),
        "other.json": manifest(2, other),
        "old.json": manifest(1, dict(values.registers)),
    }.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def run(capsys, files, *releases: str) -> dict[str, object]:
    words = ["verify", str(files / "quote.bin"), "--time", NOW.isoformat(), "--json"]
    for option, name in (("--collateral", "collateral.json"), ("--policy", "policy.toml")):
        words += [option, str(files / name)]
    for name in releases:
        words += ["--release", str(files / name)]
    app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return json.loads(capsys.readouterr().out)


def test_a_release_says_what_runs(capsys, files):
    with pytest.raises(MitaiError) as refusal:
        run(capsys, files)  # the policy trusts releases, and none says what may run
    assert refusal.value.code == "attest.workload-unknown"
    assert run(capsys, files, "release.json")["workload"] == "serve"
    assert run(capsys, files, "other.json", "release.json")["workload"] == "serve"


@pytest.mark.parametrize(
    ("release", "code"), [("other.json", "attest.measurement-mismatch"), ("old.json", "attest.release-too-old")]
)
def test_refused(capsys, files, release, code):
    with pytest.raises(MitaiError) as error:
        run(capsys, files, release)
    assert error.value.code == code
