"""One owner's policy, asked: whether it still stands, its budgets, and what Cedar says.

Invariants:

- The first no is the reason. Nothing is spent here.

Example:
    >>> ask(draft, case, facts, capsule, (grant, grant))
    Refusal(code='broker.policy-denied', why='the policy does not allow serve training')
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Protocol

import msgspec

from mitai.broker import budgets
from mitai.broker.inheritance import Refusal, ended
from mitai.broker.policy import CompiledPolicy, Facts, PolicyEngine
from mitai.broker.records import Capsule, Grant
from mitai.broker.store import Draft


class Policies:
    """Compiled policies by digest, those in use and at most `size_bytes` of text; used by the writer alone.

    They are compiled on a thread of their own: glibc gives each thread its own heap, and thousands of parsed policies
    would break up the writer's into small pieces, in which every decision then searches (benchmarks/LOG.md).
    """

    def __init__(self, engine: PolicyEngine, size_bytes: int = 16 << 20) -> None:
        self._engine, self._room = engine, size_bytes
        self._compiler = ThreadPoolExecutor(1, "broker-policies")
        self._compiled: OrderedDict[str, tuple[CompiledPolicy, int]] = OrderedDict()

    def get(self, digest: str, draft: Draft) -> CompiledPolicy:
        """Return a policy, compiled once while it is in use."""
        kept = self._compiled.pop(digest, None)
        if kept is None:
            text = draft.blob(digest)
            kept = self._compiler.submit(self._engine.compile, text.decode()).result(), len(text)
            self._room -= len(text)
            while self._room < 0 and self._compiled:
                self._room += self._compiled.popitem(last=False)[1][1]
        self._compiled[digest] = kept
        return kept[0]


class Asking(Protocol):
    """What is asked with: the compiled policies, and the time."""

    @property
    def policies(self) -> Policies:
        """The policies that are compiled."""

    @property
    def now(self) -> datetime:
        """The broker's time."""


def ask(draft: Draft, case: Asking, facts: Facts, capsule: Capsule, grants: tuple[Grant, Grant]) -> Refusal | None:
    """Ask one owner's policy: the first grant counts what was used of the capsule, the other has policy and limits."""
    grant, source = grants
    over = ended(draft, grant, case.now)
    if over is not None:
        return over
    if source.policy_sha256 is None:
        return Refusal("broker.policy-missing", "this owner has set no policy yet")
    budget = source.budget
    if budget.uses is not None and grant.uses >= budget.uses:
        return Refusal("broker.budget-exhausted", f"all {budget.uses} uses that the owner allowed are spent")
    if budget.amounts is not msgspec.UNSET:
        too_much = budgets.first_over(budget.amounts, grant.spent, facts.job.amounts)
        if too_much is not None:
            return Refusal(*too_much)
    policy = case.policies.get(source.policy_sha256, draft)
    if not policy.allows(facts, capsule.capsule, grant.uses, grant.spent):
        return Refusal("broker.policy-denied", f"the policy does not allow {facts.workload} {facts.purpose}")
    return None
