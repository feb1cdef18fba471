"""Devices: every refusal by its code and step, one at a time, on evidence that is good but for that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attest_nvidia_lab import (
    DAY,
    DRIVER,
    FABRIC_RULES,
    FWID,
    MEASUREMENTS,
    NONCE,
    NOW,
    VBIOS,
    VBIOS_REFERENCES,
    Chip,
    endorsements,
    fwid_extension,
    gpu_opaque,
    make,
    nvidia_lab,
    ocsp_response,
    responder_of,
    switch_opaque,
)
from attest_sigstore_lab import octets, sequence
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia import (
    NVIDIA,
    DeviceEvidence,
    NvidiaRules,
    appraise_entries,
    decode_devices,
    device_nonce,
    encode_devices,
    rim_names,
)
from mitai.errors import AttestError, ParseError

LAB = nvidia_lab()
CHIP = LAB.chip()
GOOD = LAB.full(CHIP)
LAX = NvidiaRules(ocsp="if-present", rims="if-present")


def refused(*entries: DeviceEvidence, rules: NvidiaRules | None = None, **more) -> tuple[str, str]:
    """Return code and step, less the step's number."""
    with pytest.raises(AttestError) as refusal:
        LAB.verify(*entries, rules=rules, **more)
    return refusal.value.code, refusal.value.step.partition(" ")[2]


def gpu(opaque=None, **more) -> DeviceEvidence:
    """Return evidence of the chip with another report."""
    report = LAB.report(CHIP, **{"opaque": gpu_opaque(**opaque) if opaque else None, **more})
    return msgspec.structs.replace(GOOD, report=report)


def rules(**changes) -> NvidiaRules:
    return msgspec.structs.replace(LAX, **changes)


def test_good_gpu_under_the_strictest_rules():
    checks = Checklist()
    (device,) = LAB.verify(GOOD, checks=checks)
    assert (device.kind, device.chip, device.driver, device.vbios, device.mode) == (
        "gpu",
        "GH100",
        DRIVER,
        VBIOS,
        "spt",
    )
    assert device.ueid == str(CHIP.leaf.certificate.serial_number)
    assert device.pdi == CHIP.pdi.hex()
    assert device.measurements[1] == MEASUREMENTS[1].hex()
    assert device.measured == "5 of 40 as NVIDIA published"
    assert device.not_after == NOW + timedelta(hours=23)  # when the first revocation status ends
    assert [name.partition(" ")[2] for name, _ in checks.passed] == [
        "devices",
        "gpu 0 certificates",
        "gpu 0 report",
        "gpu 0 configuration",
        "gpu 0 measurements",
        "device set",
        "fabric",
    ]
    assert ("driver", DRIVER) in device.summary()


def test_nothing_but_what_is_pinned_is_trusted():
    assert refused(GOOD, roots=NVIDIA) == ("attest.nvidia-root-untrusted", "gpu 0 certificates")


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'[{"kind":"tpu"}]', b"[" * 100_000, b" " * (4 << 20) + b"[]"])
def test_devices_that_are_none(data):
    with pytest.raises(ParseError) as refusal:
        decode_devices(data)
    assert refusal.value.code == "attest.devices-malformed"


def test_too_many():
    entry = DeviceEvidence(kind="gpu", report=b"", certificates=b"")
    for entries in (
        [entry] * 65,
        [msgspec.structs.replace(entry, rims=(b"",) * 65)],
        [msgspec.structs.replace(entry, ocsp=(b"",) * 513)],
    ):
        with pytest.raises(ParseError):
            decode_devices(encode_devices(tuple(entries)))


def test_json_survives():
    assert decode_devices(encode_devices((GOOD,))) == (GOOD,)


def test_device_nonce_is_not_the_verifiers():
    assert len(device_nonce(NONCE)) == 32
    assert device_nonce(NONCE) != NONCE
    with pytest.raises(ParseError) as refusal:
        device_nonce(NONCE[:31])
    assert refusal.value.code == "attest.nonce-malformed"


