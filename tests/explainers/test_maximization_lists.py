"""Lists of maximization against sorting in python, and their laws as a monoid, to the bit."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explainers.base import united
from explainers.concepts.scores import Scores
from explainers.maximization import order
from explainers.maximization.class_statistics import class_statistics
from explainers.maximization.lists import Lists
from explainers.maximization.matrices import lists_of_matrices
from explainers.maximization.scored import Scored
from explainers.maximization.tables import SCORES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.base import State

# Halves and whole numbers add up without rounding, so norms are the same in any order of adding.
USUAL = (-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.0, 3.0)
ODD = (*USUAL, math.nan, math.inf, -math.inf)

Entry = tuple[float, int, int]


@dataclass(frozen=True)
class Case:
    """Samples with scores, in an order and with cuts."""

    lists: Lists
    scored: Scored
    shards: list[Scored]


def rows_of(scored: Scored, rows: Sequence[int]) -> Scored:
    layers = {
        layer: Scores(*(part[list(rows)] for part in (each.total, each.peak, each.position)))
        for layer, each in scored.layers.items()
    }
    return Scored(scored.sample[list(rows)], scored.group[list(rows)], layers)


def drawn_scored(n: int, seed: int, pool: Sequence[float] = ODD, n_classes: int = 3) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(pool)

    def draw(n_channels: int) -> Tensor:
        found = torch.randint(len(pool), (n, n_channels), generator=generator)
        return values[found] * (torch.rand((n, 1), generator=generator) > 0.2)  # some are dead

    layers = {
        layer: Scores(draw(width), draw(width), torch.randint(9, (n, width), generator=generator))
        for layer, width in (("one", 1), ("block.conv/1", 3))
    }
    sample = torch.randperm(n, generator=generator) * 7
    return Scored(sample, torch.randint(-1, n_classes, (n,), generator=generator), layers)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n = draw(st.integers(0, 14))
    scored = drawn_scored(n, draw(st.integers(0, 10**6)), draw(st.sampled_from([USUAL, ODD])))
    shuffled = draw(st.permutations(range(n)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    pieces = [shuffled[a:b] for a, b in itertools.pairwise([0, *cuts, n])]
    lists = Lists(draw(st.integers(1, 5)), draw(st.integers(0, 4)))
    return Case(lists, scored, [rows_of(scored, piece) for piece in pieces])


def same(left: State, right: State) -> bool:
    """Whether states are equal bit by bit; the order of their names does not matter."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].numpy().tobytes() == right[name].numpy().tobytes()
        for name in left
    )


def slow_values(scores: Scores) -> dict[str, list[list[float]]]:
    found = {}
    for name, raw in (("sum", scores.total), ("max", scores.peak)):
        found[name] = raw.tolist()
        found[f"{name}_normed"] = [
            [
                float(torch.tensor(value) / (torch.tensor(math.fsum(map(abs, row))) + 1e-10))
                if all(map(math.isfinite, row))
                else math.nan
                for value in row
            ]
            for row in found[name]
        ]
    return found


def slow_list(scored: Scored, layer: str, score: str, channel: int, k: int) -> list[Entry]:
    """Sort by (-value, sample) and keep the first."""
    values = slow_values(scored.layers[layer])[score]
    position = scored.layers[layer].position.tolist()
    entries = [
        (row[channel], index, position[place][channel])
        for place, (row, index) in enumerate(zip(values, scored.sample.tolist(), strict=True))
        if math.isfinite(row[channel])
    ]
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))[:k]


def as_lists(found: dict[str, Tensor]) -> list[list[Entry]]:
    """Return the entries of each channel; empty ones are at the ends and alike."""
    assert found["sample"].dtype == found["position"].dtype == torch.int64
    assert found["value"].dtype == torch.float32
    channels = []
    for columns in zip(
        *(found[name].T.tolist() for name in ("value", "sample", "position")), strict=True
    ):
        entries = list(zip(*columns, strict=True))
        kept = [entry for entry in entries if entry[1] >= 0]
        for value, sample, position in entries[len(kept) :]:
            assert math.isnan(value)
            assert (sample, position) == (-1, -1)
        channels.append(kept)
    return channels


