"""Neighborhood aggregation as in the code of the paper's runs, for recipes and `rheobase.models.create`."""

from rheobase.rules.neighborhood import Neighborhood

RULE = Neighborhood.published()
"""What `rule: neighborhood_published` stands for; it wants CubaLIF."""
