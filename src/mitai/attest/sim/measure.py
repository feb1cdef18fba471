"""What a simulated TD measures: a fixed firmware and boot chain, and the workload's code in RTMR[3].

Invariants:

- The registers are what the event log replays to; the log is in the format that real firmware writes (CCEL).
- `installed_workload` covers name and bytes of every Python file of the installed package: one changed byte is another
  workload.

Example:
    >>> reference_values(installed_workload("serve"))
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import mitai
from mitai.attest.eventlog import ALG_SHA384, EV_EVENT_TAG, EV_NO_ACTION, replay_rtmrs
from mitai.attest.policy import REGISTERS, ReferenceValues

_CODE_LABEL = b"mitai installed code v1\0"
_WORKLOAD_LABEL = b"mitai sim workload v1\0"
_FIRMWARE = b"mitai sim firmware v1"
_BOOT = ((1, b"mitai sim configuration v1"), (2, b"mitai sim kernel v1"), (3, b"mitai sim command line v1"))


@dataclass(frozen=True, slots=True)
class Workload:
    """A program by name and by the digest (32 bytes) of its code."""

    name: str
    digest: bytes


def installed_workload(name: str) -> Workload:
    """Measure the installed mitai package: SHA-256 over the names and bytes of its Python files, in order of name."""
    root = Path(mitai.__file__).parent
    state = hashlib.sha256(_CODE_LABEL)
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        file_name = path.relative_to(root).as_posix().encode()
        content = path.read_bytes()
        state.update(struct.pack("<QQ", len(file_name), len(content)) + file_name + content)
    return Workload(name, state.digest())


def event_log(workload: Workload) -> bytes:
    """Return the CCEL event log of a TD that booted into this workload."""
    name = workload.name.encode()
    measured = (*_BOOT, (4, _WORKLOAD_LABEL + struct.pack("<I", len(name)) + name + workload.digest))
    return _header_event() + b"".join(_event(register, data) for register, data in measured)


def registers(workload: Workload) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return MRTD and RTMR[0] to RTMR[3]."""
    return (hashlib.sha384(_FIRMWARE).digest(), *replay_rtmrs(event_log(workload)))


def reference_values(workload: Workload) -> ReferenceValues:
    """Return what a policy pins for this workload."""
    return ReferenceValues(
        workload.name, {name: value.hex() for name, value in zip(REGISTERS["tdx"], registers(workload), strict=True)}
    )


def _header_event() -> bytes:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2) + struct.pack("<IHHB", 1, ALG_SHA384, 48, 0)
    return struct.pack("<II20sI", 1, EV_NO_ACTION, bytes(20), len(spec)) + spec


def _event(register: int, data: bytes) -> bytes:
    digest = hashlib.sha384(data).digest()
    return struct.pack("<IIIH", register, EV_EVENT_TAG, 1, ALG_SHA384) + digest + struct.pack("<I", len(data)) + data
