"""Two policies compared by what they decide: over requests made from the values that either of them mentions.

The requests are a sample, not a proof: for every `permit` of either policy one that it would allow, and from there one
and two steps to the edges of every value that is mentioned. Two policies that differ somewhere else are not told apart.

Example:
    >>> compare(old, new, now).changes[0]
    Change(before=True, after=False, request=Request(...))
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from mitai.broker.policy.engine import CedarEngine
from mitai.broker.policy.facts import AMOUNTS, NUMBERS, PURPOSES
from mitai.broker.policy.request import Release, Request
from mitai.broker.policy.statements import Expr, Requirement, Statement, Value, statements
from mitai.broker.protocol import MAX_COUNT, Amounts

MAX_REQUESTS = 5_000
Choice = Mapping[str, Value]


@dataclass(frozen=True)
class Change:
    """A request that the two policies decide differently."""

    before: bool
    after: bool
    request: Request


@dataclass(frozen=True)
class Comparison:
    """How many requests were tried, how many of them each policy allows, and which they decide differently."""

    tried: int
    allowed_before: int
    allowed_after: int
    changes: tuple[Change, ...]


def compare(before: str, after: str, now: datetime) -> Comparison:
    """Ask both policies about every request of the grid; raise `BrokerError` when one of them is not valid."""
    old, new = CedarEngine().compile(before), CedarEngine().compile(after)
    counts, changes = [0, 0, 0], []
    seen: set[bytes] = set()
    for choice in itertools.islice(grid([*statements(before), *statements(after)]), MAX_REQUESTS):
        request = request_of(choice)
        written = msgspec.json.encode(request)
        if written in seen:
            continue
        seen.add(written)
        first, second = request.ask(old, now).allowed, request.ask(new, now).allowed
        counts = [counts[0] + 1, counts[1] + first, counts[2] + second]
        if first != second:
            changes.append(Change(first, second, request))
    return Comparison(counts[0], counts[1], counts[2], tuple(changes))


def grid(parts: list[Statement]) -> Iterator[Choice]:
    """Return the choices of values: what each permit asks for, with none, one or two of them changed."""
    interesting: dict[str, dict[Value, None]] = {"purpose": dict.fromkeys(PURPOSES), "workload": {"another": None}}
    for part in parts:
        for fact, value in _scope(part).items():
            interesting.setdefault(fact, {})[value] = None
        for test in (test for each in (*part.requirements, *part.grounds) for test in each.tests):
            interesting.setdefault(test.fact, {}).update(dict.fromkeys(test.values()))
    common = _satisfied([each for part in parts if part.limits for each in part.requirements])
    bases = [{**common, **_merged(common, _satisfied(part.requirements)), **_scope(part)} for part in parts]
    for changed, base in itertools.product((0, 1, 2), bases):
        for facts in itertools.combinations(interesting, changed):
            for values in itertools.product(*(interesting[fact] for fact in facts)):
                yield {**base, **dict(zip(facts, values, strict=True))}


def _scope(part: Statement) -> dict[str, Value]:
    named = {"principal": "workload", "action": "purpose", "resource": "capsule"}
    return {named[role]: _id(scope) for role, scope in part.scope.items() if _id(scope)}


def _id(scope: Expr) -> str:
    entity = scope.get("entity") or scope.get("in", {}).get("entity") or next(iter(scope.get("entities", [])), None)
    return str(entity["id"]) if entity else ""


def _satisfied(requirements: tuple[Requirement, ...] | list[Requirement]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for test in (requirement.test for requirement in requirements):
        if test and test.operator != "lacks":
            found = _merged(found, {test.fact: test.values()[0]})
    return found


def _merged(first: Mapping[str, Value], second: Mapping[str, Value]) -> dict[str, Value]:
    """Join choices; of a set, all members that either asks for."""
    joined = {**first, **second}
    for fact in first.keys() & second.keys():
        one, other = first[fact], second[fact]
        if isinstance(one, tuple) and isinstance(other, tuple):
            joined[fact] = tuple(dict.fromkeys((*one, *other)))
    return joined


def request_of(choice: Choice) -> Request:
    """Return the request that has these facts."""
    parameters = dict(_pairs(choice.get("parameters", ())))
    release: dict[str, Value] = {}
    fields: dict[str, object] = {"spent": Amounts()}
    spent: dict[str, int] = {}
    for fact, value in choice.items():
        head, _, member = fact.partition(".")
        if head == "job" and member in NUMBERS:
            parameters[member] = str(_count(value))
        elif head == "job":
            parameters["columns"] = ",".join(value if isinstance(value, tuple) else [str(value)])
        elif head == "release":
            release[member] = value
        elif head == "spent" and member in AMOUNTS:
            spent[member] = _count(value)
        elif head == "measurements":
            fields[head] = dict(_pairs(value))
        elif head in {"advisory_ids", "capsules", "owners", "lineage", "residency"}:
            fields[head] = value if isinstance(value, tuple) else (str(value),)
        elif head in {"uses", "tcb_evaluation_number"}:
            fields[head] = _count(value)
        elif head != "parameters":
            fields[head] = value
    if release:
        fields["release"] = Release(
            str(release.get("name", "")), _count(release.get("version", 0)), str(release.get("publisher", ""))
        )
    return Request(**{**fields, "parameters": parameters, "spent": Amounts(**spent)})  # type: ignore[arg-type]  # by name


def _count(value: Value) -> int:
    return min(MAX_COUNT, max(0, value)) if isinstance(value, int) else 0


def _pairs(value: Value) -> list[tuple[str, str]]:
    members = value if isinstance(value, tuple) else (str(value),)
    return [(name, rest) for name, _, rest in (member.partition("=") for member in members)]


def shown(request: Request) -> dict[str, object]:
    """Return what a request has beyond the defaults, to be written as a request file or as JSON."""
    plain = msgspec.to_builtins(request)
    usual = msgspec.to_builtins(Request())
    return {name: value for name, value in plain.items() if value != usual[name]}
