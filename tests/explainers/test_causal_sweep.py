"""Neurons under interventions of several strengths, against edits of the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from explainers.causal.structure import structure_of
from explainers.causal.sweep import swept
from explainers.trace import Trace
from tests.explainers.zoo import small, small_network

CLASSES = torch.tensor([0, 3, 3, 1])
VALUES = (0.0, 0.05, 0.5)


def outcomes_of_edits(path: str, effects: Tensor, features: int, u: float) -> tuple[Tensor, Tensor]:
    """Logits and divergences, ``(rows, neurons)``, of the model with weights set one by one."""
    model, inputs = small()
    weight = model.get_submodule(path).weight
    n_neurons = weight.shape[1] // features
    logits, divergences = torch.zeros(2, 4, n_neurons, dtype=torch.float64)
    with torch.no_grad():
        before, plain = model(inputs).log_softmax(1), weight.clone()
        for row in range(4):
            for neuron in range(n_neurons):
                weight[effects[row], neuron * features : (neuron + 1) * features] = u
                output = model(inputs[row : row + 1])
                after = output.log_softmax(1)[0]
                logits[row, neuron] = output[0, CLASSES[row]]
                divergences[row, neuron] = (after.exp() * (after - before[row])).sum()
                weight.copy_(plain)
    return logits, divergences


def test_the_closed_form_at_the_last_layer_is_what_edits_of_the_weights_do() -> None:
    network, inputs = small_network(), small()[1]
    trace, layer = Trace(network, inputs), structure_of(network).layer("fc")
    effects = torch.nn.functional.one_hot(CLASSES, 5).bool()
    for u, outcome in zip(VALUES, swept(trace, layer, effects, CLASSES, VALUES), strict=True):
        logits, divergences = outcomes_of_edits("fc", effects, 16, u)
        # logits are of order 1; a divergence is what is left of differences of them
        torch.testing.assert_close(outcome.logit, logits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(outcome.divergence, divergences, rtol=1e-9, atol=1e-13)
        assert (outcome.divergence >= 0).all()


def test_other_effects_than_the_class_alone_are_swept_too() -> None:
    network, inputs = small_network(), small()[1]
    trace, layer = Trace(network, inputs), structure_of(network).layer("fc")
    effects = torch.nn.functional.one_hot(CLASSES, 5).bool()
    effects[:, 4] = True  # the logit moves as before, the probabilities do not
    (outcome,) = swept(trace, layer, effects, CLASSES, [0.3])
    logits, divergences = outcomes_of_edits("fc", effects, 16, 0.3)
    torch.testing.assert_close(outcome.logit, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outcome.divergence, divergences, rtol=1e-9, atol=1e-13)


def test_a_hidden_layer_is_swept_over_its_effects() -> None:
    network, inputs = small_network(), small()[1]
    trace, layer = Trace(network, inputs), structure_of(network).layer("conv2#1")
    effects = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    outcomes = list(swept(trace, layer, effects, CLASSES, VALUES))
    reference = trace.output.gather(1, CLASSES[:, None])
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert outcome.logit.shape == (4, 6)
        assert (outcome.logit != reference).any()
    assert (outcomes[0].logit != outcomes[2].logit).any()
