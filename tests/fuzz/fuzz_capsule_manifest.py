"""Fuzz the manifest parser: any bytes give a manifest or a `ParseError`.

Run: `python tests/fuzz/fuzz_capsule_manifest.py [corpus]`.
"""

from __future__ import annotations

import sys

from mitai.capsule.manifest import Manifest
from mitai.errors import ParseError

TEMPLATE = (
    b'{"format":"mitai-capsule","v":1,"suite":"cobblestone-256+16mib","capsule_id":"%b","name":"n","kind":"model",'
    b'"created":"2026-01-02T03:04:05Z","owner":"%b","key_check":"%b","files":[%b]}'
)


def one_input(data: bytes) -> None:
    """Parse the input as it is, and as the file list of an otherwise good manifest."""
    framed = TEMPLATE % (b"0" * 32, b"0" * 64, b"A" * 43 + b"=", data)
    for candidate in (data, framed):
        try:
            manifest = Manifest.decode(candidate)
        except ParseError:
            continue
        again = Manifest.decode(manifest.encode())
        if again != manifest:
            raise AssertionError("a manifest changes when it is written and read again")


def main() -> None:
    """Fuzz until stopped."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
