"""Try again what a broker could not answer while another process took over from it.

Only for what may be sent twice: queries, receipts, an owner's very same command (its sequence lets it count once), the
very same derivation, and a release that is begun anew, with a new challenge. An answer that was lost on the way looks
the same as none.

Example:
    >>> key = again(lambda: release(link, capsule))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mitai.errors import MitaiError

AFTER_S = (0.2, 0.5, 1.0, 2.0)
_PASSING = frozenset(
    (
        "broker.closed",
        "broker.nonce-unknown",  # of a challenge that the former leader made
        "broker.outcome-unknown",
        "broker.standby",
        "broker.state-conflict",
        "broker.storage",
        "channel.refused",  # a gateway lost its broker, or found none
        "channel.truncated",
        "fleet.no-leader",
    )
)
T = TypeVar("T")


def again(work: Callable[[], T]) -> T:
    """Return what `work` returns; call it again when it fails in a way that passes."""
    for pause_s in AFTER_S:
        try:
            return work()
        except MitaiError as error:
            if error.code not in _PASSING:
                raise
            time.sleep(pause_s)
    return work()
