"""`mitai verify FILE`: evidence of any TEE and others' results, offline."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from attest_lab import CLAIMS, NOW, WORKLOAD, Lab, replace
from attest_services_lab import Vendors, serving
from mitai.attest import Hardware, Policy
from mitai.attest.results import AttestationResult, Submodule, Tier, cmw
from mitai.attest.results.tokens import new_key, public_key, sign
from mitai.attest.service import EVIDENCE_TYPE, HARDWARE_TYPE
from mitai.attest.sim import SimPlatform, intel, reference_values, registers
from mitai.cli.commands import app
from mitai.errors import MitaiError

TIME = NOW.isoformat()


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("machine") / "platform")


@pytest.fixture
def files(tmp_path, lab, monkeypatch):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "home"))
    quote = lab.platform.quote(intel.td_report(registers(WORKLOAD), bytes(range(64))))
    bare = replace(lab.policy, workloads=())
    for name, content in {
        "quote.bin": quote,
        "collateral.json": lab.platform.collateral("tdx").encode(),
        "policy.toml": lab.policy.to_toml().encode(),
        "bare.toml": bare.to_toml().encode(),
        "evidence.json": lab.evidence().encode(),
        "key.jwk": msgspec.json.encode(new_key()),
    }.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def run(capsys, files, *arguments: str) -> dict[str, object]:
    """Run the command in `files` with `--json`; return what it printed."""
    words = [str(files / word) if (files / word).is_file() else word for word in arguments]
    try:
        app(["verify", *words, "--json"], exit_on_error=False, print_error=False, result_action="return_value")
    finally:
        printed = capsys.readouterr().out
    return json.loads(printed)


def refusal(capsys, files, *arguments: str) -> MitaiError:
    with pytest.raises(MitaiError) as error:
        run(capsys, files, *arguments)
    return error.value


def test_a_bare_quote(capsys, files):
    told = run(capsys, files, "quote.bin", "--collateral", "collateral.json", "--policy", "policy.toml", "--time", TIME)
    assert (told["verdict"], told["tee"], told["workload"], told["simulated"]) == ("accepted", "tdx", "serve", True)
    assert told["checks"][0] == {"step": "1 quote", "detail": "TDX version 4"}
    more = ("--collateral", "collateral.json", "--policy", "bare.toml", "--time", TIME)
    assert run(capsys, files, "quote.bin", *more, "--report-data", bytes(range(64)).hex())["workload"] is None
    assert refusal(capsys, files, "quote.bin", *more, "--report-data", "00").code == "attest.report-data-mismatch"


def test_what_was_not_compared_is_said(capsys, files):
    words = ["verify", str(files / "evidence.json"), "--policy", str(files / "policy.toml"), "--time", TIME]
    nonce = json.loads((files / "evidence.json").read_bytes())["nonce"]
    for more, said in (((), True), (("--nonce", base64.b64decode(nonce).hex()), False)):
        app([*words, *more], exit_on_error=False, print_error=False, result_action="return_value")
        printed = capsys.readouterr()
        assert ("nobody asked for fresh evidence" in printed.err) is said
        assert ("not compared: no --nonce" in printed.out) is said
    with pytest.raises(MitaiError):  # its collateral is of another day
        app(words[:-2], exit_on_error=False, print_error=False, result_action="return_value")
    assert "1 nonce  not compared: no --nonce" in capsys.readouterr().out
    error = refusal(capsys, files, "evidence.json", "--policy", "policy.toml", "--time", TIME, "--report-data", "00")
    assert error.code == "attest.report-data-mismatch"
    assert refusal(capsys, files, "quote.bin", "--nonce", "00" * 32).code == "client.option-malformed"
    assert refusal(capsys, files, "http://x", "--report-data", "00").code == "client.option-malformed"


def test_the_default_policy_demands_hardware(capsys, files):
    error = refusal(capsys, files, "quote.bin", "--collateral", "collateral.json", "--time", TIME)
    assert error.code == "attest.simulation-refused"
    assert error.passed[0][0] == "1 quote"


@pytest.mark.parametrize("extra", [(), ("--explain",)])
def test_every_check_is_shown_also_before_a_refusal(capsys, files, extra):
    words = ["verify", str(files / "quote.bin"), "--collateral", str(files / "collateral.json"), *extra]
    with pytest.raises(MitaiError):
        app([*words, "--time", TIME], exit_on_error=False, print_error=False, result_action="return_value")
    shown = capsys.readouterr().out
    assert "1 quote" in shown
    assert ("well-formed Intel quote" in shown) is bool(extra)


def test_a_bundle_in_every_form(capsys, files, lab):
    evidence = lab.evidence()
    (files / "hardware.json").write_bytes(evidence.hardware().encode())
    for kind, inner in ((EVIDENCE_TYPE, evidence.encode()), (HARDWARE_TYPE, evidence.hardware().encode())):
        (files / "wrapped.json").write_bytes(cmw.encode_json(cmw.Record(kind, inner)))
        told = run(capsys, files, "wrapped.json", "--policy", "policy.toml", "--time", TIME)
        assert told["workload"] == "serve"
    for name in ("evidence.json", "hardware.json"):
        told = run(capsys, files, name, "--policy", "policy.toml", "--time", TIME, "--explain")
        assert told["verdict"] == "accepted"
    error = refusal(capsys, files, "evidence.json", "--policy", "policy.toml", "--time", TIME, "--nonce", "00" * 32)
    assert error.code == "attest.nonce-mismatch"
    home_policy = files / "home" / "user" / "policy.toml"
    home_policy.parent.mkdir(parents=True)
    home_policy.write_bytes(lab.policy.to_toml().encode())
    assert run(capsys, files, "evidence.json", "--time", TIME)["verdict"] == "accepted"


def test_a_result_is_written_and_read(capsys, files, tmp_path):
    keys = {"keys": [public_key(json.loads((files / "key.jwk").read_bytes()))]}
    (files / "public.jwk").write_bytes(msgspec.json.encode(keys))
    platform = SimPlatform.create(tmp_path / "today")
    policy = Policy(allow_simulation=True, sim_roots=(platform.sim_root,), workloads=(reference_values(WORKLOAD),))
    (files / "today.toml").write_text(policy.to_toml())
    evidence = platform.attester(WORKLOAD).evidence(CLAIMS.encode(), bytes(32))
    (files / "fresh.json").write_bytes(evidence.encode())
    token = run(capsys, files, "fresh.json", "--policy", "today.toml", "--ear", "key.jwk")["ear"]
    (files / "result.jwt").write_text(token)
    error = refusal(capsys, files, "result.jwt", "--key", "public.jwk")
    assert error.code == "attest.result-not-affirming"  # it is simulated
    assert "contraindicated" in error.message
    nonce = bytes(range(16))
    for status, claim in ((Tier.AFFIRMING, 2), (Tier.WARNING, 32), (Tier.NONE, 0)):
        submods = {"tdx": Submodule(status, {"hardware": claim})}
        result = AttestationResult.of(submods, now=datetime.now(UTC), lifetime=timedelta(minutes=5), nonce=nonce)
        (files / "other.jwt").write_text(sign(result, json.loads((files / "key.jwk").read_bytes())))
        words = ("other.jwt", "--key", "public.jwk", "--nonce")
        if status is Tier.AFFIRMING:
            assert run(capsys, files, *words, nonce.hex())["verdict"] == "affirming"
        else:
            assert refusal(capsys, files, *words, nonce.hex()).code == "attest.result-not-affirming"
        assert refusal(capsys, files, *words, bytes(16).hex()).code == "attest.token-nonce-mismatch"
    assert refusal(capsys, files, "result.jwt").code == "client.key-missing"
    assert refusal(capsys, files, "result.jwt", "--key", "quote.bin").code == "attest.token-key-malformed"


def test_a_refusal_gets_a_result_too(capsys, files):
    words = [str(files / "evidence.json"), "--policy", str(files / "policy.toml"), "--ear", str(files / "key.jwk")]
    with pytest.raises(MitaiError):  # its collateral is of another day
        app(["verify", *words, "--json"], exit_on_error=False, print_error=False, result_action="return_value")
    assert json.loads(capsys.readouterr().out)["verdict"] == "contraindicated"


def test_wrong_options(capsys, files):
    (files / "cmw.json").write_bytes(b'["text/plain","YQ"]')
    (files / "odd.bin").write_bytes(b"?" * 40)
    for words, code in (
        (("quote.bin", "--endorsement", "vek"), "client.option-malformed"),
        (("quote.bin", "--endorsement", "vek=/nowhere"), "client.file-unreadable"),
        (
            (
                "quote.bin",
                "--report-data",
                "zz",
                "--collateral",
                "collateral.json",
                "--policy",
                "bare.toml",
                "--time",
                TIME,
            ),
            "client.option-malformed",
        ),
        (("quote.bin",), "attest.collateral-missing"),
        (("quote.bin", "--collateral", "quote.bin"), "attest.collateral-malformed"),
        (("cmw.json",), "attest.media-type-unsupported"),
        (("odd.bin",), "attest.tee-unknown"),
        (("odd.bin", "--tee", "snp"), "attest.snp-report-malformed"),
        (("odd.bin", "--tee", "abacus"), "attest.tee-unsupported"),
        (
            (
                "quote.bin",
                "--ear",
                "quote.bin",
                "--collateral",
                "collateral.json",
                "--policy",
                "bare.toml",
                "--time",
                TIME,
            ),
            "attest.token-key-malformed",
        ),
    ):
        assert refusal(capsys, files, *words).code == code, words


def test_endorsements_and_logs_are_put_in(capsys, files, lab):
    (files / "log.bin").write_bytes(lab.evidence().event_log)
    words = ("quote.bin", "--collateral", "collateral.json", "--policy", "bare.toml", "--time", TIME)
    told = run(capsys, files, *words, "--event-log", "log.bin", "--endorsement", f"more={files / 'log.bin'}")
    assert {"step": "9 event log", "detail": "replays to RTMR0..3"} in told["checks"]


def test_a_file_that_is_too_large(capsys, files, monkeypatch):
    monkeypatch.setattr("mitai.cli.evidence.MAX_FILE_BYTES", 10)
    assert refusal(capsys, files, "quote.bin").code == "client.file-too-large"


def test_hardware_is_read_back():
    hardware = Hardware(tee="snp", quote=b"q", endorsements={"vek": b"v"})
    assert Hardware.decode(hardware.encode()) == hardware
    assert Policy().sha256 != Policy(allow_simulation=True).sha256


def test_what_a_file_lacks_is_asked_for_or_taken_from_a_bundle(capsys, files, lab, monkeypatch):
    more = ("quote.bin", "--policy", "bare.toml", "--time", TIME)
    bundle = files / "machine.bundle"
    monkeypatch.setattr("mitai.attest.collateral.store.Cache.__init__.__defaults__", (None, lambda: NOW))
    with serving(Vendors(lab)) as services:
        monkeypatch.setattr("mitai.cli.evidence.Services.behind_pccs", lambda _: services)
        assert run(capsys, files, *more, "--fetch", "--pccs", "here")["verdict"] == "accepted"
        words = ["collateral", "pack", str(files / "quote.bin"), "--out", str(bundle), "--pccs", "here"]
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        key = capsys.readouterr().out.split()[-1]
        told = run(capsys, files, *more, "--bundle", "machine.bundle", "--bundle-key", key, "--pccs", "here")
        assert told["verdict"] == "accepted"
