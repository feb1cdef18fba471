"""Lineage on the owner's side: what is believed, what is refused, and how it is drawn."""

from __future__ import annotations

import io
import itertools
import json
import re
import uuid
import xml.etree.ElementTree as ElementTree
from datetime import datetime

import msgspec
import pytest
from rich.console import Console

from mitai.broker.lineage import Declared, Statement, statement_sha256
from mitai.broker.protocol import LineageAnswer, LineageNode, LoggedEntry, Origin
from mitai.cli.drawing import svg
from mitai.cli.lineage import tree
from mitai.client.lineage import Lineage, verify_lineage
from mitai.client.openlineage import run_events
from mitai.errors import MitaiError
from mitai.identity import Identity
from mitai.ledger.entry import CapsuleRegistered, CapsuleResealed, Derivation, Entry
from mitai.ledger.log import Log
from mitai.ledger.note import verify_checkpoint
from mitai.ledger.store import MemoryStore

BROKER = "b" * 64
TIME = "2026-01-02T03:04:05Z"
ALICE, BOB = "a" * 64, "c" * 64
MANIFESTS = {"model": "1" * 64, "data": "2" * 64, "adapter": "3" * 64, "merged": "4" * 64}


class World:
    """A ledger with two sealed capsules, an adapter made of them, and a model made of model and adapter."""

    def __init__(self, *, derive: bool = True) -> None:
        self.log = Log(MemoryStore(), Identity.generate(), "test.mitai/ledger")
        self.maker = Identity.generate()
        self.entries: list[Entry] = []
        self.statements: dict[str, object] = {}
        if not derive:
            return
        self.registered("model", (ALICE,))
        self.registered("data", (BOB,), name="<script>\u202e&")
        self.derived("adapter", ("data", "model"))
        self.derived("merged", ("adapter", "model"))

    def registered(self, capsule: str, owners: tuple[str, ...], **changes: object) -> None:
        fields = {"capsule": capsule, "kind": capsule, "name": "a " + capsule, "owners": owners}
        self.add(CapsuleRegistered, {**fields, "manifest_sha256": MANIFESTS[capsule]}, **changes)

    def derived(self, capsule: str, parents: tuple[str, ...], said: dict | None = None, **changes: object) -> None:
        inputs = {parent: MANIFESTS[parent] for parent in parents}
        origin = Origin("train", {"mrtd": "00ff"}, "e" * 64)
        fields = {
            "subject": (capsule, MANIFESTS[capsule]),
            "inputs": inputs,
            "declared": Declared("training", {"epochs": "3"}),
            "origin": origin,
            "broker": BROKER,
            "kind": "adapter",
            "byproducts": {"transcript": "5" * 64},
        } | (said or {})
        statement = Statement.build(**fields).sign(self.maker)
        self.statements[capsule] = statement
        entry = {
            "capsule": capsule,
            "kind": "adapter",
            "name": "a " + capsule,
            "owners": (ALICE, BOB),
            "manifest_sha256": MANIFESTS[capsule],
            "parents": parents,
            "workload": "train",
            "signer": self.maker.key_id,
            "statement_sha256": statement_sha256(statement),
            "evidence_sha256": "e" * 64,
            "simulated": True,
        }
        self.add(Derivation, entry, **changes)

    def add(self, kind: type, fields: dict, **changes: object) -> None:
        entry = kind(time=TIME, **(fields | changes))
        self.entries.append(entry)
        self.log.append([entry.encode()])

    def answer(self, *, drop: str = "", **statements: object) -> LineageAnswer:
        nodes = []
        for index, entry in enumerate(self.entries):
            if entry.capsule == drop or isinstance(entry, CapsuleResealed):
                continue
            logged = self.logged(index)
            made = statements.get(entry.capsule, self.statements.get(entry.capsule))
            nodes.append(
                LineageNode(logged, self.reseals(entry.capsule), self.maker.public.raw if made else None, made)
            )
        return LineageAnswer(nodes=tuple(nodes), checkpoint=self.log.checkpoint())

    def logged(self, index: int) -> LoggedEntry:
        return LoggedEntry(index, self.entries[index].encode(), tuple(self.log.inclusion_proof(index)))

    def reseals(self, capsule: str) -> tuple[LoggedEntry, ...]:
        found = enumerate(self.entries)
        return tuple(self.logged(at) for at, it in found if isinstance(it, CapsuleResealed) and it.capsule == capsule)

    def resealed(self, capsule: str, manifest_sha256: str) -> None:
        fields = {"capsule": capsule, "owner": ALICE, "previous_sha256": MANIFESTS[capsule], "command_sha256": "7" * 64}
        self.add(CapsuleResealed, {**fields, "manifest_sha256": manifest_sha256})

    def verify(self, answer: LineageAnswer | None = None, capsule: str = "merged") -> Lineage:
        answer = answer or self.answer()
        return verify_lineage(answer, verify_checkpoint(answer.checkpoint, self.log.vkey), capsule, broker=BROKER)