def test_nonce():
    assert refused(gpu(nonce=NONCE)) == ("attest.nvidia-nonce-mismatch", "gpu 0 report")
    assert refused(GOOD, nonce=bytes(32)) == ("attest.nvidia-nonce-mismatch", "gpu 0 report")


def test_freshness_can_be_left_to_the_caller():
    checks = Checklist()
    appraise_entries(checks, (gpu(nonce=NONCE),), None, LAX, now=NOW, roots=LAB.roots)
    assert ("2 gpu 0 report", "signed by the device, freshness not checked") in checks.passed


def test_report():
    signed = GOOD.report[:-96]
    for report, code in (
        (signed + bytes(96), "attest.nvidia-report-signature-invalid"),
        (signed + GOOD.report[-95:], "attest.nvidia-report-malformed"),
        (LAB.report(LAB.chip(pdi=b"another!")), "attest.nvidia-report-signature-invalid"),
    ):
        assert refused(msgspec.structs.replace(GOOD, report=report)) == (code, "gpu 0 report")


def test_fwid():
    assert refused(gpu({"f20": FWID[::-1]}))[0] == "attest.nvidia-fwid-mismatch"
    LAB.verify(gpu({"f20": None}))  # early drivers do not repeat it
    blackwell = LAB.chip(extensions=(fwid_extension(oid="2.23.133.5.4.1.1"),))
    LAB.verify(LAB.entry(blackwell), rules=LAX)
    for extensions in ((), ((x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), FWID), False),)):
        assert refused(LAB.entry(LAB.chip(extensions=extensions)), rules=LAX)[0] == "attest.nvidia-fwid-mismatch"


@pytest.mark.parametrize(
    ("flag", "pcie", "mode"),
    [
        (b"\x00\x00", b"\x55", "spt"),
        (b"\x01\x00", b"\x55", "mpt"),
        (b"\x02\x00", b"\xaa", "ppcie"),
        (None, b"\x55", "spt"),
        (None, b"\xaa", "ppcie"),
        (None, None, "spt"),
    ],
)
def test_modes(flag, pcie, mode):
    entry = gpu({"f36": flag, "f21": pcie})
    (device,) = LAB.verify(entry, rules=rules(modes=("spt", "mpt", "ppcie")))
    assert device.mode == mode
    others = tuple({"spt", "mpt", "ppcie"} - {mode})
    assert refused(entry, rules=rules(modes=others)) == ("attest.nvidia-mode-not-allowed", "gpu 0 configuration")


def test_plain_links_are_not_accepted_unasked():
    assert refused(gpu({"f36": b"\x02\x00"}))[0] == "attest.nvidia-mode-not-allowed"
    assert refused(gpu({"f36": b"\x03\x00"}))[0] == "attest.nvidia-mode-unsupported"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"chips": ("GB100",)}, "attest.nvidia-chip-not-allowed"),
        ({"min_driver": "570.10.21"}, "attest.nvidia-driver-too-old"),
        ({"min_driver": "1000"}, "attest.nvidia-driver-too-old"),
        ({"drivers": ("570.10.2",)}, "attest.nvidia-driver-not-allowed"),
        ({"vbios": ("96.00.9F.00.02",)}, "attest.nvidia-vbios-not-allowed"),
        ({"denied_ueids": (str(CHIP.leaf.certificate.serial_number),)}, "attest.nvidia-device-denied"),
    ],
)
def test_configuration(change, code):
    assert refused(GOOD, rules=rules(**change)) == (code, "gpu 0 configuration")


def test_configuration_that_is_allowed():
    allowed = {"chips": ("GH100",), "min_driver": "570.9", "drivers": (DRIVER,), "vbios": (VBIOS,)}
    LAB.verify(GOOD, rules=NvidiaRules(**allowed, min_gpus=1, denied_ueids=("1",)))


def test_driver_version_that_is_none():
    assert refused(gpu({"f3": b"570.x\0"}), rules=LAX)[0] == "attest.nvidia-report-malformed"
    assert refused(gpu({"f3": None}), rules=LAX)[0] == "attest.nvidia-report-malformed"


