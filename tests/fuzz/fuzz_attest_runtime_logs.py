"""Fuzz: event logs in words, secure boot, IMA lists, dstack's log, Keylime's policies.

Run `python tests/fuzz/fuzz_attest_runtime_logs.py [libFuzzer options]` with atheris.
"""

import contextlib
import hashlib
import struct
import sys

from mitai.attest.eventlog import EventLogRules, check_pcr_log, check_rtmr_log, read_event_log, replay
from mitai.attest.eventlog.details import Variable, describe, measured
from mitai.attest.eventlog.ima import ImaRules, check_ima, files_of_keylime
from mitai.attest.eventlog.secureboot import EFI_GLOBAL
from mitai.errors import MitaiError

_SPEC = b"Spec ID Event03\0" + bytes(8) + struct.pack("<IHHHHB", 2, 4, 20, 11, 32, 0)
_HEADER = struct.pack("<II20sI", 0, 3, bytes(20), len(_SPEC)) + _SPEC
_VARIABLE = Variable(EFI_GLOBAL, "SecureBoot", b"\1").encode()


def _event(register: int, kind: int, data: bytes) -> bytes:
    digests = struct.pack("<H", 4) + hashlib.sha1(data).digest() + struct.pack("<H", 11) + hashlib.sha256(data).digest()
    return struct.pack("<III", register, kind, 2) + digests + struct.pack("<I", len(data)) + data


_PATH = b"\4\4\x0e\0k\0e\0r\0n\0e\0" + b"\x7f\xff\4\0"
_IMAGE = struct.pack("<QQQQ", 1, 2, 3, len(_PATH)) + _PATH
_NG = struct.pack("<I", 40) + b"sha256:\0" + bytes(32) + struct.pack("<I", 3) + b"/a\0"
SEEDS = [
    _HEADER + _event(0, 3, b"StartupLocality\0\3") + _event(7, 0x80000001, _VARIABLE) + _event(7, 4, bytes(4)),
    _HEADER + _event(4, 0x80000003, _IMAGE) + _event(9, 6, struct.pack("<II", 1, 2) + b"ab"),
    struct.pack("<II20sI", 8, 13, bytes(20), 12) + b"grub_cmd: l\0",
    b"10 " + hashlib.sha1(_NG).hexdigest().encode() + b" ima-ng sha256:" + b"00" * 32 + b" /a\n",
    struct.pack("<I20sI", 10, hashlib.sha1(_NG).digest(), 6) + b"ima-ng" + struct.pack("<I", len(_NG)) + _NG,
    b'[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"aa"}]',
    b'[{"imr":0,"event_type":4,"digest":"' + b"00" * 48 + b'","event":"","event_payload":"","version":2}]',
    b'{"digests":{"/a":["00"]}}',
]
_RULES = EventLogRules(secure_boot=True, events={"pcr4": ("text:a",)})
_PCRS = {number: bytes(32) for number in range(24)}


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        log = read_event_log(data)
        for event in log.events:
            describe(event)
            for algorithm in event.digests.keys() & {4, 11, 12}:
                measured(event, algorithm)
        check_pcr_log(data, _PCRS | replay(data, 11), 11, _RULES)
    with contextlib.suppress(MitaiError):
        check_rtmr_log(data, (bytes(48),) * 4, EventLogRules())
        assert not data.strip(b"[] \t\r\n\0"), "a log of nothing replayed to registers that nobody extended"
    with contextlib.suppress(MitaiError):
        assert check_ima(data, b"\1" * 32, "sha256", ImaRules()) is None, "an IMA list replayed to a register at random"
    with contextlib.suppress(MitaiError):
        files_of_keylime(data)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
