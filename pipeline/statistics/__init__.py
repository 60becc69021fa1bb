"""Tests, intervals and effect sizes: arrays in, numbers out; nothing here knows what a run is."""

from pipeline.statistics.letters import letters
from pipeline.statistics.paired import Paired, cliff, paired, wilcoxon
from pipeline.statistics.ranks import (
    Friedman,
    critical_difference,
    friedman,
    kendall,
    kendall_per_sample,
    mean_ranks,
    ranks,
)
from pipeline.statistics.shares import holm, wilson

__all__ = [
    "Friedman",
    "Paired",
    "cliff",
    "critical_difference",
    "friedman",
    "holm",
    "kendall",
    "kendall_per_sample",
    "letters",
    "mean_ranks",
    "paired",
    "ranks",
    "wilcoxon",
    "wilson",
]