def refused(world: World, answer: LineageAnswer | None = None, capsule: str = "merged") -> str:
    with pytest.raises(MitaiError) as caught:
        world.verify(answer, capsule)
    return caught.value.code


def test_a_lineage_holds() -> None:
    lineage = World().verify()
    assert list(lineage.nodes) == ["model", "data", "adapter", "merged"]
    assert lineage.nodes["merged"].parents == ("adapter", "model")
    assert lineage.nodes["adapter"].statement.declared.parameters == {"epochs": "3"}


def test_what_an_owner_claims_in_its_manifest_is_no_parent() -> None:
    world = World(derive=False)
    world.registered("merged", (ALICE,), parents=("data",))
    answer = world.answer()
    alone = msgspec.structs.replace(answer, nodes=answer.nodes[-1:])
    assert world.verify(alone).nodes["merged"].parents == ()


def test_a_parent_that_its_owner_sealed_anew_is_known_by_either_manifest() -> None:
    world = World(derive=False)
    world.registered("model", (ALICE,))
    world.derived("adapter", ("model",), owners=(ALICE,))
    world.resealed("model", "8" * 64)
    world.derived("merged", ("model",), {"inputs": {"model": "8" * 64}}, owners=(ALICE,))
    for capsule, other in (("adapter", "merged"), ("merged", "adapter")):
        assert set(world.verify(world.answer(drop=other), capsule).nodes) == {capsule, "model"}
    unknown = msgspec.structs.replace(world.answer(drop="adapter").nodes[0], reseals=())
    answer = world.answer(drop="adapter")
    answer = msgspec.structs.replace(answer, nodes=(unknown, *answer.nodes[1:]))
    assert refused(world, answer) == "client.lineage-mismatch"


@pytest.mark.parametrize("drop", ["model", "data", "adapter", "merged"])
def test_nothing_can_be_left_out(drop: str) -> None:
    world = World()
    assert refused(world, world.answer(drop=drop)) == "client.lineage-mismatch"


def test_nor_added() -> None:
    assert refused(World(), capsule="adapter") == "client.lineage-mismatch"
    world = World()
    twice = msgspec.structs.replace(world.answer(), nodes=world.answer().nodes[:1] * 2)
    assert refused(world, twice, "model") == "client.lineage-mismatch"


def test_a_statement_of_another_capsule_or_key_is_refused() -> None:
    world = World()
    assert refused(world, world.answer(adapter=world.statements["merged"])) == "client.lineage-mismatch"
    forged = Identity.generate().sign(world.statements["adapter"].payload, world.statements["adapter"].payload_type)
    assert refused(world, world.answer(adapter=forged)) == "identity.signature-invalid"
    missing = msgspec.structs.replace(world.answer().nodes[2], statement=None)
    nodes = world.answer().nodes
    answer = msgspec.structs.replace(world.answer(), nodes=(*nodes[:2], missing, nodes[3]))
    assert refused(world, answer) == "client.lineage-mismatch"


def test_a_maker_s_key_that_the_ledger_does_not_name_is_refused() -> None:
    world = World()
    stranger = Identity.generate()
    forged = stranger.sign(world.statements["adapter"].payload, world.statements["adapter"].payload_type)
    answer = world.answer(adapter=forged)
    node = msgspec.structs.replace(answer.nodes[2], signer=stranger.public.raw)
    answer = msgspec.structs.replace(answer, nodes=(*answer.nodes[:2], node, answer.nodes[3]))
    assert refused(world, answer) == "client.lineage-mismatch"


