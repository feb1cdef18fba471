"""Boot event logs: startup locality, SHA-1 logs, secure boot, rules by digest, events in words."""

from __future__ import annotations

import hashlib
import struct
import uuid

import pytest

from attest_eventlog_lab import (
    EFI_ACTION,
    IPL,
    SEPARATOR,
    VARIABLE,
    VARIABLE_BOOT,
    boot,
    event,
    header,
    legacy,
    no_action,
    pcrs_of,
    secure_boot_variable,
)
from attest_tpm_lab import SoftTpm
from mitai.attest.eventlog import (
    ALG_SHA1,
    ALG_SHA256,
    EventLogRules,
    check_pcr_log,
    check_rtmr_log,
    parse_event_log,
    read_event_log,
    replay,
    replay_rtmrs,
)
from mitai.attest.eventlog.details import describe, measured, parse_variable
from mitai.attest.eventlog.ima import ImaRules
from mitai.attest.eventlog.secureboot import secure_boot
from mitai.errors import ParseError

LOG = header(11) + boot() + b"".join(event(number, SEPARATOR, bytes(4)) for number in range(7))
CCEL = header(12) + boot(1, banks=(12,)) + event(3, IPL, b"console=ttyS0\0", banks=(12,), measured=b"console=ttyS0")


def only(data: bytes):
    (found,) = parse_event_log(header(11) + data)
    return found


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality(locality):
    log = header(11) + no_action(b"StartupLocality\0" + bytes([locality])) + event(0, 8, b"version")
    expected = hashlib.sha256(bytes(31) + bytes([locality]) + hashlib.sha256(b"version").digest()).digest()
    assert replay(log, ALG_SHA256) == {0: expected}


@pytest.mark.parametrize(
    "log",
    [
        no_action(b"StartupLocality\0\1"),
        no_action(b"StartupLocality\0"),
        no_action(b"StartupLocality\0\3\0"),
        no_action(b"StartupLocality\0\3", register=1),
        2 * no_action(b"StartupLocality\0\0"),
        event(0, 8, b"version") + no_action(b"StartupLocality\0\3"),
    ],
)
def test_malformed_startup_locality(refused, log):
    with refused("attest.event-log-malformed"):
        replay(header(11) + log, ALG_SHA256)


def test_other_informative_events_do_nothing():
    assert replay(header(11) + no_action(b"SP800-155 Event\0"), ALG_SHA256) == {}


def test_logs_of_the_older_kind(refused):
    first = legacy(0, 8, b"version")
    log = first + legacy(4, 13, b"loader") + b"\xff" * 16
    once = hashlib.sha1(bytes(20) + hashlib.sha1(b"loader").digest()).digest()
    assert replay(log, ALG_SHA1)[4] == once
    marked = struct.pack("<II20sI", 0, 3, bytes(20), 16) + b"Spec ID Event00\0" + log
    assert replay(marked, ALG_SHA1) == replay(log, ALG_SHA1)
    assert len(read_event_log(log).events) == len(read_event_log(marked).events) == 2
    with refused("attest.event-log-malformed"):
        replay(log, ALG_SHA256)
    with refused("attest.event-log-malformed"):
        replay_rtmrs(log)


def test_header_that_names_an_algorithm_twice(refused):
    with refused("attest.event-log-malformed"):
        replay(header(11, 11), ALG_SHA256)


def test_banks_of_unknown_hashes(refused):
    with refused("attest.event-log-malformed"):
        replay(header(11), 0x99)
    digest = hashlib.new("sm3", b"version").digest()
    log = header(0x12) + struct.pack("<IIIH", 0, 8, 1, 0x12) + digest + struct.pack("<I", 0)
    assert replay(log, 0x12) == {0: hashlib.new("sm3", bytes(32) + digest).digest()}


def test_several_banks():
    log = header(4, 11, 12) + boot(banks=(4, 11, 12))
    for bank in (4, 11, 12):
        assert secure_boot(parse_event_log(log), bank, 7)
        assert replay(log, bank)[7] == pcrs_of(log, bank)[7]


@pytest.mark.parametrize(("value", "state"), [(b"\1", True), (b"\0", False), (b"", False)])
def test_secure_boot(value, state):
    events = read_event_log(header(11) + event(0, 8, b"other register") + boot(value=value)).events
    assert secure_boot(events, ALG_SHA256, 7) is state


