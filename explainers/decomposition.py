"""Contextual decomposition: what of a network's outputs is due to some of its inputs.

Every value of the program is split in a relevant and an irrelevant part that sum to it, from masks
of the input to the logits, by the rules of the table ``decomposition`` (Murdoch, Liu, Yu 2018,
arXiv:1801.05453; Singh, Murdoch, Yu 2019, arXiv:1806.05337). All masks of a batch go through the
network together, and take about the time of one forward pass of as many rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from explainers.inference import outside_inference_mode
from explainers.inputs.masks import of_trace, transformed
from explainers.network import Network
from explainers.operators import Linear
from explainers.reference import at_inputs
from explainers.rules.decomposition.carrying import carry, check
from explainers.rules.decomposition.linear import gives_output
from explainers.sampling.chunks import pieces
from explainers.sampling.forward_chunks import as_memory_allows, forward_rows
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from explainers.inputs.structure import Inputs


Split: TypeAlias = "Callable[[slice], tuple[Tensor, Tensor | None]]"
"""Returns the relevant part of the inputs of some rows, and, of two streams, the irrelevant one."""

STRICT_PASSES = 5
"""What a mask costs, in forward passes, where both parts are carried. Measured on LeNet, a batch
of masks takes 5.4 times as long as one with the relevant part alone, between 4.9 and 5.8."""


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

    @torch.no_grad()
    def of_masks(
        self, masks: Tensor, rows: Tensor, /, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return both parts of the output for each mask, ``(rows, classes)`` each.

        Parameters
        ----------
        masks
            As `relevant` takes them; ``(n, ...)`` where they are chosen from.
        chosen
            int64 ``(rows,)``: of each row its mask, so that many samples can share masks. None:
            they are in the order of the rows.
        """
        if len(masks if chosen is None else chosen) != len(rows):
            n_masks = len(masks if chosen is None else chosen)
            raise ValueError(f"got {n_masks} masks for {len(rows)} rows, expected one for each")

        def split(piece: slice) -> tuple[Tensor, Tensor | None]:
            mask = masks[piece] if chosen is None else masks[chosen[piece]]
            own, mask = self._inputs_of(rows[piece]), mask.to(self._inputs)
            if self.strict:
                return own * mask, own * (1 - mask)
            shape = (len(mask), *own.shape[1:])
            return torch.mul(own, mask, out=self._laid_out(shape)), None

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

    @torch.no_grad()
    def of_both(self, relevant: Tensor, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return both parts of the output, given the relevant one of the inputs."""

        def split(piece: slice) -> tuple[Tensor, Tensor | None]:
            part = self._laid_out(relevant[piece].shape).copy_(relevant[piece])
            return part, self._inputs_of(rows[piece]) - part if self.strict else None

        return self._carried(split, rows)

    def _carried(self, split: Split, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return both parts of the output; with fewer rows at once where memory runs out."""
        return as_memory_allows(self.trace.network, lambda: self._in_pieces(split, rows))

    def _in_pieces(self, split: Split, rows: Tensor) -> tuple[Tensor, Tensor]:
        network = self.trace.network
        relevant = self.trace.output.new_empty((len(rows), network.n_outputs))
        irrelevant = torch.empty_like(relevant)
        for piece in self._pieces(len(rows)):
            own = rows[piece].to(relevant.device)
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
            if found.irrelevant is not None:
                irrelevant[piece] = found.irrelevant
            else:
                irrelevant[piece] = self._output.index_select(0, own) - found.of_rows
        return relevant, irrelevant

    def _pieces(self, n_rows: int) -> Iterator[slice]:
        """Yield the rows that go through the network together.

        The number of pieces is rounded: a seventh of a forward pass of 196 digits, which setting
        out for one more takes, is more than caches save.
        """
        if n_rows:
            n_pieces = max(1, round(n_rows / self._rows_at_once))
            yield from pieces(n_rows, -(-n_rows // n_pieces))

    @property
    def _inputs(self) -> Tensor:
        """The inputs as the network lays them out."""
        return self.values[self.trace.network.operators[0].name]

    def _inputs_of(self, rows: Tensor) -> Tensor:
        """Return the inputs of rows, to broadcast against them."""
        inputs = self._inputs
        return inputs if len(inputs) == 1 else inputs.index_select(0, rows.to(inputs.device))

    def _laid_out(self, shape: Sequence[int]) -> Tensor:
        """Return memory for inputs, laid out as the network's own: convolutions need it so."""
        inputs = self._inputs
        return torch.empty_strided(shape, inputs.stride(), dtype=inputs.dtype, device=inputs.device)

    @cached_property
    def _output(self) -> Tensor:
        """What both parts sum to."""
        network = self.trace.network
        last = next(op for op in network.operators if op.name == network.output_name)
        if self.output_bias or not isinstance(last, Linear) or not gives_output(last, network):
            return self.trace.output
        return self.trace.output if last.bias is None else self.trace.output - last.bias

    @property
    def _rows_at_once(self) -> int:
        network = self.trace.network

        def probe(n_rows: int) -> object:
            rows = torch.zeros(n_rows, dtype=torch.int64)
            part = self._laid_out((n_rows, *self._inputs.shape[1:])).copy_(self._inputs[:1] / 2)
            irrelevant = part if self.strict else None
            return carry(network, self.values, part, rows, irrelevant=irrelevant)

        return forward_rows(network, self._inputs, probe)


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
    if is_function:
        parts = decomposition.of_both(found.flatten(0, 1), rows)
    else:
        chosen = torch.arange(n_masks).repeat(n_samples) if len(found) == 1 else None
        parts = decomposition.of_masks(found.flatten(0, 1), rows, chosen)
    shape = (n_samples, n_masks, network.n_outputs)
    return parts[0].view(shape), parts[1].view(shape)
