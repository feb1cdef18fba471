"""XML signatures as NVIDIA's manifests carry them, and nothing else of XML.

Follows W3C "XML Signature Syntax and Processing" 1.1 (enveloped signature, sections 4.4 and 6.6.4), "Canonical XML 1.1"
and RFC 4051 (ecdsa-sha384, sha384), for the one profile that these documents use. The parser is the standard
library's expat; the rest is written here so that what is read is by construction what was signed.

Invariants:

- A document is parsed once. The same tree is canonicalised, hashed and read: there is no second parser to disagree
  with, and no id by which another element could be referenced.
- Refused: document types (so no entities), processing instructions, comments, attributes of the `xml:` namespace,
  encodings other than UTF-8, and documents that are too large, too deep or have too many elements.
- Exactly one Signature, the root's last child, one Reference with URI "" and the transforms enveloped-signature and
  C14N 1.1, SHA-384, ECDSA P-384; no other element or attribute has a place in it.

Example:
    >>> root = parse_xml(data)
    >>> signature = find_signature(root)
    >>> verify_signed(root, signature, leaf_key)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from cryptography.hazmat.primitives.asymmetric import ec

from mitai.attest.x509 import verify_signature
from mitai.errors import AttestError, ParseError

MAX_XML_BYTES = 512 << 10
_MAX_ELEMENTS = 4096
_MAX_DEPTH = 16
_MAX_NAMESPACES = 32
_CODE = "attest.nvidia-rim-malformed"

_DS = "http://www.w3.org/2000/09/xmldsig#"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED = f"{_DS}enveloped-signature"
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_XML_NAMESPACE = "http://www.w3.org/XML/1998/namespace"

_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
_ATTRIBUTE = str.maketrans({"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"})


@dataclass(frozen=True, slots=True)
class Name:
    """A qualified name: what it means (namespace, local) and how it was written (prefix)."""

    namespace: str
    local: str
    prefix: str

    @property
    def written(self) -> str:
        """Return the name with its prefix."""
        return f"{self.prefix}:{self.local}" if self.prefix else self.local


@dataclass(slots=True, eq=False)
class Element:
    """An element: its name, its attributes, and its children in order (text or elements)."""

    name: Name
    attributes: dict[Name, str]
    namespaces: dict[str, str]  # in scope, by prefix
    children: list[Element | str] = field(default_factory=list)

    def elements(self) -> list[Element]:
        """Return the child elements; the text between them does not matter."""
        return [child for child in self.children if isinstance(child, Element)]

    def find(self, namespace: str, local: str) -> list[Element]:
        """Return the child elements of a name."""
        return [child for child in self.elements() if child.name.namespace == namespace and child.name.local == local]

    def get(self, local: str, namespace: str = "") -> str | None:
        """Return an attribute's value."""
        for name, value in self.attributes.items():
            if name.local == local and name.namespace == namespace:
                return value
        return None


def parse_xml(data: bytes) -> Element:
    """Parse a document strictly; raise `ParseError` on what is malformed or has no place in a manifest."""
    if len(data) > MAX_XML_BYTES:
        raise ParseError(_CODE, f"a manifest of {len(data)} bytes is above the limit")
    builder = _Builder()
    try:
        builder.parser.Parse(data.decode(), True)
    except (expat.ExpatError, ValueError) as error:  # ValueError: not UTF-8
        raise ParseError(_CODE, "the manifest is not well-formed XML") from error
    if builder.root is None:
        raise ParseError(_CODE, "the manifest is empty")
    return builder.root


class _Builder:
    def __init__(self) -> None:
        parser = expat.ParserCreate("utf-8", " ", {})
        parser.namespace_prefixes = True
        parser.buffer_text = True
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartNamespaceDeclHandler = self._declare
        parser.XmlDeclHandler = self._xml_declaration
        parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = parser.CommentHandler = self._refuse
        self.parser = parser
        self.root: Element | None = None
        self._stack: list[Element] = []
        self._declared: dict[str, str] = {}
        self._names: dict[str, Name] = {}
        self._count = 0

    def _xml_declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        if version != "1.0" or (encoding or "utf-8").lower() != "utf-8":
            raise ParseError(_CODE, "the manifest is not XML 1.0 in UTF-8")

    def _declare(self, prefix: str | None, uri: str | None) -> None:
        self._declared[prefix or ""] = uri or ""

    def _start(self, name: str, attributes: list[str]) -> None:
        self._count += 1
        if self._count > _MAX_ELEMENTS or len(self._stack) == _MAX_DEPTH:
            raise ParseError(_CODE, "the manifest has too many elements, or they are nested too deep")
        scope = self._stack[-1].namespaces if self._stack else {}
        if self._declared:
            scope, self._declared = {**scope, **self._declared}, {}
            if len(scope) > _MAX_NAMESPACES:
                raise ParseError(_CODE, "the manifest declares too many namespaces")
        pairs = iter(attributes)
        named = {self._name(key): value for key, value in zip(pairs, pairs, strict=True)}
        element = Element(self._name(name), named, scope)
        if any(key.namespace == _XML_NAMESPACE for key in element.attributes):
            raise ParseError(_CODE, "the manifest has an attribute of the xml: namespace")
        if self._stack:
            self._stack[-1].children.append(element)
        else:
            self.root = element
        self._stack.append(element)

    def _name(self, text: str) -> Name:
        """Return a name of the document, made once."""
        if text not in self._names:
            self._names[text] = _name(text)
        return self._names[text]

    def _end(self, _written: str) -> None:
        self._stack.pop()

    def _text(self, text: str) -> None:
        self._stack[-1].children.append(text)

    def _refuse(self, *_parts: object) -> NoReturn:
        raise ParseError(_CODE, "the manifest has a document type, a processing instruction or a comment")


