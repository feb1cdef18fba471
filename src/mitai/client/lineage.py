"""What a capsule was made of: the graph of its ancestors, verified on the owner's own machine.

Follows `docs/spec/derived.md`, "Lineage".

Invariants:

- Nothing is believed that a signature or the ledger does not show: names, kinds, owners and parents are those of proven
  entries, parameters and measurements those of statements that the entries name.
- The graph is whole: every parent is in it, and nothing else. A parent was logged before its child: there is no cycle.

Example:
    >>> lineage = owner.lineage(adapter_id)
    >>> [(node.name, node.kind) for node in lineage.nodes.values()]
    [('records', 'data'), ('base', 'model'), ('joint', 'adapter')]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mitai.broker.lineage import Statement, statement_sha256
from mitai.broker.protocol import LineageAnswer, LineageNode, LoggedEntry
from mitai.errors import ClientError
from mitai.identity import PublicKey
from mitai.ledger.entry import CapsuleRegistered, CapsuleResealed, Derivation, decode
from mitai.ledger.note import Checkpoint
from mitai.ledger.proof import verify_inclusion
from mitai.ledger.tree import leaf_hash


@dataclass(frozen=True)
class Node:
    """One capsule: its ledger entry, and the statement of the workload that made it, if one did."""

    index: int
    entry: CapsuleRegistered | Derivation
    statement: Statement | None = None
    newer: frozenset[str] = frozenset()  # digests of manifests that its owner sealed it with later

    @property
    def capsule(self) -> str:
        """Its id."""
        return self.entry.capsule

    @property
    def name(self) -> str:
        """Its name, as whoever made it says."""
        return self.entry.name

    @property
    def kind(self) -> str:
        """Its kind, as whoever made it says."""
        return self.entry.kind

    @property
    def parents(self) -> tuple[str, ...]:
        """What it was made of; nothing for a capsule that its owner sealed."""
        return self.entry.parents if self.statement else ()


@dataclass(frozen=True)
class Lineage:
    """A capsule with all that it derives from, oldest first."""

    capsule: str
    nodes: dict[str, Node]


def verify_lineage(answer: LineageAnswer, checkpoint: Checkpoint, capsule: str, *, broker: str) -> Lineage:
    """Return the lineage of a capsule when all of these hold.

    1. Each entry is in the tree of the checkpoint, and makes a capsule known that no other one does, or a newer
       manifest of it.
    2. A derived capsule's statement is signed by the maker that its entry names, and is the one that the entry names.
    3. Statement and entry say the same of the capsule, its parents and its maker, at this broker.
    4. Each parent is there, was logged before, and has the manifest that the statement says; its owners are owners.
    5. Nothing else is there.

    Raises:
        MitaiError: One of the steps failed.
    """
    # 1. to 3.
    found: dict[str, Node] = {}
    for node in sorted((_node(each, checkpoint, broker) for each in answer.nodes), key=lambda node: node.index):
        _demand(node.capsule not in found, "names a capsule twice")
        found[node.capsule] = node
    # 4. parents
    for node in found.values():
        _check_parents(node, found)
    # 5. the whole, and nothing else
    _demand(capsule in found and _above(capsule, found) == set(found), "is about other capsules than were asked for")
    return Lineage(capsule, found)


def proven(logged: LoggedEntry, checkpoint: Checkpoint) -> bytes:
    """Return an entry that is proven to be in the tree of a verified checkpoint."""
    verify_inclusion(leaf_hash(logged.entry), logged.index, checkpoint.size, logged.proof, checkpoint.root)
    return logged.entry


def _node(each: LineageNode, checkpoint: Checkpoint, broker: str) -> Node:
    entry = decode(proven(each.entry, checkpoint))
    if isinstance(entry, CapsuleRegistered):
        newer = [decode(proven(logged, checkpoint)) for logged in each.reseals]
        resealed = {
            it.manifest_sha256 for it in newer if isinstance(it, CapsuleResealed) and it.capsule == entry.capsule
        }
        return Node(each.entry.index, entry, newer=frozenset(resealed))
    if not isinstance(entry, Derivation) or each.signer is None or each.statement is None:
        raise _mismatch("does not say where a capsule is from")
    # 2. signature
    signer = PublicKey(each.signer)
    _demand(signer.key_id == entry.signer, "names another maker than the ledger")
    statement = Statement.open(each.statement, signer)
    _demand(statement_sha256(each.statement) == entry.statement_sha256, "has another statement than the ledger")
    # 3. the same words
    said = (
        statement.capsule,
        statement.manifest_sha256,
        tuple(statement.inputs),
        statement.workload,
        statement.internal.kind,
        statement.internal.evidence_sha256,
        statement.internal.broker,
    )
    logged = (
        entry.capsule,
        entry.manifest_sha256,
        entry.parents,
        entry.workload,
        entry.kind,
        entry.evidence_sha256,
        broker,
    )
    _demand(said == logged, "has a statement that says something else than the ledger")
    return Node(each.entry.index, entry, statement)


def _check_parents(node: Node, found: dict[str, Node]) -> None:
    if node.statement is None:
        return
    owners: set[str] = set()
    for name, manifest_sha256 in node.statement.inputs.items():
        parent = found.get(name)
        if parent is None or parent.index >= node.index:
            raise _mismatch("leaves a parent out")
        known = {parent.entry.manifest_sha256, *parent.newer}
        _demand(manifest_sha256 in known, "has another manifest of a parent than the statement")
        owners.update(parent.entry.owners)
    _demand(set(node.entry.owners) == owners, "has other owners than the parents have")


def _above(capsule: str, found: dict[str, Node]) -> set[str]:
    seen: set[str] = set()
    waiting: Iterable[str] = (capsule,)
    while waiting:
        seen.update(waiting)
        waiting = {parent for name in waiting for parent in found[name].parents} - seen
    return seen


def _demand(condition: bool, what: str) -> None:
    if not condition:
        raise _mismatch(what)


def _mismatch(what: str) -> ClientError:
    return ClientError("client.lineage-mismatch", f"the broker's answer about lineage {what}")
