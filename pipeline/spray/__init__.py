"""Spectral relevance analysis: which strategies a network has, and which of them are no good.

Lapuschkin et al. 2019, "Unmasking Clever Hans predictors" (doi:10.1038/s41467-019-08987-4); the
counterfactual check follows Anders et al. 2022 (arXiv:1912.11425).
"""

from pipeline.spray.analysis import spray
from pipeline.spray.counterfactual import confirm
from pipeline.spray.parameters import Spray
from pipeline.spray.result import Analysis, Cluster, Counterfactual, View

__all__ = ["Analysis", "Cluster", "Counterfactual", "Spray", "View", "confirm", "spray"]