def _name(text: str) -> Name:
    """Expat writes `namespace local prefix`, less what is empty."""
    parts = text.split(" ")
    if len(parts) == 1:
        return Name("", parts[0], "")
    namespace, local, *prefix = parts
    return Name(namespace, local, *prefix) if prefix else Name(namespace, local, "")


def canonical(element: Element, without: Element | None = None) -> bytes:
    """Return Canonical XML 1.1 of an element and all in it but `without`: as the apex of a document subset."""
    return "".join(_canonical(element, {}, without)).encode()


def _canonical(element: Element, rendered: Mapping[str, str], without: Element | None) -> Iterator[str]:
    """Yield the parts; `rendered` are the namespaces that the output's ancestors have declared (section 2.3)."""
    scope = element.namespaces
    if scope is not rendered:
        declared = sorted(item for item in scope.items() if rendered.get(item[0], "") != item[1])
    else:
        declared = []
    attributes = sorted(element.attributes.items(), key=lambda item: (item[0].namespace, item[0].local))
    yield f"<{element.name.written}"
    for prefix, uri in declared:
        yield f' xmlns{":" if prefix else ""}{prefix}="{uri.translate(_ATTRIBUTE)}"'
    for name, value in attributes:
        yield f' {name.written}="{value.translate(_ATTRIBUTE)}"'
    yield ">"
    for child in element.children:
        if isinstance(child, str):
            yield child.translate(_TEXT)
        elif child is not without:
            yield from _canonical(child, scope, without)
    yield f"</{element.name.written}>"


@dataclass(frozen=True, slots=True)
class Signature:
    """An enveloped signature whose form was checked, not yet its value."""

    element: Element
    signed_info: Element
    digest: bytes
    value: bytes  # r ‖ s
    certificates: tuple[bytes, ...]  # DER, as KeyInfo orders them


def find_signature(root: Element) -> Signature:
    """Return the document's one signature; refuse any form but the one that NVIDIA uses."""
    everywhere = [element for element in _walk(root) if element.name.namespace == _DS]
    signatures = [element for element in everywhere if element.name.local == "Signature"]
    children = root.elements()
    if len(signatures) != 1 or not children or children[-1] is not signatures[0]:
        raise ParseError(_CODE, "a manifest has exactly one signature, at its end")
    signed_info, value, key_info = _children(signatures[0], "SignedInfo", "SignatureValue", "KeyInfo")
    c14n, method, reference = _children(signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    transforms, digest_method, digest_value = _children(
        reference, "Transforms", "DigestMethod", "DigestValue", attributes={"URI": ""}
    )
    enveloped, c14n_again = _children(transforms, "Transform", "Transform")
    for element, algorithm in (
        (c14n, _C14N),
        (method, _ECDSA_SHA384),
        (enveloped, _ENVELOPED),
        (c14n_again, _C14N),
        (digest_method, _SHA384),
    ):
        _children(element, attributes={"Algorithm": algorithm})
    (x509_data,) = _children(key_info, "X509Data")
    certificates = _children(x509_data, *["X509Certificate"] * len(x509_data.elements()))
    return Signature(
        signatures[0],
        signed_info,
        _base64(digest_value),
        _base64(value),
        tuple(_base64(certificate) for certificate in certificates),
    )


def verify_signed(root: Element, signature: Signature, key: ec.EllipticCurvePublicKey) -> None:
    """Check that `key` signed the document; raise `AttestError` otherwise."""
    digest = hashlib.sha384(canonical(root, without=signature.element)).digest()
    if not hmac.compare_digest(digest, signature.digest):
        raise AttestError("attest.nvidia-rim-digest-mismatch", "the manifest was changed after it was signed")
    verify_signature(
        key,
        signature.value,
        canonical(signature.signed_info),
        "attest.nvidia-rim-signature-invalid",
        "the manifest is not signed by the key that it names",
    )


def _walk(element: Element) -> Iterator[Element]:
    yield element
    for child in element.elements():
        yield from _walk(child)


def _children(element: Element, *names: str, attributes: Mapping[str, str] | None = None) -> list[Element]:
    """Return the children, which must have just these names, in this order, with nothing but white space between."""
    children = element.elements()
    found = [child.name.local if child.name.namespace == _DS else "" for child in children]
    stray = any(isinstance(child, str) and child.strip(" \t\r\n") for child in element.children)
    written = {name.local if not name.namespace else "": value for name, value in element.attributes.items()}
    if found != list(names) or stray or written != dict(attributes or {}):
        raise ParseError(_CODE, f"the manifest's {element.name.local} is not of the one form that is accepted")
    return children


def _base64(element: Element) -> bytes:
    """Return the bytes of an element that holds canonical base64, with or without line ends, and nothing else."""
    text = "".join(child for child in element.children if isinstance(child, str))
    try:
        if element.elements() or element.attributes:
            raise ValueError
        compact = text.replace("\n", "")
        data = base64.b64decode(compact, validate=True)
        if base64.b64encode(data).decode() != compact:
            raise ValueError
    except (binascii.Error, ValueError) as error:
        raise ParseError(_CODE, f"the manifest's {element.name.local} is not canonical base64") from error
    return data
