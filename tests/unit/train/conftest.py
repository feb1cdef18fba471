from collections.abc import Iterator

import pytest
import torch
from train_rig import MemorySource, conversations, tiny_llama


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Compute on one thread: for models this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama() -> MemorySource:
    return tiny_llama()


@pytest.fixture
def inputs(llama: MemorySource) -> dict[str, MemorySource]:
    return {"base": llama, "records": conversations(24)}
