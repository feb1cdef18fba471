"""The workload's side of a key release, without I/O.

Invariants:

- The evidence is over the whole request: it can't be sent with another purpose, capsules or parameters.
- The keys open only with the private key that the evidence named, and only for the exact request that was sent.
- Every manifest is checked against the digest and the owner that arrived sealed beside its key.

Example:
    >>> release = Release(challenge_body, workload.evidence, purpose="inference", capsules=("ab…",))
    >>> keys = release.open(answer_body, keyring)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from mitai.attest import Claims, Evidence
from mitai.broker import protocol
from mitai.broker.protocol import Challenge, Origin, ReleaseAnswer, ReleasedKeys, ReleaseRequest
from mitai.capsule import Manifest, open_manifest
from mitai.channel.hpke import setup_recipient
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import KeyConfig
from mitai.errors import BrokerError
from mitai.identity import PublicKey

MAX_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True)
class Given:
    """What keys were given for: what was declared, and what the broker found the workload to be."""

    purpose: str
    parameters: Mapping[str, str]
    origin: Origin


@dataclass(frozen=True)
class OpenedKey:
    """A capsule's key with its verified manifest."""

    capsule: str
    data_key: bytes
    envelope: bytes
    manifest: Manifest
    manifest_sha256: str
    owner: PublicKey
    policies: tuple[str, ...]
    ledger_index: int
    given: Given | None = None
    derived: bool = False  # a workload made it: the manifest's parents are true

    def __repr__(self) -> str:
        return f"OpenedKey({self.capsule!r})"


class Release:
    """One release: made from the broker's challenge, sent as `body`, opened from its answer.

    Args:
        challenge: The body of the broker's answer to `POST /v1/challenge`.
        evidence: Makes evidence over a nonce (`Workload.evidence`).
        purpose: What for, such as `inference`.
        capsules: Which capsules' keys.
        parameters: What owners' policies may ask about.
    """

    def __init__(
        self,
        challenge: bytes,
        evidence: Callable[[bytes], Evidence],
        *,
        purpose: str,
        capsules: tuple[str, ...],
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        nonce = protocol.decode(challenge, Challenge, 4096).nonce
        request = ReleaseRequest(
            evidence=b"", nonce=nonce, purpose=purpose, capsules=capsules, parameters=dict(parameters or {})
        )
        proof = evidence(protocol.release_nonce(request))
        self._config = KeyConfig.decode(Claims.decode(proof.claims).key_config)
        self._capsules = capsules
        self._declared = (purpose, request.parameters)
        self.body = protocol.encode(msgspec.structs.replace(request, evidence=proof.encode()))

    def open(self, answer: bytes, keyring: KeyRing) -> tuple[OpenedKey, ...]:
        """Return the released keys, in the order asked.

        Args:
            answer: The body of the broker's answer to `POST /v1/release`.
            keyring: The channel's keys, one of which the evidence named.

        Raises:
            MitaiError: The answer is malformed, for another key or request, or a manifest does not fit.
        """
        parsed = protocol.decode(answer, ReleaseAnswer, MAX_ANSWER_BYTES)
        held = keyring.find(self._config.key_id)
        if held is None or held.config.public != self._config.public:
            raise BrokerError("broker.key-rotated", "the key that the evidence held is gone", hint="release again")
        enc, sealed = parsed.sealed[: held.config.kem.enc_bytes], parsed.sealed[held.config.kem.enc_bytes :]
        context = setup_recipient(held.private, enc, protocol.release_info(self.body), self._config.aeads[0])
        released = protocol.decode(context.open(sealed), ReleasedKeys, MAX_ANSWER_BYTES)
        if tuple(key.capsule for key in released.keys) != self._capsules or len(parsed.manifests) != len(released.keys):
            raise BrokerError("broker.answer-mismatch", "the broker released other capsules than were asked for")
        given = Given(*self._declared, released.origin) if isinstance(released.origin, Origin) else None
        return tuple(
            _opened(key, envelope, released.index, given)
            for key, envelope in zip(released.keys, parsed.manifests, strict=True)
        )


def _opened(key: protocol.ReleasedKey, envelope: bytes, index: int, given: Given | None) -> OpenedKey:
    owner = PublicKey(key.owner)
    manifest = open_manifest(envelope, owner=owner, manifest_sha256=key.manifest_sha256)
    if manifest.capsule_id != key.capsule:
        raise BrokerError("broker.answer-mismatch", "the broker sent the manifest of another capsule")
    return OpenedKey(
        key.capsule,
        key.data_key,
        envelope,
        manifest,
        key.manifest_sha256,
        owner,
        key.policies,
        index,
        given,
        derived=key.derived is True,
    )
