"""Owners' policies: what they can ask (`facts`), how they decide (`engine`), and what helps to write them.

`templates` is the library, `check` finds mistakes, `explain` says what is decided and why, `compare` tells two policies
apart, `trustflow` takes another system's rules in. The language and every fact: `docs/spec/policies.md`.
"""

from mitai.broker.policy.engine import SCHEMA, CedarEngine, CedarPolicy, CompiledPolicy, PolicyEngine, Verdict
from mitai.broker.policy.facts import PURPOSES, Facts, Job, ReleaseFact, job_of
from mitai.broker.policy.templates import TEMPLATES, template

__all__ = [
    "PURPOSES",
    "SCHEMA",
    "TEMPLATES",
    "CedarEngine",
    "CedarPolicy",
    "CompiledPolicy",
    "Facts",
    "Job",
    "PolicyEngine",
    "ReleaseFact",
    "Verdict",
    "job_of",
    "template",
]
