"""/dev/tpmrm0: a TPM's commands, and the evidence of Azure's, Google's and other machines from them."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest_collect_lab import (
    FakeKernel,
    FakeTpm,
    FakeTsm,
    Nv,
    azure_quotes,
    http_service,
    ok,
    tdreport,
)
from attest_lab import NOW
from attest_snp_lab import amd
from attest_tpm_lab import AIK, LabPolicy, SoftTpm, authority, claims, ec_key, hcl_report, instance, lax
from mitai.attest import azure, gcp
from mitai.attest.azure import AzureRules
from mitai.attest.azure.rules import MICROSOFT_ID_KEYS
from mitai.attest.checks import Checklist
from mitai.attest.collect import tpm as commands
from mitai.attest.collect import vtpm
from mitai.attest.collect.guest import ATTEMPTS
from mitai.attest.collect.tpm import Tpm
from mitai.attest.gcp import GcpRules
from mitai.attest.tpm import TpmEvidence
from mitai.attest.tpm.verify import appraise as appraise_tpm

DATA = bytes(range(64))
AZURE_HTTP = (socket.AF_INET, ("169.254.169.254", 80))
ID_KEY = bytes.fromhex(MICROSOFT_ID_KEYS[0])
AK = 0x81000003
OWNER_READS, BY_ITSELF = 1 << 17, 1 << 18 | 1 << 2


@pytest.fixture
def kernel(tmp_path):
    kernel = FakeKernel(tmp_path)
    yield kernel
    kernel.end()


@pytest.fixture
def fake(kernel) -> FakeTpm:
    fake = FakeTpm(tpm=SoftTpm())
    fake.handles[AK] = fake.tpm.public()
    fake.tpm.extend(7, b"secure boot policy")
    kernel.plug("dev/tpmrm0", fake)
    return fake


# --- commands -------------------------------------------------------------------------------------------------------


def test_memory(kernel, fake, refused):
    fake.nv = {1: Nv(bytes(range(256)) * 6), 2: Nv(b"short", BY_ITSELF), 3: Nv(b"")}
    with Tpm.open(kernel.guest) as tpm:
        assert tpm.nv_read(1) == bytes(range(256)) * 6
        assert tpm.nv_read(2) == b"short"
        assert tpm.nv_read(3) == b""
        assert tpm.nv_index(4) is None
        with refused("attest.collect-nv-missing"):
            tpm.nv_read(4)
        tpm.nv_write(2, b"SHORT")
        assert tpm.nv_read(2) == b"SHORT"
        tpm.nv_write(5, b"new")
        assert tpm.nv_read(5) == b"new"
    assert fake.nv[5].attributes == OWNER_READS | 1 << 1


def test_memory_that_may_not_be_read(kernel, fake, refused):
    fake.nv = {1: Nv(b"secret", 0)}
    with Tpm.open(kernel.guest) as tpm, refused("attest.collect-tpm-error") as refusal:
        tpm.nv_read(1)
    assert "0x149" in refusal.value.message
    assert "may not be read" in refusal.value.message


def test_memory_too_large(kernel, fake, refused):
    fake.nv = {1: Nv(bytes(33 << 10))}
    with Tpm.open(kernel.guest) as tpm, refused("attest.collect-malformed"):
        tpm.nv_read(1)


def test_registers(kernel, fake, refused):
    fake.at_once = 5
    with Tpm.open(kernel.guest) as tpm:
        assert tuple(tpm.pcr_read(11, range(24)).values()) == fake.tpm.values()
        assert list(tpm.pcr_read(11, (7, 3))) == [7, 3]
        with refused("attest.collect-pcr-bank-missing"):
            tpm.pcr_read(12, range(24))


@pytest.mark.parametrize("code", [0x922, 0x908, 0x90A])
def test_busy(kernel, fake, refused, code):
    fake.codes = [code] * (ATTEMPTS - 1)
    with Tpm.open(kernel.guest) as tpm:
        assert tpm.read_public(AK) == fake.tpm.public()
        fake.codes = [code] * ATTEMPTS
        with refused("attest.collect-tpm-error"):
            tpm.read_public(AK)


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x101, "self-test"), (0x921, "locked"), (0x18B, "no such key"), (0x9A2, "password"), (0x143, "part 2")],
)
def test_response_codes(kernel, fake, refused, code, words):
    fake.codes = [code]
    with Tpm.open(kernel.guest) as tpm, refused("attest.collect-tpm-error") as refusal:
        tpm.read_public(AK)
    assert words in refusal.value.message


CHANGES = {
    "nothing": lambda answer: b"\0",
    "short": lambda answer: answer[:9],
    "size too small": lambda answer: answer[:2] + b"\0\0\0\x0a" + answer[6:],
    "size too large": lambda answer: answer[:2] + b"\0\1\0\0" + answer[6:],
    "another tag": lambda answer: b"\x80\x03" + answer[2:],
    "truncated": lambda answer: answer[:2] + struct.pack(">I", len(answer) - 1) + answer[6:-1],
    "followed": lambda answer: answer[:2] + struct.pack(">I", len(answer) + 1) + answer[6:] + b"\0",
    "empty": lambda answer: answer[:2] + struct.pack(">I", 10) + answer[6:10],
    "too much": lambda answer: answer.ljust(5000, b"\0"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", [0x169, 0x14E, 0x137, 0x173, 0x17E, 0x158, 0x131])
def test_answers_that_are_nonsense(kernel, fake, refused, command, change):
    fake.nv = {1: Nv(b"content", BY_ITSELF)}
    fake.templates = {fake.tpm.public(): 0x80000000}
    fake.change = lambda number, answer: CHANGES[change](answer) if number == command else answer
    with Tpm.open(kernel.guest) as tpm, refused("attest.collect-malformed"):
        match command:
            case 0x169 | 0x14E:
                tpm.nv_read(1)
            case 0x137:
                tpm.nv_write(1, b"other")
            case 0x173:
                tpm.read_public(AK)
            case 0x17E:
                tpm.pcr_read(11, (1, 2))
            case 0x158:
                vtpm._quoted(tpm, kernel.guest, AK, DATA)
            case 0x131:
                tpm.create_primary(0x4000000B, fake.tpm.public())


def test_answers_about_something_else(kernel, fake, refused):
    fake.nv = {1: Nv(b"content"), 2: Nv(b"other")}
    with Tpm.open(kernel.guest) as tpm:
        fake.change = lambda command, answer: answer.replace(b"\0\0\0\1\0\x0b", b"\0\0\0\2\0\x0b")
        with refused("attest.collect-malformed"):
            tpm.nv_read(1)
        fake.change = lambda command, answer: answer.replace(
            struct.pack(">H", 7) + b"content", struct.pack(">H", 3) + b"content"
        )
        with refused("attest.collect-malformed"):
            tpm.nv_read(1)
        less = commands.tpm2b(b"con")
        body = struct.pack(">I", len(less)) + less + struct.pack(">HBH", 0, 1, 0)
        fake.change = lambda command, answer: (
            struct.pack(">HII", 0x8002, 10 + len(body), 0) + body if command == 0x14E else answer
        )
        with refused("attest.collect-malformed"):
            tpm.nv_read(1)
        fake.change = lambda command, answer: answer[:21] + b"\0\0\x10" + answer[24:] if command == 0x17E else answer
        with refused("attest.collect-malformed"):
            tpm.pcr_read(11, (1,))


def test_a_silent_tpm(kernel, fake, refused, monkeypatch):
    monkeypatch.setattr(commands, "TIMEOUT_S", 0.05)
    fake.silent = True
    with refused("attest.collect-timeout"), Tpm.open(kernel.guest) as tpm:
        tpm.read_public(AK)


def test_a_kernel_that_announces_an_answer_too_early(kernel, fake, refused):
    fake.early = True
    with Tpm.open(kernel.guest) as tpm:
        assert tpm.read_public(AK) == fake.tpm.public()
    fake.respond = lambda message: b""
    with refused("attest.collect-malformed"), Tpm.open(kernel.guest) as tpm:
        for _ in range(ATTEMPTS):  # so that there are empty answers enough
            commands.os.write(tpm._device, b"x")
        tpm.read_public(AK)


def test_a_partial_write(kernel, fake, refused, monkeypatch):
    write = commands.os.write
    monkeypatch.setattr(commands.os, "write", lambda device, data: write(device, data[:5]))
    fake.respond = lambda message: b""
    with refused("attest.collect-malformed"), Tpm.open(kernel.guest) as tpm:
        tpm.read_public(AK)


def test_no_tpm_or_no_permission(kernel, refused):
    with refused("attest.collect-missing"):
        vtpm.collect_azure(DATA, guest=kernel.guest)
    kernel.plug("dev/tpmrm0", FakeTpm())
    kernel.denied.add("dev/tpmrm0")
    with refused("attest.collect-permission"):
        vtpm.collect_azure(DATA, guest=kernel.guest)


# --- Azure ----------------------------------------------------------------------------------------------------------


def azure_snp(fake: FakeTpm, user_data: bytes = bytes(64)) -> bytes:
    runtime = claims(fake.tpm, user_data=user_data)
    return hcl_report(amd().report({0x50: hashlib.sha256(runtime).digest() + bytes(32), 0xE0: ID_KEY}), runtime)


def azure_td(fake: FakeTpm) -> bytes:
    runtime = claims(fake.tpm)
    return hcl_report(tdreport(hashlib.sha256(runtime).digest() + bytes(32)), runtime, kind=4)


def verify_azure(hardware, policy=None):
    endorsed = guests_replace(hardware, endorsements={"vek": amd().vek(), "chain": amd().chain()})
    return azure.appraise(Checklist(), endorsed, policy or LabPolicy(), now=NOW, snp_trust=amd().trust)


def guests_replace(hardware, **changes):
    import msgspec

    return msgspec.structs.replace(hardware, **changes)


def test_azure_on_snp(kernel, fake):
    fake.nv[vtpm.AZURE_REPORT] = Nv(azure_snp(fake))
    hardware = vtpm.collect_azure(DATA, guest=kernel.guest)
    machine = verify_azure(hardware)
    assert machine.tee == "az-snp-vtpm"
    assert machine.report_data == DATA
    assert machine.measurements["pcr7"] == fake.tpm.values()[7].hex()
    assert fake.commands.count(0x137) == 0  # nothing is written


def test_azure_with_the_hardware_bound(kernel, fake):
    """The paravisor makes its report some time after user data was written."""
    fake.nv[vtpm.AZURE_REPORT] = Nv(azure_snp(fake))
    reads = []

    def later(index: int) -> None:
        if index == vtpm.AZURE_REPORT:
            reads.append(index)
        if len(reads) == 3:
            fake.nv[index].data = azure_snp(fake, fake.nv[vtpm.AZURE_USER_DATA].data)

    fake.before_read = later
    hardware = vtpm.collect_azure(DATA, guest=kernel.guest, bind_user_data=True)
    assert kernel.slept == [1.0, 1.0]
    machine = verify_azure(hardware, LabPolicy(azure=AzureRules(bind_user_data=True)))
    assert machine.report_data == DATA


def test_azure_whose_user_data_another_writes(kernel, fake, refused):
    fake.nv[vtpm.AZURE_REPORT] = Nv(azure_snp(fake, bytes([7]) * 64))
    with refused("attest.collect-timeout"):
        vtpm.collect_azure(DATA, guest=kernel.guest, bind_user_data=True)
    assert len(kernel.slept) == vtpm.REFRESH_ATTEMPTS


def test_azure_on_tdx(kernel, fake, lab):
    fake.nv[vtpm.AZURE_REPORT] = Nv(azure_td(fake))
    kernel.services[AZURE_HTTP] = azure_quotes(lab)
    hardware = vtpm.collect_azure(DATA, guest=kernel.guest)
    assert hardware.tee == "az-tdx-vtpm"
    hardware = guests_replace(hardware, collateral=lab.platform.collateral())
    policy = lax(azure=AzureRules(mrtds=("any",)), allow_simulation=True, sim_roots=lab.policy.sim_roots)
    assert azure.appraise(Checklist(), hardware, policy, now=NOW).report_data == DATA


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ok({"error": "no"}, "500 Internal Server Error"), "attest.collect-failed"),
        (ok({"other": "field"}), "attest.collect-malformed"),
        (ok(b"[" * 2000), "attest.collect-malformed"),
        (ok(b"\xff"), "attest.collect-malformed"),
        (ok({"quote": "a"}), "attest.collect-malformed"),  # no base64
        (ok({"quote": "\N{SNOWMAN}"}), "attest.collect-malformed"),
        (ok({"quote": "AAAA"}), "attest.collect-malformed"),  # no quote
        (ok(bytes(1 << 20) + b"\0"), "attest.collect-oversized"),
        (b"this is not HTTP\r\n\r\n", "attest.collect-malformed"),
        (b"", "attest.collect-failed"),  # it hangs up
        (ok({})[:-1], "attest.collect-malformed"),
    ],
    ids=range(11),
)
def test_azure_quote_service_answers_nonsense(kernel, fake, refused, answer, code):
    fake.nv[vtpm.AZURE_REPORT] = Nv(azure_td(fake))
    kernel.services[AZURE_HTTP] = http_service(lambda line, body: answer)
    with refused(code):
        vtpm.collect_azure(DATA, guest=kernel.guest)


def test_azure_quote_service_gone_or_slow(kernel, fake, refused, monkeypatch):
    fake.nv[vtpm.AZURE_REPORT] = Nv(azure_td(fake))
    with refused("attest.collect-missing"):
        vtpm.collect_azure(DATA, guest=kernel.guest)
    from mitai.attest.collect import http

    monkeypatch.setattr(http, "TIMEOUT_S", -1.0)  # every answer comes too late
    kernel.services[AZURE_HTTP] = http_service(lambda line, body: ok({"quote": ""}))
    with refused("attest.collect-timeout"):
        vtpm.collect_azure(DATA, guest=kernel.guest)


@pytest.mark.parametrize("damage", [lambda report: b"", lambda report: b"X" + report[1:]])
@pytest.mark.parametrize("bind", [False, True])
def test_azure_report_malformed(kernel, fake, refused, damage, bind):
    fake.nv[vtpm.AZURE_REPORT] = Nv(damage(azure_snp(fake)))
    with refused("attest.collect-malformed"):
        vtpm.collect_azure(DATA, guest=kernel.guest, bind_user_data=bind)


def test_azure_claims_malformed(kernel, fake, refused):
    fake.nv[vtpm.AZURE_REPORT] = Nv(hcl_report(amd().report(), json.dumps({"keys": 5}).encode()))
    with refused("attest.collect-malformed"):
        vtpm.collect_azure(DATA, guest=kernel.guest, bind_user_data=True)


# --- Google ---------------------------------------------------------------------------------------------------------


def google(fake: FakeTpm, indices=vtpm.GCP_KEYS[0]) -> bytes:
    """Provision the TPM as Google does; return the certificates above the key's."""
    chain = x509.load_pem_x509_certificates(authority().chain(fake.tpm, instance=instance()))
    template = fake.tpm.public()
    fake.nv |= {indices[0]: Nv(chain[0].public_bytes(Encoding.DER)), indices[1]: Nv(template)}
    fake.templates[template] = 0x80FFFFFF
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain[1:])


