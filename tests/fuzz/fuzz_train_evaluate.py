"""Fuzz what evaluations read from strangers: job tables, reports, what a sandboxed program answers, a judge's words."""

from __future__ import annotations

import contextlib
import sys

import msgspec

from mitai.attest import Policy
from mitai.errors import MitaiError
from mitai.train.evaluate import judging
from mitai.train.evaluate.board import Board, numbers_of, verify_board
from mitai.train.evaluate.normalise import NORMALISERS, normalise
from mitai.train.evaluate.report import Measured, verify_report
from mitai.train.evaluate.signed import label
from mitai.train.evaluate.tasks import Evaluate, fill
from mitai.train.sandbox import ProgramError, Sandbox

_POLICY = Policy()


class _Answers(Sandbox):
    """A box whose child said `data`."""

    def __init__(self, data: bytes) -> None:
        super(Sandbox, self).__init__()
        from mitai.train.sandbox import Limits

        self._limits, self._remote, self._ask, self._data = Limits(), ("f",), lambda _, text: text, data

    def _exchange(self, message: bytes) -> bytes:
        name = message.split(b'"', 4)[3]
        line, _, self._data = self._data.partition(b"\n")
        if not line:
            raise ProgramError("ended")
        return line.replace(b"ID", name)


def one_input(data: bytes) -> None:
    for parse in (Measured.decode, lambda raw: verify_report(raw, _POLICY), lambda raw: verify_board(raw, _POLICY)):
        with contextlib.suppress(MitaiError):
            parse(data)
    assert isinstance(label(data), str)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        board = msgspec.json.decode(data, type=Board)
        assert len(board.lines) == len(board.reports) == len({each.line for each in board.lines})
        assert len({tuple(numbers_of(each.results)) for each in board.lines}) == 1
    with contextlib.suppress(MitaiError):
        found = Measured.decode(data)
        assert found.encode() == data
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError, MitaiError):
        plan = msgspec.toml.decode(data, type=Evaluate)
        assert len(plan.sha256()) == 64
        for task in plan.tasks:
            fill(task.prompt, {"q": "{q}"})
    with contextlib.suppress(ProgramError):
        _Answers(data).call("f", 1)
    text = data.decode(errors="replace")
    rated = judging.rating(text, 10)
    assert rated is None or 1 <= rated <= 10
    assert judging.outcome(judging.preference(text), judging.preference(text)) in {(0.5, True), (0.5, False)}
    normalise(text, tuple(NORMALISERS))


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, lambda data: one_input(data))
    atheris.Fuzz()
