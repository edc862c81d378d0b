import pytest
import torch

from rheobase import cli

LONG = ("test_kill", "test_distributed", "test_scale", "test_benchmarks", "test_gpu", "test_growth", "test_compiled")


def pytest_collection_modifyitems(items):
    """What takes long comes first: with several workers, the last test to begin decides when all have ended."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """As `make test` has it: the order of sums, and so the last bit, is that of one thread; and machines are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _the_process_is_left_as_it_was():
    """A call of ours changes no arithmetic of its process (only the command does so), and no mode of gradients."""
    yield
    assert torch.tensor(1e-40) * 1 != 0
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.fixture
def fails(capsys):
    """Runs the command on a mistake of the user's: what it says on stderr."""

    def run(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    return run
