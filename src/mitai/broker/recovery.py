"""Recovery of the root key by its owners: who may (the plan), what each of them holds (a share), and how it comes back.

Follows `docs/spec/broker-keys.md`. Shares are SLIP-39 (Shamir over GF(256) with a checksum and a digest), each sealed
by HPKE to one member's recovery key. No I/O here.

Invariants:

- A plan comes into force only when those agree whom it takes something from: the threshold of the plan in force, or,
  where none is, every party that holds a capsule.
- A share is bound to broker, epoch, plan, threshold and index: what was sealed as one opens as no other.
- The document of shares is signed by the broker's ledger key and names a digest of each share: a false one is told
  apart before any are put together.
- Fewer shares than the threshold say nothing about the key.

SLIP-39's reference implementation does not run in constant time: shares are made and put together inside the TEE alone,
where its host can time the process but chooses none of its input but single shares, each checked by digest first.

Example:
    >>> plan = Plan(version=1, threshold=2, members=(alice, bob, carol))
    >>> document = make_shares(Root(1, key), plan, ledger_identity)
    >>> opened = [open_share(document, member) for member in (alice_key, carol_key)]
    >>> combine(document, opened) == key
    True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
import shamir_mnemonic
from msgspec import Meta

from mitai.attest import Policy
from mitai.broker import protocol
from mitai.broker.protocol import Hex32, Key32, Wire, sha256_hex
from mitai.broker.records import Root
from mitai.channel.hpke import Aead, Kem, PrivateKey, setup_recipient, setup_sender
from mitai.channel.ohttp import KeyConfig
from mitai.errors import BrokerError, ChannelError, MitaiError, ParseError
from mitai.identity import Envelope, Identity, PublicKey

PLAN_TYPE = "application/vnd.mitai.recovery-plan+json"
SHARES_TYPE = "application/vnd.mitai.recovery-shares+json"
MAX_PLAN_BYTES = 2 << 20
MAX_SHARES_BYTES = 4 << 20
MAX_MEMBERS = 16  # SLIP-39's own limit
_SHARE_LABEL = b"mitai recovery share v1\x00"
_COMMITMENT_LABEL = b"mitai recovery share digest v1\x00"
_ITERATION_EXPONENT = 0  # SLIP-39 stretches a passphrase; here is none, and the key is random

Index = Annotated[int, Meta(ge=0, lt=MAX_MEMBERS)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Mnemonic = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[a-z]+( [a-z]+)*\Z")]


# --- Members' recovery keys -----------------------------------------------------------------------------------------


class RecoveryKey(Wire, frozen=True):
    """A member's private recovery key, as its file holds it."""

    kem: Literal["x25519", "x-wing"]
    seed: Key32

    def __repr__(self) -> str:
        return "RecoveryKey(…)"

    @staticmethod
    def decode(data: bytes) -> RecoveryKey:
        """Parse the file; raise `ParseError` on anything else."""
        return protocol.decode(data, RecoveryKey, 4096)

    def private(self) -> PrivateKey:
        """Return the key pair."""
        return PrivateKey.from_seed(Kem.X25519 if self.kem == "x25519" else Kem.X_WING, self.seed)

    def public(self) -> bytes:
        """Return the public key as plans name it: a key configuration (RFC 9458, section 3)."""
        private = self.private()
        return KeyConfig(0, private.kem, private.public, (Aead.AES_256_GCM,)).encode()


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A party that holds a share, and the key that the share is sealed to."""

    party: Key32  # Ed25519; signs later plans
    key: Annotated[bytes, Meta(max_length=2048)]

    def __post_init__(self) -> None:
        PublicKey(self.party)
        if KeyConfig.decode(self.key).aeads[:1] != (Aead.AES_256_GCM,):
            raise ValueError("shares are sealed with AES-256-GCM")


# --- The plan -------------------------------------------------------------------------------------------------------


class Plan(Wire, frozen=True):
    """Who can give the root key to a new machine, and what that machine must be.

    `policy` is an appraisal policy (TOML) for brokers that a running one gives the root key to; empty: the same build
    on the same kind of machine. Members judge by policies of their own.
    """

    version: Annotated[int, Meta(ge=1, le=2**53)]
    threshold: Annotated[int, Meta(ge=0, le=MAX_MEMBERS)] = 0
    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)] = ()
    policy: Annotated[str, Meta(max_length=1 << 20)] = ""
    broker: Hex32 | None = None  # None: for a broker that nobody has given anything to yet

    def __post_init__(self) -> None:
        few = len(self.members)
        if len({member.party for member in self.members}) != few or len({member.key for member in self.members}) != few:
            raise ValueError("a party, and a key, is in a plan once")
        if not (self.threshold <= few and bool(self.threshold) == bool(few)) or (self.threshold == 1 and few > 1):
            raise ValueError("the threshold is from 2 to the number of members; 1 for a single one")
        if self.policy:
            Policy.from_toml(self.policy)


class RecoveryAnswer(Wire, frozen=True):
    """What a broker shows of its recovery: the plan's exact bytes, and the signed document of shares."""

    plan: bytes = b""
    shares: bytes = b""


