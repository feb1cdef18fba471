"""SPU's figures, from its own environment; what was recorded elsewhere where that can't be had."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import progress

HERE = Path(__file__).parent.parent / "spu"
NAME = "SecretFlow-SPU 0.9.5"


@dataclass(frozen=True)
class Peer:
    """What one run of SPU took.

    Attributes:
        name: What the row calls it.
        cpu_s: Processor time of its three parties.
        sent_bytes: What all of them sent.
        sends: How often one of them sent.
        max_error: Of its output, against floating point; None where it was not recorded.
    """

    name: str
    cpu_s: float
    sent_bytes: float
    sends: int
    max_error: float | None


RECORDED = {  # by SPU 0.9.5 on two cores of another machine (Sapphire Rapids)
    "bert": Peer(f"{NAME}, recorded", 193, 7175e6, 5086, 0.068),
    "gpt2-token": Peer(f"{NAME}, recorded", 16.6, 52e6, 5060, None),
    "llama15m": Peer(f"{NAME}, recorded", 26.2, 220e6, 2297, None),
}


@functools.cache
def measure(model: str, length: int) -> Peer:
    """Run SPU once, or return what was recorded."""
    try:
        python = subprocess.run([HERE / "setup"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        progress(f"SPU computes {model}: minutes")
        command = [Path(python).absolute(), HERE / "peer.py", model, "--length", str(length)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    except (OSError, subprocess.CalledProcessError) as error:
        progress(f"SPU's recorded figures stand in: {error}")
        return RECORDED[model]
    got = json.loads(done.stdout.splitlines()[-1])
    progress(f"SPU: {got}")
    return Peer(NAME, got["cpu_s"][-1], got["sent_bytes"], got["sends"], got["max_error"])
