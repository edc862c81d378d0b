import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests share the machine, and threads that wait for each other on busy cores are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
