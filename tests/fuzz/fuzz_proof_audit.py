"""Fuzz: what an auditor gets from strangers: answers with a root, challenges, traces; and keys.

Run `python tests/fuzz/fuzz_proof_audit.py [libFuzzer options]` with atheris.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import msgspec

import proof_audit_rig as rig
from mitai.errors import MitaiError
from mitai.proof.audit.check import Auditor, plan_of
from mitai.proof.audit.files import Challenge, Committed
from mitai.proof.audit.key import AuditKey
from mitai.proof.audit.trace import respond

COMMITTED, KEY = rig.committed("gpt2"), rig.key("gpt2")
TRACE = b"".join(respond(rig.prepared("gpt2"), COMMITTED, None))
CLAIM, PLAN = rig.claim("gpt2")
SEEDS = (
    COMMITTED.encode(),
    Challenge(steps=(1, 7)).encode(),
    msgspec.structs.replace(KEY, projections={}, plain={}).encode(),
    TRACE,
)
AUDITOR = Auditor(COMMITTED, KEY)


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and no trace but the true one is accepted."""
    for parse in (Committed.parse, Challenge.parse, AuditKey.parse):
        with contextlib.suppress(MitaiError):
            read = parse(data)
            assert read.encode() == data
            if isinstance(read, Committed) and len(read.prompt) + len(read.answer) < 8:
                plan_of(read, KEY.model)
    trace = rig.trace_of(PLAN, data)
    false = rig.Liar(CLAIM, trace)
    auditor = Auditor(msgspec.structs.replace(COMMITTED, salt=bytes(32), root=false.root), KEY)
    for judge, stream in ((AUDITOR, data), (auditor, false.response(None))):
        try:
            judge.check(None, io.BytesIO(stream))
        except MitaiError:
            continue
        assert stream == TRACE


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
