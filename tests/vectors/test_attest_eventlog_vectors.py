"""Public event logs and IMA lists: replayed values, event counts, what other parsers made of them (see README.md)."""

from __future__ import annotations

import base64
import hashlib
import uuid
from datetime import UTC, datetime

import msgspec
import pytest

from attest_lab import flip, vector_entries, vector_file, vector_folder
from mitai.attest.dcap.quote import parse_quote
from mitai.attest.eventlog import (
    HASHES,
    EventLogRules,
    check_pcr_log,
    check_rtmr_log,
    parse_event_log,
    read_event_log,
    replay,
)
from mitai.attest.eventlog.details import describe, measured
from mitai.attest.eventlog.ima import ImaRules, check_ima, files_of_keylime, parse_ima
from mitai.attest.eventlog.tcg import EV_NO_ACTION
from mitai.errors import MitaiError

ENTRIES = {entry["id"]: entry for entry in vector_entries()}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entries(tee: str, *, having: str | None = None):
    found = [
        entry for entry in ENTRIES.values() if entry["tee"] == tee and (having is None or having in entry["files"])
    ]
    return [pytest.param(entry, id=entry["id"]) for entry in found] or [
        pytest.param(
            None, marks=pytest.mark.skip(reason="no such public vectors here: set MITAI_VECTORS to their folder")
        )
    ]


def log_of(entry: dict) -> bytes:
    log = vector_file(entry, next(name for name in entry["files"] if name.endswith(".bin")))
    # "padding trimmed": of this log the trimming also took zeros that belong to the last event (docs/adr/0115)
    return log + bytes(4096) if entry["id"] == "eventlog/trustee-CCEL_data" else log


def registers_of(log: bytes, algorithm: int) -> dict[int, bytes]:
    """Return 24 registers as a TPM would hold them after the log."""
    size = hashlib.new(HASHES[algorithm]).digest_size
    return {number: bytes(size) for number in range(24)} | replay(log, algorithm)


@pytest.mark.parametrize("entry", entries("eventlog"))
def test_replays(entry):
    log, expected = log_of(entry), entry["expected"]
    parsed = read_event_log(log)
    assert parsed.events
    assert len(parsed.events) == expected.get("events", len(parsed.events))
    if "replayed_rtmrs_sha384" in expected:
        replayed = {str(register - 1): value.hex() for register, value in replay(log).items()}
        assert replayed == expected["replayed_rtmrs_sha384"]
    if "replayed" in expected:
        algorithm = next(number for number, name in HASHES.items() if name == expected["alg"])
        assert {str(number): value.hex() for number, value in replay(log, algorithm).items()} == expected["replayed"]
    if "algs" in expected:
        assert {int(number, 16) for number in expected["algs"]} == parsed.algorithms


@pytest.mark.parametrize("entry", entries("eventlog"))
def test_every_bank_is_explained(entry):
    log = log_of(entry)
    for algorithm in read_event_log(log).algorithms:
        values = registers_of(log, algorithm)
        if set(replay(log, algorithm)) <= {1, 2, 3, 4} and algorithm == 12:
            facts = check_rtmr_log(log, [values[number] for number in (1, 2, 3, 4)], EventLogRules())
        else:
            facts = check_pcr_log(log, values, algorithm, EventLogRules())
        assert int(facts["boot events"]) == sum(event.register < 24 for event in read_event_log(log).events)


@pytest.mark.parametrize("entry", entries("eventlog"))
def test_a_changed_digest_is_refused(entry):
    log = log_of(entry)
    algorithm = max(read_event_log(log).algorithms)
    values = registers_of(log, algorithm)
    for event in parse_event_log(log):
        if event.kind == EV_NO_ACTION:
            continue
        changed = flip(log, log.index(event.digests[algorithm]) + 5)
        assert registers_of(changed, algorithm) != values


