"""Boxes of an input that are filled in: of the program, only what each can reach is recomputed."""

from explainers.regions.boxes import Boxes
from explainers.regions.evaluate import values_without
from explainers.regions.of_features import boxes_of, without_each

__all__ = ["Boxes", "boxes_of", "values_without", "without_each"]
