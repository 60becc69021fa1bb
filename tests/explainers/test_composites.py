from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import explainers
from explainers import Network
from explainers.composites import EPSILON_PLUS, Assignment, Composite, composites, find
from explainers.rules.ranges import ranges
from tests.explainers.twins import network_twin


def rule_names(composite: Composite, network: Network) -> dict[str, str]:
    choose = composite.choose(network)
    found = {}
    for op in network.operators[1:]:
        rule = choose(op)
        found[op.name] = getattr(rule, "func", rule).__name__
    return found


def test_the_first_in_execution_order_is_flat_and_classes_decide_the_rest() -> None:
    network, _ = network_twin("cnn", "modules")
    names = rule_names(find("epsilon_plus_flat"), network)
    assert names["conv1"] == "flat_convolution"
    assert names["conv2"] == "z_plus_of_nonnegative"
    assert names["fc1"] == names["fc2"] == "epsilon"
    assert names["pool1"] == "routed"
    assert names["pool2"] == "norm_of_mean"


def test_signed_inputs_get_both_passes_of_z_plus() -> None:
    network, _ = network_twin("cnn", "modules")
    names = rule_names(find("epsilon_plus"), network)
    assert names["conv1"] == "z_plus"
    assert names["conv2"] == "z_plus_of_nonnegative"


def test_rules_can_be_assigned_by_layer_name_and_the_first_assignment_counts() -> None:
    network, _ = network_twin("cnn", "modules")
    composite = Composite(
        (Assignment("flat", ("conv2", "fc*")), *EPSILON_PLUS.assignments),
    )
    names = rule_names(composite, network)
    assert names["conv1"] == "z_plus"
    assert names["conv2"] == "flat_convolution"
    assert names["fc2"] == "flat_linear"


def test_a_composite_object_serves_as_well_as_a_name() -> None:
    network, inputs = network_twin("cnn", "modules")
    by_name = explainers.explain(network, "lrp", inputs, composite="epsilon_plus")
    by_object = explainers.explain(network, "lrp", inputs, composite=EPSILON_PLUS)
    assert torch.equal(by_name, by_object)


def test_parameters_of_an_assignment_win_over_the_explainers() -> None:
    network, inputs = network_twin("cnn", "modules")
    given = Composite(
        (
            Assignment("z_plus", ("type:Convolution",)),
            Assignment("epsilon", ("type:Linear",), parameters=(("epsilon", 0.1),)),
        )
    )
    small = explainers.explain(network, "lrp", inputs, composite="epsilon_plus")
    large = explainers.explain(network, "lrp", inputs, composite="epsilon_plus", epsilon=0.1)
    assert not torch.allclose(small, large)
    assert torch.equal(explainers.explain(network, "lrp", inputs, composite=given), large)


def test_a_layer_that_does_not_exist_is_refused() -> None:
    network, _ = network_twin("cnn", "modules")
    composite = Composite((Assignment("flat", ("conv9",)), *EPSILON_PLUS.assignments))
    with pytest.raises(LookupError, match="conv9"):
        composite.choose(network)


def test_a_class_that_does_not_occur_is_no_mistake() -> None:
    network = Network(nn.Linear(4, 2).double(), torch.ones(2, 4, dtype=torch.float64))
    EPSILON_PLUS.choose(network)


def test_a_convolution_without_an_assignment_is_an_error() -> None:
    network, _ = network_twin("cnn", "modules")
    composite = Composite((Assignment("epsilon", ("type:Linear",)),))
    with pytest.raises(NotImplementedError, match=r"no rule for the operator Convolution.*conv2"):
        composite.choose(network)


def test_composites_are_values() -> None:
    assert pickle.loads(pickle.dumps(EPSILON_PLUS)) == EPSILON_PLUS
    assert hash(find("epsilon_plus")) == hash(EPSILON_PLUS)
    assert set(composites.names()) >= {"epsilon_plus", "epsilon_plus_flat"}
    with pytest.raises(LookupError, match="did you mean 'epsilon_plus_flat'"):
        explainers.get("lrp")(nn.Linear(2, 2), composite="epsilon_plus_flt")


def test_rules_are_chosen_once_for_a_network() -> None:
    network, _ = network_twin("cnn", "modules")
    assert EPSILON_PLUS.choose(network) is find("epsilon_plus").choose(network)


def test_bounds_hold_for_random_inputs_and_find_what_is_never_negative() -> None:
    for name in ("cnn", "vgg"):
        network, inputs = network_twin(name, "functions")
        known = ranges(network)
        values = explainers.Trace(network, inputs).values
        for op in network.operators:
            low, high = known[op.name]
            if not values[op.name].is_floating_point():
                continue
            assert low <= float(values[op.name].min())
            assert float(values[op.name].max()) <= high
        signed = [
            op.name
            for op in network.operators
            if type(op).__name__ == "Convolution" and known[op.inputs[0]][0] < 0
        ]
        assert len(signed) == 1, "every convolution but the first stands behind a ReLU"


def test_first_means_first_in_execution_not_in_registration() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.registered_first = nn.Linear(4, 2)
            self.used_first = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.registered_first(torch.relu(self.used_first(x)))

    network = Network(Reversed(), torch.ones(2, 3))
    names = rule_names(find("epsilon_plus_flat"), network)
    assert names["used_first"] == "flat_linear"
    assert names["registered_first"] == "epsilon"
