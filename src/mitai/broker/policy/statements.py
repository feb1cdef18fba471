"""A policy taken apart: its statements, their conditions one by one, in words and with values that would satisfy them.

Reads Cedar's JSON policy format (docs.cedarpolicy.com, "JSON policy format"). For people and tools; the broker decides
with `engine` alone.

Invariants:

- A condition that is not of a known form is shown as Cedar writes it, never guessed at.

Example:
    >>> statement = statements(text)[0]
    >>> statement.requirements[0].words
    'context.uses is below 3'
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import cedarpy

from mitai.broker.policy.engine import check_size
from mitai.errors import BrokerError

Expr = Mapping[str, Any]
Value = str | int | bool | datetime | tuple[str, ...]

_WORDS = {"<": "below", "<=": "at most", ">": "above", ">=": "at least", "==": "", "!=": "not"}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;')


@dataclass(frozen=True)
class Test:
    """One comparison of a fact.

    `operator` is a sign, or `contains`, `contains any`, `within`, `among`, `lacks`, `empty`, `filled`.
    """

    fact: str
    operator: str
    value: Value

    @property
    def words(self) -> str:
        """Say it in words."""
        shown = show(self.value)
        match self.operator:
            case "contains" | "contains any":
                which = "one of " if self.operator == "contains any" else ""
                return f"context.{self.fact} contains {which}{shown}"
            case "lacks":
                return f"context.{self.fact} does not contain {shown}"
            case "within":
                return f"context.{self.fact} holds nothing but {shown}"
            case "empty" | "filled":
                return f"context.{self.fact} is {'' if self.operator == 'empty' else 'not '}empty"
            case "among":
                return f"context.{self.fact} is one of {shown}"
            case _ if isinstance(self.value, datetime) and self.operator in {"<", ">="}:
                return f"context.{self.fact} is {'before' if self.operator == '<' else 'not before'} {shown}"
            case _:
                return " ".join(filter(None, (f"context.{self.fact} is", _WORDS[self.operator], shown)))

    def values(self) -> tuple[Value, ...]:
        """Return values of interest: the first satisfies the test; some of the others lie just beyond."""
        value = self.value
        if self.operator in {"empty", "filled"}:
            return ((), ("another",)) if self.operator == "empty" else (("another",), ())
        if isinstance(value, bool):
            return (value, not value) if self.operator == "==" else (not value, value)
        if isinstance(value, int | datetime):
            step = 1 if isinstance(value, int) else timedelta(seconds=1)
            below, above = value - step, value + step  # type: ignore[operator]  # of the same kind
            first = {"<": below, ">": above, "!=": above}.get(self.operator, value)
            return tuple(dict.fromkeys((first, below, value, above)))
        if self.operator == "among":
            return (value[0] if value else "", "another")
        if self.operator in {"contains", "contains any", "within"}:
            members = value if isinstance(value, tuple) else (value,)
            if self.operator == "contains any":
                return (*((member,) for member in members), ())
            return (members, (*members, "another")) if self.operator == "within" else (members, ())
        return ("another", value) if self.operator in {"!=", "lacks"} else (value, "another")


@dataclass(frozen=True)
class Requirement:
    """Something that must hold: its expression, in words or else in Cedar, and the test, where it is just one."""

    expression: Expr
    words: str
    test: Test | None

    @property
    def tests(self) -> tuple[Test, ...]:
        """Return the test, or those of which one is enough."""
        return (self.test,) if self.test else tuple(filter(None, map(_test, _disjuncts(self.expression))))


@dataclass(frozen=True)
class Statement:
    """A `permit` or `forbid`.

    `requirements` must all hold: for a permit to permit, or, where `limits` is true, for a forbid not to forbid. A
    forbid with other conditions has them in `grounds`: it forbids when all of them hold.
    """

    id: str
    number: int
    line: int
    effect: str
    scope: Mapping[str, Expr]
    requirements: tuple[Requirement, ...]
    grounds: tuple[Requirement, ...]
    source: Expr

    @property
    def name(self) -> str:
        """The owner's name for it, or its place."""
        return self.id or f"statement {self.number + 1} (line {self.line})"

    @property
    def limits(self) -> bool:
        """Whether it forbids whatever does not meet its requirements."""
        return self.effect == "forbid" and bool(self.requirements) and not self.grounds


def show(value: Value) -> str:
    """Write a value for a person."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}" if value.time() == datetime.min.time() else f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, tuple):
        return ", ".join(map(show, value)) or "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


def pieces(text: str) -> list[tuple[int, str]]:
    """Return each statement's first line, counted from 1, and its text."""
    found, start = [], 0
    for token in _TOKEN.finditer(text):
        if token[0] == ";":
            found.append((start, text[start : token.end()]))
            start = token.end()
    if bare(text[start:]):
        found.append((start, text[start:]))
    return [(text.count("\n", 0, at + len(piece) - len(bare(piece))) + 1, piece) for at, piece in found]


def bare(text: str) -> str:
    """Return a text without the white space and comments that it begins with."""
    return re.sub(r"\A(?:\s+|//[^\n]*(?:\n|\Z))+", "", text)


