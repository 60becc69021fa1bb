"""Boxes of an input that are filled in: of the program, only what each can reach is recomputed."""

from explainers.regions.boxes import Boxes
from explainers.regions.evaluate import values_without

__all__ = ["Boxes", "values_without"]
