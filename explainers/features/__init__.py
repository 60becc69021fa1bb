"""Partitions of an input into features: what perturbation methods switch on and off together."""

from explainers.features.partition import Partition, Spread
from explainers.features.resolve import FeatureSpec, check, resolve

__all__ = ["FeatureSpec", "Partition", "Spread", "check", "resolve"]
