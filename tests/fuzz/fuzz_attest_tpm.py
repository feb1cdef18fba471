"""Fuzz: TPM structures, composites, paravisors' reports and claims, Trustee's evidence.

Run `python tests/fuzz/fuzz_attest_tpm.py [libFuzzer options]` with atheris.
"""

import contextlib
import struct
import sys

from mitai.attest.azure.hcl import attestation_key, parse_claims, parse_hcl_report
from mitai.attest.tpm.composite import TpmEvidence, signed_part
from mitai.attest.tpm.structures import check_attributes, parse_public, parse_quote, parse_signature, rsassa_signature
from mitai.attest.tpm.trustee import hardware_of_trustee
from mitai.errors import MitaiError

_QUOTE = bytes.fromhex("ff54434780180022000b") + bytes(32) + b"\0\1n" + bytes(25)
_QUOTE += struct.pack(">IHB", 1, 11, 3) + b"\xff" * 3 + b"\0\x20" + bytes(32)
_RSA = struct.pack(">HHIHHHHHI", 1, 11, 0x50072, 0, 0x10, 0x14, 11, 2048, 0) + b"\1\0" + b"\xff" * 256
_ECC = struct.pack(">HHIHHHHHHH", 0x23, 11, 0x50072, 0, 0x10, 0x18, 11, 3, 0x10, 32) + bytes(32) + b"\0\x20" + bytes(32)
_CLAIMS = b'{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"_w"}],"vm-configuration":{"secure-boot":true}}'
_HCL = b"HCLA" + struct.pack("<III", 2, 1236 + len(_CLAIMS), 2) + bytes(16 + 1184)
_HCL += struct.pack("<IIIII", 20 + len(_CLAIMS), 1, 2, 1, len(_CLAIMS)) + _CLAIMS + bytes(30)
_TRUSTEE = b'{"version":1,"hcl_report":"SENM","tpm_quote":{"message":"ff","signature":"00","pcrs":["00"]},"vcek":"MII"}'
SEEDS = [
    _QUOTE,
    _RSA,
    _ECC,
    rsassa_signature(bytes(256)),
    struct.pack(">HHHBHB", 0x18, 11, 1, 1, 1, 1),
    _CLAIMS,
    _HCL,
    _TRUSTEE,
    b'{"report":[1,2],"quote":{"message":[1],"signature":[2],"pcrs":[[0]]},"vcek":"-----BEGIN CERTIFICATE-----"}',
    TpmEvidence(quote=_QUOTE, signature=b"", pcrs=(bytes(32),)).encode(),
]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    for parse in (parse_quote, parse_signature, signed_part, hardware_of_trustee):
        with contextlib.suppress(MitaiError):
            parse(data)
    with contextlib.suppress(MitaiError):
        check_attributes(parse_public(data))
    with contextlib.suppress(MitaiError):
        attestation_key(parse_claims(data))
    with contextlib.suppress(MitaiError):
        report = parse_hcl_report(data)
        assert len(report.hardware_report) == 1184
        assert len(report.report_data) == 64


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
