"""Properties of event logs: any bytes give the tree's error or a value; no event can be changed, moved or left out."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest_eventlog_lab import (
    boot,
    dstack_event,
    dstack_log,
    event,
    header,
    ima_binary,
    ima_ng,
    ima_pcr,
    ima_text,
    pcrs_of,
)
from mitai.attest.eventlog import ALG_SHA256, EventLogRules, check_pcr_log, check_rtmr_log, read_event_log, replay
from mitai.attest.eventlog.details import describe, measured
from mitai.attest.eventlog.dstack import parse_dstack, replay_dstack
from mitai.attest.eventlog.ima import ImaRules, check_ima, files_of_keylime, parse_ima
from mitai.errors import MitaiError

EVENTS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([4, 13, 0x80000001]), st.binary(max_size=40)), max_size=12
)
SEEDS = (
    header(11) + boot() + event(8, 13, b"kernel_cmdline: quiet\0", measured=b"quiet"),
    header(12) + boot(1, banks=(12,)),
    ima_text(ima_ng("/a", bytes(32)), ima_ng("/b", bytes(32), template="ima-sig", extra=b"s")),
    ima_binary(ima_ng("/a", bytes(32)), ima_ng("/b", bytes(32), template="ima-sig", extra=b"s")),
    dstack_log(dstack_event("app-id", b"x")),
    b'{"digests":{"/a":["00"]}}',
)


@given(seed=st.sampled_from(SEEDS), where=st.floats(0, 1), middle=st.binary(max_size=12), skip=st.integers(0, 12))
@settings(max_examples=800)
def test_any_bytes(seed, where, middle, skip):
    at = int(where * len(seed))
    data = seed[:at] + middle + seed[at + skip :]
    with contextlib.suppress(MitaiError):
        for each in read_event_log(data).events:
            describe(each)
            for algorithm in each.digests:
                if algorithm in {4, 11, 12}:
                    measured(each, algorithm)
    for parse in (parse_ima, parse_dstack, files_of_keylime):
        with contextlib.suppress(MitaiError):
            parse(data)
    with contextlib.suppress(MitaiError):
        check_rtmr_log(data, (bytes(48),) * 4, EventLogRules())
    with contextlib.suppress(MitaiError):
        check_pcr_log(data, {number: bytes(32) for number in range(24)}, ALG_SHA256, EventLogRules(secure_boot=True))


@given(events=EVENTS)
def test_replay_agrees_with_another(events):
    log = header(11) + b"".join(event(*each) for each in events)
    values = {number: bytes(32) for number in range(24)} | replay(log, ALG_SHA256)
    assert values == pcrs_of(log)


@given(events=EVENTS.filter(len), data=st.data())
def test_an_event_less_is_another_register(events, data):
    whole = [event(*each) for each in events]
    missing = data.draw(st.integers(0, len(whole) - 1))
    log = header(11) + b"".join(whole)
    shorter = header(11) + b"".join(whole[:missing] + whole[missing + 1 :])
    with pytest.raises(MitaiError):
        check_pcr_log(shorter, pcrs_of(log), ALG_SHA256, EventLogRules(pcrs=tuple(range(10))))


@given(
    files=st.lists(st.tuples(st.sampled_from(["/a", "/b", "/c"]), st.binary(min_size=32, max_size=32)), min_size=1),
    data=st.data(),
)
def test_no_measured_file_can_be_hidden(files, data):
    entries = [ima_ng(path, digest) for path, digest in files]
    missing = data.draw(st.integers(0, len(entries) - 1))
    pcr = ima_pcr(*entries)
    assert len(check_ima(ima_text(*entries), pcr, "sha256", ImaRules())) == len(entries)
    with pytest.raises(MitaiError):
        check_ima(ima_text(*entries[:missing], *entries[missing + 1 :]), pcr, "sha256", ImaRules())


@given(names=st.lists(st.sampled_from(["app-id", "compose-hash", "a"]), min_size=1), payload=st.binary(max_size=20))
def test_no_dstack_event_can_be_renamed(names, payload):
    log = dstack_log(*(dstack_event(name, payload) for name in names))
    renamed = dstack_log(*(dstack_event(name, payload) for name in (*names[:-1], names[-1] + "x")))
    assert replay_dstack(parse_dstack(log)) != replay_dstack(parse_dstack(renamed))
