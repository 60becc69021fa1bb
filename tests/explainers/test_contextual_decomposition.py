"""Contextual decomposition of features: maps, what is left over, and what is refused."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace, explaining
from explainers.attribution import contextual_decomposition as module
from explainers.attribution.contextual_decomposition import ContextualDecomposition
from tests.explainers.games import several
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from pathlib import Path

# the same sums of doubles, of values of about one, in chunks of other sizes
TOLERANCE = {"rtol": 0, "atol": 1e-10}
NAME = "contextual_decomposition"


def explained(inputs: Any, target: Any = None, **params: Any) -> explainers.Explained:
    return explainers.get(NAME)(small_network(), **params).explain(inputs, target)


def quarters() -> Tensor:
    """Return the cells of a grid of 2 x 2 on pictures of 8 x 8."""
    half = torch.arange(8) // 4
    return 2 * half[:, None] + half


def test_a_map_has_the_relevant_parts_of_its_features() -> None:
    _, inputs = small()
    target = torch.tensor([2, 0, 4, 1])
    found = explained(inputs, target, features={"grid": 2})
    masks = quarters() == torch.arange(4)[:, None, None]
    relevant, irrelevant = explainers.decompose(small_network(), inputs, masks)
    parts = relevant.take_along_dim(target.view(4, 1, 1), 2)[:, :, 0]
    expected = parts[:, quarters()][:, None].expand_as(inputs)
    torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
    whole = (relevant + irrelevant)[:, 0].take_along_dim(target[:, None], 1)[:, 0]
    torch.testing.assert_close(found.arrays["interaction"], whole - parts.sum(1), **TOLERANCE)


def test_one_feature_accounts_for_all_of_the_output() -> None:
    _, inputs = small()
    found = explained(inputs, 1, features={"grid": 1})
    logits = small_network()(inputs)[:, 1]
    expected = logits.view(4, 1, 1, 1).expand_as(inputs)
    torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
    assert float(found.arrays["interaction"].abs().max()) < 1e-10


def test_samples_may_have_features_of_their_own() -> None:
    _, inputs = small()
    own = torch.stack([quarters(), quarters() // 2, 0 * quarters(), quarters()])
    found = explained(inputs, 3, features={"masks": own})
    for row in range(4):
        alone = explained(inputs[[row]], 3, features={"masks": own[row]})
        torch.testing.assert_close(found.relevance[[row]], alone.relevance, **TOLERANCE)
        torch.testing.assert_close(
            found.arrays["interaction"][[row]], alone.arrays["interaction"], **TOLERANCE
        )


def test_how_many_masks_are_laid_out_at_once_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, inputs = small()
    own = torch.stack([quarters(), quarters() // 2, 0 * quarters(), quarters()])
    for features in ({"grid": 3}, {"masks": own}):
        expected = explained(inputs, features=features).relevance
        with monkeypatch.context() as patch:
            patch.setattr(module, "_MASK_VALUES", 3 * 64)
            found = explained(inputs, features=features).relevance
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_a_mixture_of_outputs_has_the_mixture_of_maps() -> None:
    _, inputs = small()
    weights = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5]).double()
    found = explained(inputs, weights, features={"grid": 2}).relevance
    maps = [explained(inputs, each, features={"grid": 2}).relevance for each in (0, 1, 4)]
    torch.testing.assert_close(found, maps[0] - maps[1] + 0.5 * maps[2], **TOLERANCE)


def test_both_parts_carried_by_themselves_find_the_same() -> None:
    _, inputs = small()
    found = explained(inputs, features={"grid": 2}, strict=True)
    expected = explained(inputs, features={"grid": 2})
    torch.testing.assert_close(found.relevance, expected.relevance, **TOLERANCE)


@pytest.mark.slow
def test_pictures_have_fourteen_cells_a_side_unless_it_is_said() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(28 * 20, 2)), torch.zeros(1, 1, 28, 20))
    method = ContextualDecomposition()
    assert method.n_features(network) == 14 * 14
    assert method.cost_on(network).forward == 1 + 14 * 14
    assert ContextualDecomposition(strict=True).cost_on(network).forward == 1 + 5 * 14 * 14
    assert method.cost_on(network).shared == 1 + 14 * 14
    masked = ContextualDecomposition(masks=torch.ones(50, 28, 1), features={"grid": 2})
    assert masked.cost_on(network).forward == 1 + 4 + 50
    of_samples = ContextualDecomposition(masks=torch.ones(3, 50, 1, 28, 20), features={"grid": 2})
    assert of_samples.cost_on(network).forward == 1 + 4 + 50
    (note,) = method.notes(network)
    assert "196 features" in note
    assert ContextualDecomposition("pixels").n_features(network) == 560
    assert not ContextualDecomposition("pixels").notes(network)
    assert method.n_features(small_network()) == 64


@pytest.mark.slow
def test_parts_of_several_inputs_and_what_is_left_sum_to_the_output() -> None:
    _, network, inputs = several()
    found = explainers.get(NAME)(network).explain(inputs)
    picture, table, tokens = found.relevance
    # a pixel is a feature, whose number both of its channels have; so is every value and token
    assert torch.equal(picture[:, 0], picture[:, 1])
    parts = picture[:, 0].sum((1, 2)) + table.sum(1) + tokens.sum(1)
    whole = parts + found.arrays["interaction"]
    torch.testing.assert_close(whole, network(inputs).amax(1), **TOLERANCE)


def test_any_masks_have_scores_of_every_class(tmp_path: Path) -> None:
    model, inputs = small_network(), small()[1]
    soft = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    expected, _ = explainers.decompose(model, inputs, soft)
    save_file({"masks": soft}, tmp_path / "masks.safetensors")
    for masks in (soft, {"file": str(tmp_path / "masks.safetensors")}, of_inputs):
        found = explained(inputs, features={"grid": 1}, masks=masks).arrays["mask_scores"]
        if masks is of_inputs:
            expected, _ = explainers.decompose(model, inputs, of_inputs)
        torch.testing.assert_close(found, expected, **TOLERANCE)
    save_file({"cells": soft, "others": 1 - soft}, tmp_path / "cells.safetensors")
    path = {"file": str(tmp_path / "cells.safetensors")}
    for fit in (explained, lambda inputs, masks: refused(masks)):
        with pytest.raises(ValueError, match=r"the tensors 'cells', 'others', .* called 'masks'"):
            fit(inputs, masks=path)
    with pytest.raises(ValueError, match="got masks with file and 'x', expected"):
        refused({**path, "x": 1})
    with pytest.raises(ValueError, match=r"got masks of shape \(3, 8, 7\)"):
        explained(inputs, masks=soft[..., 1:])
    with pytest.raises(ValueError, match=r"got masks from 'nowhere.npy'"):
        explained(inputs, masks={"file": "nowhere.npy"})


def refused(masks: Any) -> None:
    """Check masks before there is a sample."""
    explaining.check(ContextualDecomposition(masks=masks), small_network())


@pytest.mark.parametrize("n_kept", [0, 2**25])
def test_targets_share_what_each_part_does_to_every_output(
    n_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = small_network(), small()[1]
    masked: list[int] = []
    whole = module.Decomposition.relevant

    def counted(self: Any, masks: Tensor, rows: Tensor) -> Tensor:
        masked.append(len(rows))
        return whole(self, masks, rows)

    masks = torch.ones(3, 8, 8)
    expected = [explained(inputs, each, features={"grid": 2}).relevance for each in (0, 2)]
    monkeypatch.setattr(module.Decomposition, "relevant", counted)
    monkeypatch.setattr(module, "_KEPT_VALUES", n_kept)
    method = ContextualDecomposition({"grid": 2}, masks)
    trace = Trace(network, inputs)
    found = [method.relevance(trace, Target.parse(each)) for each in (0, 2)]
    for each, of_target in zip(found, expected, strict=True):
        torch.testing.assert_close(each.relevance, of_target, **TOLERANCE)
    of_features, of_masks = 4 * 4, 4 * 3
    # where they are too many to be kept, each target asks anew
    assert sum(masked) == of_features * (1 if n_kept else 2) + of_masks


def of_inputs(inputs: Tensor) -> Tensor:
    """Return half of each channel, and what is bright."""
    return torch.stack([inputs / 2, inputs.clamp(min=1)], 1)


def test_masks_of_samples_and_of_a_layer_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MASK_VALUES", 3 * 64)
    _, inputs = small()
    masks = torch.rand(4, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    found = explained(inputs, masks=masks).arrays["mask_scores"]
    for row in range(4):
        alone = explained(inputs[[row]], masks=masks[row]).arrays["mask_scores"]
        torch.testing.assert_close(found[[row]], alone, **TOLERANCE)
    every = torch.ones(1, 1, 1, 1)
    of_layer = explained(inputs, layer="conv1", features="channels", masks=every)
    expected = small_network()(inputs)[:, None]
    torch.testing.assert_close(of_layer.arrays["mask_scores"], expected, **TOLERANCE)


class Reading(nn.Module):
    """Takes the last state of an LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.lstm(self.embedding(tokens))[0][:, -1])


