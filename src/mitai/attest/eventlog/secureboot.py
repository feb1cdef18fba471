"""Whether secure boot was on, from measured variables alone.

Follows the TCG "PC Client Platform Firmware Profile" 1.06, section 3.3.4.8 (PCR 7): before the separator, firmware
measures the variable SecureBoot, and says so when it was made debuggable.

Invariants:

- The state is read from digests, never from an event's kind or data, which whoever hands over the log can rewrite:
  exactly one of the digests that SecureBoot can have must be there, before the separator. What looks like a separator
  does not end the search: RTMR0 also holds what the host chooses.
- An event that claims to be a measured variable and is not is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mitai.attest.eventlog.details import EV_EFI_VARIABLE_DRIVER_CONFIG, Variable
from mitai.attest.eventlog.tcg import EV_NO_ACTION, Event, hash_of
from mitai.errors import AttestError

EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SEPARATOR = bytes(4)
_ON = Variable(EFI_GLOBAL, "SecureBoot", b"\1").encode()
_OFF = (Variable(EFI_GLOBAL, "SecureBoot", b"\0").encode(), Variable(EFI_GLOBAL, "SecureBoot", b"").encode())
_DEBUGGABLE = (b"UEFI Debug Mode", b"UEFI Debug Mode\0")


def secure_boot(events: Iterable[Event], algorithm: int, register: int) -> bool:
    """Return whether secure boot was on.

    Args:
        events: Of a log that was replayed against the register.
        algorithm: TCG's number of the bank's hash.
        register: 7 in a TPM's log, 1 (RTMR0) in a CCEL.

    Raises:
        AttestError: When the log doesn't tell, or tells twice.
    """
    name = hash_of(algorithm)
    states = {hashlib.new(name, data).digest(): data == _ON for data in (_ON, *_OFF)}
    debuggable = {hashlib.new(name, data).digest() for data in _DEBUGGABLE}
    separator = hashlib.new(name, _SEPARATOR).digest()
    found, separated = [], False
    for event in events:
        if event.register != register or event.kind == EV_NO_ACTION:
            continue
        digest = event.digests.get(algorithm, b"")
        separated = separated or digest == separator
        if (
            not separated
            and event.kind == EV_EFI_VARIABLE_DRIVER_CONFIG
            and hashlib.new(name, event.data).digest() != digest
        ):
            raise AttestError(
                "attest.event-data-mismatch", "the event log describes a UEFI variable that is not what was measured"
            )
        if digest in debuggable:
            raise AttestError("attest.secure-boot-debug", "the firmware measured that it was made debuggable")
        found += [(states[digest], separated)] if digest in states else []
    if not separated or [late for _, late in found] != [False]:
        raise AttestError(
            "attest.secure-boot-unknown", "the event log does not tell exactly once whether secure boot was on"
        )
    return found[0][0]
