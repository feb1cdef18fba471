"""Which numbers may leave: none that speaks of too few records, also not together with the others.

- A number is told only where it speaks of at least `min_group` records. Records count by weight: a text that makes up
  most of a perplexity is not hidden by short ones beside it, so the total weight must be `min_group` times the largest.
- What the told groups leave of the total (small groups, labels that were not declared) is again nothing or at least
  `min_group` records; until it is, the smallest told group is withheld as well. So no subtraction isolates few records.
- Counts of withheld groups are not told.

It does not bound what a model that was made to carry records into an aggregate can do (`docs/spec/evaluation.md`).

Example:
    >>> told(Series.mean("acc", [1.0] * 30), {}, min_group=20).keys()
    dict_keys([''])
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mitai.train.evaluate.statistics import Mask, Series

TOTAL = ""


def told(series: Series, groups: Mapping[str, Mask], min_group: int) -> dict[str, Mask]:
    """Return the groups whose number may be told, with their records; the whole is the group ""."""
    everything = series.weights > 0
    if not _enough(series, everything, min_group):
        return {}
    found = {name: rows & everything for name, rows in groups.items()}
    found = {name: rows for name, rows in found.items() if _enough(series, rows, min_group)}
    while found:
        rest = everything & ~np.logical_or.reduce(list(found.values()))
        if not rest.any() or _enough(series, rest, min_group):
            break
        del found[min(found, key=lambda name: (int(found[name].sum()), name))]
    return {TOTAL: everything, **found}


def _enough(series: Series, rows: Mask, min_group: int) -> bool:
    weights = series.weights[rows]
    return bool(weights.size) and float(weights.sum()) >= min_group * float(weights.max())
