"""A workload's side of derived capsules, without I/O: what it has to name, and the request that registers one.

Follows `docs/spec/derived.md`.

Invariants:

- Parents are all inputs, whether or not they went into this output: the broker demands every capsule that the receipt
  key was given.
- The statement repeats what was declared when the inputs were released; inputs of different jobs are refused.

Example:
    >>> derivation = Derivation(identity, audience, inputs)
    >>> sealed = seal(plain, folder, owner=identity, name="joint adapter", kind="adapter", parents=derivation.parents)
    >>> index = derivation.index(link.post("/v1/derived", derivation.request(sealed)), ledger_vkey)
"""

from __future__ import annotations

from collections.abc import Mapping

from mitai.broker import protocol
from mitai.broker.lineage import Declared, Statement
from mitai.broker.protocol import CommandAnswer, DeriveRequest
from mitai.broker.release_client import OpenedKey
from mitai.capsule import Sealed, open_manifest
from mitai.errors import BrokerError
from mitai.identity import Identity
from mitai.ledger.note import verify_checkpoint

MAX_ANSWER_BYTES = 1 << 20


class Derivation:
    """What one job makes of its inputs; any number of outputs.

    Args:
        identity: The receipt key in the claims that the inputs were released to.
        audience: The broker that released them (`protocol.audience` of the ledger key in its claims).
        inputs: All capsules' keys that were ever released to `identity`.

    Raises:
        BrokerError: There are no inputs, or they were released for different jobs.
    """

    def __init__(self, identity: Identity, audience: str, inputs: tuple[OpenedKey, ...]) -> None:
        given = next((key.given for key in inputs), None)
        if given is None or any(
            key.given is None
            or (key.given.purpose, key.given.parameters, key.given.origin.measurements)
            != (given.purpose, given.parameters, given.origin.measurements)
            for key in inputs
        ):
            raise BrokerError("broker.derive-mixed", "the inputs are not those of one job")
        self._identity, self._audience, self._given = identity, audience, given
        self._inputs = {key.capsule: key.manifest_sha256 for key in inputs}
        self.parents = tuple(sorted(self._inputs))

    def request(self, sealed: Sealed, byproducts: Mapping[str, str] | None = None) -> bytes:
        """Return the body of `POST /v1/derived`.

        Args:
            sealed: What was sealed with `identity` as its owner and `parents` as its parents.
            byproducts: SHA-256 by name, in hex, of what else was made, such as a transcript.

        Raises:
            MitaiError: It was sealed otherwise, or a byproduct's name or digest is malformed.
        """
        manifest = open_manifest(sealed.envelope, owner=self._identity.public, manifest_sha256=sealed.manifest_sha256)
        if manifest.parents != self.parents:
            raise BrokerError("broker.parents-mismatch", "a derived capsule's parents are all inputs, sorted by id")
        statement = Statement.build(
            (sealed.capsule_id, sealed.manifest_sha256),
            self._inputs,
            Declared(self._given.purpose, dict(self._given.parameters)),
            self._given.origin,
            broker=self._audience,
            kind=manifest.kind,
            byproducts=byproducts or {},
        )
        request = DeriveRequest(
            receipt_key=self._identity.public.raw,
            statement=statement.sign(self._identity),
            manifest=sealed.envelope,
            data_key=sealed.data_key,
        )
        return protocol.encode(request)

    def index(self, answer: bytes, ledger_vkey: str) -> int:
        """Return the ledger index in the broker's answer, which its signed checkpoint must cover."""
        parsed = protocol.decode(answer, CommandAnswer, MAX_ANSWER_BYTES)
        if verify_checkpoint(parsed.checkpoint, ledger_vkey).size <= parsed.index:
            raise BrokerError("broker.answer-mismatch", "the broker's checkpoint does not cover what it says it logged")
        return parsed.index
