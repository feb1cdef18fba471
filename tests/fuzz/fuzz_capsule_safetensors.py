"""Fuzz the safetensors parser: any bytes give tensors or a `ParseError`.

Run: `python tests/fuzz/fuzz_capsule_safetensors.py [corpus]`.
"""

from __future__ import annotations

import sys

from mitai.capsule.tensors import parse_shard
from mitai.errors import ParseError


def one_input(data: bytes) -> None:
    """Parse the input as a file, and as a header (up to the first zero byte) with the rest as data."""
    header, _, rest = data.partition(b"\0")
    for candidate in (data, len(header).to_bytes(8, "little") + header + rest):
        try:
            shard = parse_shard("fuzz", memoryview(candidate))
        except ParseError:
            continue
        header_size = int.from_bytes(candidate[:8], "little")
        if sum(len(tensor.data) for tensor in shard.tensors) != len(candidate) - 8 - header_size:
            raise AssertionError("tensors overlap or leave bytes over")


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
