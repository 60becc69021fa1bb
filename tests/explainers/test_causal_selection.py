"""Which neurons are causes: against tests written out one by one, and calibrated on noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from explainers.causal import decision, poisson, selection, tally

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State

special = pytest.importorskip("scipy.special")


@dataclass
class Outcome:
    logit: Tensor
    divergence: Tensor


def tallied(
    te: Tensor,
    reference: Tensor,
    *,
    n_replicates: int = 0,
    tested: Tensor | None = None,
    extra: Tensor | None = None,
) -> State:
    """Return the tally of effects ``(classes, samples, neurons)``, with one reference for all."""
    n_classes, n_samples, n_neurons = te.shape
    member = torch.arange(n_classes).repeat_interleave(n_samples)
    weights = poisson.weights(torch.arange(n_samples), n_replicates, 0).repeat(1, n_classes)
    plain = reference.expand(n_classes, n_samples).flatten()
    outcome = Outcome(plain[:, None] + te.flatten(0, 1), te.flatten(0, 1).square())
    tested = torch.ones(n_classes, n_neurons, dtype=torch.bool) if tested is None else tested
    state = tally.empty(n_classes, n_neurons, n_replicates, is_compat=True)
    state = tally.added(state, member, outcome, plain, tested[member], weights)
    if extra is not None:
        last = poisson.weights(torch.tensor([n_samples]), n_replicates, 0).repeat(1, n_classes)
        state = tally.with_reference(state, torch.arange(n_classes), extra, last)
    return state


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def planted(seed: int, n_classes: int = 3, n_samples: int = 12, n_neurons: int = 9) -> Tensor:
    """Return noisy effects of which a third are negative in the mean, and a third positive."""
    shift = torch.arange(n_neurons).remainder(3).double() - 1
    spread = torch.linspace(0.3, 2, n_neurons, dtype=torch.float64)
    return drawn(seed, n_classes, n_samples, n_neurons) * spread + shift


def tail(t: float, degrees: int) -> float:
    """Return the probability of less than t, by the incomplete beta function."""
    half = special.betainc(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2
    return float(half if t < 0 else 1 - half)


def stepped_up(p: list[float], level: float, n_all: int) -> list[bool]:
    """The procedure of Benjamini and Hochberg (1995): the largest k with p_(k) <= level k / m."""
    ordered = sorted(p)
    last = max((k for k, x in enumerate(ordered, 1) if x <= level * k / n_all), default=0)
    return [last > 0 and x <= ordered[last - 1] for x in p]


def t_of(values: Tensor, weights: Tensor) -> float:
    """Student's t with weights scaled to sum to the number of values."""
    n, share = len(values), weights / weights.sum()
    mean = float((share * values).sum())
    variance = float((share * (values - mean) ** 2).sum()) * n / (n - 1)
    return mean / math.sqrt(variance / n)


def test_the_paired_rule_is_t_tests_and_benjamini_and_hochberg() -> None:
    te, n_all = planted(0), 13
    state = tallied(te, torch.tensor(4.0), n_replicates=20)
    found = selection.decide(state, level=0.1, n_tested_of=n_all)
    weights = poisson.weights(torch.arange(12), 20, 0)
    for label in range(3):
        columns = te[label].T
        t = [t_of(values, torch.ones(12).double()) for values in columns]
        p = [2 * tail(-abs(x), 11) for x in t]
        selected = stepped_up(p, 0.1, n_all)
        assert 0 < sum(selected) < 9
        assert found.statistic[label].tolist() == pytest.approx(t, rel=1e-9)
        assert found.p[label].tolist() == pytest.approx(p, rel=1e-8)
        signs = [-int(math.copysign(s, x)) for s, x in zip(selected, t, strict=True)]
        assert found.sign[label].tolist() == signs
        assert ((found.q[label] <= 0.1) == torch.tensor(selected)).all()
        assert ((found.margin[label] >= 0) == torch.tensor(selected)).all()
        for replicate in range(20):
            ts = [t_of(values, weights[replicate]) for values in columns]
            chosen = stepped_up([2 * tail(-abs(x), 11) for x in ts], 0.1, n_all)
            expected = [-int(math.copysign(s, x)) for s, x in zip(chosen, ts, strict=True)]
            assert found.replicates[replicate, label].tolist() == expected
    same = found.replicates == torch.where(found.te < 0, 1, -1)
    assert torch.equal(found.frequency, same.double().mean(0))
    assert found.how.tolist() == [selection.HOW.index("paired")] * 3
    assert found.n.tolist() == [12] * 3


