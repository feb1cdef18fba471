"""Properties: no byte of SEV-SNP evidence can be changed; no bytes do more than raise an error of the tree."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attest_lab import flip
from attest_snp_lab import amd, firmware, table
from mitai.attest.cache import VerifiedCache
from mitai.attest.conformance import main
from mitai.attest.snp import parse_report, verify_endorsements
from mitai.attest.snp.launch import launch_digest
from mitai.attest.snp.report import REPORT_BYTES, SIGNED_BYTES, parse_certificate_table
from mitai.errors import AttestError, MitaiError, ParseError

# A flip can make a serial number negative or a country three letters long: `cryptography` warns, and we refuse it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
]

BYTE = st.integers(1, 255)
ANYWHERE = st.floats(0, 1, exclude_max=True)
KINDS = st.sampled_from(["vcek", "vlek"])
EVIDENCE = {kind: amd().hardware(amd().report(version=5, kind=kind), kind=kind) for kind in ("vcek", "vlek")}
CACHE = VerifiedCache()


def refuse(kind: str, *, report: bytes | None = None, **endorsements: bytes) -> None:
    evidence = EVIDENCE[kind]
    spoiled = amd().hardware(report or evidence.quote, **{**evidence.endorsements, **endorsements})
    with pytest.raises(AttestError):
        amd().appraise(spoiled, cache=CACHE)


@given(kind=KINDS, where=ANYWHERE, mask=BYTE)
@settings(max_examples=400)
def test_flip_any_byte_of_the_report(kind, where, mask):
    refuse(kind, report=flip(EVIDENCE[kind].quote, int(where * REPORT_BYTES), mask))


LAST = (1 - 2**-53, ord("\n"))  # the last newline of the chain becomes a NUL


@given(kind=KINDS, name=st.sampled_from(["vek", "chain", "crl"]), where=ANYWHERE, mask=BYTE)
@example(kind="vcek", name="chain", where=LAST[0], mask=LAST[1])
@settings(max_examples=600)
def test_flip_any_byte_of_an_endorsement(kind, name, where, mask):
    original = EVIDENCE[kind].endorsements[name]
    refuse(kind, **{name: flip(original, int(where * len(original)), mask)})


@given(kind=KINDS, name=st.sampled_from(["vek", "chain", "crl"]), cut=ANYWHERE)
def test_truncate_an_endorsement(kind, name, cut):
    original = EVIDENCE[kind].endorsements[name]
    cut_off = original[: int(cut * (len(original) - 1))]
    if name == "crl" and not cut_off:
        return  # no list at all is another policy's matter
    refuse(kind, **{name: cut_off})


@pytest.mark.slow
def test_flip_every_byte():
    for kind, evidence in EVIDENCE.items():
        for mask in (1, 0x20, 0x80, 0xFF):
            for offset in range(REPORT_BYTES):
                refuse(kind, report=flip(evidence.quote, offset, mask))
            for name, original in evidence.endorsements.items():
                for offset in range(len(original)):
                    refuse(kind, **{name: flip(original, offset, mask)})


@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=300)
def test_flip_any_byte_of_the_table(where, mask):
    """The host fills the table: a flip may lose an entry, but what is accepted is what AMD signed."""
    authority, evidence = amd(), EVIDENCE["vcek"]
    blobs = {"vcek": evidence.endorsements["vek"], "ask": authority.ask, "ark": authority.ark, "crl": authority.crl()}
    original = table(**blobs)
    spoiled = flip(original, int(where * len(original)), mask)
    with contextlib.suppress(AttestError, ParseError):
        machine = authority.appraise(authority.hardware(evidence.quote, vek=None, chain=None, crl=None, certs=spoiled))
        assert machine.signed == evidence.quote[:SIGNED_BYTES]
        assert machine.facts["chip"] == EXPECTED.facts["chip"]


EXPECTED = amd().appraise(EVIDENCE["vcek"])


@given(data=st.binary(min_size=REPORT_BYTES, max_size=REPORT_BYTES) | st.binary(max_size=2000))
def test_any_bytes_as_a_report(data):
    with contextlib.suppress(ParseError):
        parse_report(data)


@given(changes=st.dictionaries(st.integers(0, REPORT_BYTES - 8), st.binary(min_size=1, max_size=8), max_size=6))
def test_any_change_of_a_report(changes):
    report = bytearray(EVIDENCE["vcek"].quote)
    for offset, content in changes.items():
        report[offset : offset + len(content)] = content
    with contextlib.suppress(ParseError):
        parsed = parse_report(bytes(report))
        assert parsed.signed == bytes(report[:SIGNED_BYTES])


@given(data=st.binary(max_size=400))
def test_any_bytes_as_a_table(data):
    with contextlib.suppress(ParseError):
        parse_certificate_table(data)


@given(name=st.sampled_from(["vek", "chain", "crl", "certs"]), data=st.binary(max_size=200))
def test_any_bytes_as_an_endorsement(name, data):
    with contextlib.suppress(MitaiError):
        verify_endorsements({**EVIDENCE["vcek"].endorsements, name: data}, "vcek", NOW, trust=amd().trust)


NOW = EXPECTED.not_after


@given(where=st.lists(st.tuples(ANYWHERE, BYTE), max_size=4))
def test_any_change_of_firmware(where):
    data = firmware()
    for place, mask in where:
        offset = 6144 + int(place * 2048)
        data = flip(data, offset, mask)
    with contextlib.suppress(MitaiError):
        assert len(launch_digest(data, vcpus=2, vcpu="EPYC-Milan", kernel=b"k", ovmf_hash=bytes(48))) == 48


@given(data=st.binary(max_size=300))
def test_any_bytes_as_conformance_input(data):
    exit_code, _ = main(["verify-attestation-sev"], data)
    assert exit_code == 30
