"""The verifier's checklist: each way to cheat is refused by its own step, with its own code."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives.hashes import SHA384

from attest_lab import CLAIMS, NONCE, NOW, WORKLOAD, Lab, flip, replace
from attest_nvidia_lab import NvidiaLab
from mitai.attest import (
    CapsuleClaim,
    CapsulePin,
    ClaimRules,
    Evidence,
    LedgerClaim,
    Policy,
    TcbRules,
    VerifiedCache,
    evidence_sha256,
    report_data,
)
from mitai.attest.evidence import NO_DEVICES
from mitai.attest.nvidia import NvidiaRules, appraise_devices, encode_devices
from mitai.attest.sim import Workload, intel, reference_values, registers
from mitai.errors import AttestError, ParseError


def test_good_evidence(lab):
    evidence = lab.evidence()
    appraisal = lab.verify(evidence)
    assert appraisal.workload == "serve"
    assert appraisal.claims == CLAIMS
    assert appraisal.claims_bytes == CLAIMS.encode()
    assert appraisal.simulated
    assert appraisal.tcb_status == "UpToDate"
    assert appraisal.tcb_evaluation_number == intel.EVALUATION_NUMBER
    assert appraisal.measurements["rtmr3"] == registers(WORKLOAD)[4].hex()
    assert appraisal.evidence_sha256 == evidence_sha256(evidence.tee, evidence.quote)
    assert appraisal.not_after > NOW + timedelta(days=6)
    assert [step.split(" ", 1)[0] for step, _ in appraisal.checks] == [str(n) for n in range(1, 14)]
    assert appraisal.summary()[0] == ("hardware", "SIMULATED: proves nothing about hardware")


def test_travels_as_json(lab):
    assert lab.verify(Evidence.decode(lab.evidence().encode())).workload == "serve"


def test_same_evidence_same_digest_whatever_the_padding(lab):
    evidence = lab.evidence()
    padded = replace(evidence, quote=evidence.quote + bytes(100))
    assert lab.verify(padded).evidence_sha256 == lab.verify(evidence).evidence_sha256


def test_replayed_evidence(lab, refused):
    with refused("attest.nonce-mismatch", "1 nonce"):
        lab.verify(nonce=bytes(32))


def test_relayed_evidence_under_another_nonce(lab, refused):
    """The nonce field is exchanged, the quote is not."""
    with refused("attest.report-data-mismatch", "11 report data"):
        lab.verify(replace(lab.evidence(), nonce=bytes(32)), nonce=bytes(32))


def test_short_nonce(lab, refused):
    with refused("attest.nonce-malformed", "1 nonce"):
        lab.verify(replace(lab.evidence(), nonce=b"short"), nonce=b"short")


def test_another_tee(lab, refused):
    with refused("attest.tee-unsupported", "2 tee"):
        lab.verify(replace(lab.evidence(), tee="abacus"))
    with refused("attest.tee-mismatch", "2 quote"):
        lab.verify(replace(lab.evidence(), tee="sgx"))
    with pytest.raises(ParseError, match="unknown TEE"):
        evidence_sha256("abacus", b"")


def test_exchanged_key(lab, refused):
    claims = replace(CLAIMS, key_config=b"the attacker's key").encode()
    with refused("attest.report-data-mismatch", "11 report data"):
        lab.verify(replace(lab.evidence(), claims=claims))


def test_claims_written_again(lab, refused):
    """The same claims in other bytes are other claims."""
    with refused("attest.report-data-mismatch"):
        lab.verify(replace(lab.evidence(), claims=CLAIMS.encode() + b" "))


def test_foreign_devices(lab, refused):
    with refused("attest.report-data-mismatch"):
        lab.verify(replace(lab.evidence(), devices=b"[1]"))


def with_devices(lab, devices: bytes):
    """Return evidence whose quote covers these devices."""
    body = intel.td_report(registers(WORKLOAD), report_data(NONCE, CLAIMS.encode(), devices))
    return replace(lab.evidence(), quote=lab.platform.quote(body), devices=devices)


def test_devices_that_are_none(lab, refused):
    with refused("attest.devices-malformed", "12 devices"):
        lab.verify(with_devices(lab, b'["gpu"]'))
    with refused("attest.nvidia-too-few-gpus"):
        lab.verify(policy=replace(lab.policy, nvidia=NvidiaRules(min_gpus=1)))
    assert lab.verify().devices == ()


def test_a_gpu_counts_only_under_the_quote(lab, refused, monkeypatch):
    """Its report answers a nonce made of ours, and the quote covers the digest of the very bytes that hold it."""
    nvidia = NvidiaLab()
    monkeypatch.setattr("mitai.attest.nvidia.appraise_devices", partial(appraise_devices, roots=nvidia.roots))
    chips = [nvidia.chip(pdi=b"chip%04d" % number) for number in range(2)]
    both = encode_devices((nvidia.full(chips[0], ocsp=nvidia.statuses(*chips)), nvidia.entry(chips[1])))
    policy = replace(lab.policy, nvidia=NvidiaRules(min_gpus=2, fabric=False))
    appraisal = lab.verify(with_devices(lab, both), policy=policy)
    assert [device.pdi for device in appraisal.devices] == [chip.pdi.hex() for chip in chips]
    assert ("gpu", "genuine NVIDIA GH100") in [(name, value[:20]) for name, value in appraisal.summary()]
    # devices of another exchange, under a quote that does not cover them
    with refused("attest.report-data-mismatch", "11 report data"):
        lab.verify(replace(with_devices(lab, b"[]"), devices=both), policy=policy)
    # the quote covers them, but their reports answer somebody else's nonce
    stale = nvidia.full(chips[0], report=nvidia.report(chips[0], nonce=bytes(32)))
    with refused("attest.nvidia-nonce-mismatch"):
        lab.verify(with_devices(lab, encode_devices((stale,))))
    # our nonce itself, not the one derived for devices
    direct = nvidia.full(chips[0], report=nvidia.report(chips[0], nonce=NONCE))
    with refused("attest.nvidia-nonce-mismatch"):
        lab.verify(with_devices(lab, encode_devices((direct,))))
    with refused("attest.nvidia-device-repeated"):
        lab.verify(with_devices(lab, encode_devices((nvidia.full(chips[0]), nvidia.entry(chips[0])))))


def test_simulation_is_refused_by_default(lab, refused):
    with refused("attest.simulation-refused", "3 root"):
        lab.verify(policy=Policy(workloads=lab.policy.workloads))


def test_simulation_needs_its_root_named(lab, other, refused):
    with refused("attest.simulated-root-unknown", "3 root"):
        lab.verify(policy=other.policy)


def test_naming_a_root_does_not_allow_simulation(lab, refused):
    with refused("attest.simulation-refused", "3 root"):
        lab.verify(policy=replace(lab.policy, allow_simulation=False))


def test_unknown_root(lab, refused, tmp_path):
    """A root that doesn't even call itself a simulation."""
    forged = Lab.build(tmp_path / "forged")
    certificates = dict(forged.authority.certificates)
    name = intel.x509.Name([intel.x509.NameAttribute(intel.NameOID.COMMON_NAME, "Intel SGX Root CA")])
    key = forged.authority.keys["root"]
    builder = intel._certificate(name, key, name, key, start=NOW, depth=1)
    certificates["root"] = builder.sign(key, intel.SHA256())
    forged.platform._authority = intel.Authority(forged.authority.keys, certificates)
    with refused("attest.root-untrusted", "3 root"):
        lab.verify(forged.evidence())


