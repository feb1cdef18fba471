r"""The sandbox's outside: starts a confined interpreter, asks it, and kills it.

Follows `docs/spec/sandbox.md`.

- The child is a fresh program, never a fork: an empty environment, no descriptor but its two pipes, none of our memory.
- Nothing is sent to it before it said that it is confined; where it can't be, no program runs.
- Seconds of wall time, seconds of CPU, bytes of memory and bytes of answers are bounded over the whole life of a box.
- What comes back is strict JSON and, where a program says so, a lie: never let a judged program speak its own verdict
  (`mitai.train.sandbox.passes`).

Example:
    >>> with Sandbox("def double(x):\n    return 2 * x") as box:
    ...     box.call("double", 21)
    42
"""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import msgspec

from mitai.errors import ParseError, TrainError
from mitai.wire import parse_json

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
Reason = Literal["raised", "memory", "time", "cpu", "output", "answer", "ended"]
_PYTHON: str = getattr(sys, "_base_executable", sys.executable)  # without the packages of a virtual environment
_CHILD = Path(__file__).with_name("child.py")
_START_S = 30.0  # for the interpreter alone, on a busy machine
_PIPE_BYTES = 64 << 10


@dataclass(frozen=True)
class Limits:
    """What one box may use over its whole life."""

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20


class ProgramError(TrainError):
    """A program in the sandbox that did not answer; `reason` is one of a fixed list, and nothing it said."""

    def __init__(self, reason: Reason) -> None:
        super().__init__("train.sandbox-program", f"a program in the sandbox failed: {_REASONS[reason]}")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason,)


_REASONS: dict[Reason, str] = {
    "raised": "it raised an exception",
    "memory": "it used up its memory",
    "time": "it used up its time",
    "cpu": "it used up its CPU seconds, or the machine its memory",
    "output": "it answered more than it may",
    "answer": "its answer is not what was asked for",
    "ended": "it ended",
}


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    kind: Literal["value", "raised", "ask"]
    value: Any


class RaisedError(Exception):
    """What a program raised, by its class's name, for the box that called it."""


class Sandbox:
    """One confined interpreter with a program loaded.

    Use it as a context manager, in one thread: the child ends with the thread that started it.

    Args:
        program: Python source. It may import the standard modules of `child.MODULES`, and nothing else.
        limits: What the box may use.
        remote: Names of functions that the program finds defined, and `ask` answers.
        ask: Called with the name and the arguments' literal; returns the result's literal, or raises `RaisedError`.

    Raises:
        TrainError: `train.sandbox-unavailable`: this machine can't confine a process; or the program failed.
    """

    def __init__(
        self,
        program: str,
        limits: Limits = Limits(),
        *,
        remote: tuple[str, ...] = (),
        ask: Callable[[str, str], str] | None = None,
    ) -> None:
        self._limits, self._remote, self._ask = limits, remote, ask
        self._buffer, self._received = b"", 0
        self._process = _start(limits)
        try:
            self._confined()
            self._deadline = time.monotonic() + limits.wall_s
            self._converse({"load": program, "remote": remote})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: str, *arguments: object) -> JsonValue:
        """Call a function of the program with JSON values; return its JSON value, or raise `ProgramError`."""
        return self._converse({"call": function, "arguments": arguments})

    def call_literal(self, function: str, literals: str) -> str:
        """Call a function with the literal of `(arguments, keywords)`; return its result's, or raise `RaisedError`."""
        value = self._converse({"call": function, "literals": literals}, raises=True)
        if not isinstance(value, str):
            raise ProgramError("answer")
        return value

    def close(self) -> None:
        """Kill the child; nothing of it can be left, for it can start nothing."""
        with self._process:  # closes the pipes and waits
            self._process.kill()

    def _confined(self) -> None:
        self._deadline = time.monotonic() + _START_S
        try:
            said = self._exchange(b"")
        except ProgramError:
            said = b""
        if said != b"confined":
            raise _unavailable()

    def _converse(self, question: dict[str, object], *, raises: bool = False) -> JsonValue:
        """Ask, answer what is asked back meanwhile, and return the value."""
        while True:
            answer = self._question(question)
            if answer.kind == "value":
                value: JsonValue = answer.value
                return value
            if answer.kind == "raised":
                if raises:
                    raise RaisedError(str(answer.value)[:100])
                raise ProgramError("memory" if answer.value == "MemoryError" else "raised")
            question = self._answer_back(answer.value)

    def _question(self, question: dict[str, object]) -> _Answer:
        """Send one question; an answer repeats its id, which is not known before it is asked."""
        name = secrets.token_hex(8)
        line = self._exchange(msgspec.json.encode({"id": name, **question}) + b"\n")
        try:
            answer = parse_json(line, _Answer, self._limits.output_bytes, "train.sandbox-answer", "this is no answer")
        except ParseError:
            raise ProgramError("answer") from None
        if answer.id != name:
            raise ProgramError("answer")
        return answer

    def _answer_back(self, asked: JsonValue) -> dict[str, object]:
        match asked:
            case [str(name), str(literals)] if self._ask is not None and name in self._remote:
                try:
                    return {"value": self._ask(name, literals)}
                except RaisedError as error:
                    return {"raised": str(error)}
        raise ProgramError("answer")

    def _exchange(self, message: bytes) -> bytes:
        """Write `message` while the child takes it, and read one line, both before the deadline."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ProgramError("ended")
        waiting = select.poll()
        waiting.register(stdout, select.POLLIN)
        if message:
            waiting.register(stdin, select.POLLOUT)
        while b"\n" not in self._buffer:
            left_s = self._deadline - time.monotonic()
            ready = dict(waiting.poll(max(left_s, 0) * 1000)) if left_s > 0 else {}
            if not ready:
                raise ProgramError("time")
            if stdin.fileno() in ready:
                message = _write(stdin.fileno(), message)
                if not message:
                    waiting.unregister(stdin)
            if stdout.fileno() in ready:
                self._read(stdout.fileno())
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _read(self, descriptor: int) -> None:
        data = os.read(descriptor, _PIPE_BYTES)
        if not data:
            raise ProgramError("cpu" if self._process.wait() in (-9, -24) else "ended")  # SIGKILL, SIGXCPU
        self._received += len(data)
        if self._received > self._limits.output_bytes:
            raise ProgramError("output")
        self._buffer += data


def _write(descriptor: int, message: bytes) -> bytes:
    """Write what fits, and return the rest; what a child that ended does not read is of no use."""
    try:
        return message[os.write(descriptor, message[:_PIPE_BYTES]) :]
    except BlockingIOError:
        return message
    except BrokenPipeError:
        return b""


def _start(limits: Limits) -> subprocess.Popen[bytes]:
    arguments = (str(limits.cpu_s), str(limits.memory_bytes), str(os.getpid()))
    try:
        process = subprocess.Popen(
            [_PYTHON, "-s", "-S", "-B", "-X", "utf8", str(_CHILD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},
        )
    except OSError as error:
        raise _unavailable() from error
    if process.stdin is not None:
        os.set_blocking(process.stdin.fileno(), False)
    return process


def _unavailable() -> TrainError:
    return TrainError(
        "train.sandbox-unavailable",
        "this machine can't confine a process, so that no program is run",
        hint="the sandbox needs Linux with seccomp filters on x86-64 or aarch64 (docs/spec/sandbox.md)",
    )
