"""Contextual decomposition: the published rules, forms of masks, constants, layouts, refusals."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network, Target, Trace
from explainers.decomposition import Decomposition
from explainers.reference import at_inputs
from explainers.rules.decomposition import Parts, Streams
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from collections.abc import Callable

# doubles of about one through a dozen operators, summed in other orders
TOLERANCE = {"rtol": 0, "atol": 1e-10}


def slowly(model: nn.Sequential, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The published rules, module by module, of one sample and one mask; two streams."""
    relevant, irrelevant = inputs * mask, inputs * (1 - mask)
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            bias = module(torch.zeros_like(relevant))
            ours, theirs = module(relevant) - bias, module(irrelevant) - bias
            left, right = ours.abs() + 1e-20, theirs.abs() + 1e-20
            relevant = ours + bias * (left / (left + right))
            irrelevant = theirs + bias * (right / (left + right))
        elif isinstance(module, nn.BatchNorm2d):
            whole, bias = module(relevant + irrelevant), module(torch.zeros_like(relevant))
            ours, theirs = module(relevant) - bias, module(irrelevant) - bias
            ratio = ours.abs() / (ours.abs() + theirs.abs())
            ratio[ratio.isnan()] = 0
            relevant = ours + bias * ratio
            irrelevant = whole - relevant
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            whole = module(relevant + irrelevant)
            relevant = module(relevant)
            irrelevant = whole - relevant
        elif isinstance(module, nn.MaxPool2d):
            _, places = functional.max_pool2d(
                relevant + irrelevant, module.kernel_size, return_indices=True
            )
            relevant, irrelevant = (
                one.flatten(2).gather(2, places.flatten(2)).view(places.shape)
                for one in (relevant, irrelevant)
            )
        else:
            relevant, irrelevant = module(relevant), module(irrelevant)
    return relevant, irrelevant


@functools.cache
def published() -> nn.Sequential:
    """Convolutions with and without norms, pools before and behind ReLUs; seeded, in float64."""
    torch.manual_seed(5)
    model = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(3, 4, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
        *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
    ).double()
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model.eval()


@functools.cache
def published_network() -> Network:
    return Network(published(), torch.zeros(2, 1, 14, 14, dtype=torch.float64))


def pictures(*, is_flat: bool = False) -> Tensor:
    """Three pictures; flat ones are black but for a few pixels, so that most windows are tied."""
    generator = torch.Generator().manual_seed(7)
    found = torch.randn(3, 1, 14, 14, dtype=torch.float64, generator=generator)
    if is_flat:
        found[:, :, :, 5:] = -0.4
        found[:2, :, 7:] = 0.0
    return found


def masks_of(n_masks: int, *shape: int) -> Tensor:
    """Masks of zeros and ones, the last but one of them empty and the last full."""
    generator = torch.Generator().manual_seed(8)
    masks = (torch.rand(n_masks, *shape, generator=generator) < 0.5).double()
    masks[-2], masks[-1] = 0.0, 1.0
    return masks


