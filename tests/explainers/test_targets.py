from __future__ import annotations

import pytest
import torch

from explainers.base import Samples
from explainers.targets import Target
from tests.explainers.zoo import small_network

OUTPUT = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 4.0]])
SAMPLES = Samples(index=torch.tensor([7, 8]), label=torch.tensor([2, 0]))


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        (None, [1, 0]),
        ("predicted", [1, 0]),
        ("runner_up", [2, 2]),
        ("label", [2, 0]),
        (2, [2, 2]),
        (torch.tensor(2), [2, 2]),
        (torch.tensor([0, 1], dtype=torch.int32), [0, 1]),
        ([0, 1], [0, 1]),
    ],
)
def test_a_target_that_names_classes_weighs_those_with_one(
    spec: object, classes: list[int]
) -> None:
    weights = Target.parse(spec).weights(OUTPUT, SAMPLES)
    expected = torch.nn.functional.one_hot(torch.tensor(classes), 3).to(OUTPUT)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"weights": [1, 0, -1]}, [[1.0, 0.0, -1.0]] * 2),
        (torch.tensor([0.5, 0.0, 2.0]), [[0.5, 0.0, 2.0]] * 2),
        (torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]),
    ],
)
def test_weights_are_taken_as_they_are(spec: object, expected: list[list[float]]) -> None:
    weights = Target.parse(spec).weights(OUTPUT.double(), None)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)


def test_weights_carry_no_gradient() -> None:
    output = OUTPUT.clone().requires_grad_()
    assert not Target.parse(torch.ones(3, requires_grad=True)).weights(output, None).requires_grad
    assert not Target.parse(None).weights(output, None).requires_grad


def test_equal_targets_are_one_key() -> None:
    specs = [None, "label", 3, torch.tensor([1, 2]), torch.ones(3), torch.ones(2, 3)]
    specs += [{"layer": layer, "unit": unit} for layer in "ab" for unit in (0, 1, [0, 1])]
    remembered = {Target.parse(spec): number for number, spec in enumerate(specs)}
    assert len(remembered) == len(specs)
    copies = [Target.parse(spec.clone() if torch.is_tensor(spec) else spec) for spec in specs]
    assert [remembered[copy] for copy in copies] == list(range(len(specs)))
    assert Target.parse(torch.tensor([1, 3])) not in remembered
    assert Target.parse("predicted") == Target.parse(None)
    assert Target.parse(3) != 3


@pytest.mark.parametrize(
    "spec",
    ["best", True, object(), {"class": 1}, torch.ones(2, 2, 2), torch.ones(3, dtype=torch.bool)],
)
def test_an_unknown_target_is_refused_with_the_forms_there_are(spec: object) -> None:
    with pytest.raises(ValueError, match="expected 'predicted', 'label', 'runner_up'"):
        Target.parse(spec)


@pytest.mark.parametrize("spec", [3, -1, torch.tensor([0, 3])])
def test_a_class_that_does_not_exist_is_refused(spec: object) -> None:
    with pytest.raises(ValueError, match="choose from 0 to 2"):
        Target.parse(spec).check(3)
    with pytest.raises(ValueError, match="choose from 0 to 2"):
        Target.parse(spec).weights(OUTPUT, None)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 classes for 2 rows"):
        Target.parse(torch.tensor([0, 1, 2])).weights(OUTPUT, None)
    with pytest.raises(ValueError, match="4 weights, the network 3 outputs"):
        Target.parse(torch.ones(4)).check(3)
    with pytest.raises(ValueError, match="weights for 3 rows, the batch has 2"):
        Target.parse(torch.ones(3, 3)).weights(OUTPUT, None)
    with pytest.raises(ValueError, match="needs two outputs"):
        Target.parse("runner_up").check(1)


@pytest.mark.parametrize("weights", ["a", None, [[1.0], [1.0, 2.0]], object(), 3.0])
def test_weights_that_are_no_numbers_are_refused(weights: object) -> None:
    with pytest.raises(ValueError, match=r"unknown target.*expected 'predicted'"):
        Target.parse({"weights": weights})


@pytest.mark.parametrize(
    "spec", [{"weights": [1.0, float("nan")]}, torch.tensor([1.0, torch.inf]), {"weights": [1e999]}]
)
def test_weights_that_are_not_finite_are_refused(spec: object) -> None:
    with pytest.raises(ValueError, match="NaN or infinite; give finite weights"):
        Target.parse(spec)


def test_a_label_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the labels"):
        Target.parse("label").weights(OUTPUT, None)
    unknown = Samples(index=torch.arange(2), label=torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="-1: not known"):
        Target.parse("label").weights(OUTPUT, unknown)


def test_a_unit_is_of_a_layer_and_not_of_the_outputs() -> None:
    target = Target.parse({"layer": "conv2", "unit": [1, 0, 2]})
    assert (target.kind, target.layer, target.value) == ("unit", "conv2", (1, 0, 2))
    with pytest.raises(ValueError, match="unit of layer 'conv2', not of the outputs"):
        target.weights(OUTPUT, None)
    target.check(3)
    target.check(small_network())
    weights = target.of_units(small_network()).weights(torch.zeros(2, 6 * 64), None)
    assert weights.nonzero().tolist() == [[0, 66], [1, 66]]
    with pytest.raises(ValueError, match="does not exist"):
        Target.parse({"layer": "conv2", "unit": 6}).check(small_network())


@pytest.mark.parametrize("unit", [-1, True, 0.5, [], [0, -1], "0", None])
def test_what_is_no_unit_is_refused(unit: object) -> None:
    with pytest.raises(ValueError, match="unknown unit"):
        Target.parse({"layer": "conv", "unit": unit})
    with pytest.raises(ValueError, match="unknown layer"):
        Target.parse({"layer": 3, "unit": 0})


def test_labels_are_checked_where_they_are_and_nothing_waits_for_the_outputs() -> None:
    # outputs without values: whoever reads one fails, and on a GPU would have waited
    output = torch.empty(2, 3, device="meta")
    assert Target.parse("label").weights(output, SAMPLES).shape == (2, 3)
    unknown = Samples(SAMPLES.index, torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="got labels -1"):
        Target.parse("label").weights(output, unknown)
