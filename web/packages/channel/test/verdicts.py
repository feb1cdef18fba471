"""What the Python package makes of bytes: a line of JSON [parser, hex] in, a line of JSON out, for comparison."""

from __future__ import annotations

import json
import sys

from mitai.channel import bhttp, problems
from mitai.channel.hpke import Aead
from mitai.channel.ohttp import KeyConfig
from mitai.errors import MitaiError


def response(data: bytes) -> object:
    """Decode a Binary HTTP response."""
    decoder = bhttp.Decoder("response")
    events = [*decoder.feed(data), *decoder.finish()]
    return {
        "heads": [[event.status, _fields(event.fields)] for event in events if isinstance(event, bhttp.ResponseHead)],
        "trailers": [_fields(event.fields) for event in events if isinstance(event, bhttp.Trailers)],
        "content": b"".join(event for event in events if isinstance(event, memoryview)).hex(),
    }


def config(data: bytes) -> object:
    """Parse a key configuration; the web client has no ChaCha20-Poly1305."""
    parsed = KeyConfig.decode(data)
    aeads = [aead for aead in parsed.aeads if aead is not Aead.CHACHA20_POLY1305]
    return [parsed.key_id, parsed.kem, parsed.public.hex(), aeads] if aeads else "channel.key-config-unsupported"


def problem(data: bytes) -> object:
    """Map a problem document to the code of the error that it makes."""
    found = problems.decode(data)
    code = "channel.keys-changed" if found.type == problems.OHTTP_KEY_TYPE else found.code
    return problems.refusal(code, 400).code


def _fields(fields: bhttp.Fields) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in fields]


PARSERS = {"response": response, "config": config, "problem": problem}


def main() -> None:
    """Answer line by line."""
    for line in sys.stdin:
        parser, digits = json.loads(line)
        try:
            verdict = PARSERS[parser](bytes.fromhex(digits))
        except MitaiError as error:
            verdict = error.code
        sys.stdout.write(json.dumps(verdict) + "\n")


if __name__ == "__main__":
    main()
