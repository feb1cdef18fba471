"""Compiled modules of this package in place of their sources, where they are installed and were made from just these.

`native/channel` compiles the modules that sealed bytes pass with mypyc: the same code, without an interpreter between
its steps. This module is imported before them and puts the folder of the compiled ones first on the package's path.

- With them comes HKDF over the system's libcrypto (`hkdf.c`), for `mitai.channel.hpke.derive`; where there is no
  libcrypto 3, `cryptography` does that, as it does all the rest.
- They are used only if SHA-256 of every source is that of the source they were made from: what was edited or updated
  since then runs as it is written. All of them are used, or none.
- Without them everything works, slower. `MITAI_CHANNEL=python` leaves them out.

Example:
    >>> compiled.FOLDER  # None where the sources run
    '/home/me/.venv/lib/python3.11/site-packages/mitai_channel'
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final


def folder(sources: Path) -> str | None:
    """Return where the modules lie that were compiled from the files in `sources`, or None."""
    if os.environ.get("MITAI_CHANNEL") == "python":
        return None
    try:
        import mitai_channel
    except ImportError:
        return None
    current = {name: sha256((sources / name).read_bytes()).hexdigest() for name in mitai_channel.SOURCES}
    return str(Path(mitai_channel.__file__).parent) if current == mitai_channel.SOURCES else None


def _hkdf() -> Callable[..., list[bytes]] | None:
    """Return HKDF over the system's libcrypto; None where there is none, or where the sources run."""
    if FOLDER is None:
        return None
    try:
        from mitai_channel.hkdf import derive
    except ImportError:
        return None
    found: Callable[..., list[bytes]] = derive
    return found


FOLDER: Final = folder(Path(__file__).parent)
if FOLDER is not None:
    sys.modules["mitai.channel"].__path__.insert(0, FOLDER)
derive: Final = _hkdf()
