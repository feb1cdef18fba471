"""The hardware under a process: simulated where a folder is named, else the machine's own."""

from __future__ import annotations

import pytest

from attest_lab import WORKLOAD, Lab
from attest_snp_lab import amd
from mitai import attester
from mitai.attest import Hardware
from mitai.attest.collect import GuestAttester
from mitai.errors import AttestError


class Shop:
    """A store that has nothing."""

    def get(self, resource: object) -> object:
        raise AttestError("attest.collateral-unavailable", "closed")


def test_a_simulated_platform(tmp_path):
    Lab.build(tmp_path / "sim")
    own = attester.own_attester(WORKLOAD.name, sim=str(tmp_path / "sim"))
    assert own.tee == "tdx"
    with pytest.raises(Exception, match=r"attest\.sim-missing"):
        attester.own_attester("serve", sim=str(tmp_path / "nothing"))


def test_the_machine_itself(monkeypatch):
    opened = {}

    def opens(**options: object) -> str:
        opened.update(options)
        return "attester"

    monkeypatch.setattr(GuestAttester, "open", staticmethod(opens))
    monkeypatch.setattr(attester.nvml, "library", lambda: "nvml")
    assert attester.own_attester("serve", sim=None) == "attester"
    assert opened["gpus"] is None
    attester.own_attester("serve", sim=None, gpus=True)
    assert opened["gpus"] == "nvml"
    nitro = Hardware(tee="nitro", quote=b"document")
    assert opened["endorse"](nitro) is nitro


def test_evidence_goes_out_without_endorsements_that_can_not_be_had():
    bare = Hardware(tee="snp", quote=amd().report())
    assert attester.endorsed(bare, Shop()) is bare
