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
from pipeline.statistics.summaries import Summary, summarise

__all__ = [
    "Friedman",
    "Paired",
    "Summary",
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
    "summarise",
    "wilcoxon",
    "wilson",
]