def statements(text: str) -> list[Statement]:
    """Take a valid policy apart.

    Raises:
        BrokerError: It does not parse, or has too many conditions in a row to be taken apart.
    """
    check_size(text)
    try:
        found = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]
    except (ValueError, RecursionError):
        raise BrokerError(
            "broker.policy-opaque",
            "this policy can't be taken apart: it does not parse, or its conditions are nested too deeply",
            hint="see what is wrong with it: mitai policy check FILE",
        ) from None
    lines = [line for line, _ in pieces(text)]
    by_number = sorted((int(name.removeprefix("policy")), source) for name, source in found.items())
    return [_statement(number, lines[number], source) for number, source in by_number]


def _statement(number: int, line: int, source: Expr) -> Statement:
    requirements: list[Requirement] = []
    grounds: list[Requirement] = []
    forbids = source["effect"] == "forbid"
    for condition in source["conditions"]:
        negated = condition["kind"] == "unless"
        body = condition["body"]
        if negated == forbids:  # a permit's `when`, a forbid's `unless`
            requirements += map(_requirement, _conjuncts(body))
        elif negated:  # a permit's `unless`: none of it may hold
            requirements += (_requirement({"!": {"arg": part}}) for part in _disjuncts(body))
        else:
            grounds += map(_requirement, _conjuncts(body))
    name = source.get("annotations", {}).get("id") or ""
    scope = {part: source[part] for part in ("principal", "action", "resource")}
    return Statement(name, number, line, source["effect"], scope, tuple(requirements), tuple(grounds), source)


def _conjuncts(body: Expr) -> Iterator[Expr]:
    if "&&" in body:
        yield from _conjuncts(body["&&"]["left"])
        yield from _conjuncts(body["&&"]["right"])
    else:
        yield body


def _disjuncts(body: Expr) -> Iterator[Expr]:
    if "||" in body:
        yield from _disjuncts(body["||"]["left"])
        yield from _disjuncts(body["||"]["right"])
    else:
        yield body


def _requirement(body: Expr) -> Requirement:
    test = _test(body)
    return Requirement(body, test.words if test else _words(body), test)


def _words(body: Expr) -> str:
    if "||" in body:
        return " or ".join(_requirement(part).words for part in _disjuncts(body))
    written = cedarpy.policies_from_json_str(json.dumps(policy_of(body)))
    return written.partition("when {")[2].rpartition("}")[0].strip()


def policy_of(body: Expr, effect: str = "permit") -> dict[str, object]:
    """Return the policy, in JSON, that permits everything as far as an expression holds."""
    anything = {"op": "All"}
    conditions = [{"kind": "when", "body": body}]
    policy = {"effect": effect, "principal": anything, "action": anything, "resource": anything}
    return {"templates": {}, "staticPolicies": {"policy0": policy | {"conditions": conditions}}, "templateLinks": []}


def _test(body: Expr) -> Test | None:
    """Recognize a comparison of one fact with one value."""
    (operator, operands), *_ = body.items()
    if operator == "!":
        inner = _test(operands["arg"])
        return inner and _negated(inner)
    if operator == ".":
        fact = _fact(body)
        return Test(fact, "==", value=True) if fact else None
    if operator == "isEmpty":
        fact = _fact(operands["arg"])
        return Test(fact, "empty", value=True) if fact else None
    if not isinstance(operands, dict) or "right" not in operands:
        return None
    left, right = operands["left"], operands["right"]
    fact, value = _fact(left), _value(right)
    turned = fact is None
    if turned:
        fact, value = _fact(right), _value(left)
    if fact is None or value is None:
        return None
    if operator in _FLIPPED:
        return Test(fact, _FLIPPED[operator] if turned else operator, value)
    if operator == "containsAny":
        return Test(fact, "contains any", value)
    if operator in {"contains", "containsAll"}:
        return Test(fact, {"contains": "among", "containsAll": "within"}[operator] if turned else "contains", value)
    return None


def _negated(test: Test) -> Test | None:
    if test.operator in _OPPOSITE:
        return Test(test.fact, _OPPOSITE[test.operator], test.value)
    opposite = {"contains": "lacks", "empty": "filled"}.get(test.operator)
    return Test(test.fact, opposite, test.value) if opposite else None


def _fact(body: Expr) -> str | None:
    """Return the path of a fact below `context`, or None."""
    names: list[str] = []
    while "." in body:
        names.insert(0, body["."]["attr"])
        body = body["."]["left"]
    return ".".join(names) if names and body.get("Var") == "context" else None


def _value(body: Expr) -> Value | None:
    if "Value" in body and isinstance(body["Value"], str | int):
        return body["Value"]
    if "datetime" in body and isinstance(body["datetime"][0].get("Value"), str):
        return _moment(body["datetime"][0]["Value"])
    members = [_value(member) for member in body.get("Set", [None])] if "Set" in body else []
    return tuple(members) if members and all(isinstance(member, str) for member in members) else None  # type: ignore[arg-type]  # checked in this line


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
