"""Which neurons screening verifies, and what its audit says of those that it passes over."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from explainers.causal import audit


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def test_the_strongest_are_verified_and_others_drawn() -> None:
    strengths = drawn(3, 50)
    found = audit.chosen(
        strengths, screening=0.2, audit=0.1, seed=0, layer="conv2", classes=[4, 0, 7]
    )
    strongest = torch.zeros(3, 50, dtype=torch.bool)
    strongest.scatter_(1, strengths.topk(10).indices, True)
    assert (found.verified & ~found.audited == strongest).all()
    assert found.n_audited.tolist() == [4, 4, 4]
    assert found.share.tolist() == [0.1] * 3
    assert len({tuple(row.tolist()) for row in found.audited}) == 3


def test_what_is_drawn_for_a_class_depends_on_seed_and_layer_and_on_no_other_class() -> None:
    strengths = torch.zeros(2, 200)
    drawn_with = {"screening": 0.1, "audit": 0.1}
    whole = audit.chosen(strengths, seed=0, layer="a", classes=[4, 7], **drawn_with)
    alone = audit.chosen(strengths[:1], seed=0, layer="a", classes=[7], **drawn_with)
    assert (whole.audited[1] == alone.audited[0]).all()
    for seed, layer in ((1, "a"), (0, "b")):
        other = audit.chosen(strengths, seed=seed, layer=layer, classes=[4, 7], **drawn_with)
        assert (other.audited != whole.audited).any()
        assert (other.verified & ~other.audited == (whole.verified & ~whole.audited)).all()


@pytest.mark.parametrize(
    ("screening", "share", "n_verified", "n_audited"),
    [(1.0, 0.5, 12, 0), (0.5, 0.0, 6, 0), (0.75, 0.5, 12, 3), (0.0, 0.02, 4, 4), (0.3, 1.0, 12, 8)],
)
def test_a_few_are_audited_if_there_are_so_many(
    screening: float, share: float, n_verified: int, n_audited: int
) -> None:
    found = audit.chosen(
        drawn(1, 12), screening=screening, audit=share, seed=0, layer="fc", classes=[0]
    )
    assert found.verified.sum() == n_verified
    assert found.n_audited == n_audited


def test_recall_weights_each_audited_neuron_by_those_it_stands_for() -> None:
    verified = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]]).bool()
    audited = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 0]]).bool()
    chosen = audit.Chosen(verified, audited, torch.tensor([1 / 3]).double())
    selected = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]]).bool()
    # two found; one of two audited counts, so three of the six that were left over
    assert audit.recall(selected, chosen).tolist() == pytest.approx([2 / 5])
    assert audit.recall(selected & ~audited, chosen).tolist() == [1.0]
    assert audit.recall(selected & False, chosen).isnan().all()


def test_recall_is_unknown_where_neurons_were_left_over_and_none_was_audited() -> None:
    chosen = audit.chosen(drawn(1, 8), screening=0.5, audit=0.0, seed=0, layer="fc", classes=[0])
    assert audit.recall(chosen.verified, chosen).isnan().all()
    assert audit.recall_of_strongest(drawn(1, 8), chosen).isnan().all()
    chosen = audit.chosen(drawn(1, 8), screening=1.0, audit=0.0, seed=0, layer="fc", classes=[0])
    assert audit.recall(chosen.verified, chosen).tolist() == [1.0]
    assert audit.recall_of_strongest(drawn(1, 8), chosen).tolist() == [1.0]


def test_recall_of_the_strongest_counts_down_from_the_truly_strongest() -> None:
    verified = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0]]).bool()
    audited = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]).bool()
    chosen = audit.Chosen(verified, audited, torch.tensor([1 / 3]).double())
    strengths = torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 99.0, 99.0, 99.0, 99.0]])
    assert audit.recall_of_strongest(strengths, chosen).tolist() == [1.0]
    # an audited neuron, which stands for three, is third: two of four are found
    strengths[0, 4] = 7.5
    assert audit.recall_of_strongest(strengths, chosen).tolist() == pytest.approx([2 / 4])
    strengths[0, 4] = 10.0
    assert audit.recall_of_strongest(strengths, chosen).tolist() == pytest.approx([1 / 4])


def test_the_audit_estimates_how_many_are_missed_without_bias() -> None:
    classes = list(range(400))
    strengths = drawn(1, 60).expand(400, 60)
    truth = (drawn(1, 60, seed=1) < 0.4).expand(400, 60)
    chosen = audit.chosen(
        strengths, screening=0.25, audit=0.2, seed=3, layer="conv", classes=classes
    )
    missed = (truth & chosen.audited).sum(1) / chosen.share
    actual = (truth & ~(chosen.verified & ~chosen.audited)).sum(1).double()
    # 9 of 45 are drawn, so that an estimate is off by 7 of some 18, the mean of 400 by 0.35
    assert float((missed - actual).mean().abs()) < 3 * float(missed.std()) / 20


def test_moments_of_estimates_are_those_of_all_rows_however_parted() -> None:
    estimates = drawn(20, 5)
    member = torch.arange(20) % 3 - 1  # -1: rows of no class
    whole = audit.added(audit.empty(3, 5), member, estimates)
    parts = [
        audit.added(audit.empty(3, 5), member[part], estimates[part])
        for part in (slice(7), slice(7, 20))
    ]
    for name, value in audit.merged(parts[1], parts[0]).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-14, atol=1e-14)
    mean, error = audit.moments(whole)
    for one in range(2):
        rows = estimates[member == one]
        torch.testing.assert_close(mean[one], rows.mean(0))
        torch.testing.assert_close(error[one], rows.std(0) / len(rows) ** 0.5)
    assert not mean[2].any()
    assert not error[2].any()


def test_estimates_that_are_all_zero_are_the_weakest_and_constant_others_the_strongest() -> None:
    mean, error = torch.tensor([[0.0, 0.5, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert audit.strength(mean, error).tolist() == [[0.0, torch.inf, 2.0]]


def ranked(values: Tensor) -> Tensor:
    """Rank of each value, from 1 on, the mean of those that equal ones share."""
    below = (values[:, None] > values[None]).sum(1)
    equal = (values[:, None] == values[None]).sum(1)
    return below + (equal.double() + 1) / 2


def test_the_correlation_is_of_ranks_with_ties() -> None:
    left = (drawn(4, 30) * 6).floor()
    right = left + (drawn(4, 30, seed=1) * 6).floor()
    where = drawn(4, 30, seed=2) < 0.6
    found = audit.correlation(left, right, where)
    for row in range(4):
        ranks = torch.stack([ranked(part[row][where[row]]) for part in (left, right)])
        expected = float(torch.corrcoef(ranks)[0, 1])
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)
    assert audit.correlation(left, left * 0, where).isnan().all()
    assert audit.correlation(left, right, where & False).isnan().all()
