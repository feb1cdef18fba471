"""What fuzz targets measure: our own code. All of what is imported would take a minute to instrument."""

from __future__ import annotations

import gc
from types import FunctionType

import atheris


def instrument_ours() -> None:
    """Instrument every function of mitai that is there."""
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and (found.__module__ or "").startswith("mitai"):
            atheris.instrument_func(found)