def test_no_collateral(lab, refused):
    with refused("attest.collateral-missing", "3 root"):
        lab.verify(replace(lab.evidence(), collateral=None))


def test_collateral_from_elsewhere(lab):
    evidence = replace(lab.evidence(), collateral=None)
    assert lab.verify(evidence, collateral=lab.platform.collateral()).tcb_status == "UpToDate"


def test_collateral_of_another_root(lab, other, refused):
    with refused("attest.tcb-info-chain-invalid", "4 collateral"):
        lab.verify(replace(lab.evidence(), collateral=other.platform.collateral()))


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"])
def test_collateral_chain_of_another_root(lab, other, refused, part):
    collateral = replace(lab.platform.collateral(), **{part: getattr(other.platform.collateral(), part)})
    what = {"t": "tcb-info", "q": "qe-identity", "p": "pck-crl"}[part[0]]
    with refused(f"attest.{what}-chain-invalid", "4 collateral"):
        lab.verify(collateral=collateral)


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("tcb_info_signature", "attest.tcb-info-signature-invalid"),
        ("qe_identity_signature", "attest.qe-identity-signature-invalid"),
        ("root_ca_crl", "attest.root-crl-signature-invalid"),
        ("pck_crl", "attest.pck-crl-signature-invalid"),
    ],
)
def test_broken_collateral_signature(lab, refused, part, code):
    collateral = lab.platform.collateral()
    value = getattr(collateral, part)
    broken = replace(collateral, **{part: flip(value, len(value) - 3)})
    with refused(code, "4 collateral"):
        lab.verify(collateral=broken)


