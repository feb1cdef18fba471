"""Fuzz: Nitro attestation documents, their CBOR and COSE included; what parses was read to its last byte.

Run `python tests/fuzz/fuzz_attest_nitro.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest.cbor import decode
from mitai.attest.nitro import parse_document
from mitai.errors import MitaiError

PAYLOAD = (
    bytes.fromhex("a6")
    + b"\x69module_id\x61i\x66digest\x66SHA384\x69timestamp\x01\x64pcrs\xa1\x00\x58\x30"
    + bytes(48)
    + b"\x6bcertificate\x41x\x68cabundle\x81\x41x"
)
DOCUMENT = b"\x84\x44\xa1\x01\x38\x22\xa0\x58" + bytes([len(PAYLOAD)]) + PAYLOAD + b"\x58\x60" + bytes(96)
SEEDS = [DOCUMENT, b"\xd2" + DOCUMENT, b"\xbf\x61a\x9f\x01\xff\xff", bytes.fromhex("a201020304")]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        decode(data, "it", "code")
    with contextlib.suppress(MitaiError):
        document = parse_document(data)
        assert document.message.payload in data
        assert data.endswith(document.message.signature) or document.message.signature == b""


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
