"""Fuzz the manifest parser: any bytes give a manifest or a `ParseError`.

Run: `python tests/fuzz/fuzz_capsule_manifest.py [corpus]`.
"""

from __future__ import annotations

import sys

from mitai.capsule.manifest import Manifest
from mitai.errors import ParseError

FILE = {
    b"name": b'"a"',
    b"size": b"0",
    b"object": b'"%b"' % (b"1" * 32),
    b"object_size": b"56",
    b"commitments": b'"%b="' % (b"A" * 43),
    b"digests": b'""',
}
MANIFEST = {
    b"format": b'"mitai-capsule"',
    b"v": b"1",
    b"suite": b'"aes256-gcm-hkdf-16x1mib"',
    b"capsule_id": b'"%b"' % (b"0" * 32),
    b"name": b'"n"',
    b"kind": b'"model"',
    b"created": b'"2026-01-02T03:04:05Z"',
    b"owner": b'"%b"' % (b"0" * 64),
    b"key_check": b'"%b="' % (b"A" * 43),
    b"files": b"[]",
    b"parents": b"[]",
    b"labels": b"{}",
    b"proof_identity": b'"%b"' % (b"5" * 64),
}


def one_input(data: bytes) -> None:
    """Parse the input as it is, and as the value of one field (chosen by the first byte) of a good manifest."""
    value = data[1:]
    fields, entries = list(MANIFEST), list(FILE)
    choice = (data[0] if data else 0) % (len(fields) + len(entries))
    if choice < len(fields):
        framed = _object({**MANIFEST, fields[choice]: value})
    else:
        entry = _object({**FILE, entries[choice - len(fields)]: value})
        framed = _object({**MANIFEST, b"files": b"[%b]" % entry})
    for candidate in (data, framed):
        try:
            manifest = Manifest.decode(candidate)
        except ParseError:
            continue
        if Manifest.decode(manifest.encode()) != manifest:
            raise AssertionError("a manifest changes when it is written and read again")


def _object(fields: dict[bytes, bytes]) -> bytes:
    return b"{%b}" % b",".join(b'"%b":%b' % item for item in fields.items())


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