def test_signature_of_another_length(lab, refused):
    collateral = replace(lab.platform.collateral(), tcb_info_signature=bytes(63))
    with refused("attest.tcb-info-signature-invalid"):
        lab.verify(collateral=collateral)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_changed_collateral(lab, refused, part):
    collateral = lab.platform.collateral()
    text = getattr(collateral, part).replace('"version":', '"version" :')
    with refused(f"attest.{part.replace('_', '-')}-signature-invalid", "4 collateral"):
        lab.verify(collateral=replace(collateral, **{part: text}))


@pytest.mark.parametrize("part", ["root_ca_crl", "pck_crl"])
def test_malformed_revocation_list(lab, refused, part):
    what = "root-crl" if part.startswith("root") else "pck-crl"
    with refused(f"attest.{what}-malformed", "4 collateral"):
        lab.verify(collateral=replace(lab.platform.collateral(), **{part: b"not DER"}))


def test_lists_exchanged(lab, refused):
    collateral = lab.platform.collateral()
    with refused("attest.root-crl-signature-invalid"):
        lab.verify(collateral=replace(collateral, root_ca_crl=collateral.pck_crl))


def test_signer_that_is_no_signer(lab, refused):
    """The PCK CA is issued by the root as well, but it does not sign TCB info."""
    collateral = lab.platform.collateral()
    text = collateral.tcb_info
    forged = replace(
        collateral,
        tcb_info_issuer_chain=lab.authority.chain("ca", "root"),
        tcb_info_signature=intel.sign(lab.authority.keys["ca"], text.encode()),
    )
    with refused("attest.tcb-info-chain-invalid", "4 collateral"):
        lab.verify(collateral=forged)


def test_revocation_list_of_the_wrong_ca(lab, refused):
    window = (NOW - timedelta(hours=1), NOW + timedelta(days=1))
    forged = replace(
        lab.platform.collateral(),
        pck_crl_issuer_chain=lab.authority.chain("signer", "root"),
        pck_crl=lab.authority.crl("signer", *window),
    )
    with refused("attest.pck-crl-chain-invalid", "4 collateral"):
        lab.verify(collateral=forged)


def test_chain_of_one_certificate(lab, refused):
    forged = replace(lab.platform.collateral(), tcb_info_issuer_chain=lab.authority.chain("root"))
    with refused("attest.tcb-info-chain-invalid"):
        lab.verify(collateral=forged)


def test_chain_of_three_certificates(lab, refused):
    """Every signature in it holds, and still it is not the chain that it should be."""
    longer = replace(lab.platform.collateral(), tcb_info_issuer_chain=lab.authority.chain("signer", "root", "root"))
    with refused("attest.tcb-info-chain-invalid", "4 collateral"):
        lab.verify(collateral=longer)


def test_revoked_platform(lab, refused):
    serial = lab.authority.certificates["pck"].serial_number
    with refused("attest.pck-revoked", "5 platform"):
        lab.verify(collateral=lab.lists(ca=serial))


def test_revoked_ca(lab, refused):
    serial = lab.authority.certificates["ca"].serial_number
    with refused("attest.intermediate-revoked", "4 collateral"):
        lab.verify(collateral=lab.lists(root=serial))


def test_revoked_signer(lab, refused):
    serial = lab.authority.certificates["signer"].serial_number
    with refused("attest.tcb-signing-revoked", "4 collateral"):
        lab.verify(collateral=lab.lists(root=serial))


@pytest.mark.parametrize(
    ("start", "end"),
    [(timedelta(hours=1), timedelta(days=2)), (timedelta(days=-2), timedelta(seconds=-1))],
    ids=["too early", "too late"],
)
@pytest.mark.parametrize("what", ["tcb-info", "qe-identity", "root-crl", "pck-crl"])
def test_outside_the_window(lab, refused, what, start, end):
    window = (NOW + start, NOW + end)
    dates = {"issueDate": intel._time(window[0]), "nextUpdate": intel._time(window[1])}
    collateral = {
        "tcb-info": lambda: lab.resign(tcb=dates),
        "qe-identity": lambda: lab.resign(qe=dates),
        "root-crl": lambda: replace(lab.platform.collateral(), root_ca_crl=lab.authority.crl("root", *window)),
        "pck-crl": lambda: replace(lab.platform.collateral(), pck_crl=lab.authority.crl("ca", *window)),
    }[what]()
    with refused(f"attest.{what}-expired", "4 collateral"):
        lab.verify(collateral=collateral)


