"""The simulated platform: persistent, its own root, fresh collateral, keys bound to measurements."""

from __future__ import annotations

import stat
from datetime import timedelta

import pytest

from attest_lab import CLAIMS, NONCE, NOW, WORKLOAD, Lab
from mitai.attest import verify
from mitai.attest.sim import SimPlatform, Workload, installed_workload, intel, measure, reference_values


def test_folder(tmp_path, refused):
    platform = SimPlatform.create(tmp_path / "machine")
    again = SimPlatform.open(tmp_path / "machine")
    assert again.root_certificate == platform.root_certificate
    assert stat.S_IMODE((tmp_path / "machine" / "platform.json").stat().st_mode) == 0o600
    with refused("attest.sim-exists"):
        SimPlatform.create(tmp_path / "machine")
    with refused("attest.sim-missing"):
        SimPlatform.open(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"version":2}'])
def test_damaged_folder(tmp_path, refused, content):
    (tmp_path / "platform.json").write_bytes(content)
    with refused("attest.sim-malformed"):
        SimPlatform.open(tmp_path)


def test_damaged_keys_and_versions(tmp_path, refused):
    SimPlatform.create(tmp_path)
    file = tmp_path / "platform.json"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"version":1', b'"version":2'))
    with refused("attest.sim-malformed"):
        SimPlatform.open(tmp_path)
    file.write_bytes(good.replace(b"MIGH", b"AAAA"))
    with refused("attest.sim-malformed"):
        SimPlatform.open(tmp_path)


def test_key_of_another_kind():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with pytest.raises(TypeError):
        intel.load_key(intel.dump_key(Ed25519PrivateKey.generate()))


def test_quotes_of_a_reopened_platform_verify(tmp_path):
    lab = Lab.build(tmp_path / "machine")
    reopened = SimPlatform.open(tmp_path / "machine", clock=lambda: NOW)
    evidence = reopened.attester(WORKLOAD).evidence(CLAIMS.encode(), NONCE)
    assert lab.verify(evidence).workload == "serve"


def test_collateral_is_signed_again_before_it_ends(tmp_path):
    clock = [NOW]
    platform = SimPlatform.create(tmp_path, clock=lambda: clock[0])
    first = platform.collateral()
    clock[0] = NOW + timedelta(days=20)
    assert platform.collateral() is first
    clock[0] = NOW + timedelta(days=24)
    second = platform.collateral()
    assert second is not first
    clock[0] = NOW  # a clock that was set back
    assert platform.collateral() is not second


def test_collateral_is_good_for_a_week(tmp_path):
    clock = [NOW]
    lab = Lab.build(tmp_path / "machine")
    lab.platform._clock = lambda: clock[0]
    lab.platform.collateral()
    clock[0] = NOW + timedelta(days=22)
    evidence = lab.platform.attester(WORKLOAD).evidence(CLAIMS.encode(), NONCE)
    later = clock[0] + timedelta(days=7)
    assert verify(evidence, lab.policy, nonce=NONCE, now=later).not_after >= later


def test_sealing_keys(lab, other):
    attester = lab.platform.attester(WORKLOAD)
    key = attester.sealing_key(b"state")
    assert len(key) == 32
    assert key == lab.platform.attester(Workload("serve", bytes(32))).sealing_key(b"state")
    different = {
        attester.sealing_key(b"another label"),
        lab.platform.attester(Workload("serve", b"\1" * 32)).sealing_key(b"state"),
        lab.platform.attester(Workload("broker", bytes(32))).sealing_key(b"state"),
        other.platform.attester(WORKLOAD).sealing_key(b"state"),
    }
    assert len(different) == 4
    assert key not in different


def test_attester_says_what_a_policy_pins(lab):
    attester = lab.platform.attester(WORKLOAD)
    assert attester.reference_values() == reference_values(WORKLOAD)
    assert attester.reference_values().mismatch(attester.measurements()) is None


def test_workload_names_and_digests_are_separated():
    assert reference_values(Workload("ab", b"c" * 32)) != reference_values(Workload("a", b"bc" * 16))


def test_installed_workload(tmp_path, monkeypatch):
    real = installed_workload("serve")
    assert real == installed_workload("serve")
    assert real.digest == installed_workload("broker").digest
    package = tmp_path / "mitai"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "part" / "code.py").write_text("x = 1")
    monkeypatch.setattr(measure.mitai, "__file__", str(package / "__init__.py"))
    first = installed_workload("serve").digest
    (package / "notes.txt").write_text("not code")
    assert installed_workload("serve").digest == first
    (package / "part" / "code.py").write_text("x = 2")
    changed = installed_workload("serve").digest
    (package / "part" / "code.py").rename(package / "part" / "moved.py")
    assert len({first, changed, installed_workload("serve").digest, real.digest}) == 4


def test_no_secret_is_shown(lab):
    shown = repr(lab.platform) + repr(lab.platform.attester(WORKLOAD)) + str(lab.platform)
    assert lab.platform._fuse_secret.hex() not in shown
    assert repr(lab.platform._fuse_secret) not in shown
