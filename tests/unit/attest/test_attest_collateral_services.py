"""Collateral from services: complete, cached, packed; with the other end slow, stale, wrong, too large and gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx2
import msgspec
import pytest

import attest_csv_lab
from attest_lab import NOW, WORKLOAD, Lab, replace
from attest_nvidia_lab import NvidiaRules
from attest_services_lab import Answer, Vendors, serving
from attest_snp_lab import amd
from mitai.attest import Hardware, verify_hardware
from mitai.attest.collateral import (
    Bundle,
    Cache,
    HttpTransport,
    Item,
    Recorder,
    Resource,
    Services,
    complete,
    device_endorsements,
)
from mitai.attest.collateral.resource import crl_der, window
from mitai.attest.nvidia import encode_devices
from mitai.attest.sim import intel, registers
from mitai.errors import AttestError, MitaiError, ParseError
from mitai.identity import Identity

LATER = NOW + timedelta(days=2)


class Clock:
    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("machine") / "platform")


@pytest.fixture
def vendors(lab):
    return Vendors(lab)


@pytest.fixture
def services(vendors):
    with serving(vendors) as services:
        yield services


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(tmp_path, clock):
    transport = HttpTransport(httpx2.Client(timeout=2.0, trust_env=False), attempts=2, within_s=2.0)
    return Cache(transport, tmp_path / "cache", clock)


@pytest.fixture
def quote(lab) -> Hardware:
    return Hardware(tee="tdx", quote=lab.platform.quote(intel.td_report(registers(WORKLOAD), bytes(64))))


def refused(code: str, work, *arguments: object) -> AttestError:
    with pytest.raises(MitaiError) as refusal:
        work(*arguments)
    assert refusal.value.code == code
    return refusal.value


def test_a_quote_is_completed_and_verified(lab, quote, cache, services, vendors):
    whole = complete(quote, cache, services)
    assert whole.collateral == replace(vendors.collateral["tdx"], pck_certificate_chain=None)
    assert verify_hardware(whole, lab.policy, now=NOW).tcb_status == "UpToDate"
    assert len(vendors.asked) == 4
    assert complete(whole, cache, services) is whole
    assert complete(quote, cache, services) == whole
    assert len(vendors.asked) == 4


def test_an_enclave_too(lab, cache, services):
    from test_attest_verify_quote import enclave

    bare = Hardware(tee="sgx", quote=lab.platform.quote(enclave(), version=3))
    policy = replace(lab.policy, workloads=())
    assert verify_hardware(complete(bare, cache, services), policy, now=NOW).tee == "sgx"


def test_another_process_finds_the_answers(quote, cache, services, vendors, tmp_path, clock):
    whole = complete(quote, cache, services)
    gone = Cache(
        HttpTransport(httpx2.Client(transport=httpx2.MockTransport(lambda _: 1 / 0))), tmp_path / "cache", clock
    )
    assert complete(quote, gone, services) == whole


@pytest.mark.parametrize(("version", "kind", "asked"), [(3, "vcek", 2), (3, "vlek", 1), (2, "vcek", 3)])
def test_a_chip_of_amds(cache, services, vendors, version, kind, asked):
    authority = amd()
    report = authority.report(version=version, kind=kind)
    given = {"vek": authority.vek("vlek")} if kind == "vlek" else {}
    bare = Hardware(tee="snp", quote=report, endorsements=given)
    whole = complete(bare, cache, services)
    assert whole.endorsements.keys() == {"vek", "crl"}
    assert len(vendors.asked) == asked
    assert authority.appraise(
        msgspec.structs.replace(whole, endorsements={**whole.endorsements, "chain": authority.chain(kind)})
    )
    question = next((path for path in vendors.asked if "SPL" in path), "")
    assert kind == "vlek" or "blSPL=" in question


def test_a_chip_that_amd_does_not_know(cache, services, vendors):
    vendors.broken = lambda path, _: Answer(status=404)
    bare = Hardware(tee="snp", quote=amd().report(version=2))
    refused("attest.collateral-unknown", complete, bare, cache, services)


def test_a_chip_of_hygons(cache, services):
    bare = Hardware(tee="csv", quote=attest_csv_lab.report())
    whole = complete(bare, cache, services)
    assert attest_csv_lab.check(endorsements=whole.endorsements)
    assert complete(whole, cache, services) is whole


def test_what_needs_nothing_is_left_alone(cache, services, vendors):
    nitro = Hardware(tee="nitro", quote=b"")
    assert complete(nitro, cache, services) is nitro
    assert not vendors.asked


def test_devices(cache, services, vendors):
    chip = vendors.chips[0]
    bare = vendors.nvidia.entry(chip)
    given = device_endorsements(encode_devices((bare,)), cache, services)
    assert (len(given.rims), len(given.ocsp)) == (2, len(vendors.nvidia.asked(chip)))
    (device,) = vendors.nvidia.verify(bare, rules=NvidiaRules(min_gpus=1), endorsements=given)
    assert device.driver == "570.10.20"


def every(answer: Answer):
    return lambda *_: answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(status=404), "attest.collateral-unknown"),
        (Answer(status=500), "attest.collateral-unavailable"),
        (Answer(status=429, headers={"retry-after": "0"}), "attest.collateral-unavailable"),
        (Answer(status=302, headers={"location": "/elsewhere"}), "attest.collateral-unavailable"),
        (Answer(b"x" * (5 << 20)), "attest.collateral-too-large"),
        (Answer(b"x" * 1000, pause=0.3), "attest.collateral-unavailable"),
        (Answer(b"x" * 1000, cut=True), "attest.collateral-unavailable"),
        (Answer(b"<html>"), "attest.collateral-answer-malformed"),
        (Answer(b"<html>", {"TCB-Info-Issuer-Chain": "x"}), "attest.collateral-answer-malformed"),
        (Answer(b"x", {"TCB-Info-Issuer-Chain": "x" * 60_000}), "attest.collateral-answer-malformed"),
    ],
)
def test_a_service_that_is_bad(quote, cache, services, vendors, answer, code):
    vendors.broken = every(answer)
    error = refused(code, complete, quote, cache, services)
    vendors.broken = None
    assert refused(code, complete, quote, cache, services).message == error.message  # not asked again at once


def test_a_service_that_is_gone(quote, cache, vendors):
    with serving(vendors) as services:
        pass
    error = refused("attest.collateral-unavailable", complete, quote, cache, services)
    assert "pack" in error.hint


def test_a_service_that_is_busy_once(quote, cache, services, vendors):
    answers = [Answer(status=503, headers={"retry-after": "0"})]
    vendors.broken = lambda *_: answers.pop() if answers else None
    assert complete(quote, cache, services).collateral is not None


def test_a_question_that_is_no_address(cache):
    refused("attest.collateral-unavailable", cache.get, Resource("crl", "http://["))


def test_freshness(quote, cache, services, vendors, clock):
    whole = complete(quote, cache, services)
    clock.now = LATER  # a day is over: asked again, the same is served
    complete(quote, cache, services)
    assert len(vendors.asked) == 8
    vendors.broken = every(Answer(status=500))
    clock.now = LATER + timedelta(days=2)
    assert complete(quote, cache, services) == whole  # still inside of its own window
    clock.now = NOW + timedelta(days=40)
    refused("attest.collateral-unavailable", complete, quote, cache, services)


def test_a_service_that_serves_what_has_ended(quote, cache, services, clock):
    clock.now = NOW + timedelta(days=40)
    refused("attest.collateral-stale", complete, quote, cache, services)


def test_a_service_that_goes_back_in_time(lab, quote, cache, services, vendors, clock):
    whole = complete(quote, cache, services)
    older = {"issueDate": "2026-05-01T00:00:00Z", "nextUpdate": "2026-07-01T00:00:00Z"}
    vendors.collateral["tdx"] = lab.resign(tcb=older)
    clock.now = LATER
    assert complete(quote, cache, services).collateral.tcb_info == whole.collateral.tcb_info


def test_files_of_the_cache_that_are_damaged(quote, cache, services, vendors, tmp_path, clock):
    whole = complete(quote, cache, services)
    for number, path in enumerate(sorted((tmp_path / "cache").iterdir())):
        item = msgspec.json.decode(path.read_bytes(), type=Item)
        damaged = (
            b"{",
            msgspec.json.encode(msgspec.structs.replace(item, url="http://elsewhere")),
            msgspec.json.encode(msgspec.structs.replace(item, body=b"?")),
            msgspec.json.encode(msgspec.structs.replace(item, fetched=NOW + timedelta(days=1))),
        )
        path.write_bytes(damaged[number])
    assert complete(quote, cache, services) == whole
    assert len(vendors.asked) == 8


def test_a_folder_that_can_not_be_written(quote, services, vendors, tmp_path, clock):
    (tmp_path / "file").touch()
    cache = Cache(HttpTransport(httpx2.Client(trust_env=False)), tmp_path / "file", clock)
    whole = complete(quote, cache, services)
    assert complete(quote, cache, services) == whole
    assert len(vendors.asked) == 4


def test_a_bundle(lab, quote, cache, services, clock):
    signer = Identity.generate()
    recorder = Recorder(cache)
    whole = complete(quote, recorder, services)
    packed = Bundle.pack(recorder.items, signer, NOW)
    bundle = Bundle.open(packed, signer.public, clock)
    assert complete(quote, bundle, services) == whole
    assert bundle.created == NOW
    assert Bundle.pack(bundle.items, signer, NOW) == packed
    refused("attest.collateral-not-packed", complete, Hardware(tee="snp", quote=amd().report()), bundle, services)
    refused("attest.collateral-not-packed", complete, quote, bundle, Services())
    clock.now = NOW + timedelta(days=40)
    refused("attest.collateral-stale", complete, quote, bundle, services)
    refused("attest.collateral-bundle-untrusted", Bundle.open, packed, Identity.generate().public)
    end = packed.index(b'"signatures"')
    for at in range(0, end, 97):
        changed = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(MitaiError):
            Bundle.open(changed, signer.public)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"created":"2026-01-01T00:00:00Z","items":{},"v":2}',
        b'{"created":"2026-01-01T00:00:00Z","items":{}}',
        b'{"created":"2026-01-01T00:00:00Z"}',
        b'{"created":"2026-01-01T00:00:00Z","items":{"x":{"kind":"ocsp","url":"u","body":"","chain":"",'
        b'"fetched":"2026-01-01T00:00:00"}}}',
    ],
)
def test_bundles_that_are_none(payload):
    signer = Identity.generate()
    envelope = signer.sign(payload, "application/vnd.mitai.collateral+json").encode()
    refused("attest.collateral-bundle-malformed", Bundle.open, envelope, signer.public)
    other = signer.sign(payload, "text/plain").encode()
    refused("attest.collateral-bundle-untrusted", Bundle.open, other, signer.public)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("tcb-info", b'{"tcbInfo":{},"signature":"00"}'),
        ("tcb-info", b'{"tcbInfo":{"issueDate":"x","nextUpdate":"y"},"signature":"00"}'),
        (
            "tcb-info",
            b'{"tcbInfo":{"issueDate":"2026-01-01T00:00:00","nextUpdate":"2027-01-01T00:00:00Z"},"signature":""}',
        ),
        ("qe-identity", b'{"enclaveIdentity":{},"signature":"zz"}'),
        ("crl", b"3zz0"),
        ("crl", b"-----BEGIN X509 CRL-----\n?\n-----END X509 CRL-----"),
        ("certificate", b"-----BEGIN CERTIFICATE-----"),
        ("certificate", b""),
        ("rim", b"{}"),
        ("rim", b'{"rim":"YQ==","id":"x"}'),
        ("ocsp", b""),
        ("csv-chain", b"short"),
    ],
)
def test_answers_of_another_form(kind, body):
    with pytest.raises(ParseError):
        window(Item(kind, "http://x", body, "", NOW))


def test_an_answer_from_the_end_of_time():
    with pytest.raises(ParseError):
        window(Item("csv-chain", "http://x", bytes(2916), "", datetime.max.replace(tzinfo=UTC)))


def test_revocation_lists_in_every_form(lab):
    der = lab.platform.collateral("tdx").root_ca_crl
    import base64

    pem = b"-----BEGIN X509 CRL-----\n" + base64.b64encode(der) + b"\n-----END X509 CRL-----\n"
    assert crl_der(der) == crl_der(der.hex().encode()) == crl_der(pem) == der


def test_services_behind_a_pccs():
    services = Services.behind_pccs("https://pccs.example:8081/")
    assert services.intel == "https://pccs.example:8081"
    assert services.intel_root_crl == "https://pccs.example:8081/sgx/certification/v4/rootcacrl"


def test_the_time_is_now_by_default(quote, services, tmp_path):
    cache = Cache(HttpTransport(httpx2.Client(trust_env=False)), tmp_path)
    if datetime.now(UTC) > NOW + timedelta(days=31):
        refused("attest.collateral-stale", complete, quote, cache, services)


def test_the_exact_bytes_that_intel_signed_are_kept(vendors):
    text = vendors.collateral["tdx"].tcb_info
    assert json.loads(text)
    from mitai.attest.collateral.resource import Signed

    signed, signature = Signed.parse(b'{ "tcbInfo" :' + text.encode() + b', "signature":"0102"}', "tcb-info")
    assert (signed, signature) == (text, b"\x01\x02")