def test_grace(lab, refused):
    end = NOW - timedelta(seconds=60)
    collateral = lab.resign(tcb={"issueDate": intel._time(NOW - timedelta(days=9)), "nextUpdate": intel._time(end)})
    patient = replace(lab.policy, tcb=TcbRules(collateral_grace_s=60))
    assert lab.verify(collateral=collateral, policy=patient).not_after == NOW
    with refused("attest.tcb-info-expired"):
        lab.verify(collateral=collateral, policy=replace(lab.policy, tcb=TcbRules(collateral_grace_s=59)))


@pytest.mark.parametrize("grace_s", [60, 10**14, 10**400])
def test_grace_at_the_end_of_the_calendar(lab, grace_s):
    collateral = lab.resign(tcb={"nextUpdate": "9999-12-31T23:59:59Z"})
    patient = replace(lab.policy, tcb=TcbRules(collateral_grace_s=grace_s))
    assert lab.verify(collateral=collateral, policy=patient).tcb_status == "UpToDate"


@pytest.mark.parametrize("days", [-2, 4000])
def test_certificates_have_an_end(lab, refused, days):
    """TCB info, QE identity and lists are valid for centuries here: the certificates are not."""
    dates = {"issueDate": "2000-01-01T00:00:00Z", "nextUpdate": "2300-01-01T00:00:00Z"}
    window = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC))
    collateral = replace(
        lab.resign(tcb=dates, qe=dates),
        root_ca_crl=lab.authority.crl("root", *window),
        pck_crl=lab.authority.crl("ca", *window),
    )
    with refused("attest.tcb-info-chain-expired", "4 collateral"):
        lab.verify(collateral=collateral, now=NOW + timedelta(days=days))


def forge_chain(lab: Lab, **changes) -> Evidence:
    """Return evidence whose quote has certificates exchanged (pck, ca, root)."""
    certificates = {**lab.authority.certificates, **changes}
    forged = intel.Authority(lab.authority.keys, certificates)
    body = intel.td_report(registers(WORKLOAD), report_data(NONCE, CLAIMS.encode(), NO_DEVICES))
    quote = intel.issue_quote(body, lab.platform._attestation_key, forged, version=4)
    return replace(lab.evidence(), quote=quote)


def certificate(lab: Lab, role: str, *, key="pck", issuer="ca", start=None, depth=None, extension=None, signer=None):
    """Sign a certificate like the lab's own, with something else in it."""
    builder = intel._certificate(
        intel._name(role),
        lab.authority.keys[key],
        lab.authority.certificates[issuer].subject,
        lab.authority.keys[issuer],
        start=start if start is not None else NOW - timedelta(days=1),
        depth=depth,
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=extension.oid != intel.SGX_EXTENSION)
    return builder.sign(lab.authority.keys[signer or issuer], intel.SHA256())


SGX = intel.x509.UnrecognizedExtension(intel.SGX_EXTENSION, intel.sgx_extension())


def test_pck_certificate_not_signed_by_its_ca(lab, refused):
    forged = certificate(lab, "PCK Certificate", extension=SGX, signer="pck")
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, pck=forged))


def test_pck_certificate_expired(lab, refused):
    forged = certificate(lab, "PCK Certificate", extension=SGX, start=NOW - timedelta(days=3651))
    with refused("attest.pck-chain-expired", "5 platform"):
        lab.verify(forge_chain(lab, pck=forged))


def test_pck_certificate_of_another_role(lab, refused):
    forged = certificate(lab, "TCB Signing", extension=SGX)
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, pck=forged))


@pytest.mark.parametrize(
    ("role", "code"),
    [
        ("Other CA", "attest.pck-chain-invalid"),  # the root has other CAs; PCK certificates come from two of them only
        ("PCK Processor CA", "attest.pck-crl-issuer-mismatch"),  # the list is that of the Platform CA, same key or not
    ],
)
def test_pck_certificate_under_another_ca_of_the_root(lab, refused, role, code):
    other_ca = certificate(lab, role, key="ca", issuer="root", depth=0)
    keys, start = lab.authority.keys, NOW - timedelta(days=1)
    builder = intel._certificate(
        intel._name("PCK Certificate"), keys["pck"], other_ca.subject, keys["ca"], start=start, depth=None
    )
    pck = builder.add_extension(SGX, critical=False).sign(keys["ca"], intel.SHA256())
    with refused(code, "5 platform"):
        lab.verify(forge_chain(lab, pck=pck, ca=other_ca))


def test_pck_certificate_without_extension(lab, refused):
    with refused("attest.pck-extension-malformed", "5 platform"):
        lab.verify(forge_chain(lab, pck=certificate(lab, "PCK Certificate")))