def test_manifests_are_of_the_reported_chip_and_rules_of_the_certified_one():
    entry = gpu({"f35": b"GB100\0"})
    assert refused(entry) == ("attest.nvidia-driver-rim-missing", "gpu 0 measurements")
    rims = (LAB.rim(product="GB100"), LAB.rim(product="GB100", version=VBIOS, references=VBIOS_REFERENCES))
    entry = msgspec.structs.replace(entry, rims=rims)
    (device,) = LAB.verify(entry)
    assert device.chip == "GH100"
    assert refused(entry, rules=rules(chips=("GB100",)))[0] == "attest.nvidia-chip-not-allowed"


@pytest.mark.parametrize(
    ("missing", "code"), [(0, "attest.nvidia-driver-rim-missing"), (1, "attest.nvidia-vbios-rim-missing")]
)
def test_manifest_missing(missing, code):
    rims = list(GOOD.rims)
    del rims[missing]
    entry = msgspec.structs.replace(GOOD, rims=tuple(rims))
    assert refused(entry) == (code, "gpu 0 measurements")
    (device,) = LAB.verify(entry, rules=NvidiaRules(rims="if-present"))
    assert device.measured == f"{[2, 3][missing]} of 40 as NVIDIA published"


def test_no_manifests():
    entry = msgspec.structs.replace(GOOD, rims=())
    assert refused(entry)[0] == "attest.nvidia-driver-rim-missing"
    (device,) = LAB.verify(entry, rules=NvidiaRules(rims="if-present"))
    assert device.measured == "not compared: no manifests"


@pytest.mark.parametrize("what", ["edition", "product", "version"])
def test_manifest_of_something_else(what):
    other = {"edition": "SWITCH", "product": "GB100", "version": "570.10.21"}[what]
    entry = msgspec.structs.replace(GOOD, rims=(LAB.rim(**{what: other}), GOOD.rims[1]))
    assert refused(entry)[0] == "attest.nvidia-driver-rim-missing"


def test_two_manifests_for_one_version():
    entry = msgspec.structs.replace(GOOD, rims=(*GOOD.rims, LAB.rim(references={7: (bytes(48),)})))
    assert refused(entry)[0] == "attest.nvidia-rim-ambiguous"
    LAB.verify(msgspec.structs.replace(GOOD, rims=GOOD.rims * 2))  # the same one twice is one


def test_manifest_is_verified():
    rim = GOOD.rims[0].replace(b'index="7"', b'index="8"')
    entry = msgspec.structs.replace(GOOD, rims=(rim, *GOOD.rims[1:]))
    assert refused(entry) == ("attest.nvidia-rim-digest-mismatch", "gpu 0 measurements")
    entry = msgspec.structs.replace(GOOD, rims=(b"<xml/>", *GOOD.rims[1:]))
    assert refused(entry) == ("attest.nvidia-rim-malformed", "gpu 0 measurements")


@pytest.mark.parametrize(
    ("index", "code"),
    [
        (7, "attest.nvidia-driver-measurement-mismatch"),
        (2, "attest.nvidia-vbios-measurement-mismatch"),
    ],
)
def test_measurements(index, code):
    for value in (bytes(48), MEASUREMENTS[index][:47], MEASUREMENTS[index] + b"\0"):
        assert refused(gpu(measurements={**MEASUREMENTS, index: value})) == (code, "gpu 0 measurements")
    fewer = {key: value for key, value in MEASUREMENTS.items() if key != index}
    assert refused(gpu(measurements=fewer))[0] == code.replace("mismatch", "missing")


def test_measurement_mismatch_names_the_indexes():
    with pytest.raises(AttestError) as refusal:
        LAB.verify(gpu(measurements={**MEASUREMENTS, 7: bytes(48), 21: bytes(48)}))
    assert "7, 21" in refusal.value.message


def test_measurement_with_alternatives():
    LAB.verify(gpu(measurements={**MEASUREMENTS, 1: bytes(48)}))


