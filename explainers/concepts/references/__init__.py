"""Heat maps of the samples that show each concept best, and what of a picture to look at."""

from __future__ import annotations

from explainers.concepts.references.scan import References, references_of

__all__ = ["References", "references_of"]