def check_against_sorting(case: Case, result: dict[str, Any]) -> None:
    scored = case.scored
    assert set(result) == set(scored.layers)
    for layer, score in itertools.product(result, SCORES):
        n_channels = scored.layers[layer].total.shape[1]
        expected = [slow_list(scored, layer, score, c, case.lists.k) for c in range(n_channels)]
        assert as_lists(result[layer][score]) == expected
        assert len(result[layer][score]["value"]) <= min(case.lists.k, len(scored.sample))
        assert ("per_class" in result[layer]) == bool(case.lists.per_class)
        for label, lists in result[layer].get("per_class", {}).items():
            own = rows_of(scored, (scored.group == label).nonzero()[:, 0].tolist())
            k = case.lists.per_class
            expected = [slow_list(own, layer, score, c, k) for c in range(n_channels)]
            assert as_lists(lists[score]) == expected


def check_laws(case: Case) -> None:
    lists, states = case.lists, [case.lists.of(shard) for shard in case.shards]
    whole = lists.of(case.scored)
    unit = lists.init()
    assert same(lists.merge(unit, whole), whole)
    assert same(lists.merge(whole, unit), whole)
    assert same(lists.of(Scored.joined(case.shards)), whole)
    left, right = unit, unit
    for state in states:
        left, right = lists.merge(left, state), lists.merge(state, right)
    for found in (left, right, lists.merged(states), lists.merged(states[::-1])):
        assert same(found, whole)


@given(case=cases())
@settings(max_examples=6, deadline=None, database=None, derandomize=True)
def test_lists_are_those_of_sorting_for_any_cuts_and_order(case: Case) -> None:
    check_laws(case)
    check_against_sorting(case, case.lists.finalise(case.lists.of(case.scored)))


@pytest.mark.slow
@given(case=cases())
@settings(max_examples=50, deadline=None, database=None)
def test_lists_are_those_of_sorting_for_many_cuts_and_orders(case: Case) -> None:
    check_laws(case)
    check_against_sorting(case, case.lists.finalise(case.lists.of(case.scored)))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k", "per_class", "n_classes"), [(100, 20, 20, 5), (90, 3, 2, 60)])
