import pytest
from train_rig import MemorySource, conversations, tiny_llama


@pytest.fixture(scope="session")
def llama() -> MemorySource:
    return tiny_llama()


@pytest.fixture
def inputs(llama: MemorySource) -> dict[str, MemorySource]:
    return {"base": llama, "records": conversations(24)}
