"""How a broker on a new machine gets the root key from a running one, and goes on having the newest.

Follows `docs/spec/broker-keys.md`, "From a running broker"; the protocol is in `peers`.

Invariants:

- Nothing is asked of a peer before its own evidence was accepted as a broker's.
- A root key is kept only if it opens the newest state in the database; a peer that gives another one is passed over.
- The configured policy, the database and the peer may all be the host's: only a peer of this very build, by rules that
  the host has no say in, counts as one that keeps the key to itself. A key of any other is told as inherited, for ever.

Example:
    >>> join(["http://10.0.0.2:8701"], database, attester, policy)
    True
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

import httpx2
import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from mitai.attest import Attester, Claims, Policy
from mitai.bodies import bounded
from mitai.broker import protocol
from mitai.broker.peers import JOINING, WORKLOAD, RootRequest, open_root, own_machine, same_build
from mitai.broker.protocol import Challenge
from mitai.broker.records import Root
from mitai.broker.store import Database
from mitai.channel.keys import KeyRing
from mitai.client.http import session_client
from mitai.client.session import Session
from mitai.errors import AttestError, BrokerError, MitaiError
from mitai.problem import error_from

LOOK_EVERY_S = 5.0
_MAX_ANSWER_BYTES = 64 << 10
log = structlog.get_logger("mitai.broker")


def join(peers: Sequence[str], database: Database, attester: Attester, policy: Policy) -> bool:
    """Get the root key from the first peer that gives it, if this machine lacks it; tell whether it did.

    Raises:
        MitaiError: No peer gave one that opens this state; the last one's reason.
    """
    if not peers or not database.lacks_root():
        return False
    failure: MitaiError = BrokerError("broker.no-peer", "no peer is configured")
    for peer in peers:
        try:
            database.adopt(ask(peer, attester, policy))
        except MitaiError as error:
            log.warning("this peer gave no root key", peer=peer, code=error.code)
            failure = error
        else:
            log.info("root key from a peer", peer=peer)
            return True
    raise failure


def ask(peer: str, attester: Attester, policy: Policy) -> Root:
    """Verify a peer, prove this process to it, and return the root key that it gives.

    Raises:
        AttestError: The peer's evidence was refused; nothing was asked.
        BrokerError: It refused, with its code, or can't be reached.
    """
    with ExitStack() as opened:
        http = opened.enter_context(httpx2.Client(timeout=30.0))
        session, alike = _verified(peer, attester, policy, http)
        client = opened.enter_context(session_client(session))
        challenge = protocol.decode(_post(client, session.base_url, "/v1/root/challenge", b"{}"), Challenge, 4096)
        keyring = KeyRing.generate("x-wing")  # what is recorded now shall not open one day
        claims = Claims(workload=WORKLOAD, key_config=keyring.current_config(), extra=JOINING)
        evidence = attester.evidence(claims.encode(), bytes.fromhex(challenge.nonce))
        body = protocol.encode(RootRequest(evidence=evidence.encode(), nonce=challenge.nonce))
        answer = _post(client, session.base_url, "/v1/root", body)
    broker, root = open_root(body, answer, keyring, claims.key_config)
    if broker != session.appraisal.claims.extra.get("audience"):
        raise BrokerError("broker.answer-mismatch", "the peer gave the root key of another broker than it claims to be")
    return msgspec.structs.replace(root, inherited=root.inherited or not alike)


def _verified(peer: str, attester: Attester, policy: Policy, http: httpx2.Client) -> tuple[Session, bool]:
    """Verify a peer; tell whether it is this build on this kind of machine, whatever the configured policy says."""
    with suppress(AttestError, BrokerError):
        rules = same_build(own_machine(attester, policy, datetime.now(UTC)), policy)
        return Session(peer, rules, workload=WORKLOAD, http=http), True
    return Session(peer, policy, workload=WORKLOAD, http=http), False


def keep_joined(work: Callable[[], object]) -> Callable[[], None]:
    """Call `work` every few seconds on a thread of its own, as root keys are rotated; return what ends that."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(LOOK_EVERY_S):
            try:
                work()
            except (MitaiError, SQLAlchemyError) as error:
                log.warning("no root key yet", code=getattr(error, "code", type(error).__name__))

    thread = threading.Thread(target=run, name="broker-joining", daemon=True)
    thread.start()
    return stop.set


def _post(client: httpx2.Client, base_url: str, path: str, body: bytes) -> bytes:
    try:
        with client.stream("POST", base_url + path, content=body) as answer:
            content = bounded(answer, _MAX_ANSWER_BYTES)
    except httpx2.HTTPError as error:
        raise BrokerError("broker.peer-unreachable", f"the peer can't be reached ({type(error).__name__})") from None
    if content is None:
        raise BrokerError("broker.peer-answer-too-large", "the peer answered far too much")
    if answer.status_code != 200:
        raise error_from(BrokerError, answer.status_code, content, code="broker.peer-refused", who="the peer")
    return content
