"""Properties of Nitro, CCA and CSV: no byte can be changed, and no bytes whatever do more than raise an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attest_cca_lab as cca_lab
import attest_csv_lab as csv_lab
from attest_cose_lab import cbor
from attest_lab import flip
from attest_nitro_lab import NOW, Lab
from mitai.attest.cache import VerifiedCache
from mitai.attest.cbor import Tag, decode, encode
from mitai.attest.cca import anchors_from_tastore, parse_token, references_from_rvstore
from mitai.attest.cose import parse_sign1
from mitai.attest.csv import parse_report
from mitai.attest.csv.certificates import parse_ca_certificate, parse_chip_certificate
from mitai.attest.nitro import parse_document
from mitai.errors import AttestError, MitaiError

# A flip can make a serial number negative or a country three letters long: `cryptography` warns, and we refuse it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
]

MASK = st.integers(1, 255)
ANYWHERE = st.floats(0, 1, exclude_max=True)
NITRO = Lab.build()
DOCUMENT = NITRO.document(nonce=b"nonce", public_key=b"key")
TOKENS = {"collection": cca_lab.token(), "wrapped": cca_lab.token(wrapped=True, realm_profile=None)}
REPORTS = {"v1": csv_lab.report(), "extended": csv_lab.extended(pages=True)}


def at(data: bytes, where: float) -> int:
    return int(where * len(data))


@given(where=ANYWHERE, mask=MASK)
@settings(max_examples=300)
def test_flip_any_byte_of_a_nitro_document(where, mask):
    with pytest.raises(AttestError):
        NITRO.appraise(flip(DOCUMENT, at(DOCUMENT, where), mask), cache=CACHE)


CACHE = VerifiedCache()


@pytest.mark.parametrize("name", ["root", "region", "zone", "instance", "leaf"])
@given(where=ANYWHERE, mask=MASK)
@settings(max_examples=60)
def test_flip_any_byte_of_a_nitro_certificate(name, where, mask):
    """Signed by the hypervisor as if it were right: the chain alone refuses it."""
    forged = flip(NITRO.certificates[name], at(NITRO.certificates[name], where), mask)
    bundle = [
        forged if other == name else NITRO.certificates[other] for other in ("root", "region", "zone", "instance")
    ]
    document = NITRO.document(certificate=forged) if name == "leaf" else NITRO.document(cabundle=bundle)
    with pytest.raises(AttestError):
        NITRO.appraise(document, cache=CACHE)


@pytest.mark.parametrize("form", TOKENS)
@given(where=ANYWHERE, mask=MASK)
@settings(max_examples=200)
def test_flip_any_byte_of_a_cca_token(form, where, mask):
    with pytest.raises(AttestError):
        cca_lab.check(flip(TOKENS[form], at(TOKENS[form], where), mask), cache=CACHE)


@pytest.mark.parametrize("version", REPORTS)
@given(where=ANYWHERE, mask=MASK)
@settings(max_examples=200)
def test_flip_any_byte_of_a_csv_report(version, where, mask):
    with pytest.raises(AttestError):
        csv_lab.check(flip(REPORTS[version], at(REPORTS[version], where), mask), cache=CACHE)


@given(where=ANYWHERE, mask=MASK)
@settings(max_examples=100)
def test_flip_any_byte_of_a_csv_endorsement(where, mask):
    data = csv_lab.endorsement()
    with pytest.raises(AttestError):
        csv_lab.check(endorsements={"hsk_cek": flip(data, at(data, where), mask)}, cache=CACHE)


@pytest.mark.slow
def test_flip_every_byte():
    for mask in (1, 0x20, 0x80, 0xFF):
        for offset in range(len(DOCUMENT)):
            with pytest.raises(AttestError):
                NITRO.appraise(flip(DOCUMENT, offset, mask), cache=CACHE)
        for token in TOKENS.values():
            for offset in range(len(token)):
                with pytest.raises(AttestError):
                    cca_lab.check(flip(token, offset, mask), cache=CACHE)
        for report in REPORTS.values():
            for offset in range(len(report)):
                with pytest.raises(AttestError):
                    csv_lab.check(flip(report, offset, mask), cache=CACHE)


@pytest.mark.parametrize("make", [DOCUMENT, *TOKENS.values(), *REPORTS.values()], ids=["nitro", *TOKENS, *REPORTS])
@given(where=ANYWHERE)
@settings(max_examples=40)
def test_any_prefix_is_refused(make, where):
    check = {DOCUMENT: NITRO.appraise, **dict.fromkeys(TOKENS.values(), cca_lab.check)}.get(make, csv_lab.check)
    with pytest.raises(AttestError):
        check(make[: at(make, where)])


SCALARS = st.one_of(
    st.integers(-(2**64), 2**64 - 1), st.binary(max_size=300), st.text(max_size=20), st.none(), st.booleans()
)
KEYS = st.one_of(st.integers(-(2**64), 2**64 - 1), st.text(max_size=10))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(KEYS, inner, max_size=5),
        st.builds(Tag, st.integers(0, 2**64 - 1), inner),
    ),
    max_leaves=12,
)


@given(value=VALUES)
def test_cbor_round_trip(value):
    assert decode(cbor(value), "it", "code") == value
    assert encode(value) == cbor(value)


@given(value=VALUES, more=st.binary(min_size=1, max_size=3))
def test_cbor_is_read_to_its_last_byte(value, more):
    with pytest.raises(MitaiError):
        decode(cbor(value) + more, "it", "code")


PARSERS = [
    lambda data: decode(data, "it", "code"),
    lambda data: parse_sign1(data, "it", "code"),
    parse_document,
    parse_token,
    parse_report,
    lambda data: parse_report(data.ljust(4096, b"\0")),
    lambda data: parse_ca_certificate(data, "it"),
    lambda data: parse_chip_certificate(data, "it"),
    anchors_from_tastore,
    references_from_rvstore,
]


@given(data=st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_give_a_value_or_an_error_of_the_tree(data):
    for parse in PARSERS:
        try:
            parse(data)
        except MitaiError:
            continue


@given(fields=st.dictionaries(st.sampled_from(sorted(NITRO.fields())), VALUES, max_size=3))
def test_any_values_in_a_nitro_document(fields):
    """Whatever the hypervisor signs: a machine or an error of the tree."""
    try:
        NITRO.appraise(NITRO.document(**fields), cache=CACHE, now=NOW)
    except AttestError:
        return


LABELS = [10, 256, 265, 2395, 2396, 2399, 2401, 2402, 44235, 44236, 44237, 44238, 44239, 44240]


@given(changes=st.dictionaries(st.sampled_from([f"_{label}" for label in LABELS]), VALUES, max_size=3))
def test_any_values_in_a_cca_token(changes):
    for part in ("platform", "realm"):
        try:
            cca_lab.check(cca_lab.token(**{part: changes}))
        except AttestError:
            continue
