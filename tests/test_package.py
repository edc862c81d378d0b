"""The package itself: every public name is there, and importing it brings nothing along."""

import subprocess
import sys

import pytest

import rheobase as rb


def test_every_public_name_is_there() -> None:
    assert all(getattr(rb, name) is not None for name in rb.__all__)
    assert set(rb.__all__) <= set(dir(rb))
    assert set(rb._WHERE) == set(rb.__all__)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'rheobase' has no attribute 'LIFF'"):
        rb.LIFF  # noqa: B018


def imported(code: str, *modules: str) -> list[str]:
    """Which of these modules there are after running the code in a process of its own."""
    tell = f"; import sys; print(*[m for m in {modules} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code + tell], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_it_imports_nothing_heavy() -> None:
    assert imported("import rheobase", "torch", "numba", "lightning", "rich", "numpy") == []


def test_a_recipe_needs_no_kernels() -> None:
    assert imported("import rheobase.training.recipe", "rheobase.kernels", "numba", "lightning", "matplotlib") == []


def test_a_model_needs_neither_trainer_nor_compiler_nor_plots() -> None:
    code = "import rheobase as rb, torch; rb.models.create('plain_mlp', classes=2)(torch.rand(2, 3, 32, 32)); rb.record"
    heavy = (
        "lightning",
        "pytorch_lightning",
        "torch._dynamo",
        "matplotlib",
        "torchvision",
        "datasets",
        "kornia",
        "rich",
    )
    assert imported(code, *heavy, "rheobase.training") == []
    assert imported(code, "numba") == ["numba"]