def test_video_decoder_is_compared_only_where_it_is_on():
    changed = {**MEASUREMENTS, 35: bytes(48)}
    assert refused(gpu({"f11": b"\xaa"}, measurements=changed))[0] == "attest.nvidia-driver-measurement-mismatch"
    assert refused(gpu({"f11": None}, measurements=changed))[0] == "attest.nvidia-driver-measurement-mismatch"
    (device,) = LAB.verify(gpu({"f11": b"\x55"}, measurements=changed))
    assert device.measured == "4 of 40 as NVIDIA published"


def test_manifests_that_overlap():
    vbios = LAB.rim(version=VBIOS, references={7: (MEASUREMENTS[7],)})
    entry = msgspec.structs.replace(GOOD, rims=(GOOD.rims[0], vbios))
    assert refused(entry) == ("attest.nvidia-rim-index-conflict", "gpu 0 measurements")


def test_chain_of_five_in_order():
    certificates = [party.certificate.public_bytes(Encoding.PEM) for party in CHIP.leaf.chain]
    for chosen, code in (
        (certificates[:4], "attest.nvidia-device-chain-incomplete"),
        (certificates[1:], "attest.nvidia-device-chain-incomplete"),
        (certificates[-1:], "attest.nvidia-device-chain-incomplete"),
        ([*certificates, certificates[-1]], "attest.nvidia-device-chain-incomplete"),
        ([certificates[0], *certificates[2:0:-1], *certificates[3:]], "attest.nvidia-device-chain-invalid"),
        (certificates[::-1], "attest.nvidia-root-untrusted"),
        ([*certificates[:4], certificates[3]], "attest.nvidia-root-untrusted"),
        ([b"no PEM"], "attest.nvidia-device-chain-malformed"),
    ):
        entry = msgspec.structs.replace(GOOD, certificates=b"".join(chosen))
        assert refused(entry) == (code, "gpu 0 certificates")
    LAB.verify(msgspec.structs.replace(GOOD, certificates=CHIP.pem + b"\n\n"))


def test_chain_window_and_curve():
    assert refused(GOOD, now=NOW + 301 * DAY)[0] == "attest.nvidia-device-chain-expired"
    p256 = LAB.chip(key=ec.generate_private_key(ec.SECP256R1()))
    assert refused(LAB.entry(p256, report=GOOD.report), rules=LAX)[0] == "attest.certificate-key-unsupported"
    ca = LAB.chip(ca=True)
    assert refused(LAB.entry(ca), rules=LAX)[0] == "attest.nvidia-device-chain-invalid"


def test_leaf_without_key_usage():
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(CHIP.leaf.issuer.certificate.subject)
        .public_key(CHIP.leaf.key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(CHIP.leaf.issuer.key, hashes.SHA384())
    )
    leaf = type(CHIP.leaf)(CHIP.leaf.key, bare, CHIP.leaf.issuer)
    assert refused(LAB.entry(Chip(leaf, "gpu", CHIP.pdi)), rules=LAX)[0] == "attest.nvidia-device-chain-invalid"


# --- revocation status


DEVICE = CHIP.leaf.issuer


def with_status(*responses: bytes, drop=DEVICE) -> DeviceEvidence:
    """Return the evidence with other responses about one certificate."""
    kept = [response for party, response in zip(LAB.asked(CHIP), GOOD.ocsp, strict=True) if party is not drop]
    return msgspec.structs.replace(GOOD, ocsp=(*kept, *responses))


@pytest.mark.parametrize("position", range(6))
def test_status_of_every_certificate_is_required(position):
    party = LAB.asked(CHIP)[position]
    entry = with_status(drop=party)
    assert len(entry.ocsp) == 5
    step = "gpu 0 certificates" if party in CHIP.leaf.chain else "gpu 0 measurements"
    assert refused(entry) == ("attest.nvidia-ocsp-missing", step)
    LAB.verify(entry, rules=NvidiaRules(ocsp="if-present"))
    revoked = ocsp_response(party, status=ocsp.OCSPCertStatus.REVOKED)
    assert refused(with_status(revoked, drop=party), rules=NvidiaRules(ocsp="if-present")) == (
        "attest.nvidia-certificate-revoked",
        step,
    )


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_issuer_may_sign_itself(algorithm):
    LAB.verify(with_status(ocsp_response(DEVICE, algorithm=algorithm)))


