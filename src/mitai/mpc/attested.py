"""Who a side is on a link: its key, and where that is demanded, the machine and code that have this key.

Follows `docs/spec/mpc-links.md`, "Evidence". Over TLS, before anything else, each end says whether it demands evidence.

Invariants:

- Evidence is over a fresh nonce of who verifies, and over the key that TLS has proven: another's does not do.
- Whoever is under a policy and has no evidence is refused; what a policy is about is this side's own choice.

Example:
    >>> credentials = Credentials(identity, attester, {dealer_key_id: policy})
    >>> link = credentials.link(end, lambda key: key.key_id == dealer_key_id, serving=True)
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from socket import socket

from mitai.attest import Appraisal, Attester, Claims, Evidence, Policy, verify
from mitai.errors import MitaiError, MpcError
from mitai.identity import Identity, PublicKey
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tls import HANDSHAKE_S, secured

WORKLOAD = "mpc"
MAX_EVIDENCE_BYTES = 8 << 20
_LABEL = b"mitai mpc evidence v1\0"
_DEMANDED, _NOT = b"\1", b"\0"
_NONCE_BYTES, _SIZE_BYTES = 32, 4


class Credentials:
    """How one side shows itself, and what it demands of others.

    Args:
        identity: Its key.
        attester: The hardware's interface, if this machine can prove what it is.
        policies: What a machine must be, by the key id of who is asked to prove it.

    Attributes:
        appraisals: What was found when a machine proved what it is, the last time, by key id.
    """

    def __init__(
        self, identity: Identity, attester: Attester | None = None, policies: Mapping[str, Policy] | None = None
    ) -> None:
        self.identity, self._attester, self._policies = identity, attester, policies or {}
        self.appraisals: dict[str, Appraisal] = {}

    def link(self, end: socket, awaited: Callable[[PublicKey], bool], *, serving: bool) -> tuple[PublicKey, SocketLink]:
        """Return who is at the other end of a connected socket, and the link; `end` is closed when this raises.

        Raises:
            MpcError: `mpc.peer-unknown`, `mpc.peer-refused`; `mpc.peer-unproven`: its evidence does not hold.
        """
        try:
            channel = secured(end, self.identity, awaited, serving=serving)
        except MpcError:
            end.close()
            raise
        link = SocketLink(channel, HANDSHAKE_S)
        try:
            self._prove(link, channel.peer)
        except BaseException:
            link.abort()
            raise
        return channel.peer, link

    def _prove(self, link: SocketLink, peer: PublicKey) -> None:
        policy, nonce = self._policies.get(peer.key_id), secrets.token_bytes(_NONCE_BYTES)
        link.send((_NOT if policy is None else _DEMANDED) + nonce)
        asked = bytes(link.receive(1 + _NONCE_BYTES))
        if asked[:1] not in {_NOT, _DEMANDED}:
            raise MpcError("mpc.link-mismatch", "the other side speaks another protocol")
        if asked[:1] == _DEMANDED:
            evidence = self._evidence(asked[1:], peer)
            link.send(len(evidence).to_bytes(_SIZE_BYTES, "big"))
            link.send(evidence)
        if policy is not None:
            size = int.from_bytes(link.receive(_SIZE_BYTES), "big")
            if size > MAX_EVIDENCE_BYTES:
                raise _unproven("it says far too much")
            self._appraise(bytes(link.receive(size)), policy, nonce, peer)

    def _evidence(self, nonce: bytes, peer: PublicKey) -> bytes:
        """Return this side's evidence; nothing, where the machine has none."""
        if self._attester is None:
            return b""
        own = self.identity.public
        claims = Claims(workload=WORKLOAD, key_config=b"", tls_key_sha256=own.key_id)
        return self._attester.evidence(claims.encode(), _nonce(nonce, own, peer)).encode()

    def _appraise(self, evidence: bytes, policy: Policy, nonce: bytes, peer: PublicKey) -> None:
        """Check a peer's evidence.

        1. It has some.
        2. It answers this side's nonce for this link, and holds under the policy.
        3. It is of this workload, and names the key that TLS has proven.
        """
        if not evidence:  # 1.
            raise _unproven("it can't prove what it is")
        expected = _nonce(nonce, peer, self.identity.public)
        try:  # 2.
            found = verify(Evidence.decode(evidence), policy, nonce=expected, now=datetime.now(UTC))
        except MitaiError as error:
            raise _unproven(f"{error.message} ({error.code})") from None
        if found.workload != WORKLOAD or found.claims.tls_key_sha256 != peer.key_id:  # 3.
            raise _unproven("its evidence is of another workload or another key")
        self.appraisals[peer.key_id] = found


def _nonce(nonce: bytes, prover: PublicKey, verifier: PublicKey) -> bytes:
    return hashlib.sha256(_LABEL + nonce + prover.raw + verifier.raw).digest()


def _unproven(why: str) -> MpcError:
    return MpcError(
        "mpc.peer-unproven",
        f"another side is not what the policy for it demands: {why}",
        hint="see `policy` of this peer in party.toml, and `attest` in its own",
    )