def test_unknown_critical_extension(lab, refused):
    unknown = intel.x509.UnrecognizedExtension(intel.x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, pck=certificate(lab, "PCK Certificate", extension=unknown)))


def test_certificate_signed_with_another_hash(lab, refused):
    builder = intel._certificate(
        intel._name("PCK Certificate"),
        lab.authority.keys["pck"],
        lab.authority.certificates["ca"].subject,
        lab.authority.keys["ca"],
        start=NOW - timedelta(days=1),
        depth=None,
    )
    forged = builder.sign(lab.authority.keys["ca"], SHA384())
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, pck=forged))


def test_certificate_with_a_key_on_another_curve(lab, refused):
    key = intel.ec.generate_private_key(intel.ec.SECP384R1())
    builder = intel._certificate(
        intel._name("PCK Certificate"),
        key,
        lab.authority.certificates["ca"].subject,
        lab.authority.keys["ca"],
        start=NOW - timedelta(days=1),
        depth=None,
    )
    forged = builder.sign(lab.authority.keys["ca"], intel.SHA256())
    with refused("attest.certificate-key-unsupported", "5 platform"):
        lab.verify(forge_chain(lab, pck=forged))


def test_leaf_that_acts_as_ca(lab, refused):
    """The holder of one PCK key issues a second PCK certificate under a CA of his own making."""
    fake_ca = certificate(lab, "PCK Platform CA", key="pck", issuer="pck")
    forged = certificate(lab, "PCK Certificate", extension=SGX)
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, pck=forged, ca=fake_ca))


def test_ca_without_the_right_to_issue(lab, refused):
    """The root signed it, but as an end entity."""
    fake_ca = certificate(lab, "PCK Platform CA", key="ca", issuer="root")
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, ca=fake_ca))


def test_ca_that_says_nothing_about_itself(lab, refused):
    now = NOW - timedelta(days=1)
    root, ca = lab.authority.certificates["root"], lab.authority.certificates["ca"]
    builder = intel.x509.CertificateBuilder(root.subject, ca.subject, ca.public_key(), 5, now, now + timedelta(days=9))
    with refused("attest.pck-chain-invalid", "5 platform"):
        lab.verify(forge_chain(lab, ca=builder.sign(lab.authority.keys["root"], intel.SHA256())))


def test_another_ca_than_the_lists(lab, refused, other):
    """A second PCK CA under the same root is not covered by the first one's revocation list."""
    keys = {**lab.authority.keys, "ca": other.authority.keys["ca"]}
    ca = intel._certificate(
        intel._name("PCK Platform CA"),
        keys["ca"],
        lab.authority.certificates["root"].subject,
        keys["root"],
        start=NOW - timedelta(days=1),
        depth=0,
    ).sign(keys["root"], intel.SHA256())
    pck = (
        intel._certificate(
            intel._name("PCK Certificate"),
            keys["pck"],
            ca.subject,
            keys["ca"],
            start=NOW - timedelta(days=1),
            depth=None,
        )
        .add_extension(SGX, critical=False)
        .sign(keys["ca"], intel.SHA256())
    )
    with refused("attest.pck-crl-issuer-mismatch", "5 platform"):
        lab.verify(forge_chain(lab, pck=pck, ca=ca))


def test_quote_without_its_ca(lab, refused):
    quote = lab.evidence().quote
    chain = lab.authority.chain("pck", "ca", "root").encode()
    short = lab.authority.chain("pck", "root").encode()
    with refused("attest.pck-chain-incomplete", "3 root"):
        lab.verify(replace(lab.evidence(), quote=resize(quote, chain, short)))


def resize(quote: bytes, old: bytes, new: bytes) -> bytes:
    """Exchange the certification data and correct the three lengths around it."""
    assert old in quote
    change = len(new) - len(old)
    data = quote.replace(old, new)
    for offset in (632, 636 + 128 + 2, data.index(new) - 4):
        size = int.from_bytes(data[offset : offset + 4], "little") + change
        data = data[:offset] + size.to_bytes(4, "little") + data[offset + 4 :]
    return data


def test_quote_of_another_machine(lab, other, refused):
    """A platform whose certificates are exchanged for those of a better one."""
    chain = lab.authority.chain("pck", "ca", "root").encode()
    foreign = other.authority.chain("pck", "ca", "root").encode()
    quote = resize(other.evidence().quote, foreign, chain)
    with refused("attest.qe-report-signature-invalid", "6 signatures"):
        lab.verify(replace(lab.evidence(), quote=quote))


