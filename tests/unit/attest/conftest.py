"""One simulated machine for all tests of this folder."""

from __future__ import annotations

import pytest

from attest_lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("machine") / "platform")


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Lab:
    """A second machine with a root of its own."""
    return Lab.build(tmp_path_factory.mktemp("other") / "platform")


@pytest.fixture
def refused():
    """Assert that a block raises an error of the tree with this code (and step)."""
    from contextlib import contextmanager

    from mitai.errors import MitaiError

    @contextmanager
    def check(code: str, step: str | None = None):
        with pytest.raises(MitaiError) as refusal:
            yield refusal
        assert refusal.value.code == code
        if step is not None:
            assert refusal.value.step == step

    return check
