"""Fuzz: reference manifests: XML, its canonical form, the form of its signature, what is read from it.

What is canonicalised and parsed again must have the same canonical form: the property on which "what is read is what
was signed" stands. Run `python tests/fuzz/fuzz_attest_nvidia_rim.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from pathlib import Path

from mitai.attest.nvidia.rim import parse_references, parse_rim
from mitai.attest.nvidia.xmldsig import canonical, find_signature, parse_xml
from mitai.errors import MitaiError

sys.path.insert(0, str(Path(__file__).parents[1]))

from attest_nvidia_lab import nvidia_lab

SEEDS = [nvidia_lab().rim(), b"<a xmlns='urn:x'><p:b xmlns:p='urn:y' p:c='1'/>&#13;&amp;<![CDATA[x]]></a>"]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        root = parse_xml(data)
        form = canonical(root)
        assert canonical(parse_xml(form)) == form
        with contextlib.suppress(MitaiError):
            find_signature(root)
        with contextlib.suppress(MitaiError):
            parse_references(root)
        parse_rim(data)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
