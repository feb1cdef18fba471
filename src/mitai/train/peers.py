"""Two ranks of a job prove themselves to each other, and agree on the keys of their link.

Follows `docs/spec/distributed.md`, "Handshake". The worker does this; its job's process gets the keys.

Invariants:

- What a peer must be is not the host's to say: the same build on the same kind of machine, as with brokers.
- A peer's evidence is over what was said before, this side's fresh nonce in it, and its claims name the job, its rank,
  the session, the broker policy, the ledger and every input with its manifest: another's, or of another time, is
  refused.
- The keys come from one HPKE secret to each side's attested key, from the data keys of all inputs, and from the whole
  transcript: both sides have the private key that their evidence names, and the broker released every input to both
  (so the owners' policies allowed that very machine), or there is no link.
- Whatever is not as agreed ends the handshake.

Example:
    >>> link = lead(connection, own, {1, 2}, until)
    >>> link.rank
    1
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from mitai.attest import Attester, Claims, Evidence, Policy, verify
from mitai.broker.peers import own_machine, same_build
from mitai.channel.hpke import Aead, Context, Kem, PrivateKey, expand, extract, setup_recipient, setup_sender
from mitai.channel.ohttp import KeyConfig
from mitai.errors import BrokerError, MitaiError, TrainError
from mitai.train.links import KEY_BYTES, exactly, gone
from mitai.train.tables import MAX_RANKS

MAX_MESSAGE_BYTES = 8 << 20  # evidence of a machine with GPUs is the most of it
_LABEL = b"mitai training link v1\0"
_KEM, _AEADS, _KEY_ID = Kem.X_WING, (Aead.AES_256_GCM,), 0  # what is recorded now shall not open one day
_SECRET_BYTES = 32
_UNPROVEN = "it does not have the key that its evidence names, or the broker did not release the inputs to it"
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Enc = Annotated[bytes, Meta(max_length=4096)]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """One message of a handshake."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Hello(_Message, frozen=True):
    """Leader: which session of which version, and a nonce for the other's evidence."""

    v: Literal[1]
    session: Nonce
    nonce: Nonce


class Join(_Message, frozen=True):
    """The other: its rank, a nonce for the leader's evidence, and its own evidence."""

    rank: Annotated[int, Meta(ge=1, lt=MAX_RANKS)]
    nonce: Nonce
    evidence: bytes


class Welcome(_Message, frozen=True):
    """Leader: its evidence, and a secret to the other's key."""

    evidence: bytes
    enc: Enc


class Reply(_Message, frozen=True):
    """The other: a secret to the leader's key, and a proof that it has all secrets."""

    enc: Enc
    proof: Nonce


class Ready(_Message, frozen=True):
    """Leader: its proof."""

    proof: Nonce


AnyMessage = Hello | Join | Welcome | Reply | Ready
_DECODER: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
M = TypeVar("M", bound=AnyMessage)


@dataclass(frozen=True)
class Keys:
    """What a handshake gives: the other's rank, and key and base nonce of each direction."""

    rank: int
    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)


class Own:
    """This rank, as it shows itself to the others in one session of one job.

    Args:
        attester: The hardware's interface.
        claims: What this process says of itself; the link's key, rank and session are put in.
        rank: This rank; 0 leads.
        policy: What brokers must show; of it, whether simulation counts, and under which root.
        data_keys: Those of all inputs, by capsule.

    Raises:
        TrainError: This machine can't tell by itself what code it runs, and so whether another runs the same.
    """

    def __init__(
        self, attester: Attester, claims: Claims, rank: int, policy: Policy, data_keys: Mapping[str, bytes]
    ) -> None:
        self._attester, self.claims, self.rank, self._one = attester, claims, rank, threading.Lock()
        self.key = PrivateKey.generate(_KEM)
        self.session = secrets.token_bytes(32)  # the leader's is everybody's
        self.released = extract(_LABEL + b"inputs", b"".join(key for _, key in sorted(data_keys.items())))
        try:
            self._rules = same_build(own_machine(attester, policy, _now()), policy, claims.workload)
        except BrokerError:
            raise TrainError(
                "train.peer-unmeasured",
                f"a worker on {attester.tee} can't tell by itself what code it is, and so whether a peer is the same",
                hint="jobs of several workers need SEV-SNP",
            ) from None

    def evidence(self, said: bytes, session: bytes) -> bytes:
        """Return this rank's evidence, over what was said before."""
        config = KeyConfig(_KEY_ID, _KEM, self.key.public, _AEADS).encode()
        claims = msgspec.structs.replace(self.claims, key_config=config, extra=self._extra(self.rank, session))
        with self._one:  # several ranks may be in their handshake
            return self._attester.evidence(claims.encode(), _nonce(said)).encode()

    def appraise(self, evidence: bytes, said: bytes, rank: int, session: bytes) -> KeyConfig:
        """Return a peer's attested key.

        1. Its evidence answers what was said, and it is of the same build as this process.
        2. It is at the same job, under the same policy for brokers, with the same inputs and ledger.
        3. It is the rank that it says, in this session.
        4. Its key is one for links.

        Raises:
            TrainError: `train.peer-refused`, and what of this is not so.
        """
        try:  # 1. evidence and build
            found = verify(Evidence.decode(evidence), self._rules, nonce=_nonce(said), now=_now())
            config = KeyConfig.decode(found.claims.key_config)
        except MitaiError as error:
            raise _refused(f"{error.message} ({error.code})") from None
        own, claims = self.claims, found.claims
        ledgers = [each.ledger.vkey if each.ledger else "" for each in (own, claims)]
        if found.workload != own.workload or sorted(_inputs(claims)) != sorted(_inputs(own)):  # 2. job
            raise _refused("it is no worker with the same inputs")
        if ledgers[0] != ledgers[1]:
            raise _refused("its keys are of another broker")
        if claims.extra != self._extra(rank, session):  # 2. job; 3. rank and session
            raise _refused("it is at another job, or another rank or session of it")
        if config.kem is not _KEM or config.aeads != _AEADS:  # 4. key
            raise _refused("its key is none for a link")
        return config

    def _extra(self, rank: int, session: bytes) -> dict[str, str]:
        return self.claims.extra | {"rank": str(rank), "session": session.hex()}


