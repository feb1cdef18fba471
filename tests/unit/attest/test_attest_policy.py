"""Policies: strict without arguments, readable, and read strictly."""

from __future__ import annotations

import base64

import pytest

from attest_lab import replace
from mitai.attest import CapsulePin, ClaimRules, Policy, ReferenceValues, TcbRules, TdxRules
from mitai.attest.dcap.roots import INTEL_SGX_ROOT_CA, INTEL_SGX_ROOT_CA_SHA256
from mitai.attest.eventlog import EventLogRules
from mitai.attest.eventlog.ima import ImaRules
from mitai.attest.nitro import NitroRules
from mitai.attest.policy import SgxRules
from mitai.errors import ParseError

WORKLOAD = ReferenceValues(
    "serve",
    {"mrtd": "00" * 48, "rtmr0": "any", "rtmr1": "11" * 48, "rtmr2": "22" * 48, "rtmr3": "33" * 48, "a.b": "44"},
)


def test_strict_by_default():
    policy = Policy.from_toml("version = 1")
    assert policy == Policy()
    assert not policy.allow_simulation
    assert policy.roots() == {INTEL_SGX_ROOT_CA_SHA256: False}
    assert policy.tcb.accepted_statuses == ("UpToDate",)
    assert policy.tcb.accepted_advisories == ()
    assert policy.workloads == ()


def test_intel_root_is_the_documented_one():
    assert INTEL_SGX_ROOT_CA_SHA256 == "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(
            allow_simulation=True,
            sim_roots=("sha256:" + "ab" * 32,),
            tcb=TcbRules(("UpToDate", "SWHardeningNeeded"), ("INTEL-SA-00334",), 17, 3600),
            tdx=TdxRules(mrseam=("cd" * 48,), mrowner="ef" * 48),
            sgx=SgxRules(mrenclave=("01" * 32,), isv_prod_id=3),
            claims=ClaimRules(
                (CapsulePin("a", "ab" * 32), CapsulePin('b "quoted" \\ \n \x7f 密态')), ("ab" * 32,), "v+1+k"
            ),
            workloads=(WORKLOAD, replace(WORKLOAD, name="broker")),
        ),
        Policy(
            event_log=EventLogRules(
                dstack={"": ("00",), "a b": ("00",), 'c = ["00"]\n\x7f 密态 \U0001f512': ("00",)},
                ima=ImaRules(files={"/usr/bin/serve": ("ab" * 32,), "/lib/x.so": ("cd" * 32,)}),
            )
        ),
    ],
)
def test_round_trip(policy):
    assert Policy.from_toml(policy.to_toml()) == policy


@pytest.mark.parametrize(
    "text",
    [
        "version = 1\nallow_simulatoin = true",
        "[tcb]\nstatus = []",
        "[[workloads]]\nname = 'serve'",
        "[[workloads]]\nname = 'serve'\ntee = 'tdx'\n[workloads.registers]\nmrtd = '00'",
        "[[workloads]]\nname = 'serve'\ntee = 'abacus'\n[workloads.registers]",
        "[[workloads]]\nname = 'serve'\ntee = 'sgx'\n[workloads.registers]\nmrenclave = 'any'\nmrsigner = '0'",
        "[[workloads]]\nname='x'\ntee='sgx'\n[workloads.registers]\nmrenclave = 'any'\nmrsigner = 'any'\n'a b' = '00'",
        "[tcb]\nfmspc = ['00']",
        "allow_simulation = 'yes'",
        "[tcb]\naccepted_statuses = ['Good']",
        "[tcb]\naccepted_statuses = ['Revoked']",
        "[tcb]\nmin_evaluation_number = -1",
        "[tcb]\ncollateral_grace_s = -1",
        "[tdx]\nxfam_allowed = 'any'",
        "[tdx]\nmrowner = 'none'",
        "[tdx]\nmrseam = ['00']",
        "[tdx]\nmrseam = ['" + "AB" * 48 + "']",
        "[tdx]\nmrowner = '" + "0 " * 48 + "'",
        "[sgx]\nmrsigner = ['00']",
        "[[claims.capsules]]\nid = 'a'\nmanifest_sha256 = 'short'",
        "sim_roots = ['sha256:00']",
        "sim_roots = ['not base64!']",
        "not toml",
        "version = 1\n#" + "a" * (2 << 20),
        "x = " + "[" * 100000,
    ],
)
def test_malformed(refused, text):
    with refused("attest.policy-malformed"):
        Policy.from_toml(text)


def test_version(refused):
    with refused("attest.policy-version-unsupported"):
        Policy.from_toml("version = 2")


def test_sim_root_as_certificate():
    certificate = base64.b64encode(INTEL_SGX_ROOT_CA + b"\0").decode()
    policy = Policy(sim_roots=(certificate,))
    assert sorted(policy.roots().values()) == [False, True]


def test_intel_root_can_not_be_called_simulated():
    assert Policy(sim_roots=("sha256:" + INTEL_SGX_ROOT_CA_SHA256,)).roots() == {INTEL_SGX_ROOT_CA_SHA256: False}


def test_reference_values():
    measurements = {"mrtd": "00" * 48, "rtmr0": "99" * 48, "rtmr1": "11" * 48, "rtmr2": "22" * 48, "rtmr3": "33" * 48}
    measurements["a.b"] = "44"
    assert WORKLOAD.mismatch(measurements) is None
    for name in ("mrtd", "rtmr1", "rtmr2", "rtmr3", "a.b"):
        assert WORKLOAD.mismatch({**measurements, name: "ff" * 48}) == name
    assert WORKLOAD.mismatch({}) == "mrtd"


def test_an_instance_is_named_by_its_boot_chain():
    image = {"pcr0": "any", "pcr1": "any", "pcr2": "any"}
    for registers in ({**image}, {**image, "pcr4": "00" * 48}):
        with pytest.raises(ParseError):
            Policy(nitro=NitroRules(source="nitrotpm"), workloads=(ReferenceValues("serve", registers, "nitro"),))
    registers = {**image, "pcr4": "00" * 48, "pcr7": "any"}
    Policy(nitro=NitroRules(source="nitrotpm"), workloads=(ReferenceValues("serve", registers, "nitro"),))
    Policy(workloads=(ReferenceValues("serve", image, "nitro"),))


def test_an_id_alone_pins_no_capsule_at_a_foreign_broker():
    with pytest.raises(ParseError):
        ClaimRules(capsules=(CapsulePin("a"),))
    assert ClaimRules(capsules=(CapsulePin("a"),), ledger_vkey="v+1+k").capsules