def expected_of(model: nn.Sequential, inputs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        found = [[slowly(model, one[None], mask) for mask in masks] for one in inputs]
    relevant, irrelevant = (
        torch.stack([torch.cat([pair[part] for pair in row]) for row in found]) for part in (0, 1)
    )
    return relevant, irrelevant


@pytest.mark.slow
@pytest.mark.parametrize("is_flat", [False, True])
def test_strict_parts_are_those_of_the_published_rules(is_flat: bool) -> None:
    inputs, masks = pictures(is_flat=is_flat), masks_of(5, 1, 14, 14)
    found = explainers.decompose(published_network(), inputs, masks, strict=True)
    for part, expected in zip(found, expected_of(published(), inputs, masks), strict=True):
        torch.testing.assert_close(part, expected, **TOLERANCE)


def test_one_stream_gives_the_same_where_no_maxima_are_tied() -> None:
    inputs, masks = pictures(), masks_of(5, 1, 14, 14)
    found = explainers.decompose(published_network(), inputs, masks)
    for part, expected in zip(found, expected_of(published(), inputs, masks), strict=True):
        torch.testing.assert_close(part, expected, **TOLERANCE)


@pytest.mark.parametrize("strict", [False, True])
def test_the_full_mask_gives_the_logits_and_the_empty_one_nothing(strict: bool) -> None:
    _, inputs = small()
    masks = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    relevant, irrelevant = explainers.decompose(small_network(), inputs, masks, strict=strict)
    logits = small_network()(inputs)
    nothing = torch.zeros_like(logits)
    torch.testing.assert_close(relevant[:, 1], logits, **TOLERANCE)
    torch.testing.assert_close(irrelevant[:, 0], logits, **TOLERANCE)
    torch.testing.assert_close(relevant[:, 0], nothing, **TOLERANCE)
    torch.testing.assert_close(irrelevant[:, 1], nothing, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_where_nothing_arrives_a_bias_is_halved_and_a_norms_constant_is_irrelevant(
    strict: bool,
) -> None:
    def halved(*modules: nn.Module) -> tuple[Tensor, Tensor]:
        model = nn.Sequential(*modules, nn.Flatten()).double().eval()
        black = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
        return explainers.decompose(model, black, torch.ones(1, 1, 2, 2), strict=strict)

    plain, norm = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)
    nn.init.constant_(plain.bias, 3.0)
    nn.init.constant_(norm.bias, 5.0)
    relevant, irrelevant = halved(plain)
    assert bool((relevant == 1.5).all() & (irrelevant == 1.5).all())
    relevant, irrelevant = halved(nn.Conv2d(1, 2, 2, bias=False), norm)
    assert bool((relevant == 0.0).all() & (irrelevant == 5.0).all())
    # the norm's own share is that of what the halves have become: 1.5 of 3, scaled
    relevant, irrelevant = halved(plain, norm)
    scale = norm.weight[0].double() * (norm.running_var[0] + norm.eps).double().rsqrt()
    torch.testing.assert_close(relevant, (1.5 * scale + 2.5).expand(2, 1, 2).detach(), **TOLERANCE)
    torch.testing.assert_close(relevant, irrelevant, **TOLERANCE)


@pytest.mark.parametrize("strict", [False, True])
def test_samples_may_have_different_numbers_of_masks(strict: bool) -> None:
    inputs, masks = pictures(), masks_of(6, 1, 14, 14)
    rows = torch.tensor([0, 0, 0, 1, 2, 2])
    made = Decomposition(Trace(published_network(), inputs), strict=strict)
    found = made.relevant(masks, rows)
    for position, row in enumerate(rows):
        alone, _ = explainers.decompose(
            published_network(), inputs[row][None], masks[position][None], strict=strict
        )
        torch.testing.assert_close(found[position], alone[0, 0], **TOLERANCE)
    assert made.relevant(masks[:0], rows[:0]).shape == (0, 3)


def test_a_sample_has_the_same_parts_beside_one_of_much_larger_values() -> None:
    inputs = pictures()
    inputs[1] *= 1e13
    inputs[2] = torch.nan
    masks = masks_of(3, *inputs.shape[2:])
    found, _ = explainers.decompose(published_network(), inputs, masks)
    alone, _ = explainers.decompose(published_network(), inputs[:1], masks)
    torch.testing.assert_close(found[:1], alone, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_stream_rounds_low_precision_no_worse_than_two(dtype: torch.dtype) -> None:
    network = published_network().to(dtype=dtype)
    inputs, masks = pictures().to(dtype), masks_of(60, 1, 14, 14).to(dtype)
    one, two = (
        explainers.decompose(network, inputs, masks, strict=strict)[0].double()
        for strict in (False, True)
    )
    exact = explainers.decompose(published_network(), inputs.double(), masks.double())[0]
    # other roundings of as many numbers: 0.6 and 1.1 times those of two streams
    assert (one - exact).norm() <= 1.5 * (two - exact).norm()
    # the least numbers of the type, as shares of nothing
    assert one[:, -2].abs().max() <= 1e-5


def test_a_mask_of_ones_is_rounded_as_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = []
    enter = Streams.enter

    def compared(streams: Streams, name: str, parts: Parts) -> None:
        whole = streams.of_samples(name, parts.of_rows)
        apart.append(float((parts.of_rows[-2:-1] - whole).abs().max()))
        enter(streams, name, parts)

    monkeypatch.setattr(Streams, "enter", compared)
    values = pictures()
    explainers.decompose(published_network(), values[:1], masks_of(2, 1, 14, 14))
    # no threshold is needed where equal numbers are rounded alike; products may differ by one place
    assert len(apart) > 8
    assert max(apart) <= 1e-14


def test_masks_that_samples_share_are_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    of_masks = Decomposition.of_masks

    def seen(made: Decomposition, masks: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        held.append(len(masks))
        return of_masks(made, masks, *others)

    monkeypatch.setattr(Decomposition, "of_masks", seen)
    explainers.decompose(published_network(), pictures(), masks_of(4, 1, 14, 14))
    assert held == [4]


def test_no_masks_have_no_parts() -> None:
    relevant, irrelevant = explainers.decompose(
        published_network(), pictures(), torch.ones(0, 14, 14)
    )
    assert relevant.shape == irrelevant.shape == (3, 0, 3)
    with pytest.raises(ValueError, match="got 1 masks for 2 rows"):
        Decomposition(Trace(published_network(), pictures())).relevant(
            torch.ones(1, 1, 14, 14), torch.tensor([0, 1])
        )


def test_rows_go_through_the_network_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, masks = pictures(), masks_of(5, 1, 14, 14)
    whole, _ = explainers.decompose(published_network(), inputs, masks)
    monkeypatch.setattr("explainers.decomposition.forward_rows", _four)
    found, _ = explainers.decompose(published_network(), inputs, masks)
    torch.testing.assert_close(found, whole, **TOLERANCE)


def _four(*_: Any) -> int:
    return 4


def test_large_values_are_shared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, masks = pictures(), masks_of(5, 1, 14, 14)
    whole, _ = explainers.decompose(published_network(), inputs, masks)
    monkeypatch.setattr("explainers.rules.decomposition.sharing._BLOCK_BYTES", 8 * 7)
    found, _ = explainers.decompose(published_network(), inputs, masks)
    torch.testing.assert_close(found, whole, **TOLERANCE)


def test_masks_come_in_several_forms() -> None:
    inputs, masks = pictures(), masks_of(4, 1, 14, 14)
    network = published_network()
    expected, _ = explainers.decompose(network, inputs, masks)
    repeated = masks.expand(3, 4, 1, 14, 14)

    def transform(values: Tensor) -> Tensor:
        return values[:, None] * masks

    for given in (masks.bool(), masks[:, 0], repeated, repeated[:, :, 0], transform):
        found, _ = explainers.decompose(network, inputs, given)
        torch.testing.assert_close(found, expected, **TOLERANCE)
    strict, _ = explainers.decompose(network, inputs, transform, strict=True)
    torch.testing.assert_close(strict, expected, **TOLERANCE)
    columns = torch.eye(14)[:, None, None]
    assert explainers.decompose(network, inputs, columns)[0].shape == (3, 14, 3)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (torch.ones(2, 1, 14, 13), ValueError, r"\(2, 1, 14, 13\), expected \(mask, 1, 14, 14\)"),
        (torch.ones(2, 5, 1, 14, 14), ValueError, r"\(3, mask, 1, 14, 14\)"),
        (torch.full((2, 14, 14), 1.5), ValueError, "from 1.5 to 1.5, expected 0"),
        ([[1.0]], TypeError, "of type list, expected a tensor"),
        (torch.ones(2, 14, 14, dtype=torch.complex64), TypeError, "complex64"),
        (lambda values: values, ValueError, r"returned shape \(3, 1, 14, 14\)"),
        (lambda values: values.numpy(), ValueError, "returned an object of type ndarray"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        explainers.decompose(published_network(), pictures(), masks)


@pytest.mark.parametrize("strict", [False, True])
def test_the_bias_of_the_output_can_be_left_out(strict: bool) -> None:
    inputs, masks = pictures(), masks_of(4, 1, 14, 14)
    bias = published()[-1].bias.detach()
    without = explainers.decompose(
        published_network(), inputs, masks, strict=strict, output_bias=False
    )
    whole = explainers.decompose(published_network(), inputs, masks, strict=strict)
    torch.testing.assert_close(sum(without) + bias, sum(whole), **TOLERANCE)
    gap = (whole[0] - without[0]) / bias
    assert bool(((gap > -1e-9) & (gap < 1 + 1e-9)).all())


class Turned(nn.Module):
    """Sums, margins, joined values, constants, and a sequence that comes before its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lookup = nn.Embedding(11, 4)
        self.places = nn.Parameter(torch.randn(6, 4))
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.lookup(tokens) + self.places
        hidden = self.first(hidden.transpose(0, 1)).relu()  # (token, batch, feature)
        hidden = self.second(hidden).transpose(0, 1).transpose(1, 2)
        hidden = functional.pad(hidden, (1, 2), value=0.75)
        hidden = functional.pad(hidden, (2, 2), mode="reflect")
        steps = hidden.new_ones(len(hidden), 3, 2)
        hidden = torch.cat([hidden, steps, hidden * 2.0 - 1.0], 2)
        return hidden.mean(2) + hidden.sum(2)


@functools.cache
def turned() -> tuple[Turned, Tensor]:
    torch.manual_seed(3)
    return Turned().double().eval(), torch.randint(11, (2, 6))


@pytest.mark.slow
def test_tokens_are_masked_by_their_embeddings_in_any_layout() -> None:
    model, tokens = turned()
    masks = masks_of(5, 6)
    network = Network(model, tokens)
    relevant, irrelevant = explainers.decompose(network, tokens, masks)
    strict = explainers.decompose(network, tokens, masks, strict=True)
    torch.testing.assert_close(relevant, strict[0], **TOLERANCE)
    torch.testing.assert_close(irrelevant, strict[1], **TOLERANCE)
    whole = network(tokens)[:, None].expand_as(relevant)
    torch.testing.assert_close(relevant + irrelevant, whole, **TOLERANCE)
    for position, mask in enumerate(masks):
        part, _ = turned_slowly(model, tokens, mask)
        torch.testing.assert_close(relevant[:, position], part, **TOLERANCE)


def turned_slowly(model: Turned, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The rules for the network of tokens, written out, batch first."""

    def share(ours: Tensor, theirs: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ours.abs() + 1e-20, theirs.abs() + 1e-20
        return ours + bias * left / (left + right), theirs + bias * right / (left + right)

    def both(step: Callable[[Tensor], Tensor], *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(step(part) for part in parts)

    with torch.no_grad():
        values = model.lookup(tokens)
        parts = share(values * mask[:, None], values * (1 - mask[:, None]), model.places)
        parts = share(*both(lambda one: one @ model.first.weight.T, *parts), model.first.bias)
        whole = (parts[0] + parts[1]).relu()
        parts = parts[0].relu(), whole - parts[0].relu()
        parts = share(*both(lambda one: one @ model.second.weight.T, *parts), model.second.bias)
        parts = both(lambda one: functional.pad(one.mT, (1, 2), value=0.375), *parts)
        parts = both(lambda one: functional.pad(one, (2, 2), mode="reflect"), *parts)
        others = share(2 * parts[0], 2 * parts[1], -torch.ones_like(parts[0]))
        steps = torch.ones(len(tokens), 3, 2, dtype=torch.float64)
        ours = torch.cat([parts[0], 0 * steps, others[0]], 2)
        theirs = torch.cat([parts[1], steps, others[1]], 2)
        summed = both(lambda one: one.mean(2) + one.sum(2), ours, theirs)
    return summed[0], summed[1]


def test_a_part_of_a_network_is_split_too() -> None:
    _, inputs = small()
    trace = Trace(small_network(), inputs)
    begun = trace.starting_at("conv2")
    rows = torch.tensor([0, 1, 1, 3])
    found = Decomposition(begun).of_masks(torch.ones(4, 1, 1, 1), rows)
    # the sum behind it takes over the identity's way, which is a bias: nothing of it is split
    torch.testing.assert_close(sum(found), trace.output[rows], **TOLERANCE)
    part, _ = trace.ending_at(Target.parse({"layer": "conv2", "unit": 3}))
    relevant, irrelevant = Decomposition(part).of_masks(torch.ones(4, 1, 1, 1), rows)
    torch.testing.assert_close(relevant, part.output[rows], **TOLERANCE)
    assert relevant.shape == irrelevant.shape == (4, 6 * 64)


class Several(nn.Module):
    """Tokens and a picture, and a scale that is not explained."""

    def __init__(self) -> None:
        super().__init__()
        self.lookup, self.read = nn.Embedding(9, 3), nn.Linear(3 * 4 + 5, 2)

    def forward(self, tokens: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        hidden = torch.cat([self.lookup(tokens).flatten(1), values], 1)
        return self.read(hidden) / lengths[:, None].to(values.dtype)


@pytest.mark.slow
def test_several_inputs_have_masks_each() -> None:
    torch.manual_seed(0)
    model = Several().double().eval()
    inputs = {
        "tokens": torch.randint(9, (3, 4)),
        "values": torch.randn(3, 5, dtype=torch.float64),
        "lengths": torch.tensor([1, 2, 4]),
    }
    tokens, values = masks_of(3, 4), masks_of(3, 5)
    masks = {"tokens": tokens, "values": values}
    relevant, irrelevant = explainers.decompose(model, inputs, masks)
    whole = Network(model, inputs)(inputs)[:, None].expand_as(relevant)
    torch.testing.assert_close(relevant + irrelevant, whole, **TOLERANCE)
    torch.testing.assert_close(relevant[:, -1], whole[:, -1], **TOLERANCE)
    with pytest.raises(ValueError, match="no masks for the input 'values'"):
        explainers.decompose(model, inputs, {"tokens": tokens})
    with pytest.raises(ValueError, match=r"\[2, 3\] masks"):
        explainers.decompose(model, inputs, {"tokens": tokens[:2], "values": values})


@pytest.mark.slow
def test_an_operator_without_a_rule_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.cumprod(1)

    inputs = torch.randn(2, 4)
    with pytest.raises(NotImplementedError, match=r"'decomposition'.*cumprod.*node 'cumprod#0'"):
        explainers.decompose(Odd(), inputs, torch.ones(1, 4))
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        explainers.decompose(_branching, inputs, torch.ones(1, 4))


def _branching(inputs: Tensor) -> Tensor:
    return inputs if float(inputs.sum()) > 0 else -inputs


@pytest.mark.slow
def test_the_trace_of_tokens_begins_at_their_embeddings() -> None:
    model, tokens = turned()
    trace = at_inputs(Trace(Network(model, tokens), tokens))
    rows = torch.tensor([0, 1])
    whole = Decomposition(trace).relevant(torch.ones(2, 6, 1), rows)
    assert whole.shape == (2, 3)
    values = trace.inputs.clone()
    torch.testing.assert_close(Decomposition(trace).of_parts(values, rows), whole, **TOLERANCE)