def test_attestation_key_that_nobody_vouches_for(lab, refused):
    """The attestation key and the quote's signature are an attacker's; the QE report is genuine."""
    quote = lab.evidence().quote
    key = intel.ec.generate_private_key(intel.ec.SECP256R1())
    point = key.public_key().public_bytes(intel.Encoding.X962, intel.PublicFormat.UncompressedPoint)[1:]
    forged = quote[:636] + intel.sign(key, quote[:632]) + point + quote[764:]
    with refused("attest.attestation-key-unbound", "6 signatures"):
        lab.verify(replace(lab.evidence(), quote=forged))


def test_attestation_key_that_is_no_point(lab, refused):
    """Genuinely vouched for, and still not a key."""
    from mitai.attest.x509 import public_key

    with refused("attest.quote-signature-invalid"):
        public_key(b"\xff" * 64, "attest.quote-signature-invalid")


@pytest.mark.parametrize("offset", [40, 48, 184, 376, 568, 640], ids=lambda offset: f"byte {offset}")
def test_changed_quote(lab, refused, offset):
    evidence = lab.evidence()
    with refused("attest.quote-signature-invalid", "6 signatures"):
        lab.verify(replace(evidence, quote=flip(evidence.quote, offset)))


def body(**changes):
    report = intel.td_report(registers(WORKLOAD), report_data(NONCE, CLAIMS.encode(), NO_DEVICES))
    return dataclasses.replace(report, **changes)


def appraise(lab: Lab, version: int = 4, policy: Policy | None = None, **changes):
    evidence = replace(lab.evidence(), quote=lab.platform.quote(body(**changes), version=version))
    return lab.verify(evidence, policy=policy)


def test_td_in_debug_mode_that_the_policy_allows(lab):
    policy = replace(lab.policy, tdx=replace(lab.policy.tdx, td_attributes_allowed="010000d000000080"))
    appraisal = appraise(lab, policy=policy, td_attributes=bytes.fromhex("0100001000000000"))
    assert appraisal.machine.memory == "visible"
    assert appraise(lab, policy=policy).machine.memory == "encrypted"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"td_attributes": bytes.fromhex("0100001000000000")}, "attest.td-debug"),
        ({"td_attributes": bytes.fromhex("8000001000000000")}, "attest.td-attributes-not-allowed"),
        ({"td_attributes": bytes.fromhex("0000003000000000")}, "attest.td-attributes-not-allowed"),
        ({"td_attributes": bytes(8)}, "attest.td-attributes-missing"),
        ({"xfam": bytes.fromhex("e602060000000000")}, "attest.xfam-missing"),
        ({"xfam": bytes.fromhex("e702060000000080")}, "attest.xfam-not-allowed"),
        ({"mrsignerseam": bytes(47) + b"\1"}, "attest.tdx-module-mismatch"),
        ({"seam_attributes": b"\1" + bytes(7)}, "attest.tdx-module-mismatch"),
        ({"tee_tcb_svn": bytes([5, 9, 2]) + bytes(13)}, "attest.tdx-module-unknown"),
        ({"tee_tcb_svn": bytes([4, 1, 2]) + bytes(13)}, "attest.tcb-not-supported"),
        ({"tee_tcb_svn": bytes([5, 1, 1]) + bytes(13)}, "attest.tcb-not-supported"),
        ({"mrtd": bytes(48)}, "attest.measurement-mismatch"),
    ],
)
def test_td_that_is_refused(lab, refused, changes, code):
    with refused(code):
        appraise(lab, **changes)


@pytest.mark.parametrize("name", ["mrconfigid", "mrowner", "mrownerconfig", "mrseam"])
def test_pinned_registers(lab, refused, name):
    wanted = "ab" * 48
    rules = replace(lab.policy.tdx, **{name: (wanted,) if name == "mrseam" else wanted})
    policy = replace(lab.policy, tdx=rules)
    assert appraise(lab, policy=policy, **{name: bytes.fromhex(wanted)}).measurements[name] == wanted
    code = "attest.mrseam-not-allowed" if name == "mrseam" else f"attest.{name}-mismatch"
    with refused(code, "9 td"):
        appraise(lab, policy=policy)


def test_minimum_tee_tcb_svn(lab, refused):
    policy = replace(lab.policy, tdx=replace(lab.policy.tdx, min_tee_tcb_svn="06" + "00" * 15))
    with refused("attest.tee-tcb-svn-too-low", "9 td"):
        lab.verify(policy=policy)


