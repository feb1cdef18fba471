"""Owners' policies: Cedar, checked against a schema when they are set, evaluated with vouched facts only.

Follows the Cedar policy language 4 (docs.cedarpolicy.com) and `docs/spec/policies.md`. One owner's policy is one
policy set; the broker asks each owner's set on its own, and every one must allow.

Invariants:

- Default deny: without a matching `permit` the answer is no; one matching `forbid` is enough for a no.
- Cedar skips a policy that fails while it is evaluated, even a `forbid`; here any such failure is a no. So a fact that
  the request does not hold is a no wherever it is read.
- A policy is accepted only when it parses and fits the schema, holds at least one statement and no template.
- A policy's nesting is bounded before Cedar sees it: a deep one would overflow the parser's stack and end the process.

Example:
    >>> text = template("inference-until", workload="serve", mrtd="00ff", until="2027-01-01")
    >>> CedarEngine().compile(text).allows(facts, "capsule-1", uses=0)
    True
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cedarpy

from mitai.broker.policy.facts import PURPOSES, Facts, context_of
from mitai.broker.protocol import MAX_POLICY_CHARS, Amounts
from mitai.errors import BrokerError

SCHEMA = Path(__file__).with_name("schema.cedarschema").read_text(encoding="utf-8")
NOTHING_SPENT = Amounts()
# Cedar's parser recurses: some 700 levels of brackets end the process. Counted without regard to strings and comments,
# so that nothing depends on where exactly Cedar sees those.
MAX_NESTING = 256
_NESTING = re.compile(r"[(\[{]|then")


@dataclass(frozen=True)
class Verdict:
    """A decision with its grounds: ids of the statements that decided, and of those that failed."""

    allowed: bool
    reasons: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class CompiledPolicy(Protocol):
    """A policy, ready to be asked."""

    def allows(self, facts: Facts, capsule: str, uses: int, spent: Amounts = NOTHING_SPENT) -> bool:
        """Tell whether this policy allows; a failure while it is evaluated is a no."""


class PolicyEngine(Protocol):
    """The seam to a policy language."""

    def compile(self, text: str) -> CompiledPolicy:
        """Parse and check a policy; raise `BrokerError` with `broker.policy-invalid`."""


class CedarEngine:
    """Cedar through `cedarpy`."""

    def __init__(self) -> None:
        self._schema = cedarpy.Schema.from_str(SCHEMA)

    def compile(self, text: str) -> CedarPolicy:
        """Parse `text` and check it against the schema."""
        check_size(text)
        problems = self.problems(text)
        if problems:
            raise _invalid("; ".join(problem for _, problem in problems)[:500])
        try:
            policies = cedarpy.PolicySet.from_str(text)
        except ValueError as error:
            raise _invalid(str(error)[:500]) from None
        if len(policies) == 0:  # templates are not counted: an owner's policy names what it means
            raise _invalid("a policy holds at least one `permit` or `forbid`, and templates are not used")
        return CedarPolicy(policies)

    def problems(self, text: str) -> list[tuple[str, str]]:
        """Return what Cedar has against a text that `check_size` let pass: the statement's id and the complaint."""
        result = cedarpy.validate_policies(text, self._schema)
        return [] if result.validation_passed else [(error.policy_id, error.error) for error in result.errors]


def check_size(text: str) -> None:
    """Raise `BrokerError` when a text is too large or too deep to be parsed."""
    if len(text) > MAX_POLICY_CHARS:
        raise _invalid(f"a policy has at most {MAX_POLICY_CHARS} characters")
    if len(_NESTING.findall(text)) > MAX_NESTING:
        raise _invalid(f"a policy has at most {MAX_NESTING} opening brackets and conditionals")


class CedarPolicy:
    """A policy set that fits the schema."""

    _no_entities = cedarpy.Entities.from_json_str("[]")

    def __init__(self, policies: cedarpy.PolicySet) -> None:
        self._policies = policies

    def allows(self, facts: Facts, capsule: str, uses: int, spent: Amounts = NOTHING_SPENT) -> bool:
        """Tell whether this policy allows; a failure while it is evaluated is a no."""
        return self.verdict(facts, capsule, uses, spent).allowed

    def verdict(self, facts: Facts, capsule: str, uses: int, spent: Amounts = NOTHING_SPENT) -> Verdict:
        """Decide, and say by which statements."""
        if facts.purpose not in PURPOSES:
            return Verdict(allowed=False)
        request: dict[str, Any] = {
            "principal": {"type": "Workload", "id": facts.workload},
            "action": {"type": "Action", "id": facts.purpose},
            "resource": {"type": "Capsule", "id": capsule},
            "context": context_of(facts, uses, spent),
        }
        # Without the schema: with it, a context that lacks a fact is refused as a whole, also where nobody reads it.
        result = cedarpy.is_authorized(request, self._policies, self._no_entities)
        errors = tuple(result.diagnostics.errors)
        return Verdict(result.allowed and not errors, tuple(sorted(result.diagnostics.reasons)), errors)


def _invalid(why: str) -> BrokerError:
    return BrokerError("broker.policy-invalid", f"this is not a policy that the broker understands: {why}")
