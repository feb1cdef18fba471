"""A lineage as a picture: one SVG file that needs nothing else, in layers from what owners sealed to what came of it.

Invariants:

- What others wrote is text in it, and nothing else: no markup, no script, no address is taken over.

Example:
    >>> Path("lineage.svg").write_text(svg(lineage))
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from mitai.cli.output import printable
from mitai.client.lineage import Lineage, Node

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE = 240, 78, 32, 64, 24  # px
_COLORS = {"model": "#2563eb", "adapter": "#7c3aed", "dataset": "#059669", "data": "#059669", "report": "#b45309"}
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2937 }
  .name { font-size: 14px; font-weight: 600 } .id { font-family: ui-monospace, monospace; font-size: 11px }
  .box { fill: #ffffff; stroke: #9ca3af } .link { fill: none; stroke: #6b7280; stroke-width: 1.5 }
  .page { fill: #f9fafb }
"""


def svg(lineage: Lineage) -> str:
    """Return the drawing; parents are above what was made of them."""
    layers = _layers(lineage)
    widest = max(len(layer) for layer in layers)
    width = 2 * _EDGE + widest * _WIDTH + (widest - 1) * _GAP_X
    height = 2 * _EDGE + len(layers) * _HEIGHT + (len(layers) - 1) * _GAP_Y
    places: dict[str, tuple[float, float]] = {}
    for row, layer in enumerate(layers):
        left = (width - len(layer) * _WIDTH - (len(layer) - 1) * _GAP_X) / 2
        for column, node in enumerate(layer):
            places[node.capsule] = (left + column * (_WIDTH + _GAP_X), _EDGE + row * (_HEIGHT + _GAP_Y))
    nodes = list(lineage.nodes.values())
    links = [_link(places[parent], places[node.capsule]) for node in nodes for parent in node.parents]
    boxes = [_box(node, *places[node.capsule]) for node in nodes]
    title = escape(f"Lineage of {lineage.nodes[lineage.capsule].capsule}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img"><title>{title}</title><style>{_STYLE}</style>',
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#6b7280"/></marker></defs>',
            f'<rect class="page" width="{width}" height="{height}"/>',
            *links,
            *boxes,
            "</svg>\n",
        ]
    )


def _layers(lineage: Lineage) -> list[list[Node]]:
    """Return the capsules by how many steps they are from the farthest of their ancestors, each near its parents."""
    depth: dict[str, int] = {}
    for node in lineage.nodes.values():  # oldest first: parents come before
        depth[node.capsule] = 1 + max((depth[parent] for parent in node.parents), default=-1)
    layers: list[list[Node]] = [[] for _ in range(1 + max(depth.values()))]
    for node in lineage.nodes.values():
        layers[depth[node.capsule]].append(node)
    order: dict[str, float] = {}
    for layer in layers:
        layer.sort(key=lambda node: _middle([order[parent] for parent in node.parents]))
        order |= {node.capsule: (at + 0.5) / len(layer) for at, node in enumerate(layer)}
    return layers


def _middle(places: list[float]) -> float:
    return sum(places) / len(places) if places else 0.0


def _link(parent: tuple[float, float], child: tuple[float, float]) -> str:
    x1, y1 = parent[0] + _WIDTH / 2, parent[1] + _HEIGHT
    x2, y2 = child[0] + _WIDTH / 2, child[1]
    bend = (y2 - y1) / 2
    path = f"M{x1:g},{y1:g} C{x1:g},{y1 + bend:g} {x2:g},{y2 - bend:g} {x2:g},{y2:g}"
    return f'<path class="link" marker-end="url(#arrow)" d="{path}"/>'


def _box(node: Node, x: float, y: float) -> str:
    color = _COLORS.get(node.kind, "#374151")
    made = node.statement
    origin = f"made by {made.workload}, {made.declared.purpose}" if made else "sealed by its owner"
    owners = f"{len(node.entry.owners)} owners" if len(node.entry.owners) != 1 else "1 owner"
    lines = (
        ("name", 22, _cut(node.name, 28)),
        ("id", 38, _cut(node.capsule, 34)),
        ("", 54, f"{_cut(node.kind, 20)}, {owners}"),
        ("", 70, _cut(origin, 36)),
    )
    words = "".join(
        f'<text class="{style}" x="{x + 14:g}" y="{y + at:g}">{escape(printable(text))}</text>'
        for style, at, text in lines
    )
    return (
        f'<g><title>{escape(printable(node.name))}</title><rect class="box" x="{x:g}" y="{y:g}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" rx="6"/><rect x="{x:g}" y="{y:g}" width="5" height="{_HEIGHT}" rx="2" fill="{color}"/>'
        f"{words}</g>"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
