"""Fuzz: Arm CCA tokens, and the JSON stores of trust anchors and reference values.

Run `python tests/fuzz/fuzz_attest_cca.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from cryptography.hazmat.primitives.asymmetric import ec

from mitai.attest.cca import anchor_from_jwk, anchors_from_tastore, parse_token, references_from_rvstore
from mitai.errors import MitaiError


def _bytes(data: bytes) -> bytes:
    return b"\x59" + len(data).to_bytes(2, "big") + data


def _claims(entries: dict[int, bytes]) -> bytes:
    return bytes([0xA0 | len(entries)]) + b"".join(b"\x19" + k.to_bytes(2, "big") + v for k, v in entries.items())


def _token(realm_profile: bytes, key: bytes) -> bytes:
    hash32, hash64, name = b"\x58\x20" + bytes(32), b"\x58\x40" + bytes(64), b"\x67sha-256"
    platform = {
        10: hash32,
        2396: hash32,
        256: b"\x58\x21" + bytes(33),
        2401: b"\x40",
        2395: b"\x19\x30\x00",
        2402: name,
    }
    platform |= {265: b"\x78\x1chttp://arm.com/CCA-SSD/1.0.0", 2399: b"\x81\xa2\x02" + hash32 + b"\x05" + hash32}
    realm = {10: hash64, 44235: hash64, 44236: name, 44238: hash32, 44239: b"\x84" + hash32 * 4, 44240: name}
    realm |= {44237: _bytes(key)} | ({265: realm_profile} if realm_profile else {})
    parts = [
        b"\xd2\x84\x44\xa1\x01\x38\x22\xa0" + _bytes(_claims(c)) + b"\x58\x60" + bytes(96) for c in (platform, realm)
    ]
    return b"\xd9\x01\x8f\xa2\x19\xac\xca" + _bytes(parts[0]) + b"\x19\xac\xd1" + _bytes(parts[1])


_NUMBERS = ec.derive_private_key(1, ec.SECP384R1()).public_key().public_numbers()
_X, _Y = _NUMBERS.x.to_bytes(48, "big"), _NUMBERS.y.to_bytes(48, "big")
SEEDS = [
    _token(b"", b"\x04" + _X + _Y),
    _token(b"\x78\x1ctag:arm.com,2023:realm#1.0.0", b"\xa4\x01\x02\x20\x02\x21\x58\x30" + _X + b"\x22\x58\x30" + _Y),
    b'[{"pkey": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "instance-id": "01", "implementation-id": "00"}]',
    b'{"platform": [{"implementation-id": "00", "platform-configuration": "CF", "sw-components": []}], "realm": []}',
]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    for parse in (parse_token, anchor_from_jwk, anchors_from_tastore, references_from_rvstore):
        with contextlib.suppress(MitaiError):
            parse(data)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