def test_moments_of_what_is_reported_are_means() -> None:
    te, reference = planted(1), torch.linspace(2, 5, 12, dtype=torch.float64)
    found = selection.decide(tallied(te, reference))
    # sums of a dozen numbers of size 1 to 10, and a difference of logits of that size
    torch.testing.assert_close(found.te, te.mean(1), rtol=1e-12, atol=1e-14)
    relative = (te / reference[:, None]).mean(1)
    torch.testing.assert_close(found.relative, relative, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.divergence, te.square().mean(1), rtol=1e-12, atol=1e-14)
    assert found.te_low.isnan().all()
    assert found.frequency.isnan().all()


def test_intervals_are_expanded_quantiles_of_weighted_means() -> None:
    te = planted(2, n_classes=1)
    state = tallied(te, torch.tensor(4.0), n_replicates=99)
    found = selection.decide(state)
    weights = poisson.weights(torch.arange(12), 99, 0)
    means = (weights @ te[0] / weights.sum(1, keepdim=True)).sort(0).values
    # t at 97.5 % and 11 degrees, of a table; ours is a series of four terms
    share = special.ndtr(-2.200985 * math.sqrt(12 / 11))
    place = share * 100 - 1
    low = means[0] + place * (means[1] - means[0])
    torch.testing.assert_close(found.te_low[0], low, rtol=0, atol=1e-5)
    high = means[98] + place * (means[97] - means[98])
    torch.testing.assert_close(found.te_high[0], high, rtol=0, atol=1e-5)


