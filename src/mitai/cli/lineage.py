"""`mitai lineage`: what a capsule was made of, verified, as a tree, a drawing, or events for other tools."""

from __future__ import annotations

import json as jsonlib
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text
from rich.tree import Tree

from mitai.broker import protocol
from mitai.cli.drawing import svg
from mitai.cli.options import JsonFlag, PolicyOption, platform_url, read_policy
from mitai.cli.output import Output, data, printable
from mitai.cli.owner import verified_broker
from mitai.client.lineage import Lineage, Node
from mitai.client.openlineage import run_events
from mitai.fleet.home import Home
from mitai.ledger.note import parse_vkey


def lineage(
    capsule: Annotated[str, Parameter(help="The capsule's id.")],
    *,
    svg_file: Annotated[Path | None, Parameter(name="--svg", help="Draw the graph into this file.")] = None,
    openlineage: Annotated[
        Path | None, Parameter(help="Write OpenLineage run events (a JSON array) into this file.")
    ] = None,
    url: Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")] = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Show what a capsule of yours was made of, by which measured code, with which parameters.

    Every statement's signature, every link and every place in the ledger is checked here; nothing is shown that does
    not hold.

    Example: `mitai lineage CAPSULE_ID --svg lineage.svg`
    """
    output, home = Output(json), Home.default()
    with closing(verified_broker(home, platform_url(home, url), read_policy(home, policy))) as owner:
        found = owner.lineage(capsule)
        broker = protocol.audience(parse_vkey(owner.ledger.vkey).public)
        simulated = owner.session.appraisal.simulated
    output.console.print(tree(found))
    if svg_file is not None:
        svg_file.write_text(svg(found), encoding="utf-8")
        output.say(f"[green]✔[/] drawn: {data(svg_file)}")
    if openlineage is not None:
        events = run_events(found, broker=broker)
        openlineage.write_text(jsonlib.dumps(events, indent=2) + "\n", encoding="utf-8")
        output.say(f"[green]✔[/] OpenLineage events: {data(openlineage)}")
    output.simulated(simulated)
    output.result(
        {"capsule": capsule, "nodes": [_plain(node) for node in found.nodes.values()], "simulated": simulated}
    )


def tree(found: Lineage) -> Tree:
    """Return the graph as a tree: below each capsule what it was made of; what was shown is not unfolded again."""
    seen: set[str] = set()

    def grow(branch: Tree, node: Node) -> None:
        again = node.capsule in seen and bool(node.parents)
        seen.add(node.capsule)
        made = branch.add(_label(node, again=again))
        for parent in () if again else node.parents:
            grow(made, found.nodes[parent])

    root = Tree("", hide_root=True)
    grow(root, found.nodes[found.capsule])
    return root


def _label(node: Node, *, again: bool) -> Text:
    text = Text.assemble((printable(node.kind), "cyan"), " ", (printable(node.name), "bold"), f"  {node.capsule}")
    if again:
        return text.append("  (see above)", "dim")
    owners = ", ".join(owner[:16] for owner in node.entry.owners)
    text.append(f"\nowners {owners}; ledger entry {node.index}", "dim")
    if node.statement is not None:
        declared = node.statement.declared
        words = [declared.purpose, *(f"{name}={value}" for name, value in sorted(declared.parameters.items()))]
        text.append(f"\nmade by {node.statement.workload} in {printable(' '.join(words))}", "dim")
    return text


def _plain(node: Node) -> dict[str, object]:
    made = node.statement
    return {
        "capsule": node.capsule,
        "kind": node.kind,
        "name": node.name,
        "owners": list(node.entry.owners),
        "manifest_sha256": node.entry.manifest_sha256,
        "ledger_index": node.index,
        "parents": list(node.parents),
        "made": {
            "workload": made.workload,
            "measurements": made.measurements,
            "purpose": made.declared.purpose,
            "parameters": made.declared.parameters,
            "evidence_sha256": made.internal.evidence_sha256,
            "byproducts": made.byproducts,
            "time": made.predicate.run_details.metadata.finished_on,
        }
        if made
        else None,
    }