def test_secure_boot_is_read_from_digests_alone():
    """Kinds and data can be rewritten by whoever hands over the log; digests can't."""
    on, off = secure_boot_variable(b"\1"), secure_boot_variable(b"\0")
    relabelled = header(11) + event(7, 0x0A, b"ACPI DATA", measured=on) + event(7, SEPARATOR, bytes(4))
    assert secure_boot(parse_event_log(relabelled), ALG_SHA256, 7)
    hidden = header(11) + event(7, 0x0A, b"harmless", measured=off) + event(7, SEPARATOR, bytes(4))
    assert not secure_boot(parse_event_log(hidden), ALG_SHA256, 7)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        (b"", "attest.secure-boot-unknown"),
        (event(7, SEPARATOR, bytes(4)), "attest.secure-boot-unknown"),
        (event(7, VARIABLE, secure_boot_variable()), "attest.secure-boot-unknown"),
        (event(7, SEPARATOR, bytes(4)) + event(7, VARIABLE, secure_boot_variable()), "attest.secure-boot-unknown"),
        (event(7, VARIABLE, secure_boot_variable()) + boot(), "attest.secure-boot-unknown"),
        (boot() + event(7, VARIABLE, secure_boot_variable(b"\0")), "attest.secure-boot-unknown"),
        (event(7, 0x0A, b"x", measured=secure_boot_variable(b"\0")) + boot(), "attest.secure-boot-unknown"),
        (no_action(secure_boot_variable(), 7) + event(7, SEPARATOR, bytes(4)), "attest.secure-boot-unknown"),
        (event(6, VARIABLE, secure_boot_variable()) + event(7, SEPARATOR, bytes(4)), "attest.secure-boot-unknown"),
        (event(7, VARIABLE, secure_boot_variable(), measured=b"else") + boot(), "attest.event-data-mismatch"),
        (event(7, EFI_ACTION, b"UEFI Debug Mode") + boot(), "attest.secure-boot-debug"),
    ],
)
def test_secure_boot_refusals(refused, events, code):
    with refused(code):
        secure_boot(parse_event_log(header(11) + events), ALG_SHA256, 7)
    log = header(11) + events + b"".join(event(number, SEPARATOR, bytes(4)) for number in range(7))
    with refused(code):
        check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules(secure_boot=True))
    assert code in check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules())["secure boot"]


def test_a_tpms_log(refused):
    assert check_pcr_log(LOG, pcrs_of(LOG), ALG_SHA256, EventLogRules(secure_boot=True)) == {
        "secure boot": "on",
        "boot events": "9",
    }
    off = header(11) + boot(value=b"\0")
    with refused("attest.secure-boot-off"):
        check_pcr_log(off, pcrs_of(off), ALG_SHA256, EventLogRules(secure_boot=True))
    for number in range(8):
        with refused("attest.event-log-mismatch"):
            check_pcr_log(LOG, {**pcrs_of(LOG), number: b"\1" * 32}, ALG_SHA256, EventLogRules())
    with refused("attest.event-log-mismatch"):
        check_pcr_log(LOG, {7: pcrs_of(LOG)[7]}, ALG_SHA256, EventLogRules())
    facts = check_pcr_log(LOG, {7: pcrs_of(LOG)[7]}, ALG_SHA256, EventLogRules(pcrs=()))
    assert facts == {"secure boot": "on", "boot events": "2"}


def test_registers_that_the_system_extends_later(refused):
    log = LOG + event(9, IPL, b"initrd")
    later = {**pcrs_of(log), 9: b"\2" * 32}
    assert check_pcr_log(log, later, ALG_SHA256, EventLogRules())["boot events"] == "9"
    with refused("attest.event-log-mismatch"):
        check_pcr_log(log, later, ALG_SHA256, EventLogRules(events={"pcr9": ("text:initrd",)}))


@pytest.mark.parametrize(
    "measured_as",
    [b"quiet", b"quiet\0", "quiet".encode("utf-16-le"), "quiet\0".encode("utf-16-le")],
)
def test_rules_by_text(refused, measured_as):
    log = LOG + event(8, IPL, b"kernel_cmdline: anything", measured=measured_as)
    check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules(events={"pcr8": ("text:other", "text:quiet")}))
    digest = hashlib.sha256(measured_as).hexdigest()
    check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules(events={"pcr8": (digest,)}))
    for allowed in ((), ("text:init=/bin/sh",), ("00" * 32,)):
        with refused("attest.event-refused"):
            check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules(events={"pcr8": allowed}))


def test_nothing_measured_is_not_what_rules_ask_for(refused):
    """A loader that measures nothing would otherwise pass every list."""
    informative = LOG + no_action(b"quiet", 8)
    for log in (LOG, informative):
        with refused("attest.event-missing"):
            check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules(events={"pcr8": ("text:quiet",)}))


