"""What can be timed, by name."""

from collections.abc import Callable, Iterator

from benchmarks.checkpoint_workload import checkpoint
from benchmarks.first_call import first
from benchmarks.harness import Table
from benchmarks.health_workload import health
from benchmarks.layer_workloads import lif, norm
from benchmarks.library_workloads import library
from benchmarks.loader_workload import loader
from benchmarks.network_workloads import inference, memory, scaling, step
from benchmarks.rule_workload import rule_steps, rules
from benchmarks.shares import shares

WORKLOADS: dict[str, Callable[..., Iterator[Table]]] = {
    "lif": lif,
    "norm": norm,
    "step": step,
    "first": first,
    "library": library,
    "inference": inference,
    "memory": memory,
    "scaling": scaling,
    "shares": shares,
    "loader": loader,
    "checkpoint": checkpoint,
    "health": health,
    "rules": rules,
    "rule_steps": rule_steps,
}
"""Each is called with the number of repeats, whether to be quick, and whether to time torch.compile too; `loader` also
with `need` and `root`."""
