"""The page around the sections, and the templates that fill it."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline import quantities
from pipeline.report import formats, pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template


@cache
def environment() -> Environment:
    """Return the template environment; everything is escaped that is not marked as markup."""
    env = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        number=formats.number,
        interval=formats.interval,
        count=formats.count,
        duration=quantities.duration,
        size=quantities.size,
        percent=formats.percent,
        breakable=formats.breakable,
    )
    return env


def fragment(template: str, **values: Any) -> Markup:
    """Return a section's own template, filled in."""
    return Markup(_compiled(template).render(**values))


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return environment().from_string(template)


def document(name: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page.

    Parameters
    ----------
    name
        The run's name.
    sections
        Anchor, title and content of each.
    """
    contents = [(anchor, title, Markup(content)) for anchor, title, content in sections]
    return (
        environment()
        .get_template("page.html")
        .render(
            name=name,
            sections=contents,
            gradient=pictures.gradient,
            colours=pictures.COLOURS,
        )
    )
