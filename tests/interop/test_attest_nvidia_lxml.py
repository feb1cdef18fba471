"""Canonical XML: ours and lxml's (libxml2) agree on every document that ours accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest_lab import vector_folder
from attest_nvidia_lab import nvidia_lab
from mitai.attest.nvidia.xmldsig import canonical, find_signature, parse_xml

etree = pytest.importorskip("lxml.etree", reason="lxml is for this comparison only")

_NAMES = st.sampled_from(["a", "b", "p:a", "p:b", "q:a"])
_NAMESPACES = st.dictionaries(st.sampled_from(["", "p", "q"]), st.sampled_from(["urn:x", "urn:y", "http://e/#z"]))
_VALUES = st.text(st.sampled_from("xé<>&\"'\n\t\r 中"), max_size=6)


def escaped(text: str, *, quote: str = "") -> str:
    """Write text so that the parser gives it back, some of it needlessly escaped."""
    table = {"<": "&lt;", "&": "&amp;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;", quote: "&#34;"}
    return "".join(table.get(character, character) for character in text)


@st.composite
def documents(draw, depth: int = 3, scope: frozenset[str] = frozenset({""})) -> str:
    declared = draw(_NAMESPACES) if depth < 3 else {"p": "urn:x", "q": "urn:y"}
    inside = scope | set(declared)
    name = draw(_NAMES.filter(lambda n: n.partition(":")[0] in inside or ":" not in n))
    attributes = draw(st.dictionaries(st.sampled_from(["m", "n", "p:m", "q:n"]), _VALUES, max_size=3))
    attributes = {key: value for key, value in attributes.items() if ":" not in key or key[0] in inside}
    parts = [f'xmlns{":" if prefix else ""}{prefix}="{uri}"' for prefix, uri in declared.items()]
    parts += [f'{key}="{escaped(value, quote=chr(34))}"' for key, value in attributes.items()]
    children = draw(st.lists(documents(depth - 1, inside) | _VALUES.map(escaped), max_size=3)) if depth else []
    order = draw(st.permutations(parts))
    return f"<{' '.join([name, *order])}>{''.join(children)}</{name}>"


@given(documents())
def test_random_documents(document):
    data = document.encode()
    assert canonical(parse_xml(data)) == etree.tostring(etree.fromstring(data), method="c14n")


def compare(data: bytes) -> None:
    root, theirs = parse_xml(data), etree.fromstring(data)
    signature = find_signature(root)
    element = theirs.find("{http://www.w3.org/2000/09/xmldsig#}Signature")
    assert canonical(signature.signed_info) == etree.tostring(element[0], method="c14n")
    theirs.remove(element)
    assert canonical(root, without=signature.element) == etree.tostring(theirs, method="c14n")


def test_manifests_of_the_lab():
    for rim in nvidia_lab().rims():
        compare(rim)


def test_manifests_of_nvidia():
    found = [path for path in vector_folder().glob("nvidia/**/*.xml") if b"Signature" in path.read_bytes()]
    signed = [path for path in found if "failure" not in path.parent.name]
    assert signed
    for path in signed:
        compare(path.read_bytes())