def test_many_samples_in_batches_of_any_size(
    n: int, k: int, per_class: int, n_classes: int
) -> None:
    scored = drawn_scored(n, 3, n_classes=n_classes)
    for size in (1, 16, n - 1):
        shards = [rows_of(scored, range(i, min(n, i + size))) for i in range(0, n, size)]
        check_laws(Case(Lists(k, per_class), scored, shards))


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None, database=None)
def test_keys_order_by_value_and_then_by_sample(values: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = torch.tensor(values + values)
    sample = torch.randperm(len(value), generator=generator) * (order.LAST_SAMPLE // len(value))
    found = order.keys(value, sample)
    expected = sorted(zip((-value).tolist(), sample.tolist(), strict=True))
    in_order = found.sort(descending=True).values
    assert torch.equal(order.values(in_order), -torch.tensor([pair[0] for pair in expected]))
    assert order.samples(in_order).tolist() == [pair[1] for pair in expected]
    assert bool((found > order.NONE).all())


def test_zeros_of_both_signs_tie() -> None:
    found = order.keys(torch.tensor([-0.0, 0.0, -0.0]), torch.tensor([2, 1, 0]))
    assert order.samples(found.sort(descending=True).values).tolist() == [0, 1, 2]
    assert not bool(torch.signbit(order.values(found)).any())


def test_what_is_not_finite_is_in_no_list_and_spoils_the_norm_of_its_sample() -> None:
    total = torch.tensor([[math.nan, 5.0], [math.inf, 4.0], [3e38, 3e38], [1.0, 3.0], [0.0, 0.0]])
    scores = Scores(total, total, torch.zeros(5, 2, dtype=torch.int64))
    lists = Lists(9, 0)
    found = lists.finalise(lists.of(Scored(torch.arange(5), torch.arange(5), {"a": scores})))["a"]
    assert found["sum"]["sample"].T.tolist() == [[2, 3, 4, -1, -1], [2, 0, 1, 3, 4]]
    # The sum of sample 2 is beyond float32.
    assert found["max_normed"]["sample"].T.tolist() == [[3, 4, -1, -1, -1], [3, 4, -1, -1, -1]]
    assert found["sum_normed"]["value"][:2].tolist() == [[0.25, 0.75], [0.0, 0.0]]


def test_dead_channels_list_the_first_samples() -> None:
    zeros = torch.zeros(6, 2, dtype=torch.float64)
    scores = Scores(zeros, zeros, zeros.long())
    lists = Lists(2, 2)
    scored = Scored(torch.tensor([5, 3, 1, 0, 4, 2]), torch.tensor([1] * 6), {"a": scores})
    found = lists.finalise(lists.of(scored))["a"]
    assert found["sum_normed"]["sample"].tolist() == [[0, 0], [1, 1]]
    assert found["per_class"][1]["max"]["sample"].tolist() == [[0, 0], [1, 1]]


def test_scores_are_rounded_to_float32() -> None:
    raw = torch.tensor([[1.0], [1.0 + 1e-12]], dtype=torch.float64)
    scores = Scores(raw, raw, torch.zeros(2, 1, dtype=torch.int64))
    lists = Lists(2, 0)
    found = lists.finalise(lists.of(Scored(torch.arange(2), torch.zeros(2), {"a": scores})))
    assert found["a"]["sum"]["sample"].tolist() == [[0], [1]]  # they tie


def test_the_norm_does_not_depend_on_the_batch() -> None:
    raw = torch.randn(9, 1000, generator=torch.Generator().manual_seed(0)) * 1e3
    scored = Scored(
        torch.arange(9), torch.full((9,), -1), {"a": Scores(raw, raw, torch.zeros_like(raw))}
    )
    lists = Lists(9, 0)
    shards = [rows_of(scored, range(a, b)) for a, b in ((0, 1), (1, 4), (4, 9))]
    assert same(lists.merged(map(lists.of, shards)), lists.of(scored))
    value = lists.finalise(lists.of(scored))["a"]["sum_normed"]["value"]
    norm = raw.double().abs().sum(1, keepdim=True) + 1e-10
    # Adding in pairs, ten deep, rounds by less than ten halves of 2^-23.
    torch.testing.assert_close(
        value.double(), (raw / norm).sort(0, descending=True)[0], rtol=1e-6, atol=0
    )


def test_a_sample_that_is_scored_twice_is_listed_twice() -> None:
    total = torch.tensor([[1.0], [3.0], [2.0]])
    scores = Scores(total, total, torch.tensor([[4], [5], [6]]))
    lists = Lists(3, 2)
    scored = Scored(torch.tensor([8, 8, 9]), torch.tensor([0, 1, 0]), {"a": scores})
    found = lists.finalise(lists.of(scored))["a"]
    assert found["sum"]["sample"].tolist() == [[8], [9], [8]]
    assert found["sum"]["position"].tolist() == [[5], [6], [4]]
    assert found["per_class"][0]["sum"]["sample"].tolist() == [[9], [8]]


def test_classes_of_few_samples_keep_raw_scores_and_others_lists() -> None:
    scored = drawn_scored(20, 0, USUAL, n_classes=2)
    scored = Scored(scored.sample, torch.tensor([0] * 4 + [1] * 15 + [-1]), scored.layers)
    state = Lists(5, 4).of(scored)
    assert state["one/per_class/scores/class"].tolist() == [0] * 4
    assert state["one/per_class/scores/total"].shape == (4, 1)
    assert state["one/per_class/listed/class"].tolist() == [1]
    assert state["one/per_class/lists/class"].tolist() == [1] * 4


def test_layers_are_groups_that_finalise_apart() -> None:
    lists, scored = Lists(3, 2), drawn_scored(9, 1)
    state = lists.merge(lists.of(scored, "label"), lists.of(scored, "predicted"))
    groups = lists.groups(state.keys())
    assert len(groups) == 4
    assert sorted(name for group in groups for name in group) == sorted(state)
    parts = [lists.finalise({name: state[name] for name in group}, "label") for group in groups]
    joined, whole = united(parts), lists.finalise(lists.of(scored))
    assert joined.keys() == whole.keys() == scored.layers.keys()
    for layer in whole:
        assert same(joined[layer]["sum"], whole[layer]["sum"])
        assert joined[layer]["per_class"].keys() == whole[layer]["per_class"].keys()


def test_matrices_that_were_kept_give_the_lists_of_a_scan() -> None:
    scored = drawn_scored(25, 5)
    matrices = {
        layer: {
            name: getattr(each, name).numpy() if name == "peak" else getattr(each, name)
            for name in ("total", "peak", "position")
        }
        for layer, each in scored.layers.items()
    }
    sample, group = scored.sample, scored.group
    found = lists_of_matrices(matrices, sample, group, k=6, per_class=3, n_rows=4)
    check_against_sorting(Case(Lists(6, 3), scored, []), found)
    plain = lists_of_matrices(matrices, sample, k=6)
    assert "per_class" not in plain["one"]
    assert same(plain["one"]["max"], found["one"]["max"])
    with pytest.raises(ValueError, match="25 rows"):
        lists_of_matrices(matrices, sample[:24], k=6)


def test_no_samples_have_lists_of_no_ranks() -> None:
    lists, scored = Lists(3, 2), rows_of(drawn_scored(4, 0), [])
    found = lists.finalise(lists.of(scored))
    assert found["block.conv/1"]["sum"]["sample"].shape == (0, 3)
    assert found["one"]["per_class"] == {}
    matrices = {"a": dict.fromkeys(("total", "peak", "position"), torch.zeros(0, 2))}
    empty = lists_of_matrices(matrices, torch.zeros(0, dtype=torch.int64), k=3)
    assert empty["a"]["max"]["value"].shape == (0, 2)


def test_classes_are_ranked_by_the_mean_of_their_best() -> None:
    lists = Lists(4, 3)
    scored = drawn_scored(40, 2, USUAL, n_classes=4)
    layer = lists.finalise(lists.of(scored))["block.conv/1"]
    found = class_statistics(layer, n_classes=3, n_best=2, score="max_normed")
    for channel in range(3):
        means = []
        for label in range(4):
            own = rows_of(scored, (scored.group == label).nonzero()[:, 0].tolist())
            best = [e[0] for e in slow_list(own, "block.conv/1", "max_normed", channel, 2)]
            means.append((-sum(best) / len(best), label))
        expected = sorted(means)[:3]
        assert found["class"][:, channel].tolist() == [label for _, label in expected]
        torch.testing.assert_close(found["mean"][:, channel], -torch.tensor(expected)[:, 0])


def test_classes_with_few_samples_take_those_they_have() -> None:
    value = torch.tensor([[4.0, math.nan], [2.0, math.nan]])
    other = torch.tensor([[3.0, 1.0], [math.nan, math.nan]])
    layer: dict[str, Any] = {
        "per_class": {"10": {"sum": {"value": value.numpy()}}, "9": {"sum": {"value": other}}}
    }
    found = class_statistics(layer, score="sum")
    assert found["class"].tolist() == [[9, 9], [10, -1]]  # equal means: the smaller class
    assert found["mean"].nan_to_num(nan=-1.0).tolist() == [[3.0, 1.0], [3.0, -1.0]]
    with pytest.raises(LookupError, match="per_class"):
        class_statistics({"sum": {}})
    with pytest.raises(LookupError, match="max_normed"):
        class_statistics(layer, score="max_norm")


def test_what_cannot_be_merged_or_listed_is_refused() -> None:
    lists = Lists(2, 2)
    scored = drawn_scored(3, 0)
    other = Scored(scored.sample, scored.group, {"one": scored.layers["block.conv/1"]})
    with pytest.raises(ValueError, match="1 and 3 channels of 'one'"):
        lists.merge(lists.of(scored), lists.of(other))
    with pytest.raises(ValueError, match="from 0"):
        lists.of(Scored(scored.sample - 1, scored.group, scored.layers))
    with pytest.raises(ValueError, match="k=0"):
        Lists(0)
