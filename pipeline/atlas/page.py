"""The pages, from their templates."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from pipeline.report import page as report_page
from pipeline.report import pictures

if TYPE_CHECKING:
    from collections.abc import Iterable

ASSETS = ("atlas.css", "atlas.js")
"""Files beside the index that all pages share."""


@cache
def environment() -> Environment:
    """Return the report's environment with the templates of both: the style sheet is one."""
    loader = ChoiceLoader([PackageLoader("pipeline.atlas"), PackageLoader("pipeline.report")])
    return report_page.environment().overlay(loader=loader)


def render(template: str, **values: Any) -> bytes:
    """Return a page or a file that pages share."""
    bar = pictures.gradient(pictures.COLOURS["signed"])
    return environment().get_template(template).render(bar=bar, **values).encode()


def slugs(layers: Iterable[str]) -> dict[str, str]:
    """Return the file name, without suffix, of each layer's page; apart whatever the case is."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for layer in layers:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", layer).strip(".") or "layer"
        stem = stem[:100]
        slug, number = stem, 1
        while slug.lower() in taken:
            number += 1
            slug = f"{stem}-{number}"
        taken.add(slug.lower())
        found[layer] = slug
    return found
