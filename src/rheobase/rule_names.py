"""The names of gradient rules, apart from the rules: a recipe knows them before torch's kernels are needed."""

from typing import Literal

RuleName = Literal["surrogate", "membrane", "neighborhood", "neighborhood_published", "spike_train"]
"""All rules: "surrogate", the neuron's own gradient; the others are each the `RULE` of a module of `rheobase.rules`."""
