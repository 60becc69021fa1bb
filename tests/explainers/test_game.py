"""Games of features: values against a loop, whatever is explained, and however it is cut up."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from explainers import Network, Target, Trace
from explainers.base import Samples
from explainers.explaining import at_inputs
from explainers.features import resolve
from explainers.perturbing import valuation
from explainers.perturbing.ablated import ablated
from explainers.perturbing.fills import Drawn, Fixed
from explainers.perturbing.game import Game, games
from explainers.sampling import forward_chunks
from tests.explainers.games import TableGame, several

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.perturbing.fills import Fill

# only the order of sums differs, in float64 and at values of about one
TOLERANCE = {"rtol": 0, "atol": 1e-10}
LABELS = [[0, 0, 1, 1], [2, 0, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2]]
OTHERS = [[0, 0, 1, 1], [0, 3, 3, 1], [4, 4, 2, 2], [4, 4, 2, 2]]


WAS_INFERENCE: list[bool] = []
"""Whether inference mode was on when the opaque network ran."""


def opaque(image: Tensor) -> Tensor:
    """Return three outputs; a branch on values cannot be exported."""
    image = image if image.sum() < 1e9 else -image
    WAS_INFERENCE.append(torch.is_inference_mode_enabled())
    flat = (image.sin() * image.cumsum(-1)).flatten(1)
    return torch.stack([flat[:, :9].sum(1), flat[:, 3:20].prod(1), flat.square().mean(1)], 1)


@functools.cache
def opaque_network() -> Network:
    return Network(opaque, several()[2][0])


def traced(kind: str, rows: list[int] | None = None) -> Trace:
    """Return a trace as a method gets it: of pictures, packed inputs, or a layer past a skip."""
    chosen = [0, 1, 2, 3, 4] if rows is None else rows
    _, network, inputs = several()
    parts = tuple(part[chosen] for part in inputs)
    samples = Samples(torch.tensor(chosen), torch.tensor(chosen) % 3)
    given: Any = parts[0] if kind == "opaque" else parts
    network = opaque_network() if kind == "opaque" else network
    whole = Trace(network, given, samples=samples, seed=1, namespace="game")
    return whole.starting_at("conv") if kind == "layer" else at_inputs(whole)


FEATURES: dict[str, list[Any]] = {
    "opaque": [None, {"masks": torch.tensor(LABELS)}],
    "packed": [None],
    "layer": [{"grid": 2}],
}
CASES = [(kind, features) for kind, specs in FEATURES.items() for features in specs]


def background(kind: str) -> Any:
    turned = [part.roll(2, 0)[:3] for part in several()[2]]
    return turned[0] if kind == "opaque" else tuple(turned)


def fill_of(kind: str, trace: Trace, is_drawn: bool) -> Fill:
    return Drawn(background(kind), trace) if is_drawn else Fixed(trace.baseline(None))


def coalitions_of(n_features: int, n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(n_features)
    return torch.rand(n, n_features, generator=generator) < 0.5


def slow_value(trace: Trace, target: Target, point: Tensor, row: int, space: str) -> Tensor:
    """Return the value of one row at one point, by a trace of its own."""
    output = trace.at(point[None], torch.tensor([row])).output[0]
    output = output.softmax(0) if space == "probability" else output
    return (output * trace.cotangent(target)[row]).sum()


@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize(("kind", "features"), CASES)
def test_values_are_those_of_a_loop(kind: str, features: Any, is_drawn: bool) -> None:
    trace, target = traced(kind), Target.parse("runner_up")
    space: Any = "probability" if is_drawn else "logit"
    partition = resolve(features, trace)
    game = Game(trace, target, partition, fill_of(kind, trace, is_drawn), space=space)
    coalitions = coalitions_of(game.n_features)
    replicates = torch.tensor([0, 0, 1, 4, 2, 1])
    found = game.values(coalitions, replicates=replicates)
    assert found.shape == (5, 6)
    absent = fill_of(kind, trace, is_drawn)
    cells = partition.cells[0].expand(trace.inputs.shape[1:])
    for row in (0, 3):
        here = torch.tensor([row])
        for number, there in enumerate(coalitions):
            other = absent.at(here, replicates[number : number + 1])[0, 0].expand(cells.shape)
            point = other.clone()
            for feature in there.nonzero().flatten():
                point[cells == feature] = trace.inputs[row][cells == feature]
            expected = slow_value(trace, target, point, row, space)
            torch.testing.assert_close(found[row, number], expected, **TOLERANCE)
    own = torch.stack([slow_value(trace, target, x, n, space) for n, x in enumerate(trace.inputs)])
    torch.testing.assert_close(game.full, own, **TOLERANCE)


@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize("kind", list(FEATURES))
def test_the_empty_value_is_the_mean_over_what_is_filled_in(kind: str, is_drawn: bool) -> None:
    trace, target = traced(kind), Target.parse("label")
    game = Game(trace, target, resolve(None, trace), fill_of(kind, trace, is_drawn))
    nobody = torch.zeros(3, game.n_features, dtype=torch.bool)
    # three draws are all of the background
    expected = game.values(nobody).mean(1)
    torch.testing.assert_close(game.empty, expected, **TOLERANCE)


@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize("kind", list(FEATURES))
def test_neither_batches_nor_passes_make_a_difference(
    kind: str, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target.parse(None)

    def found(rows: list[int] | None = None, some: Tensor | None = None) -> Tensor:
        trace = traced(kind, rows)
        partition = resolve(FEATURES[kind][-1], trace)
        game = Game(trace, target, partition, fill_of(kind, trace, is_drawn))
        return game.values(coalitions_of(game.n_features, 9), some)

    expected = found()
    for limit in (1, 3, 7):
        monkeypatch.setitem(forward_chunks._limits, traced(kind).network, limit)
        torch.testing.assert_close(found(), expected, **TOLERANCE)
        torch.testing.assert_close(found(some=torch.tensor([4, 1])), expected[[4, 1]], **TOLERANCE)
        torch.testing.assert_close(found([3, 1]), expected[[3, 1]], **TOLERANCE)


def test_samples_may_have_numbers_of_features_of_their_own() -> None:
    trace, target = traced("opaque"), Target.parse(0)
    labels = torch.tensor([LABELS, OTHERS, LABELS, OTHERS, LABELS])
    partition = resolve({"masks": labels}, trace)
    found = list(games(trace, target, partition, Drawn(background("opaque"), trace)))
    assert [(game.n_features, game.rows.tolist()) for game in found] == [
        (3, [0, 2, 4]),
        (5, [1, 3]),
    ]
    for game in found:
        coalitions = coalitions_of(game.n_features)
        values = game.values(coalitions, torch.tensor([1]))
        row = int(game.rows[1])
        alone = traced("opaque", [row])
        cells = resolve({"masks": labels[row]}, alone)
        single = Game(alone, target, cells, Drawn(background("opaque"), alone))
        torch.testing.assert_close(values, single.values(coalitions), **TOLERANCE)


def test_values_are_ordinary_tensors_in_inference_mode() -> None:
    with torch.inference_mode():
        trace = traced("opaque")
        game = Game(trace, Target.parse(1), resolve("pixels", trace), Fixed(trace.baseline(0.5)))
        found = [game.values(coalitions_of(game.n_features)), game.full, game.empty]
    assert not any(one.is_inference() for one in found)
    assert not any(one.requires_grad for one in found)


def test_the_network_runs_in_inference_mode() -> None:
    trace = traced("opaque")
    game = Game(trace, Target.parse(1), resolve("pixels", trace), Fixed(trace.baseline(None)))
    WAS_INFERENCE.clear()
    game.values(coalitions_of(game.n_features))
    assert WAS_INFERENCE == [True]


class NoReading(TorchDispatchMode):
    """Refuses to bring numbers of tensors to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_layer", [False, True])
