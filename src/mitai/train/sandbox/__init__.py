"""Code of others runs here, and reaches nothing: no file, no network, no process, bounded time, memory and answers.

`Sandbox` runs a program and asks its functions; `passes` judges a program by unit tests; `drop_network` is for our own
processes. `docs/spec/sandbox.md` says what is enforced how, and what is not.
"""

from __future__ import annotations

from mitai.train.sandbox.box import JsonValue, Limits, ProgramError, Sandbox
from mitai.train.sandbox.judged import passes
from mitai.train.sandbox.network import drop_network

__all__ = ["JsonValue", "Limits", "ProgramError", "Sandbox", "drop_network", "passes"]
