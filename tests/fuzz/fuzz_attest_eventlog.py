"""Fuzz: CCEL event logs.

Run `python tests/fuzz/fuzz_attest_eventlog.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest.eventlog import replay_rtmrs
from mitai.attest.sim import Workload, event_log
from mitai.errors import MitaiError

SEEDS = [event_log(Workload("a", bytes(32))), event_log(Workload("a", bytes(32))) + b"\xff" * 64]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        rtmrs = replay_rtmrs(data)
        assert [len(rtmr) for rtmr in rtmrs] == [48] * 4


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
