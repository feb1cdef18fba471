"""Fuzz what a transcript's verifier reads: any bytes give a value with that one encoding, or an error of the tree.

Run: `python tests/fuzz/fuzz_train_transcript.py [corpus]`.
"""

from __future__ import annotations

import sys

from mitai.errors import MitaiError, ParseError, TrainError
from mitai.identity import PublicKey
from mitai.train.transcript.commitment import MembershipProof
from mitai.train.transcript.document import Transcript
from mitai.train.transcript.state import State

KEY = PublicKey(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))


def one_input(data: bytes) -> None:
    """Parse the input as each thing that a forger may have made."""
    for kind in (Transcript, MembershipProof, State):
        try:
            value = kind.decode(data)
        except (ParseError, TrainError):
            continue
        if value.encode() != data:
            raise AssertionError(f"{kind.__name__} has two encodings")
    try:
        Transcript.open(data, KEY)
    except MitaiError:
        pass
    else:
        raise AssertionError("a signature was forged")


def main() -> None:
    """Fuzz until stopped."""
    import atheris

    atheris.Setup(sys.argv, one_input)  # torch is too large to be instrumented as a whole
    atheris.Fuzz()


if __name__ == "__main__":
    main()