@pytest.mark.parametrize("entry", entries("eventlog", having="expected_parse.json"))
def test_agreement_with_trustees_parser(entry):
    theirs = msgspec.json.decode(vector_file(entry, "expected_parse.json"))["uefi_event_logs"]
    events = list(parse_event_log(log_of(entry)))
    assert len(events) == len(theirs)
    for event, their in zip(events, theirs, strict=True):
        details, words = their["details"], describe(event)
        assert event.register == their["index"]
        assert words.kind == their["type_name"]
        assert event.data == base64.b64decode(their["event"])
        assert [(digest["alg"].lower().replace("-", ""), digest["digest"]) for digest in their["digests"]] == [
            (HASHES[number], value.hex()) for number, value in event.digests.items()
        ]
        for number, value in event.digests.items():
            assert (hashlib.new(HASHES[number], event.data).digest() == value) is their["digest_matches_event"]
            assert measured(event, number) is not None or not their["digest_matches_event"]
        if "variable_data" in details:
            assert words.variable.name == details["unicode_name"]
            assert words.variable.data == base64.b64decode(details["variable_data"])
            # they print the GUID's bytes in the order in which they are stored
            assert uuid.UUID(words.variable.vendor).bytes_le == uuid.UUID(details["variable_name"]).bytes
        for path in details.get("device_paths", []):
            if path.startswith(("File(", "HD(")):
                assert path in words.device_path
        if details.get("string") and not details["string"].startswith("td_"):
            assert words.text.lstrip(".").split() == details["string"].split()


def test_a_machines_log_and_quote():
    vector_folder()
    entry = ENTRIES["tdx/gtg-cos113-gcp-uptodate-ccel"]
    rtmrs = parse_quote(vector_file(entry, "quote.bin")).body.rtmrs
    log = vector_file(entry, "ccel_data.bin")
    assert check_rtmr_log(log, rtmrs, EventLogRules(required=True))["secure boot"] == "off"
    with pytest.raises(MitaiError) as refusal:
        check_rtmr_log(log, rtmrs, EventLogRules(secure_boot=True))
    assert refusal.value.code == "attest.secure-boot-off"


def test_secure_boot_of_public_logs():
    vector_folder()
    expected = {
        "eventlog/trustee-CCEL_data_grub": (12, "on"),
        "eventlog/trustee-CCEL_data_ovmf": (12, "off"),
        "eventlog/goeventlog-cos-101-amd-sev": (11, "on"),
        "eventlog/goeventlog-arch-linux-workstation": (11, "off"),
    }
    for name, (algorithm, state) in expected.items():
        log = log_of(ENTRIES[name])
        values = registers_of(log, algorithm)
        if algorithm == 12:
            facts = check_rtmr_log(log, [values[number] for number in (1, 2, 3, 4)], EventLogRules())
        else:
            facts = check_pcr_log(log, values, algorithm, EventLogRules())
        assert facts["secure boot"] == state, name


@pytest.mark.parametrize("entry", entries("ima"))
def test_ima_lists(entry):
    log = vector_file(entry, "ima_log.txt")
    measured_files = parse_ima(log)
    assert [file.path for file in measured_files] == ["boot_aggregate", "/data"]
    allowed = files_of_keylime(vector_file(entry, "expected_policy.json"))
    assert all(len(bytes.fromhex(digest)) in {20, 32} for digests in allowed.values() for digest in digests)
    for bank in ("sha1", "sha256"):
        pcr = bytes(hashlib.new(bank).digest_size)
        for file in measured_files:
            pcr = hashlib.new(bank, pcr + file.extends(bank)).digest()
        listed = {file.path: (file.digest.hex(),) for file in measured_files}
        rules = ImaRules(required=True, files={**allowed, **listed}, allow_violations=True)
        assert check_ima(log, pcr, bank, rules) == measured_files
        with pytest.raises(MitaiError) as refusal:
            check_ima(log, pcr, bank, ImaRules(files=allowed, allow_violations=True))
        assert refusal.value.code == "attest.ima-file-unknown"
        with pytest.raises(MitaiError) as refusal:
            check_ima(log, flip(pcr, 0), bank, rules)
        assert refusal.value.code == "attest.ima-mismatch"


def test_all_entries_are_covered():
    """A vector that is added must be looked at, not skipped in silence."""
    vector_folder()
    known = {"eventlog": {None}, "ima": {None}}
    for entry in ENTRIES.values():
        assert entry["tee"] not in known or entry["kind"] in known[entry["tee"]], entry["id"]
