"""Contextual decomposition of recurrences, against slow ones written from the paper."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explainers.operators import Recurrent
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.recurrent import recurrence

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[np.float64]

# sums of a few dozen doubles of size one, in another order
TOLERANCE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}
STEPS, ROWS, FEATURES, UNITS = 4, 3, 4, 3
KINDS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass
class Carried:
    """What a rule asks of streams: values of samples by name, and the sample of each row."""

    values: dict[str, Tensor]
    rows: Tensor
    is_strict: bool
    row_axis: int = 0

    def irrelevant(self, name: str, parts: Parts) -> Tensor:
        assert parts.irrelevant is not None
        return parts.irrelevant

    def constant(self, name: str) -> Tensor:
        return self.values[name].index_select(1, self.rows)

    def repeated(self, name: str, value: Tensor) -> Tensor:
        return value.index_select(self.row_axis, self.rows)

    def both(self, relevant: Tensor, irrelevant: Tensor | None) -> Parts:
        return Parts(relevant, irrelevant if self.is_strict else None)


def module_of(kind: str, **options: Any) -> nn.RNNBase:
    torch.manual_seed(7)
    made: nn.RNNBase
    if kind.startswith("rnn"):
        made = nn.RNN(FEATURES, UNITS, nonlinearity=kind.removeprefix("rnn_"), **options)
    else:
        made = KINDS[kind](FEATURES, UNITS, **options)
    made = made.double()
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.7)
    return made.requires_grad_(requires_grad=False)


def operator_of(module: nn.RNNBase, item: int = 0) -> Recurrent:
    n_states = 2 if module.mode == "LSTM" else 1
    names = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}
    return Recurrent(
        name="op",
        module_path="rnn",
        inputs=("x", "hidden", "cell")[: 1 + n_states],
        kind=names[module.mode],  # type: ignore[arg-type]  # one of the four
        weights=weights_of(module),
        has_biases=module.bias,
        n_layers=module.num_layers,
        bidirectional=module.bidirectional,
        batch_first=module.batch_first,
        item=item,
    )


def weights_of(module: nn.RNNBase) -> tuple[Tensor, ...]:
    return tuple(weight for weight in module._flat_weights if weight is not None)


def states_of(module: nn.RNNBase, rows: int, std: float = 0.0) -> list[Tensor]:
    n_states = 2 if module.mode == "LSTM" else 1
    sizes = (module.proj_size or UNITS, UNITS)
    n_layers = module.num_layers * (2 if module.bidirectional else 1)
    torch.manual_seed(3)
    return [
        std * torch.randn(n_layers, rows, size, dtype=torch.float64) for size in sizes[:n_states]
    ]


def split(
    module: nn.RNNBase, relevant: Tensor, irrelevant: Tensor, item: int = 0, std: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Both parts of an output, given those of the sequence, with certain initial states."""
    op = operator_of(module, item)
    axis = 0 if module.batch_first else 1
    rows = torch.arange(relevant.shape[axis])
    certain = dict(zip(op.inputs[1:], states_of(module, len(rows), std), strict=True))
    states = [Parts(None, None) for _ in certain]
    # all that the rule asks for
    streams: Any = Carried({"x": relevant + irrelevant, **certain}, rows, is_strict=True)
    found = recurrence(op, (Parts(relevant, irrelevant), *states), streams)
    assert found.irrelevant is not None
    return found.of_rows, found.irrelevant


def value_of(module: nn.RNNBase, sequence: Tensor, item: int = 0, std: float = 0.0) -> Tensor:
    rows = sequence.shape[0 if module.batch_first else 1]
    return operator_of(module, item).run(sequence, *states_of(module, rows, std))


