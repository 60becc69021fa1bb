from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

import explainers
from explainers import Network
from explainers.composites import EPSILON_PLUS, Assignment, Composite, composites, find
from explainers.rules.ranges import ranges
from tests.explainers.twins import network_twin
from tests.explainers.zoo import small_network


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


def test_no_operator_needs_a_rule_before_relevance_ends() -> None:
    network = small_network()
    without_convolutions = Composite((Assignment("epsilon", layers=("type:Linear",)),))
    with pytest.raises(NotImplementedError, match="conv2"):
        without_convolutions.choose(network)
    rules = without_convolutions.rules(network, ["conv2#1"])
    operators = [op.name for op in network.operators]
    assert list(rules) == operators[operators.index("conv2#1") + 1 :]
    whole = EPSILON_PLUS.rules(network)
    assert EPSILON_PLUS.rules(network, ["conv2"]).items() < whole.items()
    assert EPSILON_PLUS.rules(network, ["input"]) == whole
    assert EPSILON_PLUS.choose(network, ["conv2"]) is EPSILON_PLUS.choose(network, {"conv2"})


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("all", ["conv1", "conv2", "fc1", "fc2"]),
        ("first", ["conv1"]),
        ("last", ["fc2"]),
        (0, ["conv1"]),
        (2, ["conv1", "conv2", "fc1"]),
        (9, ["conv1", "conv2", "fc1", "fc2"]),
    ],
)
def test_positions_count_layers_in_execution_order(position: Any, expected: list[str]) -> None:
    network, _ = network_twin("cnn", "modules")
    one = Assignment("flat", ("type:Convolution", "type:Linear"), position)
    assert one.names(network) == expected


@pytest.mark.parametrize("position", ["frist", -1, True, 1.5])
def test_positions_that_do_not_exist_are_refused(position: Any) -> None:
    with pytest.raises(ValueError, match=r"got (position|index)"):
        Assignment("flat", ("type:Linear",), position)