def test_google_beside_snp(kernel, fake):
    issuers = google(fake)
    kernel.write("dev/sev-guest", b"")
    kernel.mount_tsm(FakeTsm("sev_guest", lambda data, _: amd().report({0x50: data}), floor=0))
    hardware = vtpm.collect_gcp(DATA, guest=kernel.guest, ak_issuers=issuers)
    endorsements = {**hardware.endorsements, "vek": amd().vek(), "chain": amd().chain()}
    policy = LabPolicy(gcp=GcpRules(roots=(authority().pin,)))
    machine = gcp.appraise(
        Checklist(), guests_replace(hardware, endorsements=endorsements), policy, now=NOW, snp_trust=amd().trust
    )
    assert machine.report_data == DATA
    assert machine.title == "Google Compute Engine vTPM beside AMD SEV-SNP"


def test_google_alone_with_a_p256_key(kernel):
    fake = FakeTpm(tpm=SoftTpm(key=ec_key()))
    kernel.plug("dev/tpmrm0", fake)
    issuers = google(fake, vtpm.GCP_KEYS[1])
    kernel.write("sys/kernel/config/tsm/report/x", b"")  # the interface alone, without a processor's driver
    hardware = vtpm.collect_gcp(DATA, guest=kernel.guest, ak_issuers=issuers)
    policy = LabPolicy(gcp=GcpRules(roots=(authority().pin,), hardware=()))
    assert gcp.appraise(Checklist(), hardware, policy, now=NOW).report_data == DATA


