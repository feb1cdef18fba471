"""The strict CBOR decoder, with the examples of RFC 8949, and COSE_Sign1 with that of RFC 9052."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attest_cose_lab import Open, cbor, sign1
from mitai.attest.cbor import MAX_DEPTH, MAX_ITEMS, Tag, decode, encode, expect
from mitai.attest.cose import ALGORITHM, KEY_ID, parse_sign1, verify_sign1
from mitai.errors import AttestError, ParseError

# RFC 8949, appendix A, where the example is within our part of CBOR
EXAMPLES = {
    "00": 0,
    "17": 23,
    "1818": 24,
    "1903e8": 1000,
    "1b000000e8d4a51000": 1000000000000,
    "1bffffffffffffffff": 18446744073709551615,
    "20": -1,
    "3903e7": -1000,
    "3bffffffffffffffff": -18446744073709551616,
    "f4": False,
    "f5": True,
    "f6": None,
    "c11a514b67b0": Tag(1, 1363896240),
    "d74401020304": Tag(23, b"\1\2\3\4"),
    "40": b"",
    "4401020304": b"\1\2\3\4",
    "60": "",
    "62c3bc": "ü",
    "64f0908591": "𐅑",
    "80": [],
    "8301820203820405": [1, [2, 3], [4, 5]],
    "a0": {},
    "a201020304": {1: 2, 3: 4},
    "a26161016162820203": {"a": 1, "b": [2, 3]},
    "9fff": [],
    "9f018202039f0405ffff": [1, [2, 3], [4, 5]],
    "bf61610161629f0203ffff": {"a": 1, "b": [2, 3]},
    "826161bf61626163ff": ["a", {"b": "c"}],
    "1b0000000000000001": 1,  # not the shortest form: signed bytes are taken as they are
    "5800": b"",
}

REFUSED = {
    "": "ends",
    "18": "ends",
    "4401": "ends",
    "8201": "ends",
    "a1": "ends",
    "9f01": "ends",
    "bf01": "ends",
    "0000": "followed",
    "f6f6": "followed",
    "fb3ff199999999999a": "kind",  # floats
    "f97c00": "kind",
    "f7": "kind",  # undefined
    "f0": "kind",  # unassigned simple values
    "f8ff": "kind",
    "ff": "kind",  # a break without a beginning
    "81ff": "kind",
    "a1ff": "kind",
    "bf01ff": "kind",
    "5f42010243030405ff": "kind",  # chunked strings
    "7f657374726561646d696e67ff": "kind",
    "1c": "kind",  # reserved lengths
    "1f": "kind",
    "df01": "kind",
    "61ff": "UTF-8",
    "62c328": "UTF-8",
    "a201020103": "twice",
    "a2616100616101": "twice",
    "bf01020103ff": "twice",
    "a1400a": "neither",
    "a1f500": "neither",
    "a18000": "neither",
    "a1f600": "neither",
    "a1c10000": "neither",
    "81" * 40 + "00": "deeply",
    "c1" * 40 + "00": "deeply",
    "9bffffffffffffffff00": "ends",  # a length that no memory would hold
    "5bffffffffffffffff00": "ends",
}


@pytest.mark.parametrize(("data", "value"), EXAMPLES.items())
def test_examples(data, value):
    found = decode(bytes.fromhex(data), "it", "code")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("data", "why"), REFUSED.items())
def test_refused(data, why):
    with pytest.raises(ParseError) as refusal:
        decode(bytes.fromhex(data), "it", "code")
    assert refusal.value.code == "code"
    assert why in refusal.value.message


def test_depth_is_bounded_exactly():
    assert decode(b"\x81" * MAX_DEPTH + b"\x00", "it", "code")
    with pytest.raises(ParseError):
        decode(b"\x81" * (MAX_DEPTH + 1) + b"\x00", "it", "code")


def test_number_of_items_is_bounded_exactly():
    assert len(decode(b"\x9f" + bytes(MAX_ITEMS - 1) + b"\xff", "it", "code")) == MAX_ITEMS - 1
    with pytest.raises(ParseError):
        decode(b"\x9f" + bytes(MAX_ITEMS) + b"\xff", "it", "code")


def test_a_boolean_is_no_number():
    assert expect(1, int, "it", "code") == 1
    with pytest.raises(ParseError):
        expect(True, int, "it", "code")


@pytest.mark.parametrize("value", EXAMPLES.values(), ids=repr)
def test_the_labs_encoder_agrees(value):
    assert decode(cbor(value), "it", "code") == value


@pytest.mark.parametrize("value", EXAMPLES.values(), ids=repr)
def test_encoder(value):
    assert encode(value) == cbor(value)


@pytest.mark.parametrize("edge", [23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1])
def test_encoder_takes_the_shortest_head(edge):
    for value in (edge, -1 - edge):
        assert encode(value) == cbor(value)
        assert decode(encode(value), "it", "code") == value
    assert len(encode(edge)) == 1 + (edge > 23) + (edge > 255) + 2 * (edge > 65535) + 4 * (edge > 2**32 - 1)


def test_the_labs_encoder_writes_indefinite_lengths():
    assert decode(cbor(Open({"a": Open([1])})), "it", "code") == {"a": [1]}


# RFC 9052, appendix C.2.1, and the key "11" of appendix C.7.1
RFC_9052 = bytes.fromhex(
    "d28443a10126a10442313154546869732069732074686520636f6e74656e742e58408eb33e4ca31d1c465ab05aac34cc6b23d58fef5c083106"
    "c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36"
)
RFC_9052_KEY = ec.EllipticCurvePublicKey.from_encoded_point(
    ec.SECP256R1(),
    bytes.fromhex(
        "04bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff"
        "20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e"
    ),
)


def test_example_of_the_standard():
    message = parse_sign1(RFC_9052, "it", "code", headers=frozenset({ALGORITHM, KEY_ID}))
    verify_sign1(message, RFC_9052_KEY, "code", "why")
    assert message.payload == b"This is the content."


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65535, 65536])
def test_payloads_of_all_lengths(curve, size):
    """Each length has another head in Sig_structure."""
    key = ec.generate_private_key(curve)
    message = parse_sign1(sign1(bytes(size), key, tagged=bool(size % 2)), "it", "code")
    verify_sign1(message, key.public_key(), "code", "why")
    with pytest.raises(AttestError):
        verify_sign1(message, ec.generate_private_key(curve).public_key(), "code", "why")


KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    "data",
    [
        cbor([b"\xa1\x01\x26", {}, b"payload"]),
        cbor([b"\xa1\x01\x26", {}, b"payload", b"", b""]),
        cbor({1: 2}),
        cbor(Tag(17, [b"\xa1\x01\x26", {}, b"payload", b""])),
        cbor(Tag(18, Tag(18, [b"\xa1\x01\x26", {}, b"payload", b""]))),
        cbor(["", {}, b"payload", b""]),
        cbor([b"", {}, b"payload", b""]),
        cbor([b"\xa0", {}, b"payload", b""]),
        cbor([b"\xa1\x01\xf5", {}, b"payload", b""]),
        cbor([b"\xa1\x01\x26\x00", {}, b"payload", b""]),
        cbor([b"\xa1\x01\x26", [], b"payload", b""]),
        cbor([b"\xa1\x01\x26", {}, None, b""]),
        cbor([b"\xa1\x01\x26", {}, b"payload", "x"]),
        sign1(b"", KEY, protected={1: -7, 2: [4]}),
        sign1(b"", KEY, protected={1: -7, 4: b"kid"}),
        sign1(b"", KEY, unprotected={4: b"kid"}),
        sign1(b"", KEY, unprotected={1: -7}),
    ],
)
def test_what_is_not_a_sign1(data):
    with pytest.raises(ParseError) as refusal:
        parse_sign1(data, "it", "code")
    assert refusal.value.code == "code"


def test_a_header_in_both_places_is_refused():
    key_id = {"protected": {1: -7, 4: b"one"}, "unprotected": {4: b"two"}}
    with pytest.raises(ParseError):
        parse_sign1(sign1(b"", KEY, **key_id), "it", "code", headers=frozenset({ALGORITHM, KEY_ID}))


def test_algorithm_in_the_open_is_refused_even_where_headers_are_allowed():
    with pytest.raises(ParseError):
        parse_sign1(sign1(b"", KEY, unprotected={1: -7}), "it", "code", headers=frozenset({ALGORITHM, KEY_ID}))


@pytest.mark.parametrize("algorithm", [-35, -36, -8, 5, 0])
def test_algorithm_must_fit_the_key(algorithm):
    message = parse_sign1(sign1(b"", KEY, protected={1: algorithm}), "it", "code")
    with pytest.raises(AttestError) as refusal:
        verify_sign1(message, KEY.public_key(), "code", "why")
    assert "does not fit" in refusal.value.message


def test_signature_of_another_size():
    message = sign1(b"", KEY)
    with pytest.raises(AttestError):
        verify_sign1(parse_sign1(message[:-66] + b"\x40", "it", "code"), KEY.public_key(), "code", "why")
