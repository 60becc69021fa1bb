"""Contextual decomposition: what of a network's outputs is due to some of its inputs.

Every value of the program is split in a relevant and an irrelevant part that sum to it, from masks
of the input to the logits, by the rules of the table ``decomposition`` (Murdoch, Liu, Yu 2018,
arXiv:1801.05453; Singh, Murdoch, Yu 2019, arXiv:1806.05337). All masks of a batch go through the
network together, and take about the time of one forward pass of as many rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from explainers.inference import outside_inference_mode
from explainers.inputs.masks import of_trace, transformed
from explainers.network import Network
from explainers.operators import Linear
from explainers.reference import at_inputs
from explainers.rules.decomposition.carrying import carry, check
from explainers.rules.decomposition.linear import folded
from explainers.sampling.chunks import pieces
from explainers.sampling.forward_chunks import forward_rows
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from explainers.inputs.structure import Inputs


class Decomposition:
    """Splits the outputs of a batch for any number of masks of its samples.

    Parameters
    ----------
    trace
        Of one tensor of floating-point inputs, or of the embeddings of tokens.
    strict
        Whether both parts are carried, each by itself, as the published code does; by default the
        relevant one is, and the irrelevant part is what it leaves of the value. Both ways agree to
        rounding wherever maxima are not tied.
    output_bias
        Whether the parts of the output share the bias of a linear map that is the last operator of
        the program; the published code for sentences leaves it out.

    Raises
    ------
    NotImplementedError
        If the network is no program, or an operator has no rule.
    """

    def __init__(self, trace: Trace, *, strict: bool = False, output_bias: bool = True) -> None:
        self.trace = trace
        self.strict = strict
        self.output_bias = output_bias
        self.values = trace.values
        check(trace.network)

    def relevant(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return the relevant part of the output for each mask, ``(rows, classes)``.

        Parameters
        ----------
        masks
            ``(rows, ...)``, bool or numbers from 0 to 1: how much of each value is relevant;
            broadcasts against the rows of the trace's inputs.
        rows
            int64 ``(rows,)``, ascending: of each mask its sample, a row of the trace.
        """
        return self.of_masks(masks, rows)[0]

    def of_masks(self, masks: Tensor, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return both parts of the output for each mask, ``(rows, classes)`` each."""
        inputs = self.trace.inputs

        def split(piece: slice) -> tuple[Tensor, Tensor | None]:
            own, mask = inputs[rows[piece].to(inputs.device)], masks[piece].to(inputs)
            return own * mask, own * (1 - mask) if self.strict else None

        return self._carried(split, rows)

    def of_parts(self, relevant: Tensor, rows: Tensor) -> Tensor:
        """Return the relevant part of the output, given that of the inputs, ``(rows, classes)``.

        Parameters
        ----------
        relevant
            ``(rows, *sample)``: what is relevant of the values of each row's sample.
        rows
            int64 ``(rows,)``, ascending.
        """
        return self.of_both(relevant, rows)[0]

    def of_both(self, relevant: Tensor, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return both parts of the output, given the relevant one of the inputs."""
        inputs = self.trace.inputs

        def split(piece: slice) -> tuple[Tensor, Tensor | None]:
            part = relevant[piece].to(inputs)
            own = inputs[rows[piece].to(inputs.device)] if self.strict else None
            return part, None if own is None else own - part

        return self._carried(split, rows)

    def _carried(
        self, split: Callable[[slice], tuple[Tensor, Tensor | None]], rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return both parts of the output, computed for as many rows at once as is good."""
        network = self.trace.network
        relevant = self.trace.output.new_empty((len(rows), network.n_outputs))
        irrelevant = torch.empty_like(relevant)
        for piece in pieces(len(rows), self._rows_at_once):
            own = rows[piece]
            first, second = split(piece)
            found = carry(
                network,
                self.values,
                first,
                own,
                irrelevant=second,
                output_bias=self.output_bias,
            )
            relevant[piece] = found.of_rows
            if found.irrelevant is None:
                rest = self._output[own.to(relevant.device)] - relevant[piece]
                irrelevant[piece] = rest
            else:
                irrelevant[piece] = found.irrelevant
        return relevant, irrelevant

    @cached_property
    def _output(self) -> Tensor:
        """What both parts sum to."""
        network = self.trace.network
        last = next(op for op in network.operators if op.name == network.output_name)
        is_left_out = not self.output_bias and last.name not in folded(network)
        if isinstance(last, Linear) and is_left_out and last.bias is not None:
            return self.trace.output - last.bias
        return self.trace.output

    @cached_property
    def _rows_at_once(self) -> int:
        inputs = self.trace.inputs

        def probe(n_rows: int) -> object:
            rows = torch.zeros(n_rows, dtype=torch.int64, device=inputs.device)
            part = inputs[rows] / 2
            irrelevant = part if self.strict else None
            return carry(self.trace.network, self.values, part, rows, irrelevant=irrelevant)

        return forward_rows(self.trace.network, inputs, probe)


@outside_inference_mode
def decompose(
    model: nn.Module | Network | Callable[..., Any],
    inputs: Inputs,
    masks: Any,
    *,
    strict: bool = False,
    output_bias: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the relevant and the irrelevant part of the outputs, for any masks of the inputs.

    Parameters
    ----------
    model
        A module, a function, or a `Network`.
    inputs
        ``(batch, ...)``, or a tuple or dict of several.
    masks
        What is relevant, bool or numbers from 0 to 1: ``(mask, *sample)`` for all samples, or
        ``(batch, mask, *sample)``, where each axis of the sample may be 1; of images also
        ``(mask, height, width)``, and ``(batch, mask, height, width)`` where that cannot be meant
        otherwise; of tokens ``(mask, token)``. Of several inputs a tuple or dict of them, None for
        what has no relevance. Or a function of the inputs (of the embeddings of tokens) that
        returns relevant parts ``(batch, mask, *sample)``.
    strict, output_bias
        See `Decomposition`.

    Returns
    -------
    tuple[Tensor, Tensor]
        ``(batch, mask, classes)`` each; their sum is the logits.

    Raises
    ------
    NotImplementedError
        If the model is no program, or an operator has no rule.
    TypeError, ValueError
        If masks do not fit.
    """
    network = model if isinstance(model, Network) else Network(model, inputs)
    whole = Trace(network, inputs)
    trace = at_inputs(whole)
    decomposition = Decomposition(trace, strict=strict, output_bias=output_bias)
    is_function = callable(masks)
    found = transformed(masks, trace.inputs) if is_function else of_trace(masks, whole, trace)
    n_samples, n_masks = trace.n_rows, found.shape[1]
    rows = torch.arange(n_samples).repeat_interleave(n_masks)
    found = found.expand(n_samples, *found.shape[1:]).flatten(0, 1)
    split = decomposition.of_both if is_function else decomposition.of_masks
    relevant, irrelevant = split(found, rows)
    shape = (n_samples, n_masks, -1)
    return relevant.view(shape), irrelevant.view(shape)