def sequences(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    relevant, irrelevant = torch.randn(2, *shape, dtype=torch.float64).unbind()
    return relevant, irrelevant


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def three(a: Array, b: Array, c: Array, f: Callable[[Array], Array]) -> tuple[Array, ...]:
    """Contributions of a, of b and of the bias c, as Murdoch et al. have them."""
    of_a = 0.5 * (f(a + c) - f(c) + f(a + b + c) - f(b + c))
    of_b = 0.5 * (f(b + c) - f(c) + f(a + b + c) - f(a + c))
    return of_a, of_b, f(c)


def slow_cd_text(module: nn.RNNBase, words: Array, start: int, stop: int) -> tuple[Array, Array]:
    """Hidden states for the span from start to stop, both inclusive: gate by gate, one sentence."""
    w_in, w_hidden, b_in, b_hidden = (weight.numpy() for weight in weights_of(module))
    inputs, hiddens = np.split(w_in, 4), np.split(w_hidden, 4)
    biases: list[Array] = np.split(b_in + b_hidden, 4)
    h_rel, h_irr, c_rel, c_irr = np.zeros((4, UNITS))
    relevant, irrelevant = [], []
    for step, word in enumerate(words):
        is_in = start <= step <= stop
        pre: list[tuple[Array, Array]] = []
        for of_input, of_hidden in zip(inputs, hiddens, strict=True):
            a, b = of_hidden @ h_rel, of_hidden @ h_irr
            pre.append((a + of_input @ word, b) if is_in else (a, b + of_input @ word))
        i_rel, i_irr, i_bias = three(*pre[0], biases[0], sigmoid)
        f_rel, f_irr, f_bias = three(*pre[1], biases[1], sigmoid)
        g_rel, g_irr, g_bias = three(*pre[2], biases[2], np.tanh)
        rel = i_rel * (g_rel + g_bias) + i_bias * g_rel
        irr = i_irr * (g_rel + g_irr + g_bias) + (i_rel + i_bias) * g_irr
        rel, irr = (rel + i_bias * g_bias, irr) if is_in else (rel, irr + i_bias * g_bias)
        if step > 0:
            rel = rel + (f_rel + f_bias) * c_rel
            irr = irr + (f_rel + f_irr + f_bias) * c_irr + f_irr * c_rel
        c_rel, c_irr = rel, irr
        opened = sigmoid(pre[3][0] + pre[3][1] + biases[3])
        h_rel = opened * 0.5 * (np.tanh(c_rel) + np.tanh(c_rel + c_irr) - np.tanh(c_irr))
        h_irr = opened * 0.5 * (np.tanh(c_irr) + np.tanh(c_rel + c_irr) - np.tanh(c_rel))
        relevant.append(h_rel)
        irrelevant.append(h_irr)
    return np.stack(relevant), np.stack(irrelevant)


def slow_gru(module: nn.RNNBase, relevant: Array, irrelevant: Array) -> tuple[Array, Array]:
    """Hidden states of one sequence, every product of parts written out."""
    w_in, w_hidden, b_in, b_hidden = (np.split(w.numpy(), 3) for w in weights_of(module))
    h_rel, h_irr = np.zeros((2, UNITS))
    found = []
    for x_rel, x_irr in zip(relevant, irrelevant, strict=True):
        share = np.abs(x_rel).sum() / (np.abs(x_rel).sum() + np.abs(x_irr).sum())
        (r_rel, r_irr, r_bias), (z_rel, z_irr, z_bias) = (
            three(
                w_in[k] @ x_rel + w_hidden[k] @ h_rel,
                w_in[k] @ x_irr + w_hidden[k] @ h_irr,
                b_in[k] + b_hidden[k],
                sigmoid,
            )
            for k in (0, 1)
        )
        m_rel, m_irr, m_bias = w_hidden[2] @ h_rel, w_hidden[2] @ h_irr, b_hidden[2]
        a = w_in[2] @ x_rel + r_rel * m_rel + r_rel * m_bias + r_bias * m_rel
        b = w_in[2] @ x_irr + r_irr * (m_rel + m_irr + m_bias) + (r_rel + r_bias) * m_irr
        n_rel, n_irr, n_bias = three(a, b, b_in[2] + r_bias * m_bias, np.tanh)
        both = (1 - z_bias) * n_bias
        new_rel = -z_rel * (n_rel + n_bias) + (1 - z_bias) * n_rel + share * both
        z = z_rel + z_irr + z_bias
        new_irr = (1 - z) * (n_rel + n_irr + n_bias) - new_rel
        h_rel, h_irr = (
            new_rel + (z_rel + z_bias) * h_rel,
            new_irr + z * h_irr + z_irr * h_rel,
        )
        found.append((h_rel, h_irr))
    return np.stack([one for one, _ in found]), np.stack([other for _, other in found])


def test_an_lstm_is_split_as_the_published_program_for_text_does_it() -> None:
    module = module_of("lstm", batch_first=True)
    words, _ = sequences(STEPS, FEATURES)
    spans = list(itertools.combinations_with_replacement(range(STEPS), 2))
    places = torch.arange(STEPS)
    masks = torch.stack([(places >= start) & (places <= stop) for start, stop in spans])
    chosen = masks[:, :, None].double()

    relevant, irrelevant = split(module, chosen * words, (1 - chosen) * words)

    for row, span in enumerate(spans):
        of_span, of_others = slow_cd_text(module, words.numpy(), *span)
        torch.testing.assert_close(relevant[row], torch.from_numpy(of_span), **TOLERANCE)
        torch.testing.assert_close(irrelevant[row], torch.from_numpy(of_others), **TOLERANCE)


def test_a_gru_is_split_as_a_slow_one() -> None:
    module = module_of("gru")
    relevant, irrelevant = sequences(STEPS, ROWS, FEATURES)
    found = split(module, relevant, irrelevant)
    for row in range(ROWS):
        slow = slow_gru(module, relevant[:, row].numpy(), irrelevant[:, row].numpy())
        for part, expected in zip(found, slow, strict=True):
            torch.testing.assert_close(part[:, row], torch.from_numpy(expected), **TOLERANCE)


FORMS = [
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bidirectional": True, "bias": False},
    {"num_layers": 2},
]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("options", FORMS)
def test_parts_sum_to_every_output(kind: str, options: dict[str, Any]) -> None:
    module = module_of(kind, **options)
    relevant, irrelevant = sequences(ROWS, STEPS, FEATURES)
    if not module.batch_first:
        relevant, irrelevant = relevant.transpose(0, 1), irrelevant.transpose(0, 1)
    for item in range(3 if kind == "lstm" else 2):
        value = value_of(module, relevant + irrelevant, item, std=1.0)
        found = split(module, relevant, irrelevant, item, std=1.0)
        torch.testing.assert_close(found[0] + found[1], value, **TOLERANCE)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_all_is_relevant_where_everything_is_and_nothing_where_nothing_is(kind: str) -> None:
    # rectified states that are all zero would halve what is constant in the layer above
    module = module_of(kind, num_layers=1 if kind == "rnn_relu" else 2, bidirectional=True)
    sequence, _ = sequences(STEPS, ROWS, FEATURES)
    nothing = torch.zeros_like(sequence)
    value = value_of(module, sequence, std=1.0)
    relevant, irrelevant = split(module, sequence, nothing, std=1.0)
    torch.testing.assert_close(relevant, value, **TOLERANCE)
    torch.testing.assert_close(irrelevant, torch.zeros_like(value), **TOLERANCE)
    relevant, irrelevant = split(module, nothing, sequence, std=1.0)
    torch.testing.assert_close(relevant, torch.zeros_like(value), **TOLERANCE)
    torch.testing.assert_close(irrelevant, value, **TOLERANCE)


def test_what_is_constant_is_halved_at_steps_without_input() -> None:
    module = module_of("rnn_tanh")
    nothing = torch.zeros(1, ROWS, FEATURES, dtype=torch.float64)
    relevant, irrelevant = split(module, nothing, nothing)
    torch.testing.assert_close(relevant, 0.5 * value_of(module, nothing), **TOLERANCE)
    assert torch.equal(relevant, irrelevant)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_second_layer_takes_both_parts_of_the_first(kind: str) -> None:
    module = module_of(kind, num_layers=2, bidirectional=True)
    torch.manual_seed(0)
    first = KINDS[kind](FEATURES, UNITS, bidirectional=True).double()
    second = KINDS[kind](2 * UNITS, UNITS, bidirectional=True).double()
    weights = weights_of(module)
    half = len(weights) // 2
    for one, own in ((first, weights[:half]), (second, weights[half:])):
        one.load_state_dict(dict(zip(one.state_dict(), own, strict=True)))
        one.requires_grad_(requires_grad=False)

    parts = sequences(STEPS, ROWS, FEATURES)
    expected = split(second, *split(first, *parts))
    torch.testing.assert_close(split(module, *parts), expected, **TOLERANCE)


def test_the_reverse_direction_is_the_forward_one_of_the_sequence_turned_round() -> None:
    module = module_of("lstm", bidirectional=True)
    single = nn.LSTM(FEATURES, UNITS).double()
    own = weights_of(module)[4:]
    single.load_state_dict(dict(zip(single.state_dict(), own, strict=True)))
    single.requires_grad_(requires_grad=False)
    relevant, irrelevant = sequences(STEPS, ROWS, FEATURES)
    turned = split(single, relevant.flip(0), irrelevant.flip(0))
    found = split(module, relevant, irrelevant)
    for part, expected in zip(found, turned, strict=True):
        torch.testing.assert_close(part[..., UNITS:], expected.flip(0), **TOLERANCE)


def test_an_lstm_with_a_projection_is_split_too() -> None:
    module = module_of("lstm", proj_size=2, num_layers=2)
    relevant, irrelevant = sequences(STEPS, ROWS, FEATURES)
    for item in range(3):
        found = split(module, relevant, irrelevant, item, std=1.0)
        value = value_of(module, relevant + irrelevant, item, std=1.0)
        torch.testing.assert_close(found[0] + found[1], value, **TOLERANCE)


def test_initial_states_that_depend_on_the_input_bring_their_parts() -> None:
    module = module_of("gru")
    op = operator_of(module)
    relevant, irrelevant = sequences(STEPS, ROWS, FEATURES)
    (state,) = states_of(module, ROWS, std=1.0)
    streams: Any = Carried({}, torch.arange(ROWS), is_strict=True)
    nothing = torch.zeros_like(irrelevant)
    found = recurrence(op, (Parts(relevant, irrelevant), Parts(state, 0.3 * state)), streams)
    value = op.run(relevant + irrelevant, 1.3 * state)
    assert found.irrelevant is not None
    torch.testing.assert_close(found.of_rows + found.irrelevant, value, **TOLERANCE)
    found = recurrence(op, (Parts(nothing, irrelevant), Parts(0 * state, state)), streams)
    torch.testing.assert_close(found.relevant, torch.zeros_like(value), **TOLERANCE)


def test_a_sequence_that_is_certain_is_refused() -> None:
    op = operator_of(module_of("gru"))
    streams: Any = Carried({}, torch.arange(ROWS), is_strict=True)
    with pytest.raises(NotImplementedError, match=r"sequence of 'op' \(in 'rnn'\)"):
        recurrence(op, (Parts(None, None), Parts(None, None)), streams)


@pytest.mark.parametrize(
    ("kind", "options", "n_samples"),
    [
        ("lstm", FORMS[0], 2),
        ("lstm", FORMS[1], 1),
        ("gru", FORMS[0], 1),
        ("gru", FORMS[2], 2),
        ("rnn_tanh", FORMS[1], 2),
        ("rnn_relu", FORMS[2], 1),
    ],
)
def test_one_stream_is_the_relevant_one_of_two(
    kind: str, options: dict[str, Any], n_samples: int
) -> None:
    module = module_of(kind, **options)
    axis = 0 if module.batch_first else 1
    rows = torch.tensor([0, 0, n_samples - 1])
    whole, chosen = sequences(len(rows), STEPS, FEATURES)
    whole = whole[:n_samples]
    # whole steps, and one that is relevant in part
    chosen = (chosen[:, :, :1] > 0).double()
    chosen[0, 2] = 0.3
    if axis == 1:
        whole, chosen = whole.transpose(0, 1), chosen.transpose(0, 1)
    of_rows = whole.index_select(axis, rows)
    parts = Parts(chosen * of_rows, (1 - chosen) * of_rows)
    for item in range(3 if kind == "lstm" else 2):
        op = operator_of(module, item)
        certain = dict(zip(op.inputs[1:], states_of(module, n_samples, 1.0), strict=True))
        inputs = (parts, *(Parts(None) for _ in certain))
        one, two = (
            recurrence(op, inputs, Carried({"x": whole, **certain}, rows, is_strict, axis))  # type: ignore[arg-type]  # all that the rule asks for
            for is_strict in (False, True)
        )
        torch.testing.assert_close(one.of_rows, two.of_rows, **TOLERANCE)
        assert one.irrelevant is None


def test_one_stream_takes_the_parts_of_initial_states() -> None:
    module = module_of("lstm")
    op = operator_of(module)
    relevant, irrelevant = sequences(STEPS, ROWS, FEATURES)
    hidden, cell = states_of(module, ROWS, std=1.0)
    values = {"x": relevant + irrelevant, "hidden": 1.3 * hidden, "cell": cell}
    inputs = (Parts(relevant, irrelevant), Parts(hidden, 0.3 * hidden), Parts(None))
    one, two = (
        recurrence(op, inputs, Carried(values, torch.arange(ROWS), is_strict, 1))  # type: ignore[arg-type]  # all that the rule asks for
        for is_strict in (False, True)
    )
    torch.testing.assert_close(one.of_rows, two.of_rows, **TOLERANCE)
