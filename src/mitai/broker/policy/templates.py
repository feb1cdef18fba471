"""The library of policies: readable Cedar with a few values to fill in, each with a plain explanation.

The texts are `templates/NAME.cedar`; their first lines, comments, are the explanation. `<value>` stands for a word, a
digest, a date or a number, or a list of words; `<word=list>` for the list with that word before each, as `word=member`.

Invariants:

- A value is data: quotes, brackets and line ends can't get into a policy by it.

Example:
    >>> template("evaluation-aggregate", workload="evaluate", mrtd="00ff", min_group=20, until="2027-01-01")
    '// ...'
    >>> compose(first, second)  # what the first or the second permits, as far as neither forbids it
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mitai.errors import BrokerError

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted(Path(__file__).with_name("templates").glob("*.cedar"))
}
LISTS = frozenset({"columns", "countries", "owners", "tees", "tcb_statuses", "workloads"})
_PLACE = re.compile(r"<(?:([a-z_]+)=)?([a-z_]+)>")
_SAFE_VALUE = re.compile(r"[A-Za-z0-9._:/ +-]{1,256}")
_NUMBERS = frozenset(
    {
        "uses",
        "epochs",
        "steps",
        "epsilon_micros",
        "delta_nanos",
        "rows",
        "min_group",
        "reports",
        "version",
        "tcb_evaluation_number",
    }
)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_SHAPES = {  # of values that no fact would ever equal if they were written otherwise
    "auditor": re.compile(r"[0-9a-f]{64}"),
    "countries": re.compile(r"[A-Z]{2}(/[A-Za-z0-9._ -]{1,64})?"),
} | dict.fromkeys(_NUMBERS, _NUMBER)


def template(name: str, **values: str | int | Iterable[str]) -> str:
    """Fill in one of `TEMPLATES`; values are plain words, digests, dates, numbers, and lists of words.

    Raises:
        BrokerError: There is no such template, or a value is missing, unknown, or does not fit.
    """
    if name not in TEMPLATES:
        raise BrokerError("broker.template-unknown", f"there is no policy template {name!r}: {', '.join(TEMPLATES)}")
    missing = sorted(set(places(name)) - set(values))
    if missing:
        raise BrokerError("broker.template-value", f"the template {name!r} also needs {', '.join(missing)}")

    def written(place: re.Match[str]) -> str:
        before = f"{_written(place[1], values[place[1]])}=" if place[1] else ""
        return _written(place[2], values[place[2]], before)

    return _PLACE.sub(written, TEMPLATES[name])


def places(name: str) -> tuple[str, ...]:
    """Return the names of the values that a template needs, in their order."""
    return tuple(dict.fromkeys(filter(None, (place for found in _PLACE.findall(TEMPLATES[name]) for place in found))))


def explanation(name: str) -> str:
    """Return a template's explanation."""
    lines = []
    for line in TEMPLATES[name].splitlines():
        if not line.startswith("// "):
            break
        lines.append(line.removeprefix("// "))
    return " ".join(lines)


def compose(*policies: str) -> str:
    """Return one policy of several: what any permits, as far as none forbids it."""
    return "\n".join(policy.rstrip("\n") + "\n" for policy in policies)


def _written(key: str, value: str | int | Iterable[str], before: str = "") -> str:
    if key in LISTS:
        words = [value] if isinstance(value, str | int) else list(value)
        return "[" + ", ".join(f'"{before}{_checked(key, word)}"' for word in words) + "]"
    if not isinstance(value, str | int):
        raise BrokerError("broker.template-value", f"the value of {key!r} is one word, not a list")
    return _checked(key, value)


def _checked(key: str, value: str | int) -> str:
    text = str(value)
    if not _SHAPES.get(key, _SAFE_VALUE).fullmatch(text):
        raise BrokerError(
            "broker.template-value",
            f"the value of {key!r} does not fit into a policy template",
            hint="mitai policy templates says what each value is",
        )
    return text
