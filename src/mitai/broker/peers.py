"""One broker gives the root key to another: each proves itself to the other, and the key goes to an attested key only.

Follows `docs/spec/broker-keys.md`, "From a running broker". No I/O here.

Invariants:

- What a peer must be is not the host's to say: it is in the recovery plan in force, or else fixed: the same build, on
  the same kind of machine, under the strict rules that a policy has by default.
- The key is sealed to the HPKE key in the evidence over this broker's own nonce, and to the exact request.

Example:
    >>> answer = seal_root(body, appraisal, root, audience)
    >>> open_root(body, answer, keyring, key_config)
    Root(epoch=2)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from mitai.attest import (
    Appraisal,
    Attester,
    Evidence,
    Policy,
    ReferenceValues,
    VerifiedCache,
    report_data,
    verify,
    verify_hardware,
)
from mitai.attest.evidence import NONCE_BYTES
from mitai.attest.machine import Machine
from mitai.attest.policy import REGISTERS
from mitai.attest.sim import SimAttester
from mitai.broker import protocol
from mitai.broker.protocol import Hex32, Key32, Wire
from mitai.broker.records import Root
from mitai.broker.recovery import Count
from mitai.channel.hpke import setup_recipient, setup_sender
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import KeyConfig
from mitai.errors import BrokerError, DeniedError, MitaiError

WORKLOAD = "broker"
_OWN_REPORTS = {"snp"}  # its reports come from the security processor, sealed and authenticated for the guest
_ROOT_LABEL = b"mitai root key share v1\x00"
JOINING = {"joining": "root-key"}  # in the claims: evidence that a broker shows to everybody does not ask for a key


class RootRequest(Wire, frozen=True):
    """Evidence over the challenge's nonce; its claims hold the key to seal to."""

    evidence: bytes
    nonce: Hex32


class RootAnswer(Wire, frozen=True):
    """A `SealedRoot` under the attested key: enc ‖ ciphertext."""

    sealed: bytes


class SealedRoot(Wire, frozen=True):
    """The root key, and whose it is."""

    broker: Hex32
    epoch: Count
    key: Key32
    inherited: bool

    def __repr__(self) -> str:
        return f"SealedRoot(epoch={self.epoch})"


def own_machine(attester: Attester, base: Policy, now: datetime) -> Machine:
    """Return what this process's own evidence says of its machine and code, under the strict defaults.

    Only evidence that comes from the processor without the host's help will do: a host that carries quotes could bring
    back that of another machine, with code of its own.

    Raises:
        BrokerError: `broker.peer-unmeasured`: this machine has no such evidence.
        AttestError: It does not hold under the defaults.
    """
    simulated = isinstance(attester, SimAttester)
    if not simulated and attester.tee not in _OWN_REPORTS:
        raise _unmeasured(attester.tee)
    nonce = secrets.token_bytes(NONCE_BYTES)
    evidence = attester.evidence(b"", nonce)
    rules = Policy(allow_simulation=simulated, sim_roots=base.sim_roots if simulated else ())
    machine = verify_hardware(evidence.hardware(), rules, now=now)
    if not hmac.compare_digest(machine.report_data, report_data(nonce, b"", evidence.devices)):
        raise _unmeasured(attester.tee)
    return machine


def same_build(own: Machine, base: Policy, workload: str = WORKLOAD) -> Policy:
    """Return the rules for peers where no plan says others: the same code on the same kind of machine.

    Args:
        own: This broker's machine.
        base: The configured policy, of which simulated roots are taken if this machine is simulated itself.
        workload: What the peers are.
    """
    try:
        registers = {register: own.measurements[register] for register in REGISTERS[own.tee]}
    except KeyError:
        raise _unmeasured(own.tee) from None
    return Policy(
        allow_simulation=own.simulated,
        sim_roots=base.sim_roots if own.simulated else (),
        workloads=(ReferenceValues(name=workload, registers=registers, tee=own.tee),),
    )


def appraise_peer(request: RootRequest, policy: Policy, now: datetime, cache: VerifiedCache) -> Appraisal:
    """Verify a peer's evidence; raise `DeniedError` when it is none that the root key may go to."""
    try:
        evidence = Evidence.decode(request.evidence)
        appraisal = verify(evidence, policy, nonce=bytes.fromhex(request.nonce), now=now, cache=cache)
        KeyConfig.decode(appraisal.claims.key_config)
    except MitaiError as error:
        raise DeniedError(f"broker.peer-refused:{error.code}", f"no peer of this broker: {error.message}") from None
    if appraisal.workload != WORKLOAD:
        raise DeniedError("broker.peer-refused", f"a {appraisal.workload!r} is no broker")
    if JOINING.items() - appraisal.claims.extra.items():
        raise DeniedError("broker.peer-refused", "this broker's evidence was not made to ask for a root key")
    return appraisal


def seal_root(body: bytes, appraisal: Appraisal, root: Root, audience: str) -> bytes:
    """Seal the root key to a peer's attested key, bound to its exact request."""
    config = KeyConfig.decode(appraisal.claims.key_config)
    context = setup_sender(config.kem, config.public, _info(body), config.aeads[0])
    plaintext = protocol.encode(SealedRoot(broker=audience, epoch=root.epoch, key=root.key, inherited=root.inherited))
    return protocol.encode(RootAnswer(sealed=context.enc + context.seal(plaintext)))


def open_root(body: bytes, answer: bytes, keyring: KeyRing, key_config: bytes) -> tuple[str, Root]:
    """Return the broker's audience and the root key out of the answer to `body`.

    Args:
        body: The exact request that was sent.
        answer: The body of its answer.
        keyring: Holds the private key of `key_config`.
        key_config: What the evidence in the request named.

    Raises:
        MitaiError: The answer is malformed, or for another key or request.
    """
    parsed = protocol.decode(answer, RootAnswer, 64 << 10)
    config = KeyConfig.decode(key_config)
    held = keyring.find(config.key_id)
    if held is None or held.config.public != config.public:
        raise BrokerError("broker.key-rotated", "the key that the evidence held is gone", hint="join again")
    cut = config.kem.enc_bytes
    context = setup_recipient(held.private, parsed.sealed[:cut], _info(body), config.aeads[0])
    sealed = protocol.decode(context.open(parsed.sealed[cut:]), SealedRoot, 64 << 10)
    return sealed.broker, Root(sealed.epoch, sealed.key, inherited=sealed.inherited)


def _unmeasured(tee: str) -> BrokerError:
    return BrokerError(
        "broker.peer-unmeasured",
        f"a broker on {tee} can't tell by itself what code it is, and so whether a peer is the same",
        hint="let the owners' recovery plan say what a peer must be: mitai recovery plan --peers POLICY",
    )


def _info(body: bytes) -> bytes:
    return _ROOT_LABEL + hashlib.sha256(body).digest()
