"""A CBOR encoder and a COSE_Sign1 signer for evidence that tests make themselves."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from mitai.attest.cbor import Tag

CURVES = {"secp256r1": (-7, SHA256()), "secp384r1": (-35, SHA384()), "secp521r1": (-36, SHA512())}


class Open:
    """A map or an array that is written with indefinite length."""

    def __init__(self, value) -> None:
        self.value = value


class Raw(bytes):
    """Bytes that are already CBOR."""


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | info]) + number.to_bytes(size, "big")
    raise OverflowError


def cbor(value) -> bytes:
    """Encode a value in its shortest form."""
    match value:
        case Raw():
            return bytes(value)
        case bool() | None:
            return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list() | tuple():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())
        case Tag():
            return head(6, value.number) + cbor(value.value)
        case Open(value=dict() as entries):
            return b"\xbf" + b"".join(cbor(k) + cbor(v) for k, v in entries.items()) + b"\xff"
        case Open():
            return b"\x9f" + b"".join(map(cbor, value.value)) + b"\xff"
    raise TypeError(type(value))


def sign1(payload: bytes, key: ec.EllipticCurvePrivateKey, *, tagged=False, protected=None, unprotected=None) -> bytes:
    """Return a COSE_Sign1 over `payload`."""
    algorithm, hash_algorithm = CURVES[key.curve.name]
    header = cbor(protected if protected is not None else {1: algorithm})
    r, s = decode_dss_signature(key.sign(cbor(["Signature1", header, b"", payload]), ec.ECDSA(hash_algorithm)))
    size = (key.key_size + 7) // 8
    message = [header, unprotected or {}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big")]
    return cbor(Tag(18, message) if tagged else message)
