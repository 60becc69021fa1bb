"""Tallies of effects: what they hold, and that parts add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from explainers.causal import poisson, tally

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State

N_CLASSES, N_NEURONS, N_REPLICATES = 4, 5, 6


@dataclass
class Outcome:
    logit: Tensor
    divergence: Tensor


@dataclass
class Rows:
    """Effects on 23 rows of three of four classes, with some neurons untested."""

    member: Tensor
    outcome: Outcome
    reference: Tensor
    tested: Tensor
    weights: Tensor

    def at(self, rows: Tensor) -> Rows:
        outcome = Outcome(self.outcome.logit[rows], self.outcome.divergence[rows])
        parts = (self.member[rows], outcome, self.reference[rows], self.tested[rows])
        return Rows(*parts, self.weights[:, rows])

    def added(self, state: State) -> State:
        return tally.added(
            state, self.member, self.outcome, self.reference, self.tested, self.weights
        )


@pytest.fixture
def rows() -> Rows:
    generator = torch.Generator().manual_seed(0)
    member = torch.tensor([0, 1, 3])[torch.randint(3, (23,), generator=generator)]
    reference = 3 + torch.randn(23, dtype=torch.float64, generator=generator)
    effects = torch.randn(23, N_NEURONS, dtype=torch.float64, generator=generator)
    tested = torch.rand(N_CLASSES, N_NEURONS, generator=generator) < 0.7
    outcome = Outcome(reference[:, None] + effects, effects.square())
    weights = poisson.weights(torch.arange(23), N_REPLICATES, 0)
    return Rows(member, outcome, reference, tested[member], weights)


def empty() -> State:
    return tally.empty(N_CLASSES, N_NEURONS, N_REPLICATES, is_compat=True)


def squares(values: Tensor) -> float:
    return float(((values - values.mean()) ** 2).sum())


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for key, values in left.items():
        # float64 sums of two dozen numbers of size 10 in another order
        torch.testing.assert_close(values, right[key], rtol=1e-12, atol=1e-12, msg=key)


def test_a_tally_holds_the_moments_of_each_class_and_neuron(rows: Rows) -> None:
    state = rows.added(empty())
    for label in range(N_CLASSES):
        mine = rows.member == label
        plain, drawn = rows.reference[mine], rows.weights[:, mine]
        assert state["reference_n"][label] == mine.sum()
        torch.testing.assert_close(state["drawn"][label], drawn.sum(1))
        if mine.any():
            assert state["reference_max"][label] == plain.abs().max()
            assert state["reference_mean"][label].item() == pytest.approx(float(plain.mean()))
            assert state["reference_m2"][label].item() == pytest.approx(squares(plain))
        for neuron in range(N_NEURONS):
            cell = (label, neuron)
            if not (mine.any() and rows.tested[mine][0, neuron]):
                assert all(state[name][cell] == 0 for name in ("n", "te_mean", "divergence"))
                assert not state["drawn_te2"][label, :, neuron].any()
                continue
            logit = rows.outcome.logit[mine, neuron]
            te, relative = logit - plain, logit / plain - 1
            assert state["n"][cell] == mine.sum()
            for name, values in {"logit": logit, "te": te, "relative": relative}.items():
                assert state[f"{name}_mean"][cell].item() == pytest.approx(float(values.mean()))
                assert state[f"{name}_m2"][cell].item() == pytest.approx(squares(values))
            sums = {"te": te, "te2": te**2, "logit": logit, "logit2": logit**2}
            for name, values in (sums | {"relative": relative}).items():
                torch.testing.assert_close(state[f"drawn_{name}"][label, :, neuron], drawn @ values)
            divergence = rows.outcome.divergence[mine, neuron].sum().item()
            assert state["divergence"][cell].item() == pytest.approx(divergence)


@pytest.mark.parametrize("n_parts", [2, 7, 23])
def test_parts_in_any_split_and_order_make_the_whole(rows: Rows, n_parts: int) -> None:
    whole = rows.added(empty())
    order = torch.randperm(23, generator=torch.Generator().manual_seed(n_parts))
    parts = order.tensor_split(n_parts)
    merged = empty()
    for part in parts:
        merged = tally.merged(rows.at(part).added(empty()), merged)
    assert_same(merged, whole)
    streamed = empty()
    for part in parts:
        streamed = rows.at(part).added(streamed)
    assert_same(streamed, whole)


def test_a_part_without_rows_changes_no_bit(rows: Rows) -> None:
    whole = rows.added(empty())
    none = rows.at(torch.arange(0)).added(empty())
    for merged in (tally.merged(whole, none), tally.merged(none, whole)):
        assert all(torch.equal(values, whole[key]) for key, values in merged.items())


def test_what_was_not_tested_is_not_read(rows: Rows) -> None:
    whole = rows.added(empty())
    rows.outcome.logit[~rows.tested] = torch.nan
    rows.outcome.divergence[~rows.tested] = torch.nan
    assert_same(rows.added(empty()), whole)


def test_no_effect_on_a_logit_of_zero_is_no_relative_effect() -> None:
    zero = torch.zeros(2, 1)
    tested = torch.ones(2, 1, dtype=torch.bool)
    member = torch.zeros(2, dtype=torch.int64)
    state = tally.empty(1, 1, 0)
    tally.added(state, member, Outcome(zero, zero), zero[:, 0], tested, torch.zeros(0, 2))
    assert state["relative_mean"].item() == 0


def test_the_wider_reference_has_samples_without_interventions_too(rows: Rows) -> None:
    first, last = torch.arange(20), torch.arange(20, 23)
    state = rows.at(first).added(empty())
    narrow = dict(state)
    extra = rows.at(last)
    state = tally.with_reference(state, extra.member, extra.reference, extra.weights)
    whole = rows.added(empty())
    wider = [name for name in whole if name.startswith("wider")]
    assert len(wider) == 6
    assert_same({name: state[name] for name in wider}, {name: whole[name] for name in wider})
    assert torch.equal(state["reference_n"], narrow["reference_n"])


def test_a_tally_without_a_wider_reference_takes_no_rows_for_it(rows: Rows) -> None:
    state = tally.empty(N_CLASSES, N_NEURONS, N_REPLICATES)
    with pytest.raises(ValueError, match="is_compat=True"):
        tally.with_reference(state, rows.member, rows.reference, rows.weights)
