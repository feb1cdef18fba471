"""What is wrong with a policy file, where, and what was probably meant; and what is odd about one that is valid.

Example:
    >>> [finding.words for finding in check("permit(principal, action, resource) when { context.usess < 3 };")]
    ['line 1: there is no fact `context.usess`; did you mean `context.uses`?']
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from mitai.broker.policy.engine import SCHEMA, CedarEngine, check_size
from mitai.broker.policy.facts import PURPOSES
from mitai.broker.policy.statements import bare, pieces, statements
from mitai.errors import BrokerError

_TYPES = re.compile(r"^type (\w+) = \{(.*?)^\};", re.MULTILINE | re.DOTALL)
_MEMBERS = re.compile(r"^  (\w+): (\w+)", re.MULTILINE)
_FOR_POLICY = re.compile(r"for policy `policy\d+`, ")
_FOR_ACTION = re.compile(r" (?:in context )?for Action::\"[a-z]+\"")
_QUOTED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Finding:
    """Something about a policy: an `error` makes it invalid, a `warning` does not."""

    level: str
    line: int
    message: str
    suggestion: str = ""

    @property
    def words(self) -> str:
        """Say it in one line."""
        return f"line {self.line}: {self.message}" + (f"; did you mean `{self.suggestion}`?" if self.suggestion else "")


def facts() -> tuple[str, ...]:
    """Return every fact that the schema knows, as a policy spells it."""
    types = {name: dict(_MEMBERS.findall(body)) for name, body in _TYPES.findall(SCHEMA)}
    found = []
    for name, kind in types["Facts"].items():
        found.append(f"context.{name}")
        found += [f"context.{name}.{member}" for member in types.get(kind, ())]
    return tuple(found)


def check(text: str) -> list[Finding]:
    """Return the errors of a policy, or the warnings about a valid one.

    Raises:
        BrokerError: The text is too large to be looked at.
    """
    check_size(text)
    engine = CedarEngine()
    found = [_error(statement, message, text, engine) for statement, message in engine.problems(text)]
    if found:  # that a statement fits no action follows from what else is wrong with it
        told = [finding for finding in found if not finding.message.startswith("unable to find an applicable action")]
        return list(dict.fromkeys(told or found))
    try:
        engine.compile(text)
    except BrokerError as error:
        return [Finding("error", 1, error.message)]
    return _warnings(text)


def _error(statement: str, message: str, text: str, engine: CedarEngine) -> Finding:
    parts = pieces(text)
    if not statement:  # it does not parse: the first piece that does not parse on its own is where
        broken = next((part for part in parts if _unparsed(part[1], engine)), parts[-1] if parts else (1, text))
        return Finding("error", _place(broken, message), message[:1].lower() + message[1:])
    number = int(statement.removeprefix("policy"))
    part = parts[number] if number < len(parts) else (1, text)
    plain = _FOR_ACTION.sub("", _FOR_POLICY.sub("", message))
    line = _place(part, plain)
    unknown = next(iter(_QUOTED.findall(plain)), "")
    if plain.startswith("attribute"):
        return Finding("error", line, f"there is no fact `context.{unknown}`", _nearest_fact(unknown))
    if plain.startswith("unrecognized action"):
        purposes = [f'Action::"{purpose}"' for purpose in PURPOSES]
        return Finding("error", line, f"there is no purpose `{unknown}`", _nearest(unknown, purposes))
    if plain.startswith("unrecognized entity type"):
        return Finding(
            "error", line, f"there is no kind `{unknown}`", _nearest(unknown, ["Workload", "Capsule", "Action"])
        )
    return Finding("error", line, plain)


def _unparsed(piece: str, engine: CedarEngine) -> bool:
    return any(not statement for statement, _ in engine.problems(piece))


def _place(part: tuple[int, str], message: str) -> int:
    """Return the line on which something that a message quotes is found, or the statement's first."""
    line, piece = part
    for quoted in _QUOTED.findall(message):
        at = piece.find(re.split(r"\.|::", quoted)[-1], len(piece) - len(bare(piece)))
        if at >= 0 and len(quoted) > 1:
            return line + bare(piece).count("\n", 0, at - (len(piece) - len(bare(piece))))
    return line


def _nearest_fact(unknown: str) -> str:
    known = facts()
    last = unknown.rpartition(".")[2]
    inside = [fact for fact in known if fact.rpartition(".")[2] == last]
    return inside[0] if inside else _nearest(f"context.{unknown}", known) or _nearest(last, known)


def _nearest(unknown: str, known: tuple[str, ...] | list[str]) -> str:
    return next(iter(difflib.get_close_matches(unknown, known, 1, 0.6)), "")


def _warnings(text: str) -> list[Finding]:
    try:
        found = statements(text)
    except BrokerError as error:
        return [Finding("warning", 1, error.message)]
    if all(statement.effect == "forbid" for statement in found):
        return [Finding("warning", 1, "it permits nothing: put it together with a `permit`")]
    permits = [statement for statement in found if statement.effect == "permit"]
    return [
        *(
            Finding("warning", one.line, f"{one.name} permits every workload, whatever its code")
            for one in permits
            if one.scope["principal"]["op"] == "All" and not _pins(one.source)
        ),
        *(
            Finding("warning", one.line, f"{one.name} permits every purpose, export among them")
            for one in permits
            if one.scope["action"]["op"] == "All"
        ),
    ]


def _pins(source: object) -> bool:
    return '"measurements"' in (text := str(source).replace("'", '"')) or '"release"' in text
