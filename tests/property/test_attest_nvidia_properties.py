"""NVIDIA evidence: whatever byte is changed, it is refused; whatever bytes come, parsers give an error of the tree."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attest_lab import flip
from attest_nvidia_lab import NONCE, NOW, nras_lab, nvidia_lab
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia import NvidiaRules, decode_devices, device_nonce
from mitai.attest.nvidia.nras import verify_nras
from mitai.attest.nvidia.ocsp import StatusBook
from mitai.attest.nvidia.report import parse_report
from mitai.attest.nvidia.rim import parse_rim
from mitai.errors import AttestError, ParseError

LAB = nvidia_lab()
GOOD = LAB.full()
MASKS = st.integers(0, 7).map(lambda bit: 1 << bit)


def refused(entry, **more) -> None:
    with pytest.raises(AttestError):
        LAB.verify(entry, **more)


@given(st.integers(0, len(GOOD.report) - 1), MASKS)
def test_flip_in_report(offset, mask):
    refused(msgspec.structs.replace(GOOD, report=flip(GOOD.report, offset, mask)))


@given(st.integers(0, len(GOOD.certificates) - 1), st.integers(1, 255))
@example(len(GOOD.certificates) - 1, ord("\n") ^ ord("\r"))
def test_flip_in_certificates(offset, mask):
    refused(msgspec.structs.replace(GOOD, certificates=flip(GOOD.certificates, offset, mask)))


@given(st.sampled_from([0, 1]), st.data(), MASKS)
def test_flip_in_manifest(which, data, mask):
    rim = GOOD.rims[which]
    changed = flip(rim, data.draw(st.integers(0, len(rim) - 1)), mask)
    refused(msgspec.structs.replace(GOOD, rims=(changed, GOOD.rims[1 - which])))


@given(st.integers(0, len(GOOD.ocsp) - 1), st.data(), MASKS)
def test_flip_in_status(which, data, mask):
    response = GOOD.ocsp[which]
    changed = flip(response, data.draw(st.integers(0, len(response) - 1)), mask)
    refused(msgspec.structs.replace(GOOD, ocsp=(*GOOD.ocsp[:which], changed, *GOOD.ocsp[which + 1 :])))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", ["report", "certificates", *("rims/0", "rims/1"), *(f"ocsp/{n}" for n in range(6))])
def test_flip_every_byte(part):
    cache = VerifiedCache()  # what is unchanged is verified once
    LAB.verify(GOOD, cache=cache)
    name, _, number = part.partition("/")
    value = getattr(GOOD, name)
    data = value[int(number)] if number else value
    for offset in range(len(data)):
        changed = flip(data, offset)
        if number:
            changed = (*value[: int(number)], changed, *value[int(number) + 1 :])
        refused(msgspec.structs.replace(GOOD, **{name: changed}), cache=cache)


NRAS = nras_lab()
BUNDLE = NRAS.bundle(NRAS.gpu_claims(0), NRAS.gpu_claims(1))
JWKS = NRAS.jwks()


def nras_refused(bundle: bytes, jwks: bytes = JWKS) -> None:
    with pytest.raises(AttestError):
        verify_nras(Checklist(), bundle, jwks, device_nonce(NONCE), NRAS.rules(), now=NOW)


def _significant(token_bundle: bytes) -> list[int]:
    """Return the offsets inside the tokens, less the last character of each part: its low bits mean nothing."""
    inside = [offset for offset, byte in enumerate(token_bundle) if chr(byte).isalnum() or chr(byte) in "-_."]
    return [offset for offset in inside if token_bundle[offset + 1 : offset + 2] not in {b".", b'"'}]


@given(st.sampled_from(_significant(BUNDLE)), MASKS)
@settings(max_examples=60)
def test_flip_in_token(offset, mask):
    nras_refused(flip(BUNDLE, offset, mask))


@given(st.binary(max_size=400) | st.binary(max_size=40).map(lambda tail: GOOD.report[:60] + tail))
def test_arbitrary_bytes(data):
    for parse in (parse_report, parse_rim, decode_devices, lambda der: StatusBook.parse((der,))):
        with suppress(ParseError, AttestError):
            parse(data)
    nras_refused(data)
    nras_refused(BUNDLE, data)


@given(st.text(alphabet="<>/='\" abxmlns:&;#!?[]-", max_size=60))
def test_arbitrary_xml(text):
    with pytest.raises(ParseError):
        parse_rim(text.encode())


@given(st.binary(max_size=3000))
def test_evidence_of_noise(data):
    refused(msgspec.structs.replace(GOOD, report=data), rules=NvidiaRules())
    refused(msgspec.structs.replace(GOOD, certificates=data), rules=NvidiaRules())