class RecoveryShare(Wire, frozen=True):
    """A member's opened share; travels sealed to a broker that the member has verified."""

    document: Hex32  # SHA-256 of the signed document that it is of
    index: Index
    words: Mnemonic

    def __repr__(self) -> str:
        return f"RecoveryShare(index={self.index})"


class RecoveryProgress(Wire, frozen=True):
    """How many shares are there, and how many it takes; with enough, the broker is back."""

    have: int
    need: int


def decode_plan(payload: bytes) -> Plan:
    """Parse a plan's exact bytes; raise `ParseError` on anything that it can't be."""
    try:
        return protocol.decode(payload, Plan, MAX_PLAN_BYTES)
    except MitaiError as error:
        if error.code == "broker.malformed":
            raise ParseError("broker.recovery-plan-malformed", "these bytes are no recovery plan") from error
        raise


def check_plan(envelope: Envelope, current: Plan | None, holders: Sequence[bytes], audience: str) -> Plan:
    """Return the plan of a signed envelope if it may follow the one in force.

    1. It is a plan, of the version after the current one's.
    2. Those agree whom it takes something from: of the plan in force, as many members as its threshold; without one,
       or when it has no members, all `holders` (public keys of the parties that hold a capsule).
    3. It names this broker, unless nobody has to agree.

    Raises:
        BrokerError: A check failed.
        ParseError: It is malformed.
    """
    # 1. form and version
    if envelope.payload_type != PLAN_TYPE:
        raise ParseError("broker.recovery-plan-malformed", "this envelope holds no recovery plan")
    plan = decode_plan(envelope.payload)
    version = current.version + 1 if current else 1
    if plan.version != version:
        raise BrokerError(
            "broker.recovery-plan-version", f"this is version {plan.version} of the plan, and {version} is due"
        )
    # 2. who agrees
    voters = [member.party for member in current.members] if current else []
    needed = current.threshold if current and voters else len(holders)
    agree = sum(_signed_by(envelope, key) for key in voters or holders)
    if agree < needed:
        raise BrokerError(
            "broker.recovery-plan-unsigned",
            f"{agree} of those who have a say have signed this plan, and it takes {needed}",
            hint="let them: mitai recovery sign PLAN",
        )
    # 3. where it counts
    if plan.broker != audience and (needed or plan.broker is not None):
        raise BrokerError("broker.recovery-plan-elsewhere", "this plan is for another broker")
    return plan


def _signed_by(envelope: Envelope, key: bytes) -> bool:
    try:
        envelope.open(PLAN_TYPE, PublicKey(key))
    except MitaiError:
        return False
    return True


# --- Shares ---------------------------------------------------------------------------------------------------------


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member's share: sealed to its recovery key, and a digest of what was sealed."""

    commitment: Hex32
    sealed: Annotated[bytes, Meta(max_length=4096)]  # enc ‖ ciphertext


class Shares(Wire, frozen=True):
    """All members' shares of one root key; the payload that the ledger's key signs."""

    ledger_key: Key32
    epoch: Count
    plan: Annotated[bytes, Meta(max_length=MAX_PLAN_BYTES)]  # the exact bytes of the plan
    shares: Annotated[tuple[Share, ...], Meta(min_length=1, max_length=MAX_MEMBERS)]

    @property
    def audience(self) -> str:
        """The broker that they are of."""
        return protocol.audience(PublicKey(self.ledger_key))

    def read_plan(self) -> Plan:
        """Return the plan that they follow."""
        return decode_plan(self.plan)


def make_shares(root: Root, plan_bytes: bytes, ledger: Identity) -> bytes:
    """Split a root key among a plan's members; return the signed document, which may be shown to anybody."""
    plan = decode_plan(plan_bytes)
    groups = shamir_mnemonic.generate_mnemonics(
        1, [(plan.threshold, len(plan.members))], root.key, iteration_exponent=_ITERATION_EXPONENT
    )
    audience = protocol.audience(ledger.public)
    shares = tuple(
        _seal_share(member, mnemonic, _info(audience, root.epoch, sha256_hex(plan_bytes), plan.threshold, index))
        for index, (member, mnemonic) in enumerate(zip(plan.members, groups[0], strict=True))
    )
    document = Shares(ledger_key=ledger.public.raw, epoch=root.epoch, plan=plan_bytes, shares=shares)
    return ledger.sign(protocol.encode(document), SHARES_TYPE).encode()