def test_an_entry_that_is_not_in_the_ledger_is_refused() -> None:
    world = World()
    answer = world.answer()
    entry = msgspec.structs.replace(
        answer.nodes[0].entry, entry=answer.nodes[0].entry.entry.replace(b"a model", b"b model")
    )
    node = msgspec.structs.replace(answer.nodes[0], entry=entry)
    assert refused(world, msgspec.structs.replace(answer, nodes=(node, *answer.nodes[1:]))).startswith("ledger.")


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ({"broker": "0" * 64}, {}),
        ({"kind": "model"}, {}),
        ({"subject": ("adapter", "0" * 64)}, {}),
        ({"subject": ("merged", MANIFESTS["adapter"])}, {}),
        ({"origin": Origin("serve", {"mrtd": "00ff"}, "e" * 64)}, {}),
        ({"origin": Origin("train", {"mrtd": "00ff"}, "0" * 64)}, {}),
        ({"inputs": {"model": MANIFESTS["model"]}}, {}),
        ({"inputs": {"data": MANIFESTS["data"], "model": "0" * 64}}, {}),
        ({}, {"owners": (ALICE,)}),
        ({}, {"owners": (ALICE, BOB, "d" * 64)}),
        ({}, {"statement_sha256": "0" * 64}),
    ],
)
def test_statement_and_ledger_say_the_same(said: dict, changes: dict) -> None:
    world = World(derive=False)
    world.registered("model", (ALICE,))
    world.registered("data", (BOB,))
    world.derived("adapter", ("data", "model"))
    assert world.verify(capsule="adapter")
    world = World(derive=False)
    world.registered("model", (ALICE,))
    world.registered("data", (BOB,))
    world.derived("adapter", ("data", "model"), said, **changes)
    assert refused(world, capsule="adapter") == "client.lineage-mismatch"


def test_a_parent_is_older_than_its_child() -> None:
    world = World(derive=False)
    world.derived("adapter", ("model",), owners=(ALICE,))
    world.registered("model", (ALICE,))
    assert refused(world, capsule="adapter") == "client.lineage-mismatch"


# --- Drawings ---------------------------------------------------------------------------------------------------------


def test_the_drawing_is_whole_and_quotes_nothing() -> None:
    drawn = svg(World().verify())
    root = ElementTree.fromstring(drawn)
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("g") == 4
    assert sum(element.get("class") == "link" for element in root.iter()) == 4
    assert "script" not in tags
    assert "\u202e" not in drawn
    assert "href" not in drawn
    assert any("<script>" in (element.text or "") for element in root.iter())


def test_boxes_do_not_overlap() -> None:
    root = ElementTree.fromstring(svg(World().verify()))
    boxes = [(float(e.get("x")), float(e.get("y"))) for e in root.iter() if e.get("class") == "box"]
    assert len(set(boxes)) == 4
    rows = {y: sorted(x for x, other in boxes if other == y) for _, y in boxes}
    assert all(b - a >= 240 for row in rows.values() for a, b in itertools.pairwise(row))
    assert len(rows) == 3


def test_a_link_that_passes_a_row_is_not_behind_a_box() -> None:
    root = ElementTree.fromstring(svg(World().verify()))
    boxes = [(float(e.get("x")), float(e.get("y"))) for e in root.iter() if e.get("class") == "box"]
    straight = [found for e in root.iter() for found in re.findall(r"L([\d.]+),([\d.]+)", e.get("d") or "")]
    passages = [(float(x), float(y)) for x, y in straight if (float(y) - 24) % (78 + 64) == 78]
    assert passages
    for x, bottom in passages:
        assert not any(left <= x <= left + 240 and top + 78 == bottom for left, top in boxes)


def test_the_tree_shows_each_capsule_once_in_full() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(tree(World().verify()))
    text = console.export_text()
    assert text.count("made by train in training epochs=3") == 2
    assert "\u202e" not in text
    assert text.index("merged") < text.index("a adapter") < text.index("a model")


def test_openlineage_events_have_what_the_specification_requires() -> None:
    lineage = World().verify()
    events = json.loads(json.dumps(run_events(lineage, broker=BROKER)))
    assert [event["outputs"][0]["name"] for event in events] == ["adapter", "merged"]
    for event in events:
        assert {"run", "job", "eventTime", "producer", "schemaURL"} <= event.keys()
        assert event["eventType"] == "COMPLETE"
        assert datetime.fromisoformat(event["eventTime"]).tzinfo
        uuid.UUID(event["run"]["runId"])
        assert {"namespace", "name"} <= event["job"].keys()
        for dataset in event["inputs"] + event["outputs"]:
            assert {"namespace", "name"} <= dataset.keys()
            assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in dataset["facets"].values())
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in event["run"]["facets"].values())
    assert {dataset["name"] for dataset in events[1]["inputs"]} == {"adapter", "model"}
    assert len({event["run"]["runId"] for event in events}) == 2
