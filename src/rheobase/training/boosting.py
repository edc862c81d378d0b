"""Training samples weigh the more, the more often they went wrong."""

from __future__ import annotations

import torch
from torch import Tensor


def weigh(logits: Tensor, weights: Tensor) -> None:
    """Let the gradient of each sample's logits `[T, B, classes]` be multiplied by its weight, `[B]`."""
    factors = weights.to(logits.device, logits.dtype)[:, None]
    logits.register_hook(lambda gradient: gradient * factors)


class Boosting:
    """A weight for each training sample, 1 at first, and which of them went wrong in the epoch so far.

    After an epoch the samples of class c that went wrong in it take w <- w exp(rate * e_c), where e_c is their share
    in the weights of their class. Source: the authors' code of Zhang and Li 2019, with rate 1/20.

    Args:
        rate: of growth.
        labels: int64 `[N]`, of all training samples.
    """

    def __init__(self, rate: float, labels: Tensor) -> None:
        self.rate = rate
        self.labels = labels.cpu()
        self.weights = torch.ones(len(labels), dtype=torch.float64)
        self.wrong = torch.zeros(len(labels), dtype=torch.bool)

    def note(self, samples: Tensor, wrong: Tensor) -> None:
        """Which of these samples, `[B]` both, went wrong."""
        self.wrong[samples] = wrong.cpu()

    def end_epoch(self) -> None:
        """Let those that went wrong weigh more from now on."""
        count = int(self.labels.max()) + 1
        share = torch.bincount(self.labels, self.weights * self.wrong, count)
        share /= torch.bincount(self.labels, self.weights, count)  # (nan of a class without samples, which none reads)
        self.weights[self.wrong] *= torch.exp(self.rate * share[self.labels[self.wrong]])
        self.wrong.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Both tensors."""
        return {"weights": self.weights.clone(), "wrong": self.wrong.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take them; errors as of `torch.Tensor.copy_`."""
        self.weights.copy_(state["weights"])
        self.wrong.copy_(state["wrong"])
