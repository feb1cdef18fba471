"""Lineage for other tools: OpenLineage run events, one for each derivation.

Follows OpenLineage 2-0-2 (openlineage.io, `RunEvent`) and its facets `DatasetVersionDatasetFacet` and
`OwnershipDatasetFacet` (1-0-1). What has no place there goes into the run facet `mitai_provenance`, as
`docs/spec/derived.md` describes.

Example:
    >>> [event["outputs"][0]["name"] for event in run_events(lineage, broker=audience)]
    ['5f1c…']
"""

from __future__ import annotations

import uuid

from mitai import __version__
from mitai.broker.lineage import Statement
from mitai.client.lineage import Lineage, Node

PRODUCER = f"https://mitai.dev/client/{__version__}"
SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets/1-0-1/"


def run_events(lineage: Lineage, *, broker: str) -> list[dict[str, object]]:
    """Return a `COMPLETE` event for each derived capsule, oldest first; `broker` names the data sets' namespace."""
    namespace = f"mitai://{broker}"
    return [
        _event(node, node.statement, lineage, namespace)
        for node in lineage.nodes.values()
        if node.statement is not None
    ]


def _event(node: Node, statement: Statement, lineage: Lineage, namespace: str) -> dict[str, object]:
    provenance = {
        **_facet("https://mitai.dev/spec/derived.md#openlineage"),
        "purpose": statement.declared.purpose,
        "parameters": statement.declared.parameters,
        "measurements": statement.measurements,
        "evidence_sha256": statement.internal.evidence_sha256,
        "byproducts": statement.byproducts,
        "ledgerIndex": node.index,
    }
    run = uuid.uuid5(uuid.NAMESPACE_URL, f"{namespace}/{statement.manifest_sha256}")
    return {
        "eventType": "COMPLETE",
        "eventTime": node.entry.time,
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": {"runId": str(run), "facets": {"mitai_provenance": provenance}},
        "job": {"namespace": namespace, "name": statement.workload},
        "inputs": [_dataset(lineage.nodes[parent], namespace) for parent in node.parents],
        "outputs": [_dataset(node, namespace)],
    }


def _dataset(node: Node, namespace: str) -> dict[str, object]:
    version = {
        **_facet(_FACETS + "DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"),
        "datasetVersion": node.entry.manifest_sha256,
    }
    ownership = {
        **_facet(_FACETS + "OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet"),
        "owners": [{"name": owner, "type": "OWNER"} for owner in node.entry.owners],
    }
    facets = {"version": version, "ownership": ownership}
    return {"namespace": namespace, "name": node.capsule, "facets": facets}


def _facet(schema: str) -> dict[str, object]:
    return {"_producer": PRODUCER, "_schemaURL": schema}