def test_status_window_and_grace():
    old = with_status(ocsp_response(DEVICE, this_update=NOW - 3 * DAY, next_update=NOW - DAY))
    assert refused(old)[0] == "attest.nvidia-ocsp-expired"
    (device,) = LAB.verify(old, rules=NvidiaRules(ocsp_grace_s=90_000))
    assert device.not_after == NOW + timedelta(hours=1)
    assert refused(old, rules=NvidiaRules(ocsp_grace_s=86_399))[0] == "attest.nvidia-ocsp-expired"
    soon = with_status(ocsp_response(DEVICE, this_update=NOW + timedelta(minutes=4)))
    LAB.verify(soon)  # clocks differ
    later = with_status(ocsp_response(DEVICE, this_update=NOW + timedelta(minutes=6)))
    assert refused(later)[0] == "attest.nvidia-ocsp-not-yet-valid"
    for entry in (old, later):
        LAB.verify(entry, rules=NvidiaRules(ocsp="if-present"))  # as if it were not there


def test_a_manifest_with_no_value_that_counts():
    empty = [LAB.rim(version=VBIOS, references={}), *GOOD.rims[:1]]
    assert refused(msgspec.structs.replace(GOOD, rims=tuple(empty)))[0] == "attest.nvidia-rim-empty"


def test_status_at_both_ends_of_time():
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    taken = ocsp_response(DEVICE).replace(f"{NOW - timedelta(hours=1):%Y%m%d%H%M%SZ}".encode(), b"00010101000000Z")
    assert refused(with_status(taken, drop=DEVICE))[0] == "attest.nvidia-ocsp-signature-invalid"
    assert ocsp.load_der_ocsp_response(taken).this_update_utc == first
    LAB.verify(with_status(ocsp_response(DEVICE, next_update=last)), rules=NvidiaRules(ocsp_grace_s=3600))


def test_status_with_a_name_that_can_not_be_read():
    def oid(text: str) -> bytes:
        return octets(bytes.fromhex(text), 6)

    time = octets(b"20260601000000Z", 0x18)
    extension = sequence(oid("551d1d"), octets(sequence(octets(b"", 0xA3))))  # its issuer, as an x400Address
    about = sequence(sequence(oid("2b0e03021a")), octets(b""), octets(b""), octets(b"\1", 2))
    status = sequence(about, octets(b"", 0x80), time, octets(time, 0xA0), octets(sequence(extension), 0xA1))
    told = sequence(octets(octets(b""), 0xA2), time, sequence(status))
    basic = sequence(told, sequence(oid("2a8648ce3d040303")), octets(b"\0", 3))
    response = sequence(octets(b"\0", 10), octets(sequence(oid("2b0601050507300101"), octets(basic)), 0xA0))
    with pytest.raises(x509.UnsupportedGeneralNameType):
        list(ocsp.load_der_ocsp_response(response).single_extensions)
    assert refused(with_status(response))[0] == "attest.nvidia-ocsp-malformed"


def test_latest_status_counts():
    good = ocsp_response(DEVICE, this_update=NOW - timedelta(hours=2))
    revoked = ocsp_response(DEVICE, status=ocsp.OCSPCertStatus.REVOKED)
    for order in ((good, revoked), (revoked, good)):
        assert refused(with_status(*order))[0] == "attest.nvidia-certificate-revoked"


def test_status_unknown_and_on_hold():
    unknown = with_status(ocsp_response(DEVICE, status=ocsp.OCSPCertStatus.UNKNOWN))
    assert refused(unknown)[0] == "attest.nvidia-certificate-status-unknown"
    hold = {"status": ocsp.OCSPCertStatus.REVOKED, "reason": x509.ReasonFlags.certificate_hold}
    suspended = with_status(ocsp_response(DEVICE, **hold))
    assert refused(suspended)[0] == "attest.nvidia-certificate-on-hold"
    LAB.verify(suspended, rules=NvidiaRules(accept_hold=True))
    leaked = with_status(ocsp_response(DEVICE, **{**hold, "reason": x509.ReasonFlags.key_compromise}))
    assert refused(leaked, rules=NvidiaRules(accept_hold=True))[0] == "attest.nvidia-certificate-revoked"


