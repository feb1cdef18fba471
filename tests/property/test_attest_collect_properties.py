"""Properties: whatever an interface answers, out comes evidence over our bytes or an error of the tree."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest_collect_lab import FakeKernel, FakeNsm, FakeSev, FakeTpm, FakeTsm
from attest_lab import flip
from attest_nitro_lab import Lab as NitroLab
from attest_snp_lab import amd
from attest_tpm_lab import SoftTpm
from mitai.attest.collect import nsm, sev, tsm, vtpm
from mitai.attest.nitro import parse_document
from mitai.attest.snp import parse_report
from mitai.attest.tpm import TpmEvidence
from mitai.attest.tpm.structures import parse_quote
from mitai.errors import MitaiError

# A flip can make a serial number negative: `cryptography` warns.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

DATA = bytes(range(64))
AK = 0x81000003
ANYWHERE, BYTE = st.floats(0, 1, exclude_max=True), st.integers(1, 255)
REPORT, DOCUMENT = amd().report({0x50: DATA}), NitroLab.build().document(user_data=DATA)


@contextlib.contextmanager
def kernel():
    with tempfile.TemporaryDirectory() as folder:
        yield FakeKernel(Path(folder))


@given(answer=st.binary(max_size=300), command=st.sampled_from([0x17E, 0x158, 0x173]), honest_head=st.booleans())
def test_a_tpm_that_answers_anything(answer, command, honest_head):
    fake = FakeTpm(tpm=SoftTpm())
    fake.handles[AK] = fake.tpm.public()

    def change(number: int, honest: bytes) -> bytes:
        if number != command:
            return honest
        return (
            honest[:2] + (10 + len(answer)).to_bytes(4, "big") + bytes(4) + answer if honest_head else answer or b"\0"
        )

    fake.change = change
    with kernel() as machine:
        machine.plug("dev/tpmrm0", fake)
        with pytest.raises(MitaiError):
            vtpm.collect_tpm(DATA, ak_handle=AK, guest=machine.guest)


@given(where=ANYWHERE, mask=BYTE, command=st.sampled_from([0x17E, 0x158, 0x173]))
def test_a_tpm_with_one_wrong_byte(where, mask, command):
    """What is handed out is consistent, even when it will not verify."""
    fake = FakeTpm(tpm=SoftTpm())
    fake.handles[AK] = fake.tpm.public()
    fake.change = lambda number, answer: flip(answer, int(where * len(answer)), mask) if number == command else answer
    with kernel() as machine, contextlib.suppress(MitaiError):
        machine.plug("dev/tpmrm0", fake)
        evidence = TpmEvidence.decode(vtpm.collect_tpm(DATA, ak_handle=AK, guest=machine.guest).quote)
        assert evidence.report_data == DATA
        assert len(evidence.pcrs) == 24
        parse_quote(evidence.quote)


@given(where=ANYWHERE, mask=BYTE)
def test_sev_guest_with_one_wrong_byte(where, mask):
    fake = FakeSev(answer=lambda response: flip(response, int(where * len(response)), mask))
    with kernel() as machine, contextlib.suppress(MitaiError):
        machine.plug("dev/sev-guest", fake)
        assert parse_report(sev.collect(DATA, guest=machine.guest).quote).report_data == DATA


@given(where=ANYWHERE, mask=BYTE)
def test_nsm_with_one_wrong_byte(where, mask):
    fake = FakeNsm(answer=lambda response: flip(response, int(where * len(response)), mask))
    with kernel() as machine, contextlib.suppress(MitaiError):
        machine.plug("dev/nsm", fake)
        assert parse_document(nsm.collect(DATA, guest=machine.guest).quote).user_data == DATA


@given(answer=st.binary(max_size=2000))
@settings(max_examples=50)
def test_nsm_that_answers_anything(answer):
    with kernel() as machine:
        machine.plug("dev/nsm", FakeNsm(answer=lambda response: answer))
        with pytest.raises(MitaiError):
            nsm.collect(DATA, guest=machine.guest)


@given(
    answers=st.dictionaries(
        st.sampled_from(["provider", "generation", "privlevel_floor", "outblob", "auxblob"]),
        st.one_of(st.binary(max_size=100), st.just(REPORT), st.sampled_from([b"sev_guest\n", b"tdx_guest\n", b"1\n"])),
    )
)
@settings(max_examples=50)
def test_configfs_that_answers_anything(answers):
    with kernel() as machine, contextlib.suppress(MitaiError):
        machine.mount_tsm(FakeTsm("sev_guest", lambda data, _: REPORT, floor=0, answers=answers))
        assert parse_report(tsm.collect(DATA, guest=machine.guest).quote).report_data == DATA
