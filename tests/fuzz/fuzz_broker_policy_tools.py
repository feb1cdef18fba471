"""Fuzz what reads policies, requests and TrustFlow's rules for people: an answer, or an error of the tree.

Run: `python tests/fuzz/fuzz_broker_policy_tools.py [corpus]`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from mitai.broker.policy.check import check
from mitai.broker.policy.explain import describe, why
from mitai.broker.policy.request import Request, read, read_cases
from mitai.broker.policy.trustflow import convert
from mitai.errors import MitaiError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def one_input(data: bytes) -> None:
    """Give the input to every reader."""
    text = data.decode("utf-8", "replace")
    for reader in (
        check,
        describe,
        read,
        read_cases,
        lambda given: why(given, Request(), NOW),
        lambda given: describe(f"permit(principal, action, resource) when {{ {given} }};"),
        lambda _: convert(data, parties={"b": "bb"}, owner="aa", workload="train"),
    ):
        try:
            reader(text)
        except MitaiError:
            continue


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
