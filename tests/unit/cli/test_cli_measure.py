"""`mitai measure` on synthetic images."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from attest_boot_lab import TDX_METADATA, Kernel, firmware, table_entry
from attest_snp_lab import firmware as snp_firmware
from mitai.attest.policy import Policy
from mitai.attest.refvalues.release import reference_values, verify_release
from mitai.attest.refvalues.tdvf import mrtd
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.snp.launch import launch_digest
from mitai.cli.commands import run
from mitai.identity import Identity


@pytest.fixture
def images(tmp_path):
    contents = {"OVMF.fd": firmware(), "bzImage": Kernel().encode(), "initrd.img": b"initrd" * 100}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in ("initrd.img", "bzImage", "OVMF.fd")]


def ended(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["mitai", "measure", *arguments])
    with pytest.raises(SystemExit) as end:
        run()
    return end.value.code


def test_table(images, monkeypatch, capsys):
    assert not ended(monkeypatch, *images)
    out = capsys.readouterr().out
    assert mrtd(firmware()).hex() in out
    assert "rtmr0     any" in out


def test_json_depends_on_every_image(images, monkeypatch, capsys):
    assert not ended(monkeypatch, *images, "--json")
    whole = json.loads(capsys.readouterr().out)["measurements"]["tdx"]
    assert not ended(monkeypatch, *images, "--json", "--cmdline", "quiet")
    with_text = json.loads(capsys.readouterr().out)["measurements"]["tdx"]
    assert not ended(monkeypatch, images[2], "--json", "--layout", "qemu-8")
    alone = json.loads(capsys.readouterr().out)["measurements"]["tdx"]
    assert (whole["mrtd"], whole["rtmr1"]) == (with_text["mrtd"], with_text["rtmr1"])
    assert whole["rtmr2"] != with_text["rtmr2"]
    assert (alone["rtmr1"], alone["mrtd"]) == ("any", mrtd(firmware(), "section").hex())


def test_toml_is_a_policys(images, monkeypatch, capsys):
    name = 'a "name" \x7f ☃'
    assert not ended(monkeypatch, *images, "--toml", "--name", name)
    (values,) = Policy.from_toml(capsys.readouterr().out).workloads
    assert (values.name, values.tee, values.registers["mrtd"]) == (name, "tdx", mrtd(firmware()).hex())


def test_a_signed_release(images, monkeypatch, capsys, tmp_path):
    identity = Identity.generate()
    identity.save(tmp_path / "publisher.pem")
    arguments = ("--sign", str(tmp_path / "publisher.pem"), "--release", "7", "--name", "serve")
    assert not ended(monkeypatch, *images, *arguments)
    printed = capsys.readouterr()
    assert f'key = "{identity.public.raw.hex()}"' in printed.err
    envelope = printed.out.encode()
    trust = ReleaseTrust("serve", key=identity.public.raw.hex(), min_version=7)
    now = datetime.now(UTC) + timedelta(seconds=1)
    release, subjects = verify_release(envelope, trust, now=now)
    assert release.version == 7
    assert {subject.name for subject in subjects} == {"OVMF.fd", "bzImage", "initrd.img"}
    assert reference_values(envelope, trust, now=now)[0].registers["mrtd"] == mrtd(firmware()).hex()


def test_snp_needs_the_processors(tmp_path, monkeypatch, capsys):
    metadata = "dc886566-984a-4798-a75e-5585a7bf67cc"
    both = firmware(table=table_entry(TDX_METADATA, (2048).to_bytes(4, "little")) + table_entry(metadata, bytes(4)))
    (tmp_path / "OVMF.fd").write_bytes(both)
    assert not ended(monkeypatch, str(tmp_path / "OVMF.fd"))
    assert "--vcpus" in capsys.readouterr().err


def test_snp(tmp_path, monkeypatch, capsys):
    image = snp_firmware()
    (tmp_path / "OVMF.fd").write_bytes(image)
    arguments = ("--vcpus", "2", "--vcpu", "EPYC-Genoa", "--vmm", "ec2", "--json")
    assert not ended(monkeypatch, str(tmp_path / "OVMF.fd"), *arguments)
    found = json.loads(capsys.readouterr().out)["measurements"]
    assert found == {"snp": {"measurement": launch_digest(image, vcpus=2, vcpu="EPYC-Genoa", vmm="ec2").hex()}}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["bzImage"], "client.no-firmware"),
        (["OVMF.fd", "OVMF.fd"], "client.images-ambiguous"),
        (["missing"], "client.image-unreadable"),
    ],
)
def test_wrong_images(given, reason, images, monkeypatch, capsys, tmp_path):
    assert ended(monkeypatch, *(str(tmp_path / name) for name in given), "--json") == 1
    output = capsys.readouterr()
    assert reason in output.out + output.err


def test_firmware_for_snp_alone(tmp_path, monkeypatch, capsys):
    metadata = "dc886566-984a-4798-a75e-5585a7bf67cc"
    (tmp_path / "OVMF.fd").write_bytes(firmware(table=table_entry(metadata, bytes(4))))
    assert ended(monkeypatch, str(tmp_path / "OVMF.fd")) == 1
    assert "--vcpus" in capsys.readouterr().err