def test_google_with_a_size_before_the_template(kernel, fake):
    google(fake)
    template = fake.nv[vtpm.GCP_KEYS[0][1]]
    template.data = commands.tpm2b(template.data)
    assert vtpm.collect_gcp(DATA, guest=kernel.guest).tee == "gcp-vtpm"


def test_google_not_provisioned(kernel, fake, refused):
    with refused("attest.collect-nv-missing"):
        vtpm.collect_gcp(DATA, guest=kernel.guest)
    google(fake)
    fake.nv[vtpm.GCP_KEYS[0][1]].data += b"another template"
    with refused("attest.collect-tpm-error"):
        vtpm.collect_gcp(DATA, guest=kernel.guest)
    fake.nv[vtpm.GCP_KEYS[0][0]].data = b"no certificate"
    with refused("attest.collect-malformed"):
        vtpm.collect_gcp(DATA, guest=kernel.guest)


# --- any TPM --------------------------------------------------------------------------------------------------------


def test_a_tpm_whose_key_is_known(kernel, fake):
    hardware = vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)
    machine = appraise_tpm(Checklist(), hardware, fake.tpm.policy(), now=NOW)
    assert machine.report_data == DATA
    assert hardware.event_log == b""
    assert TpmEvidence.decode(hardware.quote).ima_log == b""


