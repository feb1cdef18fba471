r"""Does a program pass its tests? The program never sees the tests, and never speaks its own verdict.

Two boxes: one runs the tests, the other the program. Where the tests call the program's function, the call travels
from box to box as a Python literal, and so does its result: what arrives is a plain value, whatever the program is.

Example:
    >>> passes("def add(a, b):\n    return a + b", "assert add(1, 2) == 3", "add")
    True
"""

from __future__ import annotations

from mitai.train.sandbox.box import Limits, ProgramError, RaisedError, Sandbox

_THEN_CHECK = "\nif callable(globals().get('check')):\n    check(candidate)\n"
_LIMITS = Limits()


def passes(program: str, tests: str, function: str, limits: Limits = _LIMITS) -> bool:
    """Tell whether `tests` end without an exception when `function` is the program's.

    Args:
        program: Python source that defines `function`; not trusted at all.
        tests: Python source that finds the function under its own name and as `candidate`, and may define
            `check(candidate)`, which is called then (the form of HumanEval; MBPP's asserts do as well).
        function: The function's name. Its arguments and results are literals: numbers, text, bytes, tuples, lists,
            dicts, sets, booleans, None. A change that it makes to an argument is not seen by the tests.
        limits: For each of the two boxes.

    Raises:
        TrainError: This machine can't confine a process.
    """
    try:
        with Sandbox(program, limits) as judged:

            def ask(_: str, literals: str) -> str:
                return judged.call_literal(function, literals)

            with Sandbox(tests + _THEN_CHECK, limits, remote=("candidate", function), ask=ask):
                return True
    except (ProgramError, RaisedError):
        return False