def test_status_of_another_certificate_or_issuer():
    twin = make("GH100 A01 GSP BROM", LAB.identity, serial=DEVICE.certificate.serial_number)
    assert refused(with_status(ocsp_response(twin)))[0] == "attest.nvidia-ocsp-missing"
    namesake = make("Lab GH100 Provisioner", LAB.identity)
    forged = ocsp_response(DEVICE, issuer=namesake)
    assert refused(with_status(forged))[0] == "attest.nvidia-ocsp-missing"


def test_responders():
    provisioner = DEVICE.issuer
    stranger = make("Lab GH100 Provisioner")
    server = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    for responder, code in (
        (responder_of(stranger), "attest.nvidia-ocsp-responder-chain-invalid"),
        (responder_of(LAB.identity), "attest.nvidia-ocsp-responder-chain-invalid"),
        (responder_of(provisioner, end=NOW - DAY), "attest.nvidia-ocsp-responder-chain-expired"),
        (make("Other", provisioner, ca=False), "attest.nvidia-ocsp-responder-invalid"),
        (make("Other", provisioner, ca=False, extensions=(server,)), "attest.nvidia-ocsp-responder-invalid"),
    ):
        assert refused(with_status(ocsp_response(DEVICE, responder=responder)))[0] == code


def test_responder_counts_while_its_response_did():
    """Its certificate may end within the grace, as the response did."""
    responder = responder_of(DEVICE.issuer, end=NOW - timedelta(hours=12))
    entry = with_status(ocsp_response(DEVICE, responder=responder, this_update=NOW - 2 * DAY, next_update=NOW - DAY))
    LAB.verify(entry, rules=NvidiaRules(ocsp_grace_s=90_000))


def test_status_signed_by_nobody():
    response = bytearray(ocsp_response(DEVICE))
    response[-1] ^= 1
    assert refused(with_status(bytes(response)))[0] == "attest.nvidia-ocsp-signature-invalid"


def unused_bits() -> list[bytes]:
    """Return a response whose signature says that its last bit, which is zero, does not belong to it."""
    while True:
        response = ocsp_response(DEVICE)
        signature = ocsp.load_der_ocsp_response(response).signature
        if not signature[-1] & 1:
            return [response.replace(b"\0" + signature, b"\1" + signature)]


def test_status_malformed():
    error = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER)
    for response in (
        b"",
        b"\x30",
        error,
        bytes(17 << 10),
        ocsp_response(DEVICE) + b"\0",
        ocsp_response(DEVICE, next_update=None),
        ocsp_response(DEVICE, extension=True),
        ocsp_response(DEVICE, algorithm=hashes.SHA224()),
        *unused_bits(),
    ):
        assert refused(with_status(response)) == ("attest.nvidia-ocsp-malformed", "gpu 0 certificates")


def test_status_signed_with_another_hash():
    builder = ocsp.OCSPResponseBuilder().add_response(
        DEVICE.certificate,
        DEVICE.issuer.certificate,
        hashes.SHA384(),
        ocsp.OCSPCertStatus.GOOD,
        NOW - DAY,
        NOW + DAY,
        None,
        None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, DEVICE.issuer.certificate)
    signed = builder.sign(DEVICE.issuer.key, hashes.SHA256())
    der = signed.public_bytes(Encoding.DER)
    assert refused(with_status(der))[0] == "attest.nvidia-ocsp-signature-invalid"


# --- several devices


def test_endorsements_are_shared_and_may_come_from_elsewhere():
    other = LAB.chip(pdi=b"chip0002")
    (first, second) = LAB.verify(
        LAB.entry(CHIP), LAB.entry(other), endorsements=endorsements(LAB, CHIP, other), rules=NvidiaRules(min_gpus=2)
    )
    assert first.ueid != second.ueid
    more = msgspec.structs.replace(GOOD, ocsp=(*GOOD.ocsp, *LAB.statuses(other)))
    LAB.verify(LAB.entry(other), more)


