"""Fuzz: configurations of models, which parties take from a model's owner.

Run `python tests/fuzz/fuzz_mpc_models.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.errors import MitaiError
from mitai.mpc.models.bert import Bert
from mitai.mpc.models.config import BertConfig, Gpt2Config, LlamaConfig, parse_config
from mitai.mpc.models.gpt2 import Gpt2
from mitai.mpc.models.llama import Llama, turns_of


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        Bert(parse_config(data, BertConfig))
    with contextlib.suppress(MitaiError):
        Gpt2(parse_config(data, Gpt2Config))
    with contextlib.suppress(MitaiError):
        config = parse_config(data, LlamaConfig)
        Llama(config)
        cosines, _ = turns_of(config.rope, min(config.head_size, 1024) // 2 * 2 or 2, 0, 2)
        assert abs(cosines).max() <= 1


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