def lead(end: socket.socket, own: Own, awaited: Collection[int], until: float) -> Keys:
    """Do the leader's side of a handshake with one of the `awaited` ranks, until the monotonic time `until`."""
    talk = _Talk(end, until)
    talk.send(Hello(1, own.session, secrets.token_bytes(32)))
    before = talk.said
    join = talk.receive(Join)
    if join.rank not in awaited:
        raise _refused(f"rank {join.rank} is not awaited: it is there already, or the job has fewer workers")
    config = own.appraise(join.evidence, _joining(before, join.rank, join.nonce), join.rank, own.session)
    said = talk.said
    mine = setup_sender(config.kem, config.public, _LABEL + said, config.aeads[0])
    talk.send(Welcome(own.evidence(said, own.session), mine.enc))
    said = talk.said
    reply = talk.receive(Reply)
    theirs = _guarded(lambda: setup_recipient(own.key, reply.enc, _LABEL + said, config.aeads[0]))
    derive = _derivation(said + reply.enc, mine, theirs, own.released)
    if not hmac.compare_digest(reply.proof, derive(b"rank's proof", 32)):
        raise _refused(_UNPROVEN)
    talk.send(Ready(derive(b"leader's proof", 32)))
    return Keys(join.rank, derive(b"leader to rank", KEY_BYTES), derive(b"rank to leader", KEY_BYTES))


def follow(end: socket.socket, own: Own, until: float) -> Keys:
    """Do the side of a rank that does not lead."""
    talk = _Talk(end, until)
    hello = talk.receive(Hello)
    nonce = secrets.token_bytes(32)
    evidence = own.evidence(_joining(talk.said, own.rank, nonce), hello.session)
    talk.send(Join(own.rank, nonce, evidence))
    said = talk.said
    welcome = talk.receive(Welcome)
    config = own.appraise(welcome.evidence, said, 0, hello.session)
    theirs = _guarded(lambda: setup_recipient(own.key, welcome.enc, _LABEL + said, config.aeads[0]))
    said = talk.said
    mine = setup_sender(config.kem, config.public, _LABEL + said, config.aeads[0])
    derive = _derivation(said + mine.enc, theirs, mine, own.released)
    talk.send(Reply(mine.enc, derive(b"rank's proof", 32)))
    if not hmac.compare_digest(talk.receive(Ready).proof, derive(b"leader's proof", 32)):
        raise _refused(_UNPROVEN)
    return Keys(0, derive(b"rank to leader", KEY_BYTES), derive(b"leader to rank", KEY_BYTES))


def decode(data: bytes | bytearray) -> AnyMessage:
    """Parse one message of a handshake; raise `TrainError` on anything else."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _refused("it says what no worker of this version says") from None


class _Talk:
    """The messages of a handshake, and the digest of all that was said so far."""

    def __init__(self, end: socket.socket, until: float) -> None:
        self._end, self._until = end, until
        self.said = hashlib.sha256(_LABEL).digest()

    def send(self, message: AnyMessage) -> None:
        body = msgspec.msgpack.encode(message)
        try:
            self._end.settimeout(max(0.001, self._until - time.monotonic()))
            self._end.sendall(len(body).to_bytes(4, "big") + body)
        except OSError:
            raise gone() from None
        self._note(body)

    def receive(self, kind: type[M]) -> M:
        size = int.from_bytes(exactly(self._end, 4, self._until), "big")
        if size > MAX_MESSAGE_BYTES:
            raise _refused("it says far too much")
        body = exactly(self._end, size, self._until)
        message = decode(body)
        if not isinstance(message, kind):
            raise _refused("it says something else than its turn asks for")
        self._note(body)
        return message

    def _note(self, body: bytes | bytearray) -> None:
        self.said = hashlib.sha256(self.said + body).digest()


def _joining(said: bytes, rank: int, nonce: bytes) -> bytes:
    return said + rank.to_bytes(2, "big") + nonce


def _nonce(said: bytes) -> bytes:
    """Return the nonce of evidence for a link: no other protocol's nonce is one."""
    return hashlib.sha256(_LABEL + b"evidence\0" + said).digest()


def _derivation(said: bytes, leaders: Context, ranks: Context, released: bytes) -> Callable[[bytes, int], bytes]:
    """Return how keys follow from the transcript, the leader's secret, the other's, and the inputs' keys."""
    shared = leaders.export(_LABEL, _SECRET_BYTES) + ranks.export(_LABEL, _SECRET_BYTES) + released
    secret = extract(hashlib.sha256(said).digest(), shared)
    return lambda what, size: expand(secret, _LABEL + what, size)


def _guarded(setup: Callable[[], Context]) -> Context:
    try:
        return setup()
    except MitaiError:
        raise _refused("its secret is not for this key") from None


def _inputs(claims: Claims) -> list[tuple[str, str]]:
    return [(each.id, each.manifest_sha256) for each in claims.capsules]


def _now() -> datetime:
    return datetime.now(UTC)


def _refused(why: str) -> TrainError:
    return TrainError(
        "train.peer-refused",
        f"another rank was refused: {why}",
        hint="submit the same job, with the same broker and release, to every worker, each with a rank of its own",
    )
