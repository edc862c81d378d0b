"""A user's own network: `read` it, train it as a spiking net (`to_spiking`), or `convert` it."""

from rheobase.graph.qcfs import QCFS, with_qcfs
from rheobase.graph.reader import read
from rheobase.graph.spiking import to_spiking

__all__ = ["QCFS", "read", "to_spiking", "with_qcfs"]
