"""What `rheobase bench` can time, by name."""

from collections.abc import Callable, Iterator

from rheobase.bench.harness import Table
from rheobase.bench.layer_workloads import lif, norm
from rheobase.bench.network_workloads import inference, scaling, step

WORKLOADS: dict[str, Callable[[int, bool, bool], Iterator[Table]]] = {
    "lif": lif,
    "norm": norm,
    "step": step,
    "inference": inference,
    "scaling": scaling,
}
"""Each is called with the number of repeats, whether to be quick, and whether to time torch.compile too."""
