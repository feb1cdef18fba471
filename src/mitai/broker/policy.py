"""Owners' policies: Cedar, checked against a schema when they are set, evaluated with attested facts only.

Follows the Cedar policy language 4 (docs.cedarpolicy.com). One owner's policy is one policy set; the broker asks
each owner's set on its own, and every one must allow.

Invariants:

- Default deny: without a matching `permit` the answer is no; one matching `forbid` is enough for a no.
- Cedar skips a policy that fails while it is evaluated, even a `forbid`; here any such failure is a no.
- A policy is accepted only when it parses and fits the schema, holds at least one statement and no template.
- A policy's nesting is bounded before Cedar sees it: a deep one would overflow the parser's stack and end the process.
- The context holds facts from verified evidence, the broker's clock and its own counts; nothing else is asked.

Example:
    >>> text = template("inference-until", workload="serve", mrtd="00ff", until="2027-01-01")
    >>> CedarEngine().compile(text).allows(facts, "capsule-1", uses=0)
    True
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import cedarpy

from mitai.broker.protocol import MAX_POLICY_CHARS
from mitai.errors import BrokerError

PURPOSES = ("inference", "training", "evaluation", "export")

SCHEMA = """
entity Workload;
entity Capsule;
type Facts = {
  time: datetime,                // the broker's clock, UTC
  uses: Long,                    // releases of this capsule that this owner allowed so far
  tee: String,                   // "tdx", "sgx", ...
  simulated: Bool,               // true: no hardware vouches for any of this
  measurements: Set<String>,     // "mrtd=<hex>", "rtmr0=<hex>", ...
  tcb_status: String,            // "UpToDate", "OutOfDate", ...
  advisory_ids: Set<String>,     // "INTEL-SA-00000", ...
  tcb_evaluation_number: Long,
  parameters: Set<String>,       // "name=value", as the workload asks
};
action "inference", "training", "evaluation", "export"
  appliesTo { principal: Workload, resource: Capsule, context: Facts };
"""

TEMPLATES = {
    "inference-until": """// One workload may serve the model, on these measurements, until a date.
@id("inference-until")
permit (
  principal == Workload::"{workload}",
  action == Action::"inference",
  resource
)
when {{
  context.measurements.contains("mrtd={mrtd}") &&
  context.time < datetime("{until}")
}};
""",
    "inference-hardware-only": """// As above, and never on a simulated machine or one with open security advisories.
@id("inference-until")
permit (
  principal == Workload::"{workload}",
  action == Action::"inference",
  resource
)
when {{
  context.measurements.contains("mrtd={mrtd}") &&
  context.time < datetime("{until}")
}};

@id("hardware-only")
forbid (principal, action, resource)
when {{ context.simulated || context.tcb_status != "UpToDate" }};
""",
    "inference-trial": """// A trial: the named workload, a number of starts, until a date.
@id("inference-trial")
permit (
  principal == Workload::"{workload}",
  action == Action::"inference",
  resource
)
when {{
  context.uses < {uses} &&
  context.time < datetime("{until}")
}};
""",
}
# Cedar's parser recurses: some 700 levels of brackets end the process. Counted without regard to strings and comments,
# so that nothing depends on where exactly Cedar sees those.
MAX_NESTING = 256
_NESTING = re.compile(r"[(\[{]|then")
_SAFE_VALUE = re.compile(r"[A-Za-z0-9._:/ +-]{1,256}\Z")


@dataclass(frozen=True)
class Facts:
    """What a decision may look at; everything but `uses`, `time` and `parameters` comes from verified evidence."""

    workload: str
    purpose: str
    time: datetime
    tee: str
    simulated: bool
    measurements: tuple[tuple[str, str], ...]
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    parameters: dict[str, str] = field(default_factory=dict)


class CompiledPolicy(Protocol):
    """A policy, ready to be asked."""

    def allows(self, facts: Facts, capsule: str, uses: int) -> bool:
        """Tell whether this policy allows; a failure while it is evaluated is a no."""


class PolicyEngine(Protocol):
    """The seam to a policy language."""

    def compile(self, text: str) -> CompiledPolicy:
        """Parse and check a policy; raise `BrokerError` with `broker.policy-invalid`."""


class CedarEngine:
    """Cedar through `cedarpy`."""

    def __init__(self) -> None:
        self._schema = cedarpy.Schema.from_str(SCHEMA)

    def compile(self, text: str) -> CompiledPolicy:
        """Parse `text` and check it against the schema."""
        if len(text) > MAX_POLICY_CHARS:
            raise _invalid(f"a policy has at most {MAX_POLICY_CHARS} characters")
        if len(_NESTING.findall(text)) > MAX_NESTING:
            raise _invalid(f"a policy has at most {MAX_NESTING} opening brackets and conditionals")
        result = cedarpy.validate_policies(text, self._schema)
        if not result.validation_passed:
            raise _invalid("; ".join(str(error) for error in result.errors)[:500])
        try:
            policies = cedarpy.PolicySet.from_str(text)
        except ValueError as error:
            raise _invalid(str(error)[:500]) from None
        if len(policies) == 0:  # templates are not counted: an owner's policy names what it means
            raise _invalid("a policy holds at least one `permit` or `forbid`, and templates are not used")
        return _CedarPolicy(policies, self._schema)


class _CedarPolicy:
    _no_entities = cedarpy.Entities.from_json_str("[]")

    def __init__(self, policies: cedarpy.PolicySet, schema: cedarpy.Schema) -> None:
        self._policies, self._schema = policies, schema

    def allows(self, facts: Facts, capsule: str, uses: int) -> bool:
        if facts.purpose not in PURPOSES:
            return False
        request: dict[str, Any] = {
            "principal": {"type": "Workload", "id": facts.workload},
            "action": {"type": "Action", "id": facts.purpose},
            "resource": {"type": "Capsule", "id": capsule},
            "context": _context(facts, uses),
        }
        result = cedarpy.is_authorized(request, self._policies, self._no_entities, self._schema)
        return bool(result.allowed and not result.diagnostics.errors)


def _context(facts: Facts, uses: int) -> dict[str, Any]:
    return {
        "time": {"__extn": {"fn": "datetime", "arg": facts.time.strftime("%Y-%m-%dT%H:%M:%SZ")}},
        "uses": uses,
        "tee": facts.tee,
        "simulated": facts.simulated,
        "measurements": [f"{name}={value}" for name, value in facts.measurements],
        "tcb_status": facts.tcb_status,
        "advisory_ids": list(facts.advisory_ids),
        "tcb_evaluation_number": facts.tcb_evaluation_number,
        "parameters": [f"{name}={value}" for name, value in facts.parameters.items()],
    }


def template(name: str, **values: str | int) -> str:
    """Fill in one of `TEMPLATES`; values are plain words, digests, dates and numbers."""
    if name not in TEMPLATES:
        raise BrokerError("broker.template-unknown", f"there is no policy template {name!r}: {', '.join(TEMPLATES)}")
    for key, value in values.items():
        if not _SAFE_VALUE.match(str(value)):
            raise BrokerError("broker.template-value", f"the value of {key!r} does not fit into a policy template")
    try:
        return TEMPLATES[name].format(**values)
    except KeyError as missing:
        raise BrokerError("broker.template-value", f"the template {name!r} also needs {missing}") from None


def _invalid(why: str) -> BrokerError:
    return BrokerError("broker.policy-invalid", f"this is not a policy that the broker understands: {why}")