def read_shares(data: bytes, audience: str | None = None) -> Shares:
    """Return a document of shares, signed by the ledger key that it names; of broker `audience`, if that is given.

    Raises:
        BrokerError: It is another broker's.
        MitaiError: It is malformed, or was changed.
    """
    if len(data) > MAX_SHARES_BYTES:
        raise ParseError("broker.too-large", f"{len(data)} bytes are above the limit of {MAX_SHARES_BYTES}")
    envelope = Envelope.decode(data)
    shares = protocol.decode(envelope.payload, Shares, MAX_SHARES_BYTES)
    envelope.open(SHARES_TYPE, PublicKey(shares.ledger_key))
    if len(shares.read_plan().members) != len(shares.shares):
        raise ParseError("broker.malformed", "there is not one share for each member of the plan")
    if audience not in {None, shares.audience}:
        raise BrokerError("broker.recovery-elsewhere", "these are the shares of another broker's key")
    return shares


def open_share(shares: Shares, key: RecoveryKey) -> tuple[int, str]:
    """Return the index and the words of the share that is sealed to a member's recovery key.

    Raises:
        BrokerError: None of them is sealed to it, or what it opens is not what the broker says that it sealed.
    """
    plan, public, private = shares.read_plan(), key.public(), key.private()
    index = next((number for number, member in enumerate(plan.members) if member.key == public), None)
    if index is None:
        raise BrokerError("broker.recovery-no-share", "none of these shares is sealed to this recovery key")
    sealed, cut = shares.shares[index].sealed, private.kem.enc_bytes
    info = _info(shares.audience, shares.epoch, sha256_hex(shares.plan), plan.threshold, index)
    try:
        words = setup_recipient(private, sealed[:cut], info, Aead.AES_256_GCM).open(sealed[cut:]).decode()
    except (ChannelError, UnicodeDecodeError):
        raise BrokerError("broker.recovery-share-damaged", "this share does not open with its member's key") from None
    check_share(shares, index, words)
    return index, words


def check_share(shares: Shares, index: int, words: str) -> None:
    """Raise `BrokerError` unless this is the share that the document names at that place."""
    if not 0 <= index < len(shares.shares) or shares.shares[index].commitment != _commitment(words):
        raise BrokerError("broker.recovery-share-wrong", "this is not that member's share of this key")


def combine(shares: Shares, opened: Iterable[tuple[int, str]]) -> bytes:
    """Return the root key out of enough shares, each of which is checked.

    Raises:
        BrokerError: One is wrong, or there are too few.
    """
    words = dict(opened)
    for index, text in words.items():
        check_share(shares, index, text)
    threshold = shares.read_plan().threshold
    if len(words) < threshold:
        raise BrokerError("broker.recovery-too-few", f"{len(words)} shares are here, and it takes {threshold}")
    try:
        key: bytes = shamir_mnemonic.combine_mnemonics([words[index] for index in sorted(words)[:threshold]])
    except shamir_mnemonic.MnemonicError:  # the document was made so by whoever signed it; its words quote shares
        raise BrokerError("broker.recovery-share-wrong", "these shares do not belong together") from None
    if len(key) != 32:
        raise BrokerError("broker.recovery-share-wrong", "these shares are of no root key")
    return key


def _seal_share(member: Member, mnemonic: str, info: bytes) -> Share:
    config = KeyConfig.decode(member.key)
    context = setup_sender(config.kem, config.public, info, Aead.AES_256_GCM)
    return Share(commitment=_commitment(mnemonic), sealed=context.enc + context.seal(mnemonic.encode()))


def _info(audience: str, epoch: int, plan_sha256: str, threshold: int, index: int) -> bytes:
    """HPKE `info` of a share: everything that it belongs to."""
    parts = bytes.fromhex(audience) + epoch.to_bytes(8) + bytes.fromhex(plan_sha256)
    return _SHARE_LABEL + parts + bytes((threshold, index))


def _commitment(words: str) -> str:
    """Return the digest that names a share; it tells nothing of one, as each has the randomness of a whole key."""
    return hashlib.sha256(_COMMITMENT_LABEL + words.encode()).hexdigest()
