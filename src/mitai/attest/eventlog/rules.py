"""What a boot must look like in its event log: the section `event_log` of an appraisal policy, and its check.

Invariants:

- Every rule is about digests that replay to quoted registers. What a log says in words decides nothing: its labels are
  not measured, so whoever hands it over can exchange them.

Example:
    >>> check_ccel(log, rtmrs, EventLogRules(secure_boot=True))
    {'secure boot': 'on', 'boot events': '37'}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mitai.attest.eventlog.dstack import check_dstack
from mitai.attest.eventlog.ima import ImaRules
from mitai.attest.eventlog.secureboot import secure_boot
from mitai.attest.eventlog.tcg import (
    ALG_SHA384,
    EV_NO_ACTION,
    Event,
    check_replay,
    hash_of,
    proven_pcrs,
    read_event_log,
)
from mitai.attest.fields import POLICY_MALFORMED
from mitai.errors import AttestError, ParseError

TEXT = "text:"
_REGISTER = re.compile(r"(?:pcr(?:[0-9]|1[0-9]|2[0-3])|rtmr[0-3])")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # names that are safe to show
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{96}")


class EventLogRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an event log must show."""

    required: bool = False
    pcrs: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)  # of a TPM: what the log must explain; of a TD it is everything
    secure_boot: bool = False  # must have been on
    events: dict[
        str, tuple[str, ...]
    ] = {}  # register ("pcr9", "rtmr2") to all digests, or "text:…", that may extend it
    dstack: dict[str, tuple[str, ...]] = {}  # name of dstack's event to the payloads, in hex, that it may have
    ima: ImaRules = ImaRules()

    def __post_init__(self) -> None:
        if not all(0 <= number <= 23 for number in self.pcrs):
            raise ParseError(POLICY_MALFORMED, "a PCR in [event_log] is not in 0 to 23")
        for register, allowed in self.events.items():
            if not _REGISTER.fullmatch(register):
                raise ParseError(POLICY_MALFORMED, f"{register!r} in [event_log] is no register, such as pcr9 or rtmr2")
            if not all(entry.startswith(TEXT) or _DIGEST.fullmatch(entry) for entry in allowed):
                raise ParseError(POLICY_MALFORMED, f"an event of {register} is neither a digest nor 'text:' and a text")

    @property
    def relies_on_log(self) -> bool:
        """Return whether evidence without a log must be refused."""
        return self.required or self.secure_boot or bool(self.events) or bool(self.dstack)


def check_rtmr_log(log: bytes, rtmrs: Sequence[bytes], rules: EventLogRules) -> dict[str, str]:
    """Check the event log of a TD, a CCEL or dstack's; return facts for people.

    Raises:
        AttestError: `attest.event-log-missing`, `attest.event-log-mismatch`, or the code of the rule that failed.
    """
    if rules.ima.demanded:
        raise AttestError(
            "attest.ima-missing", "the policy demands an IMA list, which this verifier reads from TPMs only"
        )
    if not log:
        return _none(rules)
    if log.startswith(b"["):
        if rules.secure_boot or rules.events:
            raise AttestError("attest.event-log-unsuitable", "dstack's log does not show what the rules ask of a CCEL")
        measured = check_dstack(log, rtmrs, rules.dstack)
        return {f"dstack {name}": payload[:128] for name, payload in measured.items() if _PLAIN.fullmatch(name)}
    if rules.dstack:
        raise AttestError("attest.event-log-unsuitable", "the rules ask for dstack's events: a CCEL does not hold them")
    parsed = read_event_log(log)
    check_replay(parsed, rtmrs)
    names = {f"rtmr{number}": number + 1 for number in range(4)}
    return _check_events(parsed.events, ALG_SHA384, rules, names, secure_boot_register=1)


def check_pcr_log(log: bytes, pcrs: Mapping[int, bytes], algorithm: int, rules: EventLogRules) -> dict[str, str]:
    """Check a TPM's event log against the quoted registers of one bank; return facts for people.

    Raises:
        AttestError: `attest.event-log-missing`, `attest.event-log-mismatch`, or the code of the rule that failed.
    """
    if not log:
        return _none(rules)
    if rules.dstack:
        raise AttestError(
            "attest.event-log-unsuitable", "the rules ask for dstack's events: a TCG log does not hold them"
        )
    needed = {int(register[3:]) for register in rules.events if register.startswith("pcr")}
    needed |= {7} if rules.secure_boot else set()
    parsed = read_event_log(log)
    proven = proven_pcrs(parsed, pcrs, algorithm, sorted({*rules.pcrs, *needed}))
    events = [event for event in parsed.events if event.register in proven]
    names = {f"pcr{number}": number for number in proven}
    return _check_events(events, algorithm, rules, names, secure_boot_register=7)


def _none(rules: EventLogRules) -> dict[str, str]:
    if rules.relies_on_log:
        raise AttestError("attest.event-log-missing", "the policy demands an event log, and none was sent")
    return {}


def _check_events(
    events: Sequence[Event], algorithm: int, rules: EventLogRules, names: Mapping[str, int], secure_boot_register: int
) -> dict[str, str]:
    for name, entries in rules.events.items():
        if name not in names:
            raise AttestError("attest.event-log-unsuitable", f"the rules ask for {name}, which this log does not have")
        _check_register(events, names[name], algorithm, name, _allowed(entries, hash_of(algorithm)))
    try:
        state = "on" if secure_boot(events, algorithm, secure_boot_register) else "off"
    except AttestError as error:
        if rules.secure_boot:
            raise
        state = f"unknown ({error.code})"
    if rules.secure_boot and state != "on":
        raise AttestError("attest.secure-boot-off", "the machine was started without secure boot")
    return {"secure boot": state, "boot events": str(len(events))}


def _allowed(entries: Iterable[str], hash_name: str) -> frozenset[bytes]:
    """Return digests as such, and those of a text in every form that loaders measure it in."""
    digests = set()
    for entry in entries:
        if entry.startswith(TEXT):
            text = entry.removeprefix(TEXT)
            forms = (text.encode(), text.encode() + b"\0", text.encode("utf-16-le"), (text + "\0").encode("utf-16-le"))
            digests |= {hashlib.new(hash_name, form).digest() for form in forms}
        else:
            digests.add(bytes.fromhex(entry))
    return frozenset(digests)


def _check_register(
    events: Iterable[Event], register: int, algorithm: int, name: str, allowed: frozenset[bytes]
) -> None:
    digests = [
        event.digests.get(algorithm, b"")
        for event in events
        if event.register == register and event.kind != EV_NO_ACTION
    ]
    if not digests:
        raise AttestError("attest.event-missing", f"nothing was measured into {name}, which the rules ask for")
    for digest in digests:
        if digest not in allowed:
            raise AttestError("attest.event-refused", f"{name} was extended with {digest.hex()}, which is not listed")
