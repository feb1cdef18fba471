"""An owner's side of recovery: see who could recover a broker's root key, and bring one's own share to a new machine.

Follows `docs/spec/broker-keys.md`.

Invariants:

- A share is opened on the owner's own device, and leaves it only for a broker whose evidence the owner's policy
  accepted, sealed to the key in that evidence.
- What a broker shows counts only if its attested claims name its digest.
- The document of shares must be signed by the ledger key that the owner's policy pins.

Example:
    >>> approve("http://127.0.0.1:8701", document, key, policy).have
    1
"""

from __future__ import annotations

from contextlib import closing

import httpx2
import msgspec

from mitai.attest import Appraisal, ClaimRules, Policy
from mitai.bodies import bounded
from mitai.broker import protocol
from mitai.broker.protocol import sha256_hex
from mitai.broker.recovery import (
    MAX_PLAN_BYTES,
    MAX_SHARES_BYTES,
    RecoveryAnswer,
    RecoveryKey,
    RecoveryProgress,
    RecoveryShare,
    open_share,
    read_shares,
)
from mitai.client.http import session_client
from mitai.client.session import Session
from mitai.errors import BrokerError, ClientError
from mitai.ledger.note import parse_vkey
from mitai.problem import error_from

_MAX_BYTES = 2 * (MAX_PLAN_BYTES + MAX_SHARES_BYTES)


def pinned_audience(policy: Policy) -> str:
    """Return the broker whose ledger key a policy pins; raise `ClientError` when it pins none."""
    if policy.claims.ledger_vkey is None:
        raise ClientError(
            "client.ledger-unpinned",
            "this policy pins no ledger, so nobody can tell whose shares these are",
            hint="put the broker's ledger key into it: [claims] ledger_vkey",
        )
    return protocol.audience(parse_vkey(policy.claims.ledger_vkey).public)


def waiting_policy(policy: Policy) -> Policy:
    """Return a policy for a broker that waits for shares: it has opened no ledger and no capsule yet."""
    return msgspec.structs.replace(policy, claims=ClaimRules(policies=policy.claims.policies))


def show(url: str, policy: Policy) -> tuple[RecoveryAnswer, Appraisal]:
    """Verify a broker, running or waiting, and return its plan and shares as its attested claims name them.

    Raises:
        AttestError: The evidence was refused.
        BrokerError: What it shows is not what its claims name.
    """
    session = Session(url, waiting_policy(policy), workload="broker")
    extra = session.appraisal.claims.extra
    if policy.claims.ledger_vkey is not None and extra.get("audience") != pinned_audience(policy):
        raise BrokerError("broker.recovery-elsewhere", "this is another broker than the one whose ledger is pinned")
    answer = protocol.decode(_ask(session, "GET", b""), RecoveryAnswer, _MAX_BYTES)
    claimed, waiting = (extra.get(name) for name in ("recovery", "recovering"))
    shown = sha256_hex(answer.plan) == claimed if answer.plan else claimed is None
    if waiting is not None:
        shown = sha256_hex(answer.shares) == waiting
    if not shown:
        raise BrokerError("broker.answer-mismatch", "the broker shows another recovery plan than its claims name")
    return answer, session.appraisal


def approve(url: str, document: bytes, key: RecoveryKey, policy: Policy) -> RecoveryProgress:
    """Bring one's share to a broker that waits for it.

    1. The document is of the broker that the policy pins.
    2. The waiting broker's evidence holds under the policy; it waits for the shares of this very document.
    3. The share is opened here, and sent sealed to the attested key.

    Raises:
        ClientError: The policy pins no ledger, or the broker can't be reached.
        AttestError: The evidence was refused; nothing was sent.
        BrokerError: Another document, no share for this key, or the broker refused.
    """
    # 1. whose
    shares = read_shares(document, pinned_audience(policy))
    # 2. to whom
    session = Session(url, waiting_policy(policy), workload="broker")
    waiting = session.appraisal.claims.extra.get("recovering")
    if waiting is None:
        raise BrokerError("broker.recovery-needless", "this broker does not wait for shares")
    if waiting != sha256_hex(document):
        raise BrokerError(
            "broker.recovery-other-shares",
            "the broker waits for shares of another epoch or plan than this document's",
            hint="take the one that it shows: mitai recovery show URL --out FILE",
        )
    # 3. the share
    index, words = open_share(shares, key)
    body = protocol.encode(RecoveryShare(document=waiting, index=index, words=words))
    return protocol.decode(_ask(session, "POST", body), RecoveryProgress, 4096)


def _ask(session: Session, method: str, body: bytes) -> bytes:
    try:
        with (
            closing(session_client(session)) as client,
            client.stream(method, f"{session.base_url}/v1/recovery", content=body or None) as answer,
        ):
            content = bounded(answer, _MAX_BYTES)
    except httpx2.HTTPError as error:
        raise ClientError("client.unreachable", f"the broker can't be reached ({type(error).__name__})") from error
    if content is None:
        raise ClientError("client.answer-too-large", "the broker's answer is too large")
    if answer.status_code != 200:
        raise error_from(BrokerError, answer.status_code, content, code="broker.refused", who="the broker")
    return content
