"""Memory does not grow from step to step: some hundred steps here, 20,000 in benchmarks/growth.py."""

import pytest
from torch import nn

from benchmarks import growth


def samples(model, folder, epochs=4):
    found = []
    watched = growth.watched(model, growth.EPOCH, lambda step: found.append(growth.sample(step)))
    growth.run(watched, epochs, str(folder), **{"trainer.threads": 1, "trainer.accelerator": "cpu"})
    assert [sample.step for sample in found] == [growth.EPOCH * epoch for epoch in range(epochs)]
    return found


def test_three_hundred_steps_leave_nothing_behind(tmp_path):
    found = samples(growth.small_net(), tmp_path / "run")
    assert growth.grown(found) == ""
    assert found[-1].tensors > 20, "nothing was looked at"
    assert found[-1].objects - found[1].objects < 300, "rows of metrics are all that comes"


class Hoarder(nn.Module):
    """Keeps the loss of what it gave."""

    def __init__(self, net, what):
        super().__init__()
        self.net, self.kept, self.what = net, [], what

    def forward(self, images):
        logits = self.net(images)
        self.kept.append(self.what(logits))
        return logits


@pytest.mark.parametrize("what", [lambda x: x.sum(), lambda x: x.detach()[0, 0, :1].clone()], ids=["graph", "number"])
def test_a_leak_is_seen(tmp_path, what):
    found = samples(Hoarder(growth.small_net(), what), tmp_path / "run", epochs=3)
    assert growth.grown(found).startswith("from step 75 to 150 tensors grew from")
