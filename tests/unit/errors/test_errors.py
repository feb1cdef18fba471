"""The error tree: what each error tells programs and people, and that the drawing at the top is the tree."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from mitai import errors
from mitai.errors import AttestError, MitaiError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MitaiError)]


def test_an_error_speaks_to_people_and_programs():
    error = AttestError("attest.debug", "the TD can be debugged", step="attributes", hint="use a production image")
    assert str(error) == "the TD can be debugged [attest.debug]"
    assert error.diagnostics().splitlines() == [
        "the TD can be debugged",
        "  code: attest.debug",
        "  step: attributes",
        "  next: use a production image",
    ]
    assert error.to_dict() == {
        "code": "attest.debug",
        "message": "the TD can be debugged",
        "step": "attributes",
        "hint": "use a production image",
    }


def test_step_and_hint_are_left_out_where_there_are_none():
    error = MitaiError("x.y", "why")
    assert error.diagnostics() == "why\n  code: x.y"
    assert error.to_dict() == {"code": "x.y", "message": "why"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_crosses_process_borders_whole(kind, copied):
    error = kind("a.b", "why", step="s", hint="h")
    again = copied(error)
    assert type(again) is kind
    assert again.to_dict() == error.to_dict()
    assert str(again) == str(error)


def test_every_kind_is_in_the_tree_as_it_is_drawn():
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").split("```")[1].splitlines():
        if found := re.search(r"[A-Z]\w*Error", line):
            while above and above[-1][0] >= found.start():
                above.pop()
            drawn[found[0]] = above[-1][1] if above else "Exception"
            above.append((found.start(), found[0]))
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in KINDS}
