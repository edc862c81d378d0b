"""What `rheobase bench` can time, by name."""

from collections.abc import Callable, Iterator

from rheobase.bench.first_call import first
from rheobase.bench.harness import Table
from rheobase.bench.layer_workloads import lif, norm
from rheobase.bench.library_workloads import library
from rheobase.bench.network_workloads import inference, memory, scaling, step
from rheobase.bench.shares import shares

WORKLOADS: dict[str, Callable[[int, bool, bool], Iterator[Table]]] = {
    "lif": lif,
    "norm": norm,
    "step": step,
    "first": first,
    "library": library,
    "inference": inference,
    "memory": memory,
    "scaling": scaling,
    "shares": shares,
}
"""Each is called with the number of repeats, whether to be quick, and whether to time torch.compile too."""
