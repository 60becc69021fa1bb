"""A model is read as a program that equals it, or the reason why not is told."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from explainers.network import Network
from explainers.operators import Affine, Convolution, Linear
from tests.explainers.zoo import relative_error, small, small_network

if TYPE_CHECKING:
    from collections.abc import Callable


def test_outputs_equal_the_models_for_any_batch_size() -> None:
    model, _ = small()
    network = small_network()
    assert network.is_program, network.reason
    for batch in (1, 2, 3, 17):
        rows = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(network(rows), model(rows), rtol=1e-12, atol=1e-12)


def test_one_row_is_enough_for_an_example() -> None:
    model, inputs = small()
    network = Network(model, inputs[:1])
    assert network.is_program
    assert network.example.shape[0] == 2


def test_the_users_model_is_left_as_it_was() -> None:
    model, inputs = small()
    model.train()
    model.conv2.requires_grad_(False)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    handle = model.conv1.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    hooks = dict(model.conv1._forward_hooks)
    modes = {path: module.training for path, module in model.named_modules()}
    state = torch.get_rng_state()
    network = Network(model, inputs)
    network(inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert model.conv1._forward_hooks == hooks
    assert [p.requires_grad for p in model.conv2.parameters()] == [False, False]
    assert model.conv1.weight.requires_grad
    assert torch.equal(model.conv1.weight.grad, torch.ones_like(model.conv1.weight))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    handle.remove()


def test_changing_the_model_afterwards_does_not_change_the_network() -> None:
    model, inputs = small()
    network = Network(model, inputs)
    before = network(inputs)
    with torch.no_grad():
        model.fc.weight.zero_()
    assert torch.equal(network(inputs), before)


class Net(nn.Module):
    """One linear operator, its norm, and the mean over space."""

    def __init__(self, host: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.host, self.norm = host, norm

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.host(inputs)).flatten(2).mean(2)


def _norm(norm: nn.Module) -> nn.Module:
    for tensor in (norm.weight, norm.running_var):
        nn.init.uniform_(tensor, 0.3, 2.0)
    for tensor in (norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    return norm


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("host", "n_channels", "n_axes"),
    [
        (nn.Conv1d(4, 6, 3), 6, 1),
        (nn.Conv2d(4, 6, 3, bias=False), 6, 2),
        (nn.Conv2d(4, 6, 3, groups=2), 6, 2),
        (nn.Conv2d(4, 6, 2, padding="same", dilation=3), 6, 2),
        (nn.Conv3d(4, 6, 2), 6, 3),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), 6, 1),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, bias=False), 6, 2),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 6, 2),
    ],
    ids=str,
)
def test_a_norm_is_folded_into_the_convolution_before_it(
    host: nn.Module, n_channels: int, n_axes: int
) -> None:
    torch.manual_seed(0)
    norms = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    norm = _norm(norms[n_axes](n_channels, eps=0.1))
    model = Net(host, norm).double().eval()
    inputs = torch.randn(3, 4, *[7] * n_axes, dtype=torch.float64)
    network = Network(model, inputs)
    assert not [op for op in network.operators if isinstance(op, Affine)]
    with torch.no_grad():
        assert relative_error(network(inputs), model(inputs)) <= 1e-13
    assert network.operator("norm") is network.operator("host")
    assert isinstance(network.operator("host"), Convolution)


def test_a_norm_is_folded_into_the_linear_map_before_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), _norm(nn.BatchNorm1d(6)), nn.ReLU()).double().eval()
    inputs = torch.randn(3, 4, dtype=torch.float64)
    network = Network(model, inputs)
    assert [type(op) for op in network.operators if op.inputs] != [Linear, Affine]
    assert network.operator("1") is network.operator("0")
    with torch.no_grad():
        assert relative_error(network(inputs), model(inputs)) <= 1e-13


def test_a_norm_of_sequences_is_not_folded_into_a_linear_map() -> None:
    torch.manual_seed(0)
    model = Net(nn.Linear(5, 6), _norm(nn.BatchNorm1d(4))).double().eval()
    inputs = torch.randn(3, 4, 5, dtype=torch.float64)
    network = Network(model, inputs)
    assert network.operator("norm") is not network.operator("host")
    with torch.no_grad():
        assert relative_error(network(inputs), model(inputs)) <= 1e-13


class Shared(nn.Module):
    """A convolution that the norm and somebody else read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), _norm(nn.BatchNorm2d(4))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv(inputs)
        return (self.norm(hidden) + hidden).mean((2, 3))


