"""Scores of explanations: each metric is one class, discovered, one row per sample."""

from __future__ import annotations

from pipeline.metrics.metric import (
    RESERVED,
    Case,
    Curve,
    Direction,
    Metric,
    Space,
    Statistic,
    Subject,
    available,
    build,
    metrics,
    register,
)
from pipeline.metrics.scoring import score, scores

__all__ = [
    "RESERVED",
    "Case",
    "Curve",
    "Direction",
    "Metric",
    "Space",
    "Statistic",
    "Subject",
    "available",
    "build",
    "metrics",
    "register",
    "score",
    "scores",
]
