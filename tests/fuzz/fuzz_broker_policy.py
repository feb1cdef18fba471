"""Fuzz policies: any text is refused with `broker.policy-invalid`, or compiles and answers with yes or no.

Run: `python tests/fuzz/fuzz_broker_policy.py [corpus]`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from mitai.broker.policy import CedarEngine, Facts
from mitai.errors import BrokerError

ENGINE = CedarEngine()
FACTS = Facts(
    workload="serve",
    purpose="inference",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    tee="tdx",
    simulated=False,
    measurements=(("mrtd", "00"),),
    tcb_status="UpToDate",
    advisory_ids=(),
    tcb_evaluation_number=1,
)


def one_input(data: bytes) -> None:
    """Compile the input as it is, and as a condition."""
    text = data.decode("utf-8", "replace")
    for candidate in (text, f"permit(principal, action, resource) when {{ {text} }};"):
        try:
            compiled = ENGINE.compile(candidate)
        except BrokerError as error:
            if error.code != "broker.policy-invalid":
                raise
            continue
        compiled.allows(FACTS, "c", 0)


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
