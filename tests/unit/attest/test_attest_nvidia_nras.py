"""NRAS bundles: whose key, which tokens, and every claim that must hold."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes

from attest_nvidia_lab import NONCE, NOW, NrasLab, compact, make, nras_lab
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia import NvidiaRules, device_nonce
from mitai.attest.nvidia.nras import verify_nras
from mitai.errors import AttestError

LAB = nras_lab()
JWKS = LAB.jwks()
GPU = LAB.gpu_claims()
CHAIN = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}


def verify(bundle: bytes, *, jwks: bytes = JWKS, rules: NvidiaRules | None = None, nonce: bytes = NONCE, **more):
    more = {"now": NOW, "checks": Checklist(), **more}
    return verify_nras(more.pop("checks"), bundle, jwks, device_nonce(nonce), rules or LAB.rules(), **more)


def refused(bundle: bytes, **more) -> str:
    with pytest.raises(AttestError) as refusal:
        verify(bundle, **more)
    return refusal.value.code


def about(**changes) -> bytes:
    """Return a bundle about one GPU with other claims; dots stand for dashes."""
    return LAB.bundle(LAB.gpu_claims(**changes))


def test_good():
    checks = Checklist()
    first, second = verify(LAB.bundle(GPU, LAB.gpu_claims(1)), rules=LAB.rules(min_gpus=2), checks=checks)
    assert (first.kind, first.chip, first.driver, first.vbios) == ("gpu", "GH100", "570.10.20", "96.00.9F.00.01")
    assert (first.ueid, second.ueid) == ("1000", "1001")
    assert first.measured == "as NVIDIA's attestation service says"
    assert (first.not_after - NOW).total_seconds() == 3590
    assert checks.passed[-1] == ("4 nras result", "2 GPUs, 0 switches, no device twice")


def test_switch():
    gpu_only = ("x-nvidia-gpu-driver", "x-nvidia-gpu-vbios")
    claims = {name.replace("gpu", "switch"): value for name, value in GPU.items() if not name.startswith(gpu_only)}
    for name in ("fetched", "signature-verified", "measurements-available"):
        claims[f"x-nvidia-switch-bios-rim-{name}"] = True
    claims["x-nvidia-switch-bios-rim-cert-validated"] = True
    claims |= {"x-nvidia-switch-bios-version": "96.10.6D.00.01", "hwmodel": "LS_10 A01 FSP BROM"}
    (device,) = verify(LAB.bundle(claims, names=("SWITCH-0",)), rules=LAB.rules(min_switches=1))
    assert (device.kind, device.chip, device.vbios, device.driver) == ("switch", "LS10", "96.10.6D.00.01", "")
    claims["x-nvidia-switch-bios-rim-fetched"] = False
    assert refused(LAB.bundle(claims, names=("SWITCH-0",))) == "attest.nvidia-bios-rim-missing"


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"{}",
        b"[]",
        b'[["JWT","a.b.c"]]',
        b'[["JWS","a.b.c"],{}]',
        b'[["JWT","a.b.c"],{},{}]',
        b'[["JWT","!.b.c"],{}]',
        b'[["JWT","a.b.c"],{}]',
        b'[["JWT","' + compact(b'{"alg":"ES384"}').encode() + b'.b.c"],{}]',
        b" " * (1 << 20) + b"[]",
        b"[" * 10_000,
    ],
)
def test_bundles_that_are_none(bundle):
    assert refused(bundle) == "attest.nvidia-nras-malformed"


def test_devices_of_another_name():
    assert refused(LAB.bundle(GPU, names=("NIC-0",))) == "attest.nvidia-nras-malformed"


def test_signature_and_algorithm():
    overall, tokens = json.loads(LAB.bundle(GPU))
    head, body, signature = overall[1].split(".")
    flipped = signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB")
    assert (
        refused(json.dumps([["JWT", f"{head}.{body}.{flipped}"], tokens]).encode()) == "attest.token-signature-invalid"
    )
    for algorithm in ("none", "HS384", "ES256"):
        forged = compact(json.dumps({"kid": "key-1", "alg": algorithm}).encode())
        data = json.dumps([["JWT", f"{forged}.{body}.{signature}"], tokens]).encode()
        assert refused(data) == "attest.token-key-untrusted"


def test_device_tokens_are_those_listed():
    overall, tokens = json.loads(LAB.bundle(GPU, LAB.gpu_claims(1)))
    swapped = {"GPU-0": tokens["GPU-1"], "GPU-1": tokens["GPU-0"]}
    more = tokens | {"GPU-2": tokens["GPU-0"]}
    for other in (swapped, {"GPU-0": tokens["GPU-0"]}, more, {}):
        assert refused(json.dumps([overall, other]).encode()) == "attest.nvidia-nras-digest-mismatch"


def test_key_set():
    bundle = LAB.bundle(GPU)
    assert refused(bundle, jwks=b"{}") == "attest.nvidia-nras-malformed"
    assert refused(bundle, jwks=LAB.jwks(kid="key-2")) == "attest.nvidia-nras-key-unknown"
    assert refused(bundle, jwks=LAB.jwks(copies=2)) == "attest.nvidia-nras-key-unknown"
    assert refused(bundle, rules=LAB.rules(nras_roots=())) == "attest.nvidia-nras-key-untrusted"
    assert refused(bundle, rules=LAB.rules(nras_roots=(LAB.signer.sha256,))) == "attest.nvidia-nras-key-untrusted"
    stranger = NrasLab()
    stranger.intermediate = make("Lab Attestation Intermediate")
    other = make("Lab Attestation Service", stranger.intermediate, ca=False)
    assert refused(bundle, jwks=LAB.jwks(other)) == "attest.nvidia-nras-key-untrusted"
    assert refused(bundle, jwks=LAB.jwks(make("Twin", LAB.signer.issuer, ca=False))) == "attest.token-signature-invalid"
    assert refused(bundle, jwks=LAB.jwks(make("CA", LAB.intermediate, digest=hashes.SHA256()))) == (
        "attest.nvidia-nras-chain-invalid"
    )
    late = make("Late", LAB.intermediate, ca=False, end=NOW.replace(year=2025, month=12), start=NOW.replace(year=2025))
    assert refused(bundle, jwks=LAB.jwks(late)) == "attest.nvidia-nras-chain-expired"
    x5c = [base64.b64encode(LAB.signer.der).decode()] * 7
    assert refused(bundle, jwks=json.dumps({"keys": [{"kid": "key-1", "x5c": x5c}]}).encode()) == (
        "attest.nvidia-nras-malformed"
    )
    forged = [base64.b64encode(party.der).decode() for party in (other, LAB.intermediate)]
    assert refused(bundle, jwks=json.dumps({"keys": [{"kid": "key-1", "x5c": forged}]}).encode()) == (
        "attest.nvidia-nras-chain-invalid"
    )


def test_keys_beyond_the_pinned_certificate_do_not_matter():
    chain = [base64.b64encode(party.der).decode() for party in (*LAB.signer.chain, make("Root"))]
    verify(LAB.bundle(GPU), jwks=json.dumps({"keys": [{"kid": "key-1", "x5c": chain}]}).encode())


def test_key_is_remembered():
    cache = VerifiedCache()
    for _ in range(2):
        verify(LAB.bundle(GPU), cache=cache)
    assert refused(LAB.bundle(GPU), cache=cache, rules=LAB.rules(nras_roots=())) == "attest.nvidia-nras-key-untrusted"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"iss": "https://nras.attestation-stg.nvidia.com"}, "attest.nvidia-nras-issuer"),
        ({"exp": int(NOW.timestamp()) - 60}, "attest.nvidia-nras-expired"),
        ({"nbf": int(NOW.timestamp()) + 61}, "attest.nvidia-nras-not-yet-valid"),
        ({"exp": 1 << 62}, "attest.nvidia-nras-malformed"),
        ({"eat_nonce": "00" * 32}, "attest.nvidia-nonce-mismatch"),
    ],
)
def test_window_issuer_and_nonce(change, code):
    assert refused(LAB.bundle(GPU, overall=change)) == code
    assert refused(about(**change)) == code


def test_small_differences_of_clocks():
    verify(LAB.bundle({**GPU, "exp": int(NOW.timestamp()) - 59}))
    verify(LAB.bundle({**GPU, "nbf": int(NOW.timestamp()) + 60}))


def test_times_are_demanded():
    assert refused(about(exp=None)) == "attest.nvidia-nras-malformed"
    assert refused(about(eat_nonce=None)) == "attest.nvidia-nonce-mismatch"


GPU_CODES = {
    "x-nvidia-gpu-attestation-report-parsed": "attest.nvidia-report-malformed",
    "x-nvidia-gpu-attestation-report-nonce-match": "attest.nvidia-nonce-mismatch",
    "x-nvidia-gpu-attestation-report-signature-verified": "attest.nvidia-report-signature-invalid",
    "x-nvidia-gpu-arch-check": "attest.nvidia-chip-not-allowed",
    "x-nvidia-gpu-driver-rim-fetched": "attest.nvidia-driver-rim-missing",
    "x-nvidia-gpu-vbios-rim-measurements-available": "attest.nvidia-vbios-rim-missing",
    "x-nvidia-gpu-driver-rim-signature-verified": "attest.nvidia-rim-signature-invalid",
}


@pytest.mark.parametrize(("claim", "code"), GPU_CODES.items())
@pytest.mark.parametrize("value", [False, None, "true", 1])
def test_claims_that_must_be_true(claim, code, value):
    assert refused(about(**{claim: value})) == code


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ("attestation-report-cert-chain-validated", "attest.nvidia-device-chain-invalid"),
        ("attestation-report-cert-chain-fwid-match", "attest.nvidia-fwid-mismatch"),
        ("vbios-index-no-conflict", "attest.nvidia-rim-index-conflict"),
        ("driver-rim-schema-validated", "attest.nvidia-rim-malformed"),
        ("driver-rim-cert-validated", "attest.nvidia-rim-chain-invalid"),
        ("vbios-rim-version-match", "attest.nvidia-vbios-rim-missing"),
        ("a-check-of-tomorrow", "attest.nvidia-nras-refused"),
    ],
)
def test_claims_that_must_not_be_false(claim, code):
    assert refused(about(**{f"x-nvidia-gpu-{claim}": False})) == code


@pytest.mark.parametrize(
    ("claim", "value", "code"),
    [
        ("measres", "fail", "attest.nvidia-measurement-mismatch"),
        ("measres", None, "attest.nvidia-measurement-mismatch"),
        ("secboot", False, "attest.nvidia-secure-boot-off"),
        ("secboot", None, "attest.nvidia-secure-boot-off"),
        ("secboot", 1, "attest.nvidia-secure-boot-off"),
        ("dbgstat", "enabled", "attest.nvidia-debug-enabled"),
        ("dbgstat", None, "attest.nvidia-debug-enabled"),
        ("hwmodel", None, "attest.nvidia-nras-malformed"),
        ("ueid", 5, "attest.nvidia-nras-malformed"),
        ("x-nvidia-gpu-driver-version", "x" * 65, "attest.nvidia-nras-malformed"),
        ("x-nvidia-gpu-vbios-version", "", "attest.nvidia-nras-malformed"),
    ],
)
def test_other_claims(claim, value, code):
    assert refused(about(**{claim: value})) == code


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("driver-rim", {"x-nvidia-cert-status": "expired"}, "attest.nvidia-rim-chain-invalid"),
        ("attestation-report", {"x-nvidia-cert-status": "invalid"}, "attest.nvidia-device-chain-invalid"),
        ("attestation-report", {"x-nvidia-cert-ocsp-status": "unknown"}, "attest.nvidia-certificate-revoked"),
        ("vbios-rim", {"x-nvidia-cert-ocsp-status": "revoked"}, "attest.nvidia-certificate-revoked"),
        (
            "vbios-rim",
            {"x-nvidia-cert-ocsp-status": "revoked", "x-nvidia-cert-revocation-reason": "certificateHold"},
            "attest.nvidia-certificate-on-hold",
        ),
    ],
)
def test_certificate_chains(name, change, code):
    bundle = about(**{f"x-nvidia-gpu-{name}-cert-chain": {**CHAIN, **change}})
    assert refused(bundle) == code
    if code.endswith("hold"):
        verify(bundle, rules=LAB.rules(accept_hold=True))
    else:
        assert refused(bundle, rules=LAB.rules(accept_hold=True)) == code
    assert refused(about(**{f"x-nvidia-gpu-{name}-cert-chain": "valid"})).endswith("chain-invalid")


@pytest.mark.parametrize("part", ["attestation-report", "driver-rim", "vbios-rim"])
def test_something_must_be_said_about_each_chain(part):
    """Claims 2.0 say only that a chain was validated; what says nothing is refused."""
    claim = "cert-chain-validated" if part == "attestation-report" else "cert-validated"
    missing = {f"x-nvidia-gpu-{part}-cert-chain": None}
    assert refused(about(**missing)).endswith("-chain-invalid")
    verify(about(**missing, **{f"x-nvidia-gpu-{part}-{claim}": True}))


def test_error_details():
    details = {"code": 4010, "message": "NONCE_NOT_MATCHING"}
    bundle = LAB.bundle(LAB.common() | {"x-nvidia-error-details": details})
    assert refused(bundle) == "attest.nvidia-nras-error"


def test_overall_result():
    assert refused(LAB.bundle(GPU, overall={"x-nvidia-overall-att-result": False})) == "attest.nvidia-nras-refused"


def test_rules_hold_for_tokens_too():
    bundle = LAB.bundle(GPU)
    assert refused(bundle, rules=LAB.rules(min_gpus=2)) == "attest.nvidia-too-few-gpus"
    assert refused(bundle, rules=LAB.rules(min_driver="571")) == "attest.nvidia-driver-too-old"
    assert refused(bundle, rules=LAB.rules(denied_ueids=("1000",))) == "attest.nvidia-device-denied"
    assert refused(bundle, rules=LAB.rules(modes=("spt",))) == "attest.nvidia-mode-unknown"
    verify(about(**{"x-nvidia-gpu-mode": "SPT"}), rules=LAB.rules(modes=("spt",)))
    plain = about(**{"x-nvidia-gpu-mode": "PPCIE"})
    assert refused(plain, rules=LAB.rules(modes=("spt",))) == "attest.nvidia-mode-not-allowed"
    assert refused(LAB.bundle(GPU, GPU)) == "attest.nvidia-device-repeated"