def test_counts():
    assert refused(rules=NvidiaRules(min_gpus=1)) == ("attest.nvidia-too-few-gpus", "device set")
    assert refused(GOOD, rules=NvidiaRules(min_gpus=2))[0] == "attest.nvidia-too-few-gpus"
    assert refused(GOOD, rules=NvidiaRules(min_switches=1))[0] == "attest.nvidia-too-few-switches"
    assert LAB.verify() == ()


def test_one_device_shown_twice():
    assert refused(GOOD, GOOD) == ("attest.nvidia-device-repeated", "device set")
    leaf = make("GH100 A01 GSP FMC LF", DEVICE, ca=False, extensions=(fwid_extension(),))
    again = LAB.entry(Chip(leaf, "gpu", CHIP.pdi))
    assert refused(GOOD, again, rules=NvidiaRules(min_gpus=2))[0] == "attest.nvidia-device-repeated"


def test_drivers_differ():
    other = LAB.chip(pdi=b"chip0002")
    entry = LAB.entry(other, report=LAB.report(other, opaque=gpu_opaque(f3=b"570.10.21\0")))
    assert refused(GOOD, entry, rules=LAX) == ("attest.nvidia-drivers-differ", "device set")
    LAB.verify(GOOD, entry, rules=rules(same_driver=False))


def with_rims(entries: list[DeviceEvidence]) -> list[DeviceEvidence]:
    return [msgspec.structs.replace(entries[0], rims=LAB.rims()), *entries[1:]]


def test_fabric():
    checks = Checklist()
    devices = LAB.verify(*with_rims(LAB.fabric()), rules=FABRIC_RULES, checks=checks)
    assert [device.kind for device in devices] == ["gpu", "gpu", "switch", "switch"]
    assert devices[2].chip == "LS10"
    assert ("firmware", "96.10.6D.00.01") in devices[2].summary()
    assert checks.passed[-1][1] == "2 GPUs and 2 switches name each other"


@pytest.mark.parametrize("missing", range(4))
def test_fabric_with_a_device_missing(missing):
    entries = LAB.fabric()
    del entries[missing]
    lax = rules(modes=("ppcie",))
    assert refused(*entries, rules=lax) == ("attest.nvidia-fabric-mismatch", "fabric")
    LAB.verify(*entries, rules=rules(modes=("ppcie",), fabric=False))


def test_fabric_with_a_stranger():
    strangers = {"gpu": LAB.chip(pdi=b"stranger"), "switch": LAB.chip("switch", b"stranger")}
    lone = LAB.entry(strangers["gpu"])
    assert refused(*LAB.fabric(), lone, rules=rules(modes=("ppcie", "spt")))[0] == "attest.nvidia-fabric-mismatch"
    opaque = switch_opaque(b"stranger", [b"gpu00000", b"gpu00001"])
    switch = LAB.entry(strangers["switch"], report=LAB.report(strangers["switch"], opaque=opaque))
    assert refused(*LAB.fabric(), switch, rules=rules(modes=("ppcie",)))[0] == "attest.nvidia-fabric-mismatch"


def test_switch():
    chip = LAB.chip("switch", b"switch01")

    def switch(**opaque) -> DeviceEvidence:
        return LAB.entry(
            chip, report=LAB.report(chip, opaque=switch_opaque(b"switch01", [], **opaque)), rims=LAB.rims()
        )

    alone = rules(fabric=False)
    (device,) = LAB.verify(switch(), rules=alone)
    assert (device.driver, device.mode, device.measured) == ("", "", "10 of 40 as NVIDIA published")
    assert refused(switch(f22=b"switch02"), rules=alone) == ("attest.nvidia-pdi-mismatch", "switch 0 configuration")
    assert refused(switch(f22=None), rules=alone)[0] == "attest.nvidia-pdi-mismatch"
    entry = msgspec.structs.replace(switch(), rims=())
    assert refused(entry, rules=NvidiaRules(ocsp="if-present"))[0] == "attest.nvidia-bios-rim-missing"


