"""COSE_Sign1: one signature over one payload (RFC 9052, section 4.2), as Nitro documents and CCA tokens use it.

Invariants:

- The signature is checked over the protected header and the payload exactly as received.
- The algorithm fits the key: ES256 on P-256, ES384 on P-384, ES512 on P-521 (RFC 9053, section 2.1), nothing else.
- Header parameters that the caller does not name are refused, `crit` among them.

Example:
    >>> message = parse_sign1(data, "the document", "attest.nitro-malformed")
    >>> verify_sign1(message, key, "attest.nitro-signature-invalid", "the document is not signed by this key")
    >>> message.payload
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from mitai.attest import x509
from mitai.attest.cbor import Tag, decode, encode, expect
from mitai.errors import AttestError, ParseError

SIGN1_TAG = 18
ALGORITHM = 1  # header labels (RFC 9052, section 3.1)
CONTENT_TYPE = 3
KEY_ID = 4
ES256, ES384, ES512 = -7, -35, -36
_CURVES = {ES256: "secp256r1", ES384: "secp384r1", ES512: "secp521r1"}


@dataclass(frozen=True, slots=True)
class Sign1:
    """A parsed COSE_Sign1."""

    protected: bytes
    algorithm: int
    payload: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """Return Sig_structure: the exact bytes that the signature covers (RFC 9052, section 4.4)."""
        return encode(["Signature1", self.protected, b"", self.payload])


def parse_sign1(data: bytes, what: str, code: str, *, headers: frozenset[int] = frozenset({ALGORITHM})) -> Sign1:
    """Parse a COSE_Sign1, tagged or not; `headers` are the parameters that may be in it."""
    message = decode(data, what, code)
    if isinstance(message, Tag) and message.number == SIGN1_TAG:
        message = message.value
    parts = expect(message, list, what, code)
    if len(parts) != 4:
        raise ParseError(code, f"{what} is not a COSE_Sign1")
    protected = expect(parts[0], bytes, f"the protected header of {what}", code)
    signed_headers = expect(decode(protected, f"the protected header of {what}", code), dict, what, code)
    open_headers = expect(parts[1], dict, f"the unprotected header of {what}", code)
    if signed_headers.keys() - headers or open_headers.keys() - (headers - signed_headers.keys() - {ALGORITHM}):
        raise ParseError(code, f"{what} has a header parameter that does not belong in it, or one twice")
    return Sign1(
        protected,
        expect(signed_headers.get(ALGORITHM), int, f"the algorithm of {what}", code),
        expect(parts[2], bytes, f"the payload of {what}", code),
        expect(parts[3], bytes, f"the signature of {what}", code),
    )


def verify_sign1(message: Sign1, key: EllipticCurvePublicKey, code: str, why: str) -> None:
    """Raise `AttestError(code, why)` unless the message is signed with `key`, with the algorithm of the key's curve."""
    if _CURVES.get(message.algorithm) != key.curve.name:
        raise AttestError(code, f"{why} (COSE algorithm {message.algorithm} does not fit a key on {key.curve.name})")
    x509.verify_signature(key, message.signature, message.signed, code, why)
