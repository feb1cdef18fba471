"""Fuzz target: an adapter's configuration. Run with atheris: `python tests/fuzz/fuzz_serve_adapters.py`."""

from __future__ import annotations

import sys

from mitai.errors import ParseError
from mitai.serve.adapters import parse_settings


def one_input(data: bytes) -> None:
    """Parse; only the tree's error may come out, and it quotes nothing of a stranger's longer than a member's name."""
    try:
        settings = parse_settings(data)
    except ParseError as error:
        if len(str(error)) > 300:
            raise AssertionError("the error quotes what it refuses") from None
        return
    layers = {f"model.layers.0.{name}" for name in settings.target_modules[:100]}
    if settings.layers(layers) != layers or not settings.scale > 0:
        raise AssertionError("a layer is not found by its own name")


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
