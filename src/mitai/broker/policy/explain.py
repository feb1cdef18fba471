"""What a policy says in plain words, and why it decides as it does.

Invariants:

- The decision is the engine's; the explanation asks the same engine about each condition on its own.

Example:
    >>> explained = why(text, Request(purpose="training"), now)
    >>> explained.allowed, [outcome.words for outcome in explained.outcomes]
    (False, ['permit inference-until does not apply: it is for inference, not for training'])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cedarpy

from mitai.broker.policy.engine import CedarEngine
from mitai.broker.policy.facts import context_of
from mitai.broker.policy.request import Request
from mitai.broker.policy.statements import Expr, Requirement, Statement, Test, policy_of, show, statements
from mitai.errors import ParseError

_ROLES = {"principal": "the workload", "action": "the purpose", "resource": "the capsule"}


@dataclass(frozen=True)
class Outcome:
    """What became of one statement: `decides`, or `silent`; or it `failed` for want of a fact, which is a no."""

    statement: Statement
    result: str
    why: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Say it in one line."""
        verb = {"decides": f"{self.statement.effect}s", "silent": "does not apply", "failed": "fails, which is a no"}
        reasons = ": " + "; ".join(self.why) if self.why else ""
        return f"{self.statement.effect} {self.statement.name} {verb[self.result]}{reasons}"


@dataclass(frozen=True)
class Explanation:
    """A decision and its grounds."""

    allowed: bool
    outcomes: tuple[Outcome, ...]
    refusal: str = ""  # where no policy was asked at all

    @property
    def lines(self) -> tuple[str, ...]:
        """Say all of it: first what decided."""
        if self.refusal:
            return (self.refusal,)
        order = {"failed": 0, "decides": 1, "silent": 2}
        found = sorted(self.outcomes, key=lambda one: (order[one.result], one.statement.effect != "forbid"))
        return tuple(outcome.words for outcome in found)


def describe(text: str) -> list[str]:
    """Say what a valid policy allows and denies, a paragraph for each statement."""
    CedarEngine().compile(text)
    lines = []
    for statement in statements(text):
        head = f"{statement.effect.upper()} {statement.name}: {_scope_words(statement)}"
        if statement.limits:
            head += ", if any of these does not hold:"
            body = [f"  - {requirement.words}" for requirement in statement.requirements]
        else:
            needed = (*statement.grounds, *(() if statement.effect == "forbid" else statement.requirements))
            head += ", if all of these hold:" if needed else ", without any condition"
            body = [f"  - {requirement.words}" for requirement in needed]
            if statement.effect == "forbid" and statement.requirements:
                body += [f"  - and not: {requirement.words}" for requirement in statement.requirements]
        lines.append("\n".join([head, *body]))
    lines.append("Everything else is denied; one FORBID is enough for a no, and so is a fact that a request lacks.")
    return lines


def why(text: str, request: Request, now: datetime) -> Explanation:
    """Decide a request and say why.

    Raises:
        BrokerError: The policy is not valid, or can't be taken apart.
    """
    policy = CedarEngine().compile(text)
    parts = statements(text)
    try:
        context = context_of(request.facts(now), request.uses, request.spent)
    except ParseError as error:
        return Explanation(allowed=False, outcomes=(), refusal=error.message)
    return Explanation(request.ask(policy, now).allowed, tuple(_outcome(part, request, context) for part in parts))


def _outcome(statement: Statement, request: Request, context: dict[str, object]) -> Outcome:
    outside = _outside(statement, request)
    if outside:
        return Outcome(statement, "silent", (outside,))
    whole = _decide({"staticPolicies": {"policy0": {**statement.source, "effect": "permit"}}}, request, context)
    wanted = [(each, _holds(each, request, context)) for each in (*statement.grounds, *statement.requirements)]
    if whole is None:
        return Outcome(statement, "failed", tuple(_unknown(each) for each, holds in wanted if holds is None))
    unmet = tuple(_unmet(each, context) for each, holds in wanted if not holds)
    if statement.limits:
        return Outcome(statement, "decides", unmet) if whole else Outcome(statement, "silent")
    if whole:
        return Outcome(statement, "decides", tuple(each.words for each in statement.grounds))
    return Outcome(statement, "silent", unmet if statement.effect == "permit" else ())


def _holds(requirement: Requirement, request: Request, context: dict[str, object]) -> bool | None:
    return _decide(policy_of(requirement.expression), request, context)


def _decide(policy: dict[str, object], request: Request, context: dict[str, object]) -> bool | None:
    """Ask Cedar about one statement as a permit; None: it failed."""
    whole = {"templates": {}, "templateLinks": [], **policy}
    policies = cedarpy.PolicySet.from_json_str(json.dumps(whole))
    asked: dict[str, Any] = {
        "principal": {"type": "Workload", "id": request.workload},
        "action": {"type": "Action", "id": request.purpose},
        "resource": {"type": "Capsule", "id": request.capsule},
        "context": context,
    }
    result = cedarpy.is_authorized(asked, policies, cedarpy.Entities.from_json_str("[]"))
    return None if result.diagnostics.errors else bool(result.allowed)


def _unknown(requirement: Requirement) -> str:
    return f"the request does not hold what this asks for: {requirement.words}"


def _unmet(requirement: Requirement, context: dict[str, object]) -> str:
    test = requirement.test
    if test is None:
        return f"this does not hold: {requirement.words}"
    return f"{test.words}, but it is {_seen(test, context)}"


def _seen(test: Test, context: dict[str, object]) -> str:
    found: Any = context
    for name in test.fact.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict) and "__extn" in found:
        return show(datetime.fromisoformat(found["__extn"]["arg"]).astimezone(UTC))
    if isinstance(found, list):
        return show(tuple(found))
    return show(found) if isinstance(found, str | int | bool) else "not there"


def _outside(statement: Statement, request: Request) -> str:
    """Return why a statement is not about this request, if it is not."""
    asked = {"principal": request.workload, "action": request.purpose, "resource": request.capsule}
    for part, scope in statement.scope.items():
        named = _named(scope)
        if named and asked[part] not in named:
            return f"it is for {_ROLES[part]} {' or '.join(named)}, not for {asked[part]}"
    return ""


def _named(scope: Expr) -> Sequence[str]:
    """Return the ids that a scope names; none: any."""
    if "entities" in scope:
        return [str(entity["id"]) for entity in scope["entities"]]
    inner = scope.get("entity") or scope.get("in", {}).get("entity")
    return [str(inner["id"])] if inner else []


def _scope_words(statement: Statement) -> str:
    who, what, which = (_named(statement.scope[part]) for part in _ROLES)
    workload = f"workload {' or '.join(who)}" if who else "any workload"
    purpose = " or ".join(what) if what else "any purpose"
    return f"{workload}, for {purpose}, with {'capsule ' + ' or '.join(which) if which else 'any capsule'}"