def test_a_label_does_not_hide_an_event(refused):
    """An event that extends the register counts whatever kind the log gives it."""
    log = LOG + event(8, 0x0A, b"ACPI DATA", measured=b"init=/bin/sh")
    with refused("attest.event-refused"):
        check_pcr_log(log, pcrs_of(log), ALG_SHA256, EventLogRules(events={"pcr8": ("text:quiet",)}))


def test_what_a_host_feeds_into_rtmr0_is_not_secure_boot(refused):
    """RTMR0 also holds the host's settings, which may look like a variable and like a separator."""
    settings = event(1, 0x0A, secure_boot_variable(), banks=(12,)) + event(1, 0x0A, bytes(4), banks=(12,))
    log = header(12) + settings + boot(1, banks=(12,), value=b"\0")
    with refused("attest.secure-boot-unknown"):
        check_rtmr_log(log, replay_rtmrs(log), EventLogRules(secure_boot=True))


def test_a_tds_log(refused):
    rtmrs = replay_rtmrs(CCEL)
    rules = EventLogRules(secure_boot=True, events={"rtmr2": ("text:console=ttyS0",)})
    assert check_rtmr_log(CCEL, rtmrs, rules)["secure boot"] == "on"
    with refused("attest.event-refused"):
        check_rtmr_log(CCEL, rtmrs, EventLogRules(events={"rtmr2": ()}))
    with refused("attest.event-log-mismatch"):
        check_rtmr_log(CCEL, (bytes(48), *rtmrs[1:]), rules)
    with refused("attest.event-log-unsuitable"):
        check_rtmr_log(CCEL, rtmrs, EventLogRules(events={"pcr2": ()}))
    with refused("attest.event-log-unsuitable"):
        check_rtmr_log(CCEL, rtmrs, EventLogRules(dstack={"app-id": ()}))


def test_a_td_has_no_ima_list(refused):
    for log in (CCEL, b""):
        with refused("attest.ima-missing"):
            check_rtmr_log(log, replay_rtmrs(CCEL), EventLogRules(ima=ImaRules(required=True)))


def test_rules_that_a_log_can_not_meet(refused):
    with refused("attest.event-log-unsuitable"):
        check_pcr_log(LOG, pcrs_of(LOG), ALG_SHA256, EventLogRules(events={"rtmr2": ()}))
    with refused("attest.event-log-unsuitable"):
        check_pcr_log(LOG, pcrs_of(LOG), ALG_SHA256, EventLogRules(dstack={"app-id": ()}))


@pytest.mark.parametrize(
    "rules", [{"required": True}, {"secure_boot": True}, {"events": {"pcr8": ()}}, {"dstack": {"app-id": ()}}]
)
def test_no_log(refused, rules):
    assert check_pcr_log(b"", {}, ALG_SHA256, EventLogRules()) == {}
    assert check_rtmr_log(b"", (bytes(48),) * 4, EventLogRules()) == {}
    with refused("attest.event-log-missing"):
        check_pcr_log(b"", {}, ALG_SHA256, EventLogRules(**rules))
    with refused("attest.event-log-missing"):
        check_rtmr_log(b"", (bytes(48),) * 4, EventLogRules(**rules))


@pytest.mark.parametrize(
    "rules",
    [
        {"pcrs": (24,)},
        {"events": {"pcr24": ()}},
        {"events": {"mrtd": ()}},
        {"events": {"pcr8": ("quiet",)}},
        {"events": {"pcr8": ("00" * 20,)}},
    ],
)
def test_malformed_rules(refused, rules):
    with refused("attest.policy-malformed"):
        EventLogRules(**rules)


def test_with_a_quote(refused):
    tpm = SoftTpm(banks={11: pcrs_of(LOG)})
    policy = tpm.policy(event_log=EventLogRules(secure_boot=True))
    machine = tpm.appraise(tpm.hardware(event_log=LOG), policy)
    assert machine.facts["secure boot"] == "on"
    assert ("5 event log", "replays, secure boot on") in machine.checks
    with refused("attest.event-log-missing", "5 event log"):
        tpm.appraise(policy=policy)
    with refused("attest.event-log-mismatch", "5 event log"):
        SoftTpm().appraise(SoftTpm().hardware(event_log=LOG))
    with refused("attest.ima-missing", "6 ima"):
        tpm.appraise(policy=tpm.policy(event_log=EventLogRules(ima=ImaRules(required=True))))


# --- events in words -------------------------------------------------------------------------------------------------


