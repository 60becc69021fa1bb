"""What can be asked for: the layers of a run file's model, the arrays of a run's store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.causal_links import GraphsOfAll
from pipeline.inputs import to_model
from pipeline.plan import split_name
from pipeline.sinks import graphs
from pipeline.sinks.columns import from_file
from pipeline.sinks.maps import SCALE, is_relevance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from explainers.network import Network
    from pipeline.inputs import Inputs
    from pipeline.store import Run


def layers(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the layers of a run file's model, by the names that explainers take.

    The explainers of the run file are not looked at: this is what one asks when a plan was
    refused because of a layer's name.

    Returns
    -------
    dict
        ``is_program``, ``reason``, ``inputs`` (name to shape), ``n_outputs``, ``layers`` (rows of
        ``layer``, ``operator``, ``shape``) and a ``note`` in words.
    """
    from pipeline.config import load
    from pipeline.data import open_source, select_records
    from pipeline.examples import find_example
    from pipeline.manifest import Manifest
    from pipeline.models import load_model
    from pipeline.planning import fit

    config = load(path, overrides)
    source = open_source(config.data, config.base, config.where)
    manifest = Manifest(select_records(config.data, source.records(), config.seed))
    model = load_model(config.model, config.base, config.where)
    example, _ = find_example(source, manifest, model)
    network = fit.read_network(model, example, config.where("model"))
    rows = list(_layers(network, example)) if network.is_program else []
    return {
        "is_program": network.is_program,
        "reason": network.reason,
        "inputs": {name: list(shape) for name, shape in network.input_shapes.items()},
        "n_outputs": network.n_outputs,
        "layers": rows,
        "note": _in_words(network, len(rows)),
    }


def _layers(network: Network, example: Inputs) -> Iterator[dict[str, Any]]:
    values = network.run(to_model(example, network.device, network.dtype))
    for layer in network.layers:
        shape = tuple(network.value(layer, values).shape)[1:]
        operator = type(network.operator(layer)).__name__
        yield {"layer": layer, "operator": operator, "shape": " x ".join(map(str, shape))}


def _in_words(network: Network, n_layers: int) -> str:
    if not network.is_program:
        return f"the model is opaque, only its output and gradient can be had: {network.reason}"
    shapes = network.input_shapes.values()
    shape = " and ".join(" x ".join(str(size) for size in shape) for shape in shapes)
    softmax = ", its trailing softmax left out" if network.has_softmax else ""
    return f"{n_layers} layers from {shape} to {network.n_outputs} classes{softmax}"


def contents(path: str | Path) -> list[dict[str, Any]]:
    """Return a row per array and table of a run: ``name``, ``dims``, ``shape``, ``dtype``.

    Of tables, the names of the columns stand for dimensions; of graphs, the layers that have causes
    do, and their shape is how many these layers have, both signs together.
    """
    from pipeline.store import open_run

    run = open_run(path)
    return [*_maps(run), *_beside(run), *_tables(run), *_scans(run), *_graphs(run)]


def _maps(run: Run) -> Iterator[dict[str, Any]]:
    for name in run.maps:
        relevance = run.maps[name]
        yield _row(f"maps/{name}", relevance.dims, relevance.shape, relevance.dtype)


def _beside(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the arrays that methods found beside their maps."""
    for name in dict.fromkeys(split_name(each)[0] for each in run.maps):
        for array in run.arrays(name):
            if not is_relevance(array) and array.partition(".")[0] != SCALE:
                values = run.array(name, array)
                yield _row(f"arrays/{name}/{array}", values.dims, values.shape, values.dtype)


def _tables(run: Run) -> Iterator[dict[str, Any]]:
    first: dict[str, str] = {}
    for pass_name in dict.fromkeys(run.pass_of(each) for each in run.maps):
        for entry in run.entries(pass_name).values():
            for path in entry.objects:
                folder, _, rest = path.partition("/")
                if folder == paths.TABLES:
                    first.setdefault(rest.partition("/")[0], path)
    for name, path in first.items():
        # one shard has the columns of all, which may be many rows
        columns = from_file(run.folder, path).column_names
        yield _row(f"tables/{name}", columns, ("rows", len(columns)), "table")


def _scans(run: Run) -> Iterator[dict[str, Any]]:
    for name, result in run.scans.items():
        for path, shape, dtype in result.leaves():
            yield _row(f"scans/{name}/{path}", (), shape, dtype)


def _graphs(run: Run) -> Iterator[dict[str, Any]]:
    for name in graphs.names(run.path):
        found = GraphsOfAll.read(run.scans[name]) if name in run.scans else None
        if found is not None:
            names = [layer.name for layer in found.tested]
            for label, n_causes in zip(found.labels, found.n_causes.tolist(), strict=True):
                having = [(layer, n) for layer, n in zip(names, n_causes, strict=True) if n]
                layers, shape = zip(*having, strict=True) if having else ((), (0,))
                yield _row(f"graphs/{name}/{label}", layers, shape, "graph")


def _row(name: str, dims: Any, shape: Any, dtype: Any) -> dict[str, Any]:
    return {
        "name": name,
        "dims": ", ".join(str(dim) for dim in dims),
        "shape": " x ".join(str(size) for size in shape) or "scalar",
        "dtype": str(dtype),
    }
