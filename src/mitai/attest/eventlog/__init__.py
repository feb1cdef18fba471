"""Event logs: what firmware, loaders, kernels and dstack measured, replayed to the registers that hardware signs.

`tcg` parses and replays TCG2 logs and CCELs, `details` puts events into words, `secureboot` reads the one state that
most policies ask for, `ima` and `dstack` know those lists, and `rules` is the policy's section `event_log`.
"""

from mitai.attest.eventlog.rules import EventLogRules, check_pcr_log, check_rtmr_log
from mitai.attest.eventlog.tcg import (
    ALG_SHA1,
    ALG_SHA256,
    ALG_SHA384,
    ALG_SHA512,
    EV_EVENT_TAG,
    EV_NO_ACTION,
    HASHES,
    MAX_EVENT_LOG_BYTES,
    Event,
    EventLog,
    check_replay,
    parse_event_log,
    proven_pcrs,
    read_event_log,
    replay,
    replay_rtmrs,
)

__all__ = [
    "ALG_SHA1",
    "ALG_SHA256",
    "ALG_SHA384",
    "ALG_SHA512",
    "EV_EVENT_TAG",
    "EV_NO_ACTION",
    "HASHES",
    "MAX_EVENT_LOG_BYTES",
    "Event",
    "EventLog",
    "EventLogRules",
    "check_pcr_log",
    "check_replay",
    "check_rtmr_log",
    "parse_event_log",
    "proven_pcrs",
    "read_event_log",
    "replay",
    "replay_rtmrs",
]