def test_rules_of_named_layers_have_parameters() -> None:
    network, inputs = network_twin("cnn", "modules")
    rules = {
        "conv2": {"rule": "gamma", "gamma": 0.1, "zero_params": "bias"},
        "fc*": {"rule": "epsilon", "epsilon": {"epsilon": 0.1, "clip": True}},
        "type:Convolution": "w_square",
    }
    given = (
        Assignment("gamma", ("conv2",), parameters=(("gamma", 0.1), ("zero_params", "bias"))),
        Assignment(
            "epsilon", ("fc*",), parameters=(("epsilon", (("clip", True), ("epsilon", 0.1))),)
        ),
        Assignment("w_square", ("type:Convolution",)),
    )
    found = explainers.explain(network, "lrp", inputs, rules=rules)
    expected = explainers.explain(network, "lrp", inputs, composite=Composite(given))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("rules", "error", "said"),
    [
        ({"conv1": "gama"}, LookupError, "unknown rule 'gama'; did you mean 'gamma'"),
        ({"conv1": {"rule": "gamma", "gama": 1}}, TypeError, "did you mean 'gamma'"),
        ({"conv1": {"rule": "gamma", "gamma": -1}}, ValueError, "got gamma=-1"),
        ({"conv1": {"rule": "alpha_beta", "alpha": 2, "beta": 2}}, ValueError, "alpha - beta = 1"),
        ({"conv1": {"rule": "z_box", "low": 0}}, TypeError, "'z_box' needs low and high"),
        ({"conv1": {"gamma": 0.1}}, ValueError, "expected the name of a rule"),
        ({"conv1": {"rule": "pass", "gamma": 0.1}}, TypeError, "it takes none"),
        ({"conv1": {"rule": "z_plus", "zero_params": "bais"}}, ValueError, "weight, bias"),
    ],
)
def test_rules_are_checked_before_there_is_a_network(
    rules: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        explainers.build("lrp", rules=rules)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"composite": {"low": 0}}, TypeError, "expected a name, or a mapping"),
        ({"composite": {"name": "epsilon_gama_box"}}, LookupError, "'epsilon_gamma_box'"),
        ({"composite": "epsilon_gamma_box"}, TypeError, "needs the parameters low, high"),
        (
            {"composite": {"name": "epsilon_gamma_box", "low": 0, "hihg": 1}},
            TypeError,
            "did you mean 'high'",
        ),
        (
            {"composite": {"name": "epsilon_gamma_box", "low": 1, "high": 0}},
            ValueError,
            "low <= high",
        ),
        ({"stabiliser": -1.0}, ValueError, "at least 0"),
        ({"stabiliser": {"epsilon": 0.1, "clap": True}}, TypeError, "'clap'"),
        ({"zero_params": "bais"}, ValueError, "weight, bias"),
    ],
)
def test_composites_and_options_are_checked_before_there_is_a_network(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        explainers.build("lrp", **options)


def test_a_class_that_is_none_is_refused_with_the_nearest() -> None:
    network, _ = network_twin("cnn", "modules")
    with pytest.raises(LookupError, match="did you mean 'Convolution'"):
        explainers.get("lrp")(network, rules={"type:Convolutoin": "flat"})


def test_an_assignment_whose_operator_lacks_the_parameter_is_refused() -> None:
    network, _ = network_twin("cnn", "modules")
    with pytest.raises(TypeError, match="rule 'z_plus' of the operator 'pool2' has no parameter"):
        explainers.get("lrp")(network, rules={"pool2": {"rule": "z_plus", "zero_params": "bias"}})


def test_bounds_may_be_tensors() -> None:
    network, inputs = network_twin("cnn", "modules")
    low = torch.full((1, 3, 1, 1), -9.0)
    box = {"name": "epsilon_gamma_box", "high": 9.0}
    found = explainers.explain(network, "lrp", inputs, composite=box | {"low": low})
    assert torch.equal(
        found, explainers.explain(network, "lrp", inputs, composite=box | {"low": -9.0})
    )


def test_options_count_where_an_assignment_says_nothing() -> None:
    composite = find({"name": "lrp_alpha_1_beta_0_ib", "stabiliser": 0.5, "zero_params": ()})
    network, _ = network_twin("cnn", "modules")
    rule = composite.choose(network)(network.operator("conv2"))
    assert rule.keywords == {"stabiliser": 0.5, "zero_params": "bias"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "composite",
    ["epsilon_plus", "epsilon_alpha2_beta1_flat", "beta_smooth", "lrp_sequential_preset_b_flat"],
)
def test_relevance_is_accounted_for(composite: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    found = explainers.get("lrp")(network, composite=composite).explain(inputs)
    arrays = dict(found.arrays)
    output = arrays.pop("output_relevance")
    assert set(arrays) == {"absorbed_by_bias", "absorbed_by_stabiliser", "lost"}
    total = found.relevance.sum((1, 2, 3)) + torch.stack(list(arrays.values())).sum(0)
    torch.testing.assert_close(total, output, rtol=0, atol=1e-12)
    torch.testing.assert_close(output, network(inputs).amax(1), rtol=0, atol=0)


def test_rules_that_cannot_conserve_are_told() -> None:
    network, _ = network_twin("cnn", "modules")
    assert find("epsilon_plus_flat").lossy(network) == {}
    assert find("epsilon_alpha2_beta1").lossy(network) == {
        "conv1": "alpha_beta",
        "conv2": "alpha_beta.nonnegative",
    }


def test_a_preset_gives_anothers_defaults_and_what_is_given_wins() -> None:
    network, inputs = network_twin("cnn", "modules")
    found = explainers.explain(network, "lrp", inputs, preset="innvestigate")
    expected = explainers.explain(network, "lrp", inputs, composite="lrp_epsilon")
    assert torch.equal(found, expected)
    own = explainers.explain(network, "lrp", inputs, preset="rde", epsilon=1e-7)
    assert torch.equal(own, expected)
    (entry,) = [entry for entry in explainers.available() if entry["name"] == "lrp"]
    assert set(entry["presets"]) == {"zennit", "innvestigate", "rde"}
    with pytest.raises(LookupError, match="'lrp' has no preset 'zenit'; did you mean 'zennit'"):
        explainers.build("lrp", preset="zenit")
    with pytest.raises(LookupError, match="has no preset 'zennit'; it has none"):
        explainers.build("sobel", preset="zennit")


def test_every_preset_of_every_method_can_be_built() -> None:
    for entry in explainers.available():
        for preset in entry["presets"]:
            explainers.build(entry["name"], preset=preset)


@pytest.mark.parametrize(
    "composite",
    ["epsilon_plus_flat", "lrp_sequential_preset_b_flat", "excitation_backprop"],
)
def test_a_part_of_a_network_has_the_rules_of_the_whole(composite: str) -> None:
    """Else the first layer behind the cut would be flat."""
    network, inputs = network_twin("cnn", "modules")
    found = explainers.explain(network, "lrp", inputs, composite=composite, layer="conv2")
    trace = explainers.Trace(network, inputs)
    target = explainers.Target()
    walked = trace.walk(
        find(composite).choose(network),
        target,
        key="whole",
        start=trace.cotangent(target) * trace.output,
        record=["conv2"],
    )
    torch.testing.assert_close(found, walked.layers["conv2"], rtol=0, atol=1e-12)
