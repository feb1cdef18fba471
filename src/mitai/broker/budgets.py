"""Budgets of amounts: tokens, training steps, privacy; what is left, and what a release takes of it.

Follows `docs/spec/policies.md`, "Budgets". The writer asks and charges within the transaction that logs the release.

Invariants:

- Amounts are whole numbers; epsilon is counted in millionths and only adds up (sequential composition).
- An owner's limit needs a declared amount: who does not say how much, gets nothing.
- What was spent never falls, and stays at `MAX_COUNT` once it is there.

Example:
    >>> first_over(Amounts(steps=100), Amounts(steps=90), Amounts(steps=20))
    ('broker.steps-exhausted', 'of the 100 steps that the owner allowed, 10 are left, and 20 are asked for')
"""

from __future__ import annotations

from mitai.broker.protocol import MAX_COUNT, Amounts

_CODES = {
    "tokens": "broker.tokens-exhausted",
    "steps": "broker.steps-exhausted",
    "epsilon_micros": "broker.epsilon-exhausted",
}


def first_over(limits: Amounts, spent: Amounts, declared: Amounts) -> tuple[str, str] | None:
    """Return code and reason of the first limit that a release would exceed, or that it declares nothing for."""
    for name, code in _CODES.items():
        limit, amount = getattr(limits, name), getattr(declared, name)
        if limit is None:
            continue
        if amount is None:
            return "broker.budget-undeclared", f"the owner counts {name}, and the request does not declare any"
        left = max(0, limit - (getattr(spent, name) or 0))
        if amount > left:
            return code, f"of the {limit} {name} that the owner allowed, {left} are left, and {amount} are asked for"
    return None


def added(spent: Amounts, declared: Amounts) -> Amounts:
    """Return what is spent after a release."""
    sums = {
        name: min(MAX_COUNT, (getattr(spent, name) or 0) + amount)
        for name in _CODES
        if (amount := getattr(declared, name)) is not None
    }
    return Amounts(**{name: sums.get(name, getattr(spent, name)) for name in _CODES})
