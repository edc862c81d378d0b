"""docs/lightning-and-accelerate.md: what `sync_batchnorm` of Lightning's Trainer does to norms: nothing.

The two processes are this file, run by torchrun: `torchrun --nproc_per_node=2 test_lightning.py FOLDER`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

import rheobase as rb

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
CASES = {"off": (False, True), "on": (True, True), "on, of a norm of its own": (True, False)}
"""Whether the Trainer is to synchronise, and whether our norm does."""


class Module(LightningModule):
    def __init__(self, sync: bool, samples: slice) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fire = rb.Fire(rb.CurrentNorm(3, sync=sync), rb.LIF())
        self.samples = samples

    def train_dataloader(self) -> Iterator[Tensor]:
        return iter([batch()[:, self.samples]])

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.fire(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batch() -> Tensor:
    """Samples whose statistics differ."""
    x = torch.randn(4, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return x * torch.linspace(0.5, 3, 4).reshape(-1, 1, 1, 1)


def trained(case: str, own: slice, **options: Any) -> dict[str, Tensor]:
    """The state after a step on this part of the batch."""
    synchronise, sync = CASES[case]
    module = Module(sync, own)
    trainer = Trainer(accelerator="cpu", max_steps=1, sync_batchnorm=synchronise, **QUIET, **options)
    trainer.fit(module)
    return {name: value for name, value in module.state_dict().items() if value.is_floating_point()}


def process(rank: int, folder: Path) -> None:
    """One of the two processes."""
    own = slice(2 * rank, 2 * rank + 2)
    torch.save({case: trained(case, own, devices=2, strategy="ddp") for case in CASES}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", __file__, folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(rb.__file__).parents[1])}
    subprocess.run(command, check=True, env=environment, timeout=120, capture_output=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # Lightning's, with torch 2.13
@pytest.mark.parametrize("case", CASES)
def test_norms_are_those_of_the_whole_batch(case: str, found: list[dict[str, dict[str, Tensor]]]) -> None:
    _, sync = CASES[case]
    whole = trained(case, slice(None))
    alike = [torch.allclose(each[case]["fire.norm.running_var"], whole["fire.norm.running_var"]) for each in found]
    assert alike == [sync, sync]


if __name__ == "__main__":
    process(int(os.environ["RANK"]), Path(sys.argv[1]))
