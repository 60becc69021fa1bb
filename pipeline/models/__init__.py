"""Networks: who builds them, and the weights that they get."""

from __future__ import annotations

from pipeline.models.digests import code_digest, code_files, weights_digest
from pipeline.models.loading import load_model
from pipeline.models.source import ModelSource, find, model_sources, register
from pipeline.models.weights import read_weights

__all__ = [
    "ModelSource",
    "code_digest",
    "code_files",
    "find",
    "load_model",
    "model_sources",
    "read_weights",
    "register",
    "weights_digest",
]