def test_measured_data():
    variable = secure_boot_variable(b"\1\2", "BootOrder")
    cases = [
        (event(1, VARIABLE, variable), variable),
        (event(1, VARIABLE_BOOT, variable, measured=b"\1\2"), b"\1\2"),
        (event(1, VARIABLE_BOOT, b"no variable", measured=b"x"), None),
        (event(8, IPL, b"grub_cmd: ls\0", measured=b"ls"), b"ls"),
        (event(8, IPL, b"a\0\0", measured=b"a"), b"a"),
        (event(12, IPL, "a".encode("utf-16-le") + b"\0\0", measured="a".encode("utf-16-le")), b"a\0"),
        (event(9, IPL, b"/boot/vmlinuz\0", measured=b"the file"), None),
        (event(9, 6, struct.pack("<II", 1, 4) + b"data", measured=b"data"), b"data"),
        (event(7, SEPARATOR, bytes(4)), bytes(4)),
    ]
    for data, expected in cases:
        assert measured(only(data), ALG_SHA256) == expected


def image_load(*nodes: bytes, end: bytes = b"\x7f\xff\x04\x00") -> bytes:
    path = b"".join(nodes) + end
    return struct.pack("<QQQQ", 1, 2, 3, len(path)) + path


def node(kind: int, subtype: int, data: bytes) -> bytes:
    return bytes((kind, subtype)) + struct.pack("<H", len(data) + 4) + data


GUID = uuid.UUID("00f1275e-5375-43d5-9eb5-de2add4c9932")


def test_device_paths():
    data = image_load(
        node(2, 1, struct.pack("<II", 0x0A0341D0, 0)),
        node(2, 1, struct.pack("<II", 0x050141D0, 1)),
        node(1, 1, b"\0\1"),
        node(4, 1, struct.pack("<IQQ", 15, 0x2800, 0x35000) + GUID.bytes_le + b"\2\2"),
        node(4, 3, GUID.bytes_le),
        node(4, 6, GUID.bytes_le),
        node(4, 7, GUID.bytes_le),
        node(4, 4, "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")),
        node(3, 23, b"\1\2"),
    )
    guid = str(GUID).upper()
    assert describe(only(event(4, 0x80000003, data))).device_path == (
        "PciRoot(0x0)",
        "Acpi(0x050141d0,0x1)",
        "Pci(0x1,0x0)",
        f"HD(15,GPT,{guid},0x2800,0x35000)",
        f"VenMedia({guid})",
        f"FvFile({guid})",
        f"Fv({guid})",
        "File(\\EFI\\BOOT\\BOOTX64.EFI)",
        "Path(3,23,0102)",
    )


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (SEPARATOR, bytes(4), ""),
        (SEPARATOR, b"\1\0\0\0", "01000000"),
        (EFI_ACTION, b"Calling EFI Application from Boot Option", "Calling EFI Application from Boot Option"),
        (0x8000000B, b"\x09TdxTable\0" + bytes(20), "TdxTable"),
        (0x8000000A, b"", ""),
        (6, struct.pack("<II", 0x8F3B22ED, 13) + b"Linux initrd\0", "Linux initrd"),
        (8, "GCE firmware\0".encode("utf-16-le"), "GCE firmware"),
        (IPL, b"evil\x1b[31mtext", "evil [31mtext"),
        (IPL, bytes(range(128, 160)), ""),
        (0x80000003, b"short", ""),
        (0x80000003, image_load(b"\1\1\3\0"), ""),
        (VARIABLE, b"short", ""),
        (0x12345678, b"", ""),
    ],
)
def test_descriptions(kind, data, text):
    assert describe(only(event(1, kind, data))).text == text


def test_a_variable_in_words():
    details = describe(only(event(7, VARIABLE, secure_boot_variable(b"\1"))))
    assert (details.text, details.variable.data) == ("SecureBoot", b"\1")


def test_an_image_without_an_end_node():
    assert describe(only(event(4, 0x80000003, image_load(node(1, 1, b"\0\1"), end=b"")))).device_path == (
        "Pci(0x1,0x0)",
    )


def test_kinds_have_names():
    assert describe(only(event(1, SEPARATOR, b""))).kind == "EV_SEPARATOR"
    assert describe(only(event(1, 0x12345678, b""))).kind == "0x12345678"


def test_variables():
    variable = parse_variable(secure_boot_variable(b"\1"))
    assert (variable.name, variable.data) == ("SecureBoot", b"\1")
    assert variable.encode() == secure_boot_variable(b"\1")
    for data in (b"", secure_boot_variable() + b"\0", secure_boot_variable()[:-1]):
        with pytest.raises(ParseError):
            parse_variable(data)
    with pytest.raises(ParseError):
        parse_variable(bytes(16) + struct.pack("<QQ", 1, 0) + b"\x00\xd8")
    with pytest.raises(ParseError):
        parse_variable(bytes(16) + struct.pack("<QQ", 1 << 63, 0))