def test_a_convolution_with_two_users_keeps_its_norm_apart() -> None:
    torch.manual_seed(0)
    model = Shared().double().eval()
    inputs = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    network = Network(model, inputs)
    assert isinstance(network.operator("norm"), Affine)
    with torch.no_grad():
        assert relative_error(network(inputs), model(inputs)) <= 1e-13


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(-1)])
def test_a_trailing_softmax_is_stripped(last: nn.Module) -> None:
    torch.manual_seed(0)
    logits = nn.Linear(4, 3).double()
    inputs = torch.randn(2, 4, dtype=torch.float64)
    network = Network(nn.Sequential(logits, last), inputs)
    assert network.has_softmax
    torch.testing.assert_close(network(inputs), logits(inputs), rtol=1e-12, atol=1e-12)
    model_output = last(logits(inputs))
    torch.testing.assert_close(network.with_softmax(inputs), model_output, rtol=1e-12, atol=1e-12)
    assert "1" not in network.layers


def test_a_function_is_a_model_too() -> None:
    network = Network(lambda inputs: inputs.flatten(1)[:, :3] * 2, torch.ones(1, 2, 2))
    assert network.is_program
    torch.testing.assert_close(network(torch.ones(5, 2, 2)), torch.full((5, 3), 2.0))


class Answer(NamedTuple):
    """What some models return."""

    hidden: Tensor
    logits: Tensor


class Answering(nn.Module):
    def forward(self, inputs: Tensor) -> Answer:
        return Answer(inputs * 2, inputs.cumsum(1))


def test_logits_are_found_among_several_outputs() -> None:
    inputs = torch.randn(2, 3)
    network = Network(Answering(), inputs)
    assert network.is_program
    torch.testing.assert_close(network(inputs), inputs.cumsum(1))


class Branching(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2 if inputs.sum() > 0 else -inputs


class Noisy(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.randn_like(inputs)


class OverBatch(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs * self.calls


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        return inputs.sign()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class StraightThrough(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return Straight.apply(inputs) * 2


class Detached(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * inputs.detach()


class TwoRows(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * torch.tensor([[1.0], [0.0]])


class FollowsValues(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * int(inputs.abs().max().item() + 1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branching(), "torch.export failed"),
        (Noisy(), "between two calls"),
        (OverBatch(), "depends on the other rows"),
        (Counting(), "changes 'calls'"),
        (StraightThrough(), "gradient differs"),
        (Detached(), "gradient differs"),
        (TwoRows(), "batch"),
        (FollowsValues(), "values of the input"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_read_faithfully_is_opaque_with_a_reason(
    model: nn.Module, reason: str
) -> None:
    network = Network(model, torch.tensor([[1.0, 2.0, -3.0], [0.5, 0.2, 0.1]]))
    assert not network.is_program
    assert reason in str(network.reason)
    assert network.layers == ()
    assert network.operators == ()
    with pytest.raises(NotImplementedError, match="cannot be read"):
        network.match("*")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_deep_network_of_half_precision_is_a_program(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 16, 3), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    block = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, momentum=1.0), nn.ReLU()
    blocks = [copy.deepcopy(part).requires_grad_(False) for _ in range(10) for part in block]
    for part in blocks[::3]:
        nn.init.kaiming_normal_(part.weight)
    model = nn.Sequential(first, *blocks, *last)
    # norms have the statistics of what reaches them
    model(torch.randn(8, 3, 16, 16))
    network = Network(model.eval().to(dtype), torch.randn(2, 3, 16, 16).to(dtype))
    assert network.is_program, network.reason


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_written_by_hand_are_found_in_half_precision(dtype: torch.dtype) -> None:
    network = Network(StraightThrough(), torch.tensor([[1.0, 2.0, -3.0]], dtype=dtype))
    assert "gradient differs" in str(network.reason)


@pytest.mark.slow
def test_networks_can_be_made_in_several_threads() -> None:
    model, inputs = small()
    with ThreadPoolExecutor(3) as pool:
        networks = list(pool.map(lambda _: Network(model, inputs), range(3)))
    assert all(network.is_program for network in networks)
    assert all(torch.equal(network(inputs), networks[0](inputs)) for network in networks)


def test_reading_a_model_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Network(Branching(), torch.ones(2, 3))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_an_opaque_network_still_gives_outputs() -> None:
    network = Network(Branching(), torch.ones(2, 3))
    rows = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(network(rows), rows * 2)
    assert torch.equal(network(-rows), rows)


def probable(kind: str) -> Callable[[Tensor], Tensor]:
    def opaque(inputs: Tensor) -> Tensor:
        logits = inputs if inputs.sum() > 0 else -inputs
        return getattr(logits, kind)(1)

    return opaque


@pytest.mark.parametrize(
    ("kind", "words"), [("softmax", "probabilities"), ("log_softmax", "log-probabilities")]
)
def test_an_opaque_network_says_that_its_outputs_are_normalised(kind: str, words: str) -> None:
    network = Network(probable(kind), torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.1, 0.0]]))
    reason = str(network.reason)
    assert "torch.export failed" in reason
    assert reason.endswith(f"; its outputs are {words}, which are explained as they are")


@pytest.mark.parametrize("kind", ["exp", "square", "tanh"])
def test_an_opaque_network_of_other_outputs_says_nothing_of_them(kind: str) -> None:
    def opaque(inputs: Tensor) -> Tensor:
        return getattr(torch, kind)(inputs if inputs.sum() > 0 else -inputs)

    network = Network(opaque, torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.1, 0.0]]))
    assert "outputs are" not in str(network.reason)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8,), (8, 8)])
