"""Whatever a stranger's card says, there is a program, or an error of the tree."""

import msgspec
import numpy as np
import pytest

from mitai.errors import MitaiError
from mitai.proof.card import ModelCard

CONFIG = '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 9, "n_embd": 4, "n_layer": 1, "n_head": 2}'


class Asked(dict):
    """Reaches that keep in mind which were asked for."""

    def __missing__(self, name):
        self[name] = 2
        return 2


@pytest.fixture(scope="module")
def reaches():
    asked = Asked()
    card = ModelCard(config=CONFIG, reaches={}, weights="5a" * 32)
    msgspec.structs.force_setattr(card, "reaches", asked)
    assert card.program(2, 2).operations
    return dict(asked)


@pytest.mark.parametrize(("reach", "refused"), [(-64, False), (-9, False), (16, True), (62, True)])
def test_reaches_of_no_sense_are_refused_or_give_a_program(reaches, reach, refused):
    codes = set()
    for name in reaches:
        card = ModelCard(config=CONFIG, reaches={**reaches, name: reach}, weights="5a" * 32)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # of functions of numbers that are too large
                assert len(card.program(2, 2).digest) == 32
        except MitaiError as error:
            codes.add(error.code)
    assert codes == ({"proof.program-invalid"} if refused else set())
