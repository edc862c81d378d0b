"""A user's own network: `read` it, train it as a spiking net (`to_spiking`), or `convert` it when it is trained."""

from rheobase.graph.accuracy import Curve, accuracies
from rheobase.graph.conversion import ConvertedNet, convert
from rheobase.graph.methods import Calibrated, ClipFloorShift, Method, Percentile, SpikingTwin, ThresholdBalancing
from rheobase.graph.qcfs import QCFS, with_qcfs
from rheobase.graph.reader import read
from rheobase.graph.spiking import to_spiking

__all__ = [
    "QCFS",
    "Calibrated",
    "ClipFloorShift",
    "ConvertedNet",
    "Curve",
    "Method",
    "Percentile",
    "SpikingTwin",
    "ThresholdBalancing",
    "accuracies",
    "convert",
    "read",
    "to_spiking",
    "with_qcfs",
]