def test_an_example_that_the_model_does_not_take_is_refused(shape: tuple[int, ...]) -> None:
    model, _ = small()
    with pytest.raises(ValueError, match=r"expected \(batch, ...\).*inputs\[None\]"):
        Network(model, torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.zeros(2, 3, 9, 9, dtype=torch.float64), r"expected \(batch, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.float64), "expected"),
        (torch.zeros(2, 3, 8, 8), "torch.float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small_network()(inputs)


def test_a_model_without_rows_of_logits_is_refused() -> None:
    with pytest.raises(ValueError, match="batch, classes"):
        Network(nn.Flatten(0), torch.ones(2, 3))
    with pytest.raises(TypeError, match="logits"):
        Network(lambda inputs: {"other": inputs}, torch.ones(2, 3))
    with pytest.raises(ValueError, match="at least one row"):
        Network(nn.Flatten(), torch.ones(0, 3))


@pytest.mark.slow
def test_a_network_moves_to_another_precision() -> None:
    model, inputs = small()
    network = Network(model.float(), inputs.float()).to(dtype=torch.float64)
    assert network.dtype == torch.float64
    with torch.no_grad():
        assert relative_error(network(inputs), model.double()(inputs)) <= 1e-12


def test_channels_last_equals_contiguous() -> None:
    _, inputs = small()
    network = small_network()
    first = network.operator("conv1")
    assert isinstance(first, Convolution)
    assert first.weight.is_contiguous(memory_format=torch.channels_last)
    permuted = inputs.contiguous(memory_format=torch.channels_last)
    assert torch.equal(network(inputs), network(permuted))


class Sequences(nn.Module):
    """Tokens through a recurrence; the last state decides."""

    def __init__(self, recurrence: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.recurrence = recurrence
        self.fc = nn.Linear(10 if recurrence.bidirectional else 5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.recurrence(self.embedding(tokens))
        return self.fc(hidden[:, -1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "recurrence",
    [
        nn.LSTM(4, 5, batch_first=True, num_layers=2),
        nn.GRU(4, 5, batch_first=True, bidirectional=True),
        nn.RNN(4, 5, batch_first=True),
    ],
    ids=lambda recurrence: type(recurrence).__name__,
)
def test_recurrent_networks_are_programs(recurrence: nn.Module) -> None:
    torch.manual_seed(0)
    model = Sequences(recurrence).double().eval()
    tokens = torch.randint(0, 11, (4, 6))
    network = Network(model, tokens)
    assert network.is_program, network.reason
    with torch.no_grad():
        assert relative_error(network(tokens), model(tokens)) <= 1e-12


class Sliced(nn.Module):
    """Reads a part of a value, and then its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.outer = nn.Linear(9, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        value = self.inner(inputs)
        part = value[:, :3]
        logits: Tensor = self.outer(torch.cat([part, value.relu()], 1))
        return logits


def test_a_relu_leaves_a_value_alone_that_a_view_still_shows() -> None:
    model = Sliced().eval()
    network = Network(model, torch.randn(2, 4))
    assert network.is_program, network.reason
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(network(inputs), model(inputs))