def test_effects_within_rounding_are_none_and_the_same_effect_everywhere_is_certain() -> None:
    reference = torch.full((6,), 10.0, dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    te = torch.zeros(1, 6, 4, dtype=torch.float64)
    te[..., 1] = -63 * eps * 10
    te[..., 2] = -100 * eps * 10
    te[..., 3] = 0.5
    found = selection.decide(tallied(te, reference, n_replicates=5))
    assert found.sign.tolist() == [[0, 0, 1, -1]]
    assert found.p.tolist() == [[1, 1, 0, 0]]
    assert found.is_borderline.tolist() == [[False, True, False, False]]
    assert found.frequency[0, 2:].tolist() == [1, 1]
    # there it is far from rounding
    precise = selection.decide(tallied(te, reference), dtype=torch.float64)
    assert precise.sign.tolist() == [[0, 1, 1, -1]]


@pytest.mark.parametrize("rule", selection.RULES)
def test_no_effect_anywhere_selects_nothing(rule: str) -> None:
    te = torch.zeros(2, 8, 5, dtype=torch.float64)
    found = selection.decide(tallied(te, 3 + drawn(0, 8), n_replicates=180), rule=rule)
    for nothing in (found.sign, found.replicates, found.is_borderline, found.frequency):
        assert not nothing.any()
    assert (found.te_low == 0).all()


def test_fewer_than_two_samples_select_nothing() -> None:
    one = selection.decide(tallied(planted(0, 2, 1), torch.tensor(3.0), n_replicates=4))
    none = selection.decide(tally.empty(2, 9, 4))
    for found in (one, none):
        assert found.how.tolist() == [selection.HOW.index("too few samples")] * 2
        assert not found.sign.any()
        assert not found.replicates.any()
        assert (found.q == 1).all()
        assert found.te_low.isnan().all()
    assert not one.te.isnan().any()
    assert none.te.isnan().all()


def test_neurons_that_were_not_tested_count_but_are_never_selected() -> None:
    te = planted(3, n_classes=1)
    tested = torch.ones(1, 9, dtype=torch.bool)
    tested[0, ::2] = False
    found = selection.decide(tallied(te, torch.tensor(4.0), n_replicates=3, tested=tested))
    whole = selection.decide(tallied(te, torch.tensor(4.0)))
    assert not found.sign[~tested].any()
    assert (found.q[~tested] == 1).all()
    assert found.te[~tested].isnan().all()
    assert torch.equal(found.p[tested], whole.p[tested])
    p = found.p[tested].tolist()
    assert (found.sign[tested] != 0).tolist() == stepped_up(p, 0.05, 9)
    # among more neurons the same p is less surprising
    more = selection.decide(tallied(te, torch.tensor(4.0), tested=tested), n_tested_of=900)
    assert torch.equal(more.q[tested], (found.q[tested] * 100).clamp(max=1))


def literal_z(te: Tensor, reference: Tensor, extra: float | None) -> tuple[list[bool], str]:
    """The rule of the original for one class, ``(samples, neurons)``, as its authors run it."""
    n = len(reference)
    if n == 1:
        return (te[0] / reference < 0.05).tolist(), "fallback"
    wider = reference if extra is None else torch.cat([reference, torch.tensor([extra])])
    logit = reference[:, None] + te
    error = (logit.std(0) ** 2 / n + wider.std() ** 2 / n).sqrt()
    causal = logit.mean(0) < wider.mean() - 1.65 * error
    if causal.any():
        return causal.tolist(), "z"
    return ((logit / reference[:, None] - 1).mean(0) < -0.001).tolist(), "fallback"


@pytest.mark.parametrize("scale", [0.02, 1.5])
@pytest.mark.parametrize("n_samples", [1, 2, 12])
def test_compat_is_the_rule_of_the_original(scale: float, n_samples: int) -> None:
    te = planted(4, 3, n_samples) * scale
    reference, extra = 6 + drawn(5, n_samples), torch.tensor([5.0, 6.5, 9.0], dtype=torch.float64)
    for last in (None, extra):
        found = selection.decide(tallied(te, reference, extra=last), rule="compat")
        for label in range(3):
            more = None if last is None else float(last[label])
            expected, how = literal_z(te[label], reference, more)
            assert found.sign[label].tolist() == expected
            assert selection.HOW[found.how[label]] == ("one sample" if n_samples == 1 else how)
            assert ((found.margin[label] > 0) == torch.tensor(expected)).all()


def test_replicates_of_compat_follow_the_same_rule() -> None:
    te, reference = planted(6) * 0.5, 6 + drawn(7, 12)
    state = tallied(te, reference, n_replicates=15, extra=torch.full((3,), 6.0).double())
    found = selection.decide(state, rule="compat")
    weights = poisson.weights(torch.arange(13), 15, 0)
    wider = torch.cat([reference, torch.tensor([6.0])])
    seen = set()
    for replicate, weight in enumerate(weights):
        share, wider_share = weight[:12] / weight[:12].sum(), weight / weight.sum()
        mean = share @ wider[:12]
        wider_mean = wider_share @ wider
        wider_variance = wider_share @ (wider - wider_mean) ** 2 * 13 / 12
        for label in range(3):
            logit = reference[:, None] + te[label]
            mean = share @ logit
            variance = share @ (logit - mean) ** 2 * 12 / 11
            causal = mean < wider_mean - 1.65 * ((variance + wider_variance) / 12).sqrt()
            seen.add(bool(causal.any()))
            if not causal.any():
                causal = share @ (logit / reference[:, None] - 1) < -0.001
            assert found.replicates[replicate, label].tolist() == causal.tolist()
    assert seen == {True, False}


@pytest.mark.parametrize("rule", selection.RULES)
def test_what_rounding_could_change_is_borderline_and_little_else(rule: str) -> None:
    """Logits of a float32 network that are moved as much as rounding may, in either direction."""
    te = planted(8, 40, 12, 30) * 0.4
    reference = 6 + drawn(9, 12)
    bound = float(decision.rounding(reference.abs().max(), torch.float32))
    # a logit in whose place the neuron is at its threshold
    found = selection.decide(tallied(te, reference), rule=rule)
    errors = te.std(1) / math.sqrt(12)
    if rule == "paired":
        te -= (found.margin.clamp(-1, 1) * errors * te.mean(1).sign())[:, None] * 0.999999
    before = selection.decide(tallied(te, reference), rule=rule)
    changed = torch.zeros_like(before.is_borderline)
    for seed in range(4):
        noise = bound * drawn(seed, *te.shape).sign()
        after = selection.decide(tallied(te + noise, reference), rule=rule)
        both = bound * (1 - 2 * (seed % 2))
        shifted = selection.decide(tallied(te + both, reference), rule=rule)
        changed |= (after.sign != before.sign) | (shifted.sign != before.sign)
    assert not (changed & ~before.is_borderline).any()
    plain = selection.decide(tallied(planted(10, 40, 12, 30), reference), rule=rule)
    assert plain.is_borderline.double().mean() < 0.01


def test_relative_effects_are_in_doubt_where_a_logit_is_small() -> None:
    reference = 10 + drawn(0, 12)
    small = reference.clone()
    small[0] = 1e-3
    te = torch.zeros(2, 12, 1, dtype=torch.float64)
    te[0, 0] = -0.0009 * 12 * 1e-3
    te[1] = -0.0009 * reference[:, None]
    found = [
        selection.decide(tallied(te[[place]], logits), rule="compat")
        for place, logits in enumerate((small, reference))
    ]
    for each in found:
        assert each.how.item() == selection.HOW.index("fallback")
        assert each.sign.item() == 0
        assert float(each.relative) == pytest.approx(-0.0009)
    moved = te[:1] - 0.5 * float(decision.rounding(reference.max(), torch.float32))
    assert selection.decide(tallied(moved, small), rule="compat").sign.item() == 1
    assert found[0].is_borderline.item()
    assert not found[1].is_borderline.item()


def test_intervals_need_as_many_replicates_as_their_ends_are_rare() -> None:
    for n_samples, fewest in ((100, 43), (20, 62), (10, 116)):
        te = planted(0, 1, n_samples)
        for n_replicates in (1, fewest - 1, fewest):
            state = tallied(te, torch.tensor(4.0), n_replicates=n_replicates)
            is_known = selection.decide(state).te_low.isfinite()
            assert is_known.all() if n_replicates == fewest else not is_known.any()


def test_held_out_samples_confirm_effects_in_the_direction_found() -> None:
    te = planted(11, 1, 12, 9)
    state = tallied(te, torch.tensor(4.0))
    sign = torch.tensor([[1, 0, -1, -1, 1, 0, -1, 1, 0]])
    found = selection.retest(state, sign, 0.05)
    again = sign[0] != 0
    chosen = zip(te[0].T[again], sign[0][again].tolist(), strict=True)
    p = [tail(s * t_of(values, torch.ones(12).double()), 11) for values, s in chosen]
    assert found.p[0][again].tolist() == pytest.approx(p, rel=1e-7)
    assert found.is_confirmed[0][again].tolist() == stepped_up(p, 0.05, 6)
    assert 0 < found.is_confirmed.sum() < 6
    assert not found.is_confirmed[0][~again].any()
    for values in (found.te, found.p, found.q):
        assert values[0][~again].isnan().all()
    few = selection.retest(tallied(te[:, :1], torch.tensor(4.0)), sign)
    assert few.p.isnan().all()
    assert not few.is_confirmed.any()


def test_selected_neurons_without_effect_on_held_out_samples_are_not_confirmed() -> None:
    state = tallied(torch.zeros(1, 5, 3, dtype=torch.float64), torch.tensor(4.0))
    found = selection.retest(state, torch.tensor([[1, -1, 0]]))
    assert found.p[0, :2].tolist() == [1, 1]
    assert not found.is_confirmed.any()


@pytest.mark.parametrize("is_joint", [True, False])
@pytest.mark.parametrize("n_planted", [0, 8])
def test_false_discoveries_are_at_most_the_level(is_joint: bool, n_planted: int) -> None:
    """200 seeds of effects with random signs, per sample or per sample and neuron.

    Random signs leave no mean effect. The mean share of them among what is selected is at most the
    level and three Monte-Carlo standard errors.
    """
    n_seeds, n_neurons = 200, 40
    skewed = drawn(0, 20, n_neurons).exp()
    shape = (n_seeds, 20, 1 if is_joint else n_neurons)
    te = skewed * drawn(1, *shape).sign()
    te[..., :n_planted] = drawn(2, n_seeds, 20, n_planted) - 1
    selected = selection.decide(tallied(te, torch.tensor(5.0))).sign != 0
    share = selected[:, n_planted:].sum(1) / selected.sum(1).clamp(min=1)
    assert share.mean() <= 0.05 + 3 * share.std() / math.sqrt(n_seeds)
    if n_planted:
        assert selected[:, :n_planted].double().mean() > 0.8


def test_a_class_of_which_neurons_saw_different_samples_is_refused() -> None:
    state = tallied(planted(0), torch.tensor(4.0))
    state["n"][1, 2] -= 1
    with pytest.raises(ValueError, match="some samples of their class only"):
        selection.decide(state)


def test_unknown_rules_and_levels_are_refused() -> None:
    state = tally.empty(1, 2, 0)
    with pytest.raises(ValueError, match="expected one of paired, compat"):
        selection.decide(state, rule="threshold")
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            selection.decide(state, level=level)
    with pytest.raises(ValueError, match="is_compat=True"):
        selection.decide(state, rule="compat")
    with pytest.raises(ValueError, match="n_tested_of=1"):
        selection.decide(tallied(planted(0), torch.tensor(4.0)), n_tested_of=1)


@pytest.mark.slow
def test_tests_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    te = planted(12, 4, 30, 50) * 0.3
    found = selection.decide(tallied(te, torch.tensor(4.0)))
    expected = stats.ttest_1samp(te.numpy(), 0, axis=1)
    assert found.statistic.numpy() == pytest.approx(expected.statistic, rel=1e-9)
    assert found.p.numpy() == pytest.approx(expected.pvalue, rel=1e-8)
    q = stats.false_discovery_control(expected.pvalue, axis=1)
    assert found.q.numpy() == pytest.approx(q, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("n_samples", [10, 50])
def test_intervals_cover_the_mean_effect_as_often_as_they_say(n_samples: int) -> None:
    """Of 2000 experiments; the standard error of a share is 0.005 at 95 %.

    Three of them are left. Of skewed effects all intervals of a mean cover less, Student's too:
    these are held against his, and lose one point more to there being 150 replicates alone.
    """
    n = 2000
    shape = (n, n_samples, 1)
    for te, mean in ((drawn(0, *shape) - 0.3, -0.3), (drawn(1, *shape).exp(), math.exp(0.5))):
        member = torch.arange(n).repeat_interleave(n_samples)
        weights = poisson.weights(torch.arange(len(member)), 150, 0)
        plain = torch.zeros(len(member), dtype=torch.float64)
        rows = te.flatten(0, 1)
        state = tally.empty(n, 1, 150)
        tested = torch.ones_like(rows, dtype=torch.bool)
        tally.added(state, member, Outcome(rows, rows), plain, tested, weights)
        found = selection.decide(state, dtype=torch.float64)
        is_covered = (found.te_low <= mean) & (mean <= found.te_high)
        quantile = special.stdtrit(n_samples - 1, 0.975)
        reach = quantile * te.std(1) / math.sqrt(n_samples)
        by_student = ((te.mean(1) - mean).abs() <= reach).double().mean()
        share = is_covered.double().mean()
        assert by_student - 0.025 < share < 0.975