@functools.cache
def reading() -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    tokens = torch.randint(11, (2, 4))
    return Network(Reading().double().eval(), tokens), tokens


@pytest.mark.slow
def test_tokens_have_a_number_each() -> None:
    network, tokens = reading()
    found = explainers.get(NAME)(network, output_bias=False).explain(tokens, 2)
    assert found.relevance.shape == (2, 4)
    masks = torch.eye(4, dtype=torch.bool)
    relevant, _ = explainers.decompose(network, tokens, masks, output_bias=False)
    torch.testing.assert_close(found.relevance, relevant[:, :, 2], **TOLERANCE)
    beside = explainers.get(NAME)(network, masks=masks, output_bias=False).explain(tokens)
    torch.testing.assert_close(beside.arrays["mask_scores"], relevant, **TOLERANCE)


def test_a_layer_is_explained_by_its_values() -> None:
    _, inputs = small()
    found = explained(inputs, layer="conv1", features="channels")
    assert found.relevance.shape == small_network().run(inputs)["conv1"].shape


@pytest.mark.slow
def test_what_cannot_be_read_is_refused() -> None:
    class Opaque(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.sum(1)[:, None] * float(inputs[0, 0] > 0)

    network = Network(Opaque(), torch.ones(2, 3))
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        explaining.check(ContextualDecomposition(), network)
