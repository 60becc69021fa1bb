"""The command that decomposes a concept of a sample: graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import output
from cli.options import AsJson, RunFolder

if TYPE_CHECKING:
    from explainers.concepts.composition_graph import Composition

GRAPHML = ".graphml"


Sample = Annotated[
    str, typer.Argument(metavar="SAMPLE", help="Its id, or its position in the run.")
]
Layer = Annotated[
    str | None,
    typer.Option("--layer", metavar="NAME", help="Of the concept; the last layer if not given."),
]
Concept = Annotated[
    int | None,
    typer.Option(
        "--concept", min=0, metavar="N", help="Its number; the most relevant if not given."
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="PATTERN",
        help="Layers that are looked at; repeatable. Those of the run's scans if not given.",
    ),
]
Width = Annotated[
    str, typer.Option("--width", metavar="N,M", help="Concepts followed at each step down.")
]
OfTarget = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="T", help="predicted, label, runner_up or a class; the run's."
    ),
]
Activation = Annotated[
    bool, typer.Option("--activation", help="Decompose the activation, for no target.")
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Weights are relevances, not divided by their amounts.")
]
Composite = Annotated[
    str | None,
    typer.Option("--explainer", metavar="NAME", help="Entry whose composite is taken."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write the graph: .json or .graphml."),
]


def graph(
    path: RunFolder,
    sample: Sample,
    layer: Layer = None,
    concept: Concept = None,
    layers: Layers = None,
    width: Width = "4,2",
    target: OfTarget = None,
    activation: Activation = False,
    raw: Raw = False,
    explainer: Composite = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Show which lower concepts make a concept of a sample.

    The model is run for this sample. GraphML needs networkx: pip install 'xpipe-xai[concepts]'.

    Example:  xpipe graph runs/relmax 0 --layer conv2 --width 4,2 --out graph.json
    """
    from pipeline.concept_graphs import Asked, sample_composition

    if out is not None and out.suffix not in (".json", GRAPHML):
        raise typer.BadParameter(f"got {out.name!r}, expected a name in .json or {GRAPHML}")
    if out is not None and not out.parent.is_dir():
        raise typer.BadParameter(
            f"got {str(out)!r}, expected a file in a folder that there is", param_hint="--out"
        )
    start = {"start": "activation"} if activation else {}
    fields: dict[str, Any] = {"width": _numbers(width), "abs_norm": not raw, **start}
    class_or_word = int(target) if target is not None and target.isdecimal() else target
    asked = Asked(layer, concept, tuple(layers or ()), class_or_word, explainer, fields)
    found = sample_composition(path, sample, asked)
    if out is not None:
        _write(found, out)
        output.note(f"written: {out}")
    _show(found, as_json=as_json)


def _numbers(width: str) -> tuple[int, ...]:
    parts = width.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"got {width!r}, expected numbers of concepts such as 4,2", param_hint="--width"
        )
    return tuple(int(part) for part in parts)


def _write(found: "Composition", out: Path) -> None:
    try:
        text = found.to_graphml() if out.suffix == GRAPHML else found.to_json()
    except ImportError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{out} cannot be written: {error}", param_hint="--out") from error


def _show(found: "Composition", *, as_json: bool) -> None:
    top = found.tops[0]
    output.note(f"concept {top.concept} of {top.layer}, relevance {top.relevance:.4g}")
    if not found.edges:
        output.note(f"nothing is found of what makes it: {_reason(found)}")
    if as_json:
        output.as_json(found.to_mapping())
    if as_json or not found.edges:
        return
    rows = [
        {
            "concept": f"{edge.layer}:{edge.concept}",
            "is made of": f"{edge.lower_layer}:{edge.lower_concept}",
            "relevance": f"{edge.relevance:.4g}",
            "weight": f"{edge.weight:.4g}",
        }
        for edge in found.edges
    ]
    numbers = ("relevance", "weight")
    output.table(rows, ("concept", "is made of", *numbers), right=numbers)


def _reason(found: "Composition") -> str:
    """Return why no concept was found below."""
    top = found.tops[0]
    if found.is_lowest:
        return f"none of the layers that are looked at is below {top.layer}; see --layers"
    if top.relevance == 0:
        return (
            f"concept {top.concept} of {top.layer} has no relevance in this sample, and if it was "
            "not asked for, no other has more; choose a --concept, or another --target"
        )
    return "no relevance of it arrives at the layers below"
