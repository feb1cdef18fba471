"""Runtime logs: the kernel's IMA list and dstack's RTMR[3]."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import rfc8785

from attest_eventlog_lab import (
    DSTACK,
    dstack_event,
    dstack_log,
    ima_binary,
    ima_ng,
    ima_pcr,
    ima_text,
    rtmr3,
)
from attest_lab import NOW
from attest_tpm_lab import SoftTpm
from mitai.attest import Hardware, Policy, verify_hardware
from mitai.attest.eventlog import EventLogRules, check_rtmr_log
from mitai.attest.eventlog.dstack import check_dstack, parse_dstack, replay_dstack
from mitai.attest.eventlog.ima import (
    MAX_IMA_BYTES,
    ImaRules,
    boot_aggregates,
    check_ima,
    files_of_keylime,
    parse_ima,
)
from mitai.errors import MitaiError

A, B = hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()
ENTRIES = (
    ima_ng("boot_aggregate", hashlib.sha256(bytes(32 * 10)).digest()),
    ima_ng("/usr/bin/a", A),
    ima_ng("/usr/bin/b", B, template="ima-sig", extra=b"\3\2signature"),
    ima_ng("/usr/bin/b", B, template="ima-sig"),
    ima_ng("/usr/bin/c", A, "ima:sha256", template="ima-ngv2"),
    ima_ng("/usr/bin/d", B, "verity:sha256", template="ima-sigv2", extra=b"s"),
    ima_ng("kexec-cmdline", A, template="ima-buf", extra=b"quiet"),
)
FILES = {
    "/usr/bin/a": (A.hex(),),
    "/usr/bin/b": (A.hex(), B.hex()),
    "/usr/bin/c": (A.hex(),),
    "/usr/bin/d": (B.hex(),),
    "kexec-cmdline": (A.hex(),),
}
ZERO_PCRS = {number: bytes(32) for number in range(10)}


def check(log: bytes, pcr: bytes, bank: str = "sha256", **rules):
    return check_ima(log, pcr, bank, ImaRules(**rules), boot_aggregates(ZERO_PCRS))


@pytest.mark.parametrize("form", [ima_text, ima_binary])
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_lists_replay(form, bank):
    entries = check(form(*ENTRIES), ima_pcr(*ENTRIES, bank=bank), bank, files=FILES, required=True)
    assert [entry.path for entry in entries] == [
        "boot_aggregate",
        "/usr/bin/a",
        "/usr/bin/b",
        "/usr/bin/b",
        "/usr/bin/c",
        "/usr/bin/d",
        "kexec-cmdline",
    ]
    assert [entry.algorithm for entry in entries] == ["sha256"] * 7


def test_text_and_binary_agree():
    assert parse_ima(ima_text(*ENTRIES)[:-1]) == parse_ima(ima_text(*ENTRIES))
    assert parse_ima(ima_text(*ENTRIES)) == parse_ima(ima_binary(*ENTRIES))


def test_the_first_template():
    digest = hashlib.sha1(b"a").digest()
    content = digest + b"/bin/a".ljust(256, b"\0")
    template = hashlib.sha1(content).digest()
    text = f"10 {template.hex()} ima {digest.hex()} /bin/a\n".encode()
    binary = struct.pack("<I20sI", 10, template, 3) + b"ima" + digest + struct.pack("<I", 6) + b"/bin/a"
    assert parse_ima(text) == parse_ima(binary)
    pcr = hashlib.sha1(bytes(20) + template).digest()
    assert check(text, pcr, "sha1", files={"/bin/a": (digest.hex(),)})[0].digest == digest


@pytest.mark.parametrize("name", ["sha256", "sm3", "sha384", "sha512"])
def test_template_digests_of_other_kinds(refused, name):
    template, data, text = ENTRIES[1]
    line = f"10 {hashlib.new(name, data).hexdigest()} {template} {text}\n".encode()
    assert check(line, ima_pcr(ENTRIES[1]))[0].path == "/usr/bin/a"
    with refused("attest.ima-malformed"):
        parse_ima(line.replace(b"/usr/bin/a", b"/usr/bin/x"))


def test_older_kernels_pad():
    padded = bytes(32)
    for _, data, _ in ENTRIES:
        padded = hashlib.sha256(padded + hashlib.sha1(data).digest().ljust(32, b"\0")).digest()
    assert len(check(ima_text(*ENTRIES), padded)) == 7


def test_later_entries_are_not_trusted(refused):
    evil = ima_ng("/tmp/evil", A)
    entries = check(ima_text(*ENTRIES, evil), ima_pcr(*ENTRIES), files=FILES)
    assert len(entries) == 7
    with refused("attest.ima-file-unknown"):
        check(ima_text(*ENTRIES, evil), ima_pcr(*ENTRIES, evil), files=FILES)
    assert check(ima_text(*ENTRIES), bytes(32)) == ()
    for rules in ({"required": True}, {"files": FILES}):
        with refused("attest.ima-empty"):
            check(ima_text(*ENTRIES), bytes(32), **rules)


@pytest.mark.parametrize(
    "log",
    [
        ima_text(*ENTRIES[:-1]),
        ima_text(*ENTRIES[1:]),
        ima_text(ENTRIES[1], ENTRIES[0], *ENTRIES[2:]),
        b"",
    ],
)
def test_incomplete_lists(refused, log):
    with refused("attest.ima-mismatch"):
        check(log, ima_pcr(*ENTRIES))


def test_files(refused):
    log, pcr = ima_text(*ENTRIES), ima_pcr(*ENTRIES)
    with refused("attest.ima-file-mismatch"):
        check(log, pcr, files={**FILES, "/usr/bin/a": (B.hex(),)})
    with refused("attest.ima-file-unknown"):
        check_ima(log, pcr, "sha256", ImaRules(files=FILES))  # a boot aggregate of other registers
    late = (ENTRIES[1], ENTRIES[0])
    with refused("attest.ima-file-unknown"):
        check(ima_text(*late), ima_pcr(*late), files=FILES)


def test_violations(refused):
    line = b"10 " + b"0" * 40 + b" ima-ng sha1:" + b"0" * 40 + b" /var/log/open\n"
    pcr = hashlib.sha256(bytes(32) + b"\xff" * 32).digest()
    with refused("attest.ima-violation"):
        check(line, pcr)
    (entry,) = check(line, pcr, allow_violations=True)
    assert entry.violation
    with refused("attest.ima-file-unknown"):
        check(line, pcr, allow_violations=True, files=FILES)


def test_other_registers(refused):
    with refused("attest.ima-register-refused"):
        check(ima_text(ENTRIES[1], pcr=11), ima_pcr(ENTRIES[1]))


GOOD = ima_text(ENTRIES[1]).decode()
GOOD_BINARY = ima_binary(ENTRIES[1])


@pytest.mark.parametrize(
    "log",
    [
        GOOD[:-2].encode(),
        GOOD.replace("ima-ng", "ima-xx").encode(),
        GOOD.replace("/usr", "/usr /x").encode(),
        GOOD.replace("/usr/bin/a", "/usr/bin/b").encode(),
        GOOD.replace("sha256:", "sha512:").encode(),
        GOOD.replace("sha256:", "").encode(),
        GOOD.replace("10 ", "010 ", 1).encode(),
        GOOD.replace("10 ", "1O ", 1).encode(),
        GOOD.replace(A.hex(), A.hex().upper()).encode(),
        GOOD.replace(A.hex(), "zz").encode(),
        GOOD.replace("/usr", "\0usr").encode(),
        (GOOD + "\n").encode(),
        ("10 " + "11" * 32 + " ima-ng sha1:" + "00" * 20 + " x\n").encode(),
        ("10 " + "00" * 21 + " ima-ng sha1:" + "00" * 20 + " x\n").encode(),
        b"\n",
        GOOD_BINARY[:-1],
        GOOD_BINARY + b"\0",
        GOOD_BINARY.replace(b"ima-ng", b"ima-xx"),
        GOOD_BINARY.replace(b"/usr", b"\0usr"),
        struct.pack("<I20sI", 10, bytes(20), 3) + b"ima" + bytes(20) + struct.pack("<I", 300) + b"a" * 300,
        bytes(MAX_IMA_BYTES + 1),
    ],
)
def test_malformed_lists(refused, log):
    with refused("attest.ima-malformed"):
        parse_ima(log)


@pytest.mark.parametrize("files", [{"/a": ("zz",)}, {"/a": ("00",)}, {"/a": ("AA" * 32,)}])
def test_malformed_rules(refused, files):
    with refused("attest.policy-malformed"):
        ImaRules(files=files)


def test_keylime_policies(refused):
    assert files_of_keylime(b'{"digests":{"/a":["00"]},"excludes":["/tmp/.*"],"release":0}') == {"/a": ("00",)}
    for data in (b"", b"{}", b'{"digests":[]}', b"[" * 3000):
        with refused("attest.ima-policy-malformed"):
            files_of_keylime(data)


def test_boot_aggregates():
    values = {number: bytes([number]) * 32 for number in range(24)}
    expected = {hashlib.sha256(b"".join(values[n] for n in range(last))).digest() for last in (8, 10)}
    assert boot_aggregates(values) == expected
    assert boot_aggregates({0: bytes(32)}) == frozenset()
    assert len(boot_aggregates({number: bytes(20) for number in range(8)})) == 1


def test_with_a_quote(refused):
    tpm = SoftTpm()
    tpm.banks[11][10] = ima_pcr(*ENTRIES)
    policy = tpm.policy(event_log=EventLogRules(ima=ImaRules(files=FILES)))
    machine = tpm.appraise(tpm.hardware(tpm.evidence(ima_log=ima_binary(*ENTRIES))), policy)
    assert machine.facts["files measured"] == "7"
    with refused("attest.ima-missing", "6 ima"):
        tpm.appraise(policy=policy)
    few = SoftTpm(banks={11: dict.fromkeys(range(8), bytes(32))})
    with refused("attest.ima-missing"):
        few.appraise(few.hardware(few.evidence(ima_log=ima_text(*ENTRIES))), few.policy())
    with refused("attest.ima-mismatch", "6 ima"):
        tpm.appraise(tpm.hardware(tpm.evidence(ima_log=ima_text(*ENTRIES[1:]))))


# --- dstack ----------------------------------------------------------------------------------------------------------

COMPOSE = hashlib.sha256(b"compose").digest()
EVENTS = (
    {"imr": 0, "event_type": 10, "digest": "11" * 48, "event": "", "event_payload": b"ACPI DATA".hex()},
    dstack_event("system-preparing", b""),
    dstack_event("app-id", b"\xaa" * 20),
    dstack_event("compose-hash", COMPOSE),
    dstack_event("instance-id", b"\xbb" * 20),
    dstack_event("key-provider", b'{"name":"kms"}'),
)
RTMRS = replay_dstack(parse_dstack(dstack_log(*EVENTS)))
RULES = {"compose-hash": (COMPOSE.hex(),), "app-id": ("aa" * 20, "cc" * 20)}


def test_dstack_replays():
    names = ("system-preparing", "app-id", "compose-hash", "instance-id", "key-provider")
    payloads = (b"", b"\xaa" * 20, COMPOSE, b"\xbb" * 20, b'{"name":"kms"}')
    contents = [b"\1\0\0\x08:" + n.encode() + b":" + p for n, p in zip(names, payloads, strict=True)]
    assert RTMRS[3] == rtmr3(*contents)
    assert RTMRS[0] == hashlib.sha384(bytes(48) + b"\x11" * 48).digest()
    facts = check_rtmr_log(dstack_log(*EVENTS), RTMRS, EventLogRules(dstack=RULES, required=True))
    assert facts["dstack compose-hash"] == COMPOSE.hex()


def test_only_plain_names_are_shown():
    log = dstack_log(dstack_event("app-id", b"x"), dstack_event("\x1b[31m", b"y"))
    assert check_rtmr_log(log, replay_dstack(parse_dstack(log)), EventLogRules()) == {"dstack app-id": "78"}


def test_dstack_digests_may_be_left_out():
    stripped = [{**event, "digest": ""} if event["event_type"] == DSTACK else event for event in EVENTS]
    assert check_dstack(dstack_log(*stripped), RTMRS, RULES)["app-id"] == "aa" * 20


def test_dstack_version_2():
    content = rfc8785.dumps({"name": "app-id", "payload": "aa", "type": DSTACK})
    log = dstack_log(dstack_event("app-id", b"\xaa", version=2, digest=hashlib.sha384(content).hexdigest()))
    rtmrs = (*(bytes(48),) * 3, rtmr3(content))
    assert check_dstack(log, rtmrs, {"app-id": ("aa",)}) == {"app-id": "aa"}


def test_dstack_rules(refused):
    log = dstack_log(*EVENTS)
    with refused("attest.dstack-event-refused"):
        check_dstack(log, RTMRS, {"compose-hash": ("00" * 32,)})
    with refused("attest.dstack-event-missing"):
        check_dstack(log, RTMRS, {"os-image-hash": ()})
    again = (*EVENTS, dstack_event("compose-hash", b"another"))
    rtmrs = replay_dstack(parse_dstack(dstack_log(*again)))
    with refused("attest.dstack-event-missing"):
        check_dstack(dstack_log(*again), rtmrs, RULES)
    assert "compose-hash" not in check_dstack(dstack_log(*again), rtmrs, {})
    with refused("attest.event-log-unsuitable"):
        check_rtmr_log(log, RTMRS, EventLogRules(secure_boot=True))


@pytest.mark.parametrize("number", range(4))
def test_dstack_mismatch(refused, number):
    other = [bytes(47) + b"\1" if n == number else value for n, value in enumerate(RTMRS)]
    with refused("attest.event-log-mismatch"):
        check_dstack(dstack_log(*EVENTS), other, {})


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (dstack_event("app-id", b"x", digest="00" * 48), "attest.event-data-mismatch"),
        (dstack_event("app-id:x", b""), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", event_type=10), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", imr=2), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", imr=4), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", imr=-1), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", version=3), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", event_payload="0"), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", event_payload="00 "), "attest.event-log-malformed"),
        (dstack_event("app-id", b"x", event_payload=1), "attest.event-log-malformed"),
        ({**EVENTS[0], "digest": "11" * 47}, "attest.event-log-malformed"),
    ],
)
def test_malformed_dstack_events(refused, event, code):
    with refused(code):
        check_dstack(dstack_log(event), (bytes(48),) * 4, {})


@pytest.mark.parametrize("log", [b"[", b"{}", b"[1]", b"[" * 3000, b"[" + b" " * (1 << 20) + b"]"])
def test_malformed_dstack_logs(refused, log):
    with refused("attest.event-log-malformed"):
        check_rtmr_log(b"[" + log[1:], (bytes(48),) * 4, EventLogRules())


def test_an_empty_dstack_log():
    assert check_dstack(json.dumps([]).encode(), (bytes(48),) * 4, {}) == {}
    with pytest.raises(MitaiError):
        check_dstack(b"[]", (b"\1" * 48,) * 4, {})


@pytest.mark.parametrize("tee", ["sgx", "snp", "nitro", "cca", "csv"])
@pytest.mark.parametrize("rules", [EventLogRules(required=True), EventLogRules(ima=ImaRules(required=True))])
def test_rules_on_logs_are_not_passed_over(refused, tee, rules):
    """Evidence that has no log can't show what the policy wants to see in one."""
    with refused("attest.event-log-missing", "1 event log"):
        verify_hardware(Hardware(tee=tee, quote=b""), Policy(event_log=rules), now=NOW)
