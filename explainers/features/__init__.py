"""Partitions of an input into features: what perturbation methods switch on and off together."""

from explainers.features.partition import Partition, Spread
from explainers.features.resolve import check, resolve
from explainers.features.spec import FeatureSpec

__all__ = ["FeatureSpec", "Partition", "Spread", "check", "resolve"]
