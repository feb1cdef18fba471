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

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE, _PASSAGE = 240, 78, 32, 64, 24, 8  # px
_COLORS = {"model": "#2563eb", "adapter": "#7c3aed", "dataset": "#059669", "data": "#059669", "report": "#b45309"}
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2937 }
  .name { font-size: 14px; font-weight: 600 } .id { font-family: ui-monospace, monospace; font-size: 11px }
  .box { fill: #ffffff; stroke: #9ca3af } .link { fill: none; stroke: #6b7280; stroke-width: 1.5 }
  .page { fill: #f9fafb }
"""


def svg(lineage: Lineage) -> str:
    """Return the drawing; parents are above what was made of them."""
    rows, chains = _rows(lineage)
    lengths = [sum(map(_breadth, row)) + _GAP_X * (len(row) - 1) for row in rows]
    width = 2 * _EDGE + max(lengths)
    height = 2 * _EDGE + len(rows) * _HEIGHT + (len(rows) - 1) * _GAP_Y
    places: dict[str, tuple[float, float]] = {}  # left, top
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        left = (width - length) / 2
        for key in row:
            places[key] = (left, _EDGE + number * (_HEIGHT + _GAP_Y))
            left += _breadth(key) + _GAP_X
    links = [_link(chain, places) for chain in chains]
    boxes = [_box(node, *places[node.capsule]) for node in lineage.nodes.values()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img"><title>Lineage of {escape(lineage.capsule)}</title><style>{_STYLE}</style>',
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#6b7280"/></marker></defs>',
            f'<rect class="page" width="{width}" height="{height}"/>',
            *links,
            *boxes,
            "</svg>\n",
        ]
    )


def _rows(lineage: Lineage) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows from top to bottom, and each link as the keys that it leads through.

    A capsule is one row below the lowest of its parents. A link that passes a row takes a narrow place in it, so that
    it is not behind a box. A row is ordered by where its members' parents are.
    """
    depth: dict[str, int] = {}
    for node in lineage.nodes.values():  # oldest first: parents come before
        depth[node.capsule] = 1 + max((depth[parent] for parent in node.parents), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values()))]
    above: dict[str, list[str]] = {}
    chains = []
    for node in lineage.nodes.values():
        rows[depth[node.capsule]].append(node.capsule)
        above[node.capsule] = []
        for parent in node.parents:
            chain = [parent]
            for row in range(depth[parent] + 1, depth[node.capsule]):
                passage = f"{parent}>{node.capsule}@{row}"
                rows[row].append(passage)
                above[passage] = [chain[-1]]
                chain.append(passage)
            above[node.capsule].append(chain[-1])
            chains.append([*chain, node.capsule])
    order: dict[str, float] = {}
    for keys in rows:
        keys.sort(key=lambda key: sum(order[each] for each in above[key]) / max(1, len(above[key])))
        order |= {key: (at + 0.5) / len(keys) for at, key in enumerate(keys)}
    return rows, chains


def _breadth(key: str) -> int:
    return _PASSAGE if ">" in key else _WIDTH


def _link(chain: list[str], places: dict[str, tuple[float, float]]) -> str:
    points = [(places[key][0] + _breadth(key) / 2, places[key][1]) for key in chain]
    x, y = points[0][0], points[0][1] + _HEIGHT
    path = f"M{x:g},{y:g}"
    for to_x, to_y in points[1:]:
        bend = (to_y - y) / 2
        path += f" C{x:g},{y + bend:g} {to_x:g},{to_y - bend:g} {to_x:g},{to_y:g}"
        x, y = to_x, to_y + _HEIGHT
        path += f" L{x:g},{y:g}" if (to_x, to_y) != points[-1] else ""
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