def test_qe_vendor(lab, refused):
    policy = replace(lab.policy, tdx=replace(lab.policy.tdx, qe_vendor_id="00" * 16))
    with refused("attest.qe-vendor-mismatch", "9 td"):
        lab.verify(policy=policy)


def test_version_5(lab):
    assert appraise(lab, version=5).tcb_status == "UpToDate"


def test_version_5_with_td_report_15(lab, refused):
    zero = bytes(48)
    appraisal = appraise(lab, version=5, tee_tcb_svn2=intel.TEE_TCB_SVN, mrservicetd=zero)
    assert appraisal.measurements["mrservicetd"] == zero.hex()
    with refused("attest.mrservicetd-mismatch", "9 td"):
        appraise(lab, version=5, tee_tcb_svn2=intel.TEE_TCB_SVN, mrservicetd=b"\1" + bytes(47))


def test_td_report_15_does_not_fit_version_4(lab, refused):
    with refused("attest.quote-malformed", "2 quote"):
        appraise(lab, version=4, tee_tcb_svn2=intel.TEE_TCB_SVN, mrservicetd=bytes(48))


def test_module_without_a_version_of_its_own(lab, refused):
    """TEE_TCB_SVN[1] = 0: components 0 and 1 count like the others, and the module's signer is that of `tdxModule`."""
    old = bytes([5, 0, 2]) + bytes(13)
    levels = [{"svn": svn} for svn in old]
    tcb = {"tcb": {"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0, "tdxtcbcomponents": levels}}
    level = {**tcb, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate"}
    collateral = lab.resign(tcb={"tcbLevels": [level]})
    evidence = replace(lab.evidence(), quote=lab.platform.quote(body(tee_tcb_svn=old)))
    assert lab.verify(evidence, collateral=collateral).tcb_status == "UpToDate"
    older = replace(evidence, quote=lab.platform.quote(body(tee_tcb_svn=bytes([4, 0, 2]) + bytes(13))))
    with refused("attest.tcb-not-supported", "8 tcb"):
        lab.verify(older, collateral=collateral)
    with refused("attest.tdx-module-unknown", "8 tcb"):
        lab.verify(evidence, collateral=lab.resign(tcb={"tcbLevels": [level], "tdxModule": None}))


def test_event_log_that_tells_another_story(lab, refused):
    evidence = lab.evidence()
    other_log = lab.platform.attester(Workload("serve", b"\1" * 32)).evidence(CLAIMS.encode(), NONCE).event_log
    with refused("attest.event-log-mismatch", "10 event log"):
        lab.verify(replace(evidence, event_log=other_log))
    with refused("attest.event-log-malformed", "10 event log"):
        lab.verify(replace(evidence, event_log=evidence.event_log[:-1]))


def test_event_log_is_optional(lab):
    assert dict(lab.verify(replace(lab.evidence(), event_log=b"")).checks)["10 event log"].startswith("none sent")


def test_claims_that_do_not_parse(lab, refused):
    with refused("attest.claims-malformed", "12 claims"):
        lab.verify(lab.evidence(b"{}"))


def test_code_that_was_changed(lab, refused):
    attacker = lab.platform.attester(Workload("serve", hashlib.sha256(b"a back door").digest()))
    with refused("attest.measurement-mismatch", "13 workload") as refusal:
        lab.verify(attacker.evidence(CLAIMS.encode(), NONCE))
    assert "rtmr3" in refusal.value.message


def test_workload_under_another_name(lab, refused):
    """A broker's claims on a replica's measurement: names don't help, measurements decide."""
    policy = replace(lab.policy, workloads=(*lab.policy.workloads, reference_values(Workload("broker", bytes(32)))))
    with refused("attest.measurement-mismatch", "13 workload"):
        lab.verify(lab.evidence(replace(CLAIMS, workload="broker").encode()), policy=policy)


def test_workload_without_reference_values(lab, refused):
    with refused("attest.workload-unknown", "13 workload"):
        lab.verify(lab.evidence(replace(CLAIMS, workload="train").encode()))
    with refused("attest.workload-unknown", "13 workload"):
        lab.verify(policy=replace(lab.policy, workloads=()))


def test_one_of_several_releases(lab):
    older = reference_values(Workload("serve", b"\7" * 32))
    assert lab.verify(policy=replace(lab.policy, workloads=(older, *lab.policy.workloads))).workload == "serve"


def test_claim_rules(lab, refused):
    digest, vkey = "ab" * 32, "ledger.example+12345678+AbCd"
    claims = replace(
        CLAIMS,
        capsules=(CapsuleClaim("llama", digest),),
        policies=(digest,),
        ledger=LedgerClaim("ledger.example", vkey, b"note"),
    )
    evidence = lab.evidence(claims.encode())

    def check(rules: ClaimRules):
        return lab.verify(evidence, policy=replace(lab.policy, claims=rules))

    good = ClaimRules(capsules=(CapsulePin("llama", digest),), policies=(digest,), ledger_vkey=vkey)
    assert check(good).claims == claims
    assert check(ClaimRules(capsules=(CapsulePin("llama"),), ledger_vkey=vkey)).claims == claims
    with refused("attest.capsule-missing", "12 claims"):
        check(ClaimRules(capsules=(CapsulePin("qwen"),), ledger_vkey=vkey))
    with refused("attest.capsule-mismatch", "12 claims"):
        check(ClaimRules(capsules=(CapsulePin("llama", "cd" * 32),)))
    with refused("attest.policy-digest-missing", "12 claims"):
        check(ClaimRules(policies=("cd" * 32,)))
    with refused("attest.ledger-mismatch", "12 claims"):
        check(ClaimRules(ledger_vkey="another"))
    with refused("attest.ledger-missing", "12 claims"):
        lab.verify(policy=replace(lab.policy, claims=ClaimRules(ledger_vkey=vkey)))


def test_cache(lab, refused):
    cache = VerifiedCache(entries=1)
    for _ in range(2):
        assert lab.verify(cache=cache).tcb_status == "UpToDate"
    (entry,) = cache._entries.values()
    assert len(entry.value.chains) == 1
    with refused("attest.tcb-info-expired", "4 collateral"):
        lab.verify(cache=cache, now=NOW + timedelta(days=31))
    assert (
        lab.verify(cache=cache, collateral=lab.resign(tcb={"tcbEvaluationDataNumber": 99})).tcb_evaluation_number == 20
    )
    assert len(cache._entries) == 1
    with refused("attest.quote-signature-invalid", "6 signatures"):
        lab.verify(replace(lab.evidence(), quote=flip(lab.evidence().quote, 50)), cache=cache)
    with refused("attest.pck-revoked", "5 platform"):
        lab.verify(cache=cache, collateral=lab.lists(ca=lab.authority.certificates["pck"].serial_number))


def test_cached_chain_still_expires(lab, refused):
    dates = {"issueDate": "2000-01-01T00:00:00Z", "nextUpdate": "2300-01-01T00:00:00Z"}
    window = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC))
    collateral = replace(
        lab.resign(tcb=dates, qe=dates),
        root_ca_crl=lab.authority.crl("root", *window),
        pck_crl=lab.authority.crl("ca", *window),
    )
    cache = VerifiedCache()
    young = certificate(lab, "PCK Certificate", extension=SGX, start=NOW - timedelta(days=3649))
    evidence = forge_chain(lab, pck=young)
    lab.verify(evidence, collateral=collateral, cache=cache)
    with refused("attest.pck-chain-expired", "5 platform"):
        lab.verify(evidence, collateral=collateral, cache=cache, now=NOW + timedelta(days=2))


def test_cache_of_chains_is_bounded(lab, monkeypatch):
    from mitai.attest.dcap import verify as dcap

    monkeypatch.setattr(dcap, "_MAX_CHAINS", 1)
    cache = VerifiedCache()
    lab.verify(cache=cache)
    lab.verify(forge_chain(lab, pck=certificate(lab, "PCK Certificate", extension=SGX)), cache=cache)
    (entry,) = cache._entries.values()
    assert len(entry.value.chains) == 1


def test_out_of_band_chain(lab, refused):
    """The chain with the collateral is used, and is checked just like one in the quote."""
    chain = lab.authority.chain("pck", "ca", "root")
    evidence = lab.evidence()
    without = resize(evidence.quote, chain.encode() + b"\0", b"x" * 36)
    where = without.index(b"x" * 36) - 6
    without = without[:where] + b"\1\0" + without[where + 2 :]
    with refused("attest.pck-chain-incomplete", "3 root"):
        lab.verify(replace(evidence, quote=without))
    given = replace(evidence.collateral, pck_certificate_chain=chain)
    assert lab.verify(replace(evidence, quote=without), collateral=given).tcb_status == "UpToDate"


def test_errors_are_attest_errors(lab):
    """A parser's error leaves `verify` as an `AttestError`, with its step."""
    with pytest.raises(AttestError) as refusal:
        lab.verify(replace(lab.evidence(), quote=b""))
    assert refusal.value.step == "2 quote"
    assert "step: 2 quote" in refusal.value.diagnostics()