def test_kinds_are_not_mistaken():
    """A GPU is no switch and a switch no GPU, whatever the evidence says."""
    assert refused(msgspec.structs.replace(GOOD, kind="switch"))[0] in {
        "attest.nvidia-pdi-mismatch",
        "attest.nvidia-report-malformed",
    }
    chip = LAB.chip("switch", b"switch01")
    report = LAB.report(chip, opaque=switch_opaque(b"switch01", []))
    assert refused(LAB.entry(chip, kind="gpu", report=report), rules=LAX)[0] == "attest.nvidia-report-malformed"


# --- remembering


def test_cache_remembers_only_what_verified_and_only_as_long():
    cache = VerifiedCache()
    first = LAB.verify(GOOD, cache=cache)
    assert LAB.verify(GOOD, cache=cache) == first
    assert refused(GOOD, cache=cache, now=NOW + timedelta(hours=24))[0] == "attest.nvidia-ocsp-expired"
    assert refused(with_status(), cache=cache)[0] == "attest.nvidia-ocsp-missing"
    revoked = with_status(*GOOD.ocsp[:1], ocsp_response(DEVICE, status=ocsp.OCSPCertStatus.REVOKED, this_update=NOW))
    assert refused(revoked, cache=cache)[0] == "attest.nvidia-certificate-revoked"
    for change, code in (
        ({"measurements": {**MEASUREMENTS, 7: bytes(48)}}, "attest.nvidia-driver-measurement-mismatch"),
        ({"nonce": NONCE}, "attest.nvidia-nonce-mismatch"),
    ):
        assert refused(gpu(**change), cache=cache)[0] == code
    assert refused(GOOD, cache=cache, roots=NVIDIA)[0] == "attest.nvidia-root-untrusted"


def test_cache_does_not_outlive_the_rules():
    cache = VerifiedCache()
    hold = ocsp_response(DEVICE, status=ocsp.OCSPCertStatus.REVOKED, reason=x509.ReasonFlags.certificate_hold)
    suspended = with_status(hold)
    LAB.verify(suspended, cache=cache, rules=NvidiaRules(accept_hold=True))
    assert refused(suspended, cache=cache)[0] == "attest.nvidia-certificate-on-hold"
    bare = msgspec.structs.replace(GOOD, ocsp=(), rims=())
    LAB.verify(bare, cache=cache, rules=LAX)
    assert refused(bare, cache=cache, rules=rules(ocsp="required"))[0] == "attest.nvidia-ocsp-missing"
    assert refused(bare, cache=cache, rules=rules(rims="required"))[0] == "attest.nvidia-driver-rim-missing"


# --- rules and names


@pytest.mark.parametrize(
    "change",
    [
        {"min_gpus": -1},
        {"min_switches": -1},
        {"ocsp_grace_s": -1},
        {"ocsp_grace_s": 10**12},
        {"min_driver": "latest"},
        {"min_driver": ""},
        {"nras_roots": ("00",)},
    ],
)
def test_rules_that_are_none(change):
    with pytest.raises(ParseError) as refusal:
        NvidiaRules(**change)
    assert refusal.value.code == "attest.policy-malformed"


def test_unknown_rules_are_refused():
    for table in ({"modes": ["plain"]}, {"ocsp": "never"}, {"rim": "required"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(table, NvidiaRules)


def test_manifest_names():
    assert rim_names(GOOD) == ("NV_GPU_DRIVER_GH100_570.10.20", "NV_GPU_VBIOS_1010_0200_882_96009F0001")
    assert rim_names(gpu({"f35": b"GB100\0"}))[0] == "NV_GPU_CC_DRIVER_GB100_570.10.20"
    chip = LAB.chip("switch", b"switch01")
    entry = LAB.entry(chip, report=LAB.report(chip, opaque=switch_opaque(b"switch01", [])))
    assert rim_names(entry) == ("NV_SWITCH_BIOS_5612_0002_890_96106D0001",)
