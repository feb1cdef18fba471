"""The sandbox's inside: a fresh interpreter that confines itself, then runs what it is told.

`python child.py CPU_SECONDS MEMORY_BYTES PARENT_PID`, with questions on standard input and answers on standard output,
one JSON object a line (`docs/spec/sandbox.md`). It imports nothing of mitai but the file beside it.

- Standard modules are imported first: afterwards no file can be opened, so that nothing else can be imported.
- Nothing that was sent is read before the process is confined, and it says so; where that fails it ends at once.
- A program may do what it likes in here, also answer in this file's place: an answer is what the program says.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from mitai.train.sandbox import confine
else:
    import confine

MODULES = (
    "abc argparse array ast base64 binascii bisect builtins calendar cmath codecs collections collections.abc colorsys "
    "contextlib copy csv ctypes dataclasses datetime decimal difflib encodings.idna enum fractions functools gc "
    "graphlib hashlib heapq hmac html html.parser inspect io itertools json keyword locale logging math numbers "
    "operator os pathlib pprint queue random re reprlib secrets shlex signal statistics string struct sys textwrap "
    "threading time timeit token tokenize traceback types typing unicodedata unittest uuid warnings weakref zlib "
    "_strptime"
)

# A call that raises one of these within `map` or a generator would end the caller's loop, and with it what it checks.
_ENDS_A_LOOP = (StopIteration, StopAsyncIteration)


class Conversation:
    """Questions in, answers out; `ask` turns it round while a question is open."""

    def __init__(self, questions: TextIO, answers: TextIO) -> None:
        self._questions, self._answers = questions, answers
        self._open = ""

    def next(self) -> dict[str, Any]:
        """Read what is asked; end with the worker."""
        question: dict[str, Any] = json.loads(self._questions.readline() or "null") or sys.exit(0)
        self._open = question["id"]
        return question

    def say(self, kind: str, value: object) -> None:
        """Answer what is asked."""
        line = json.dumps({"id": self._open, "kind": kind, "value": value}, allow_nan=False, ensure_ascii=False)
        self._answers.write(line + "\n")
        self._answers.flush()

    def ask(self, name: str, arguments: str) -> dict[str, Any]:
        """Ask back, and return the reply."""
        self.say("ask", [name, arguments])
        return self.next()


def remote(conversation: Conversation, name: str) -> Callable[..., object]:
    """Return a function that runs elsewhere; arguments and result are Python literals."""

    def call(*arguments: object, **keywords: object) -> object:
        reply = conversation.ask(name, repr((arguments, keywords)))
        if "raised" in reply:
            kind = getattr(sys.modules["builtins"], reply["raised"], None)
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS_A_LOOP):
                raise kind()
            raise RuntimeError
        return ast.literal_eval(reply["value"])

    return call


def handle(conversation: Conversation, namespace: dict[str, Any], question: dict[str, Any]) -> object:
    """Load a program, or call one of its functions with JSON values or with literals."""
    if "load" in question:
        namespace.update({name: remote(conversation, name) for name in question["remote"]})
        exec(compile(question["load"], "<program>", "exec"), namespace)  # noqa: S102 - that is what it is for
        return None
    function = namespace[question["call"]]
    if "literals" in question:
        arguments, keywords = ast.literal_eval(question["literals"])
        return repr(function(*arguments, **keywords))
    return function(*question["arguments"])


def serve(conversation: Conversation) -> None:
    """Answer questions until there are none."""
    namespace: dict[str, Any] = {"__name__": "program"}
    while True:
        question = conversation.next()
        try:
            conversation.say("value", handle(conversation, namespace, question))
        except BaseException as error:  # noqa: BLE001 - also what the program raises to leave
            conversation.say("raised", type(error).__name__)


def main(cpu_s: int, memory_bytes: int, parent: int) -> None:
    """Confine this process, say so, and serve."""
    del sys.path[0]  # this file's folder
    for module in MODULES.split():
        with contextlib.suppress(ImportError):  # a Python may be built without one
            importlib.import_module(module)
    questions, answers = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    confine.die_with_parent(parent)
    confine.forbid_core_dumps()
    confine.confine()
    answers.write("confined\n")
    answers.flush()
    serve(Conversation(questions, answers))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