def test_nothing_is_read_by_the_host(is_layer: bool) -> None:
    trace = traced("layer" if is_layer else "packed")
    game = Game(trace, Target.parse(1), resolve(None, trace), Fixed(trace.baseline(None)))
    coalitions, some = coalitions_of(game.n_features), torch.tensor([3, 0])
    game.values(coalitions)
    with NoReading():
        game.values(coalitions)
        game.values(coalitions, some)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that the rows of each pass are appended to."""
    passes: list[int] = []
    real: Callable[..., Tensor] = valuation.outputs_at

    def outputs_at(trace: Trace, points: Tensor, rows: Tensor) -> Tensor:
        passes.append(len(points))
        return real(trace, points, rows)

    monkeypatch.setattr(valuation, "outputs_at", outputs_at)
    return passes


def test_passes_are_full_whichever_rows_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced("opaque")
    monkeypatch.setitem(forward_chunks._limits, trace.network, 10)
    game = Game(trace, Target.parse(1), resolve("pixels", trace), Fixed(trace.baseline(None)))
    passes = counted(monkeypatch)
    game.values(coalitions_of(game.n_features, 40))
    assert passes == [10] * 20
    passes.clear()
    game.values(coalitions_of(game.n_features, 40), torch.tensor([2]))
    assert passes == [10] * 4
    passes.clear()
    # a baseline that all rows share is looked at once
    assert game.empty.shape == (5,)
    assert passes == [1]


@pytest.mark.parametrize("is_drawn", [False, True])
def test_no_coalitions_have_no_values_and_take_no_pass(
    is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = traced("opaque")
    fill = fill_of("opaque", trace, is_drawn)
    game = Game(trace, Target.parse(1), resolve("pixels", trace), fill)
    passes = counted(monkeypatch)
    assert game.values(coalitions_of(game.n_features, 0)).shape == (5, 0)
    none = torch.zeros(0, dtype=torch.int64)
    assert game.values(coalitions_of(game.n_features), none).shape == (0, 6)
    assert passes == []


def test_each_draw_is_the_samples_own_and_rounds_are_complete() -> None:
    drawn = Drawn(background("opaque"), traced("opaque"))
    found = drawn.chosen(torch.arange(12))
    assert found.view(5, 4, 3).sort(-1).values.flatten(0, 1).tolist() == [[0, 1, 2]] * 20
    assert len({tuple(row) for row in found.tolist()}) == 5
    again = Drawn(background("opaque"), traced("opaque", [4, 2]))
    torch.testing.assert_close(again.chosen(torch.tensor([7])), found[[4, 2], 7:8])
    torch.testing.assert_close(again.chosen(torch.tensor([11, 0])), found[[4, 2]][:, [11, 0]])


def test_a_background_of_inputs_is_looked_at_where_the_layer_is() -> None:
    model, samples = several()[0], background("layer")
    with torch.no_grad():
        expected = model.conv(model.stem(samples[0]))
    drawn = Drawn(samples, traced("layer"))
    torch.testing.assert_close(drawn.background[:, 0], expected, **TOLERANCE)
    given = Drawn(expected, traced("layer"))
    torch.testing.assert_close(given.background, drawn.background, **TOLERANCE)


def test_draws_are_uniform() -> None:
    trace = Trace(opaque_network(), several()[2][0][:1].expand(600, -1, -1, -1))
    first = Drawn(background("opaque"), trace).chosen(torch.arange(1))
    # binomial with 600 draws and probability 1/3: five standard deviations
    assert (first.flatten().bincount(minlength=3) - 200).abs().max() < 5 * (600 * 2 / 9) ** 0.5


def test_features_are_taken_out_of_any_game() -> None:
    game = TableGame.random(4)
    found = ablated(game)  # type: ignore[arg-type]  # has what is asked of a game
    for feature in range(4):
        there = torch.ones(1, 4, dtype=torch.bool)
        there[0, feature] = False
        expected = game.full - game.value(there)[:, 0]
        torch.testing.assert_close(found.values[:, feature], expected, **TOLERANCE)
    assert found.n_evaluations.tolist() == [5, 5, 5]
    assert game.n_evaluations == 4
