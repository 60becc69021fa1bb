"""Each rule against zennit's, on single layers; whole networks are in ``test_lrp``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zennit.composites
import zennit.core
import zennit.layer
import zennit.rules
from torch import Tensor, nn

import explainers
from explainers import Network
from explainers.operators import Activation, Add, AveragePool, Convolution, Linear
from explainers.rules.lrp import Stabiliser, lrp
from explainers.rules.table import Shares

pytestmark = pytest.mark.slow

# The same float64 sums in another order, divided by denominators that are rarely small.
TOLERANCE = {"rtol": 1e-8, "atol": 1e-8}

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda bias: nn.Linear(7, 5, bias=bias), (7,)),
    "one_axis": (lambda bias: nn.Conv1d(3, 4, 3, stride=2, padding=1, bias=bias), (3, 9)),
    "padded": (lambda bias: nn.Conv2d(3, 4, 3, padding=1, bias=bias), (3, 5, 6)),
    "grouped": (
        lambda bias: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=bias),
        (4, 6, 5),
    ),
    "three_axes": (lambda bias: nn.Conv3d(2, 3, 2, bias=bias), (2, 3, 4, 3)),
    "transposed": (
        lambda bias: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1, bias=bias),
        (3, 4, 4),
    ),
}

LOW, HIGH = (-4.0, -5.0, -6.0), (4.0, 5.0, 4.5)
RULES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "epsilon": (zennit.rules.Epsilon, "epsilon", {}),
    "epsilon_large": (zennit.rules.Epsilon, "epsilon", {"epsilon": 0.3}),
    "z_plus": (zennit.rules.ZPlus, "z_plus", {}),
    "gamma": (zennit.rules.Gamma, "gamma", {}),
    "gamma_large": (zennit.rules.Gamma, "gamma", {"gamma": 2.0}),
    "alpha_2_beta_1": (zennit.rules.AlphaBeta, "alpha_beta", {}),
    "alpha_1_beta_0": (zennit.rules.AlphaBeta, "alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    "z_box": (zennit.rules.ZBox, "z_box", {"low": -4.0, "high": 5.0}),
    "w_square": (zennit.rules.WSquare, "w_square", {}),
    "flat": (zennit.rules.Flat, "flat", {}),
    "norm": (zennit.rules.Norm, "norm", {}),
}


def make(layer: str, has_bias: bool, seed: int) -> tuple[nn.Module, Any, Tensor, Tensor]:
    """Return a module, the operator that it is, signed inputs, and relevance of the output."""
    torch.manual_seed(seed)
    build, shape = LAYERS[layer]
    module = build(has_bias).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    weights = {"weight": module.weight.detach(), "bias": module.bias}
    where = {"name": "op", "module_path": "op", "inputs": ("x",)}
    if isinstance(module, nn.Linear):
        op: Any = Linear(**weights, **where)
    else:
        names = ("stride", "padding", "dilation", "groups", "transposed", "output_padding")
        op = Convolution(**weights, **where, **{name: getattr(module, name) for name in names})
    x = torch.randn(2, *shape, dtype=torch.float64)
    x[x.abs() < 0.3] = 0
    return module, op, x, torch.randn_like(module(x)).detach()


def by_zennit(hook: zennit.core.Hook, module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    handles = hook.register(module)
    source = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(source), source, relevance)
    handles.remove()
    return found


def ours(name: str, op: Any, x: Tensor, relevance: Tensor, **parameters: Any) -> Tensor:
    with torch.no_grad():
        found = lrp.find(op, name)(op, relevance, {"x": x, "op": op.run(x)}, **parameters)
    (part,) = found.relevances if isinstance(found, Shares) else found
    assert part is not None
    return part


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_rules_are_zennits(rule: str, layer: str) -> None:
    theirs, name, parameters = RULES[rule]
    for has_bias, seed in ((True, 0), (False, 1)):
        module, op, x, relevance = make(layer, has_bias, seed)
        expected = by_zennit(theirs(**parameters), module, x, relevance)
        found = ours(name, op, x, relevance, **parameters)
        torch.testing.assert_close(found, expected, **TOLERANCE)
        if name not in ("flat", "norm") and has_bias:
            expected = by_zennit(theirs(**parameters, zero_params=["bias"]), module, x, relevance)
            found = ours(name, op, x, relevance, **parameters, zero_params=("bias",))
            torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("rule", ["z_plus", "gamma", "alpha_beta"])
def test_rules_of_nonnegative_inputs_are_zennits(rule: str) -> None:
    theirs = {one[1]: one[0] for one in RULES.values()}[rule]
    for layer in LAYERS:
        module, op, x, relevance = make(layer, True, 0)
        x = x.clamp(min=0)
        expected = by_zennit(theirs(), module, x, relevance)
        found = ours(f"{rule}.nonnegative", op, x, relevance)
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_bounds_of_channels_are_zennits() -> None:
    module, op, x, relevance = make("padded", True, 0)
    low, high = (torch.tensor(bound).double().view(1, 3, 1, 1) for bound in (LOW, HIGH))
    expected = by_zennit(zennit.rules.ZBox(low, high), module, x, relevance)
    found = ours("z_box", op, x, relevance, low=LOW, high=HIGH)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("fields", [{"clip": True}, {"norm_scale": True}])
def test_stabilisers_are_zennits(fields: dict[str, bool]) -> None:
    fields = fields | {"epsilon": 0.4}  # type: ignore[operator]
    theirs, mine = zennit.core.Stabilizer(**fields), Stabiliser.of(fields)
    torch.manual_seed(0)
    z = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    z[0, 0] = 0
    torch.testing.assert_close(mine(z), theirs(z), rtol=0, atol=1e-10)
    for rule, (hook, name, parameters) in RULES.items():
        if rule == "epsilon_large":
            continue
        called = "epsilon" if name == "epsilon" else "stabiliser"
        of_zennit = "epsilon" if name == "epsilon" else "stabilizer"
        module, op, x, relevance = make("padded", True, 0)
        expected = by_zennit(hook(**parameters, **{of_zennit: theirs}), module, x, relevance)
        found = ours(name, op, x, relevance, **parameters, **{called: fields})
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_pass_hands_on_what_arrives_as_zennits_does() -> None:
    module = nn.ReLU()
    op = Activation(name="op", module_path="", inputs=("x",), kind="relu")
    x, relevance = torch.randn(2, 2, 5, dtype=torch.float64).unbind()
    expected = by_zennit(zennit.rules.Pass(), module, x, relevance)
    assert torch.equal(ours("pass", op, x, relevance), expected)


def test_pass_goes_where_a_layer_keeps_the_shape_as_zennits_does() -> None:
    convolution, linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(4, 4)
    model = nn.Sequential(convolution, linear, nn.Flatten(), nn.Linear(48, 2)).double()
    inputs = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    network = Network(model, inputs)
    passed = explainers.explain(network, "lrp", inputs, rules={"0": "pass", "1": "pass"})
    composite = zennit.composites.NameMapComposite(
        [(["0", "1"], zennit.rules.Pass()), (["3"], zennit.rules.Epsilon())]
    )
    expected = explainers.explain(model, "lrp", inputs, composite=composite)
    torch.testing.assert_close(passed, expected, **TOLERANCE)
    found = explainers.get("lrp")(network, rules={"0": "pass"}, composite="lrp_epsilon")
    arrays = found.explain(inputs).arrays
    assert not arrays["lost"].any()
    with pytest.raises(ValueError, match=r"'pass'.*'3'.*2,.*48,.*same shape"):
        explainers.explain(network, "lrp", inputs, rules={"3": "pass"})


def test_an_unknown_combination_of_rule_and_operator_names_those_that_are_there() -> None:
    network = Network(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 3))
    with pytest.raises(NotImplementedError, match=r"'gamma'.*Activation.*beta_smooth.*pass") as e:
        explainers.get("lrp")(network, rules={"1": "gamma"})
    assert "integrated_gradients" not in str(e.value)


def test_norm_differs_from_zennits_by_what_the_stabiliser_keeps_there() -> None:
    """zennit's Norm loses ``eps * R / stab(z)``; ours shares that by the sizes of the inputs."""
    torch.manual_seed(0)
    epsilon = 0.1
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    pool = nn.AvgPool2d(2)
    z = pool(x)
    relevance = torch.randn_like(z)
    held_back = relevance * epsilon * z.sign() / (z + epsilon * z.sign())
    expected = by_zennit(zennit.rules.Norm(epsilon), pool, x, relevance)
    op = AveragePool(
        name="op",
        module_path="",
        inputs=("x",),
        form="window",
        size=(2, 2),
        stride=(2, 2),
        padding=(0, 0),
    )
    found = ours("norm", op, x, relevance, stabiliser=epsilon)
    shared = held_back.repeat_interleave(2, -1).repeat_interleave(2, -2)
    of_windows = pool(x.abs()).repeat_interleave(2, -1).repeat_interleave(2, -2)
    shared = shared * x.abs() / (4 * of_windows)
    torch.testing.assert_close(found, expected + shared, **TOLERANCE)
    terms = torch.randn(2, 5, 2, dtype=torch.float64)
    relevance = torch.randn(2, 5, dtype=torch.float64)
    z = terms.sum(-1)
    expected = by_zennit(zennit.rules.Norm(epsilon), zennit.layer.Sum(dim=-1), terms, relevance)
    add = Add(name="op", module_path="", inputs=("a", "b"))
    values = {"a": terms[..., 0], "b": terms[..., 1], "op": z}
    shares = lrp.find(add, "norm")(add, relevance, values, stabiliser=epsilon)
    assert isinstance(shares, Shares)
    both = torch.stack([part for part in shares.relevances if part is not None], -1)
    held_back = relevance * epsilon * z.sign() / (z + epsilon * z.sign())
    weights = terms.abs() / terms.abs().sum(-1, keepdim=True)
    torch.testing.assert_close(both, expected + held_back[..., None] * weights, **TOLERANCE)