def test_a_tpm_whose_key_is_certified(kernel, fake):
    chain = authority().chain(fake.tpm, extended=AIK)
    hardware = vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest, ak_chain=chain)
    policy = fake.tpm.policy(aks=(), roots=(authority().pin,))
    assert appraise_tpm(Checklist(), hardware, policy, now=NOW - timedelta(days=1)).report_data == DATA


def test_logs_come_along(kernel, fake):
    kernel.write("sys/kernel/security/tpm0/binary_bios_measurements", b"the log")
    kernel.write("sys/kernel/security/ima/ascii_runtime_measurements", b"the list")
    hardware = vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest, with_ima=True)
    assert hardware.event_log == b"the log"
    assert TpmEvidence.decode(hardware.quote).ima_log == b"the list"
    kernel.denied.add("sys/kernel/security/tpm0/binary_bios_measurements")
    assert vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest).event_log == b""


def test_a_log_above_its_limit(kernel, fake, refused):
    kernel.write("sys/kernel/security/tpm0/binary_bios_measurements", bytes((1 << 20) + 1))
    with refused("attest.collect-oversized"):
        vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)


def test_registers_that_move_between_reading_and_quoting(kernel, fake, refused):
    moves = []

    def move() -> None:
        if len(moves) < 2:
            moves.append(fake.tpm.extend(10, b"a file"))

    fake.before_quote = move
    hardware = vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)
    assert fake.commands.count(0x158) == 3
    assert appraise_tpm(Checklist(), hardware, fake.tpm.policy(), now=NOW).report_data == DATA
    fake.before_quote = lambda: fake.tpm.extend(10, b"a file")
    with refused("attest.collect-registers-changing"):
        vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)


def test_a_quote_over_other_data(kernel, fake, refused):
    attest = fake.tpm.attest
    fake.tpm.attest = lambda extra, **changes: attest(bytes(32), **changes)
    with refused("attest.collect-malformed"):
        vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)


def test_a_quote_that_no_tpm_made(kernel, fake, refused):
    attest = fake.tpm.attest
    fake.tpm.attest = lambda extra, **changes: attest(extra, **changes, magic=b"None")
    with refused("attest.collect-malformed"):
        vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)


def test_a_signature_of_an_unknown_hash(kernel, fake, refused):
    sign = fake.tpm.sign
    fake.tpm.sign = lambda message: sign(message, hash_algorithm=0x99)
    with refused("attest.collect-malformed"):
        vtpm.collect_tpm(DATA, ak_handle=AK, guest=kernel.guest)


def test_no_key_at_the_handle(kernel, fake, refused):
    with refused("attest.collect-tpm-error") as refusal:
        vtpm.collect_tpm(DATA, ak_handle=0x81010001, guest=kernel.guest)
    assert "no such key" in refusal.value.message
