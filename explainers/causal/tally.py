"""What interventions did, added up per class and neuron, so that shards merge.

A tally is a flat mapping of tensors, all with the classes first. With R replicates of a Poisson
bootstrap (`explainers.causal.poisson`), and all but the counts float64:

- ``n`` ``(classes, neurons)`` int64, the samples on which a neuron was tested, and of these
  ``logit_mean``, ``te_mean`` and ``relative_mean``, the means of the logit Y' under the
  intervention, of the total effect TE = Y' - Y and of Y' / Y - 1, with ``logit_m2``, ``te_m2`` and
  ``relative_m2``, the sums of squared deviations; ``divergence``, the sum of KL(P' || P), nats;
- ``reference_n`` int64, ``reference_mean``, ``reference_m2`` and ``reference_max``, ``(classes,)``:
  Y without intervention on the same samples, and the greatest magnitude of it;
- ``drawn`` ``(classes, replicates)``, the sum of the bootstrap weights w, and ``drawn_te`` and
  ``drawn_te2`` ``(classes, replicates, neurons)``, the sums of w TE and w TE^2;
- for the rule of the original alone, ``drawn_logit``, ``drawn_logit2`` and ``drawn_relative``, the
  sums of w Y', w Y'^2 and w (Y' / Y - 1); ``reference_inverse2`` ``(classes,)``, the sum of
  1 / Y^2; and of a reference to which samples without
  interventions may be added (`with_reference`), ``wider_n``, ``wider_mean``, ``wider_m2``
  ``(classes,)`` and ``wider_drawn``, ``wider_drawn_logit``, ``wider_drawn_logit2``
  ``(classes, replicates)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State


class Effects(Protocol):
    """What interventions on rows and neurons did, ``(rows, neurons)`` both."""

    @property
    def logit(self) -> Tensor:
        """The logit of the class under each intervention."""

    @property
    def divergence(self) -> Tensor:
        """KL of the outputs under the intervention from those without, nats."""


_PER_NEURON = ("logit", "te", "relative")
_DRAWN = ("te", "te2")
_DRAWN_COMPAT = ("logit", "logit2", "relative")


def empty(n_classes: int, n_neurons: int, n_replicates: int, *, is_compat: bool = False) -> State:
    """Return the tally of no samples; `is_compat`: with what the original's rule needs."""
    shape = (n_classes, n_neurons)
    state: State = {"n": torch.zeros(shape, dtype=torch.int64), "divergence": _zeros(*shape)}
    for name in _PER_NEURON:
        state |= {f"{name}_mean": _zeros(*shape), f"{name}_m2": _zeros(*shape)}
    state |= _reference("reference", n_classes) | {"reference_max": _zeros(n_classes)}
    state["drawn"] = _zeros(n_classes, n_replicates)
    for name in _DRAWN + _DRAWN_COMPAT if is_compat else _DRAWN:
        state[f"drawn_{name}"] = _zeros(n_classes, n_replicates, n_neurons)
    if is_compat:
        state |= _reference("wider", n_classes) | {"reference_inverse2": _zeros(n_classes)}
        for name in ("wider_drawn", "wider_drawn_logit", "wider_drawn_logit2"):
            state[name] = _zeros(n_classes, n_replicates)
    return state


@torch.no_grad()
def added(
    state: State,
    member: Tensor,
    outcome: Effects,
    reference: Tensor,
    tested: Tensor,
    weights: Tensor,
) -> State:
    """Add rows to a tally, whose tensors are changed in place, and return it.

    Parameters
    ----------
    state
        Where they are added.
    member
        Position of the class of each row, int64 ``(rows,)``; all rows of a class have to be tested
        at the same neurons.
    outcome
        Logits and divergences under the interventions, ``(rows, neurons)``; what stands where no
        test was made is not read.
    reference
        Logit of the row's class without intervention, ``(rows,)``.
    tested
        Where a test was made, bool ``(rows, neurons)``.
    weights
        Of the rows in the replicates of the bootstrap, ``(replicates, rows)``.
    """
    if len(member) == 0:
        return state
    groups = _Groups.of(member.to(state["n"].device))
    is_tested = groups.padded(tested, torch.bool)  # (present, longest, neurons)
    logit, plain = groups.padded(outcome.logit), groups.padded(reference)
    te = (logit - plain[..., None]).masked_fill_(~is_tested, 0.0)
    relative = torch.where(te == 0, 0.0, te / plain[..., None])
    columns = {"logit": logit.masked_fill_(~is_tested, 0.0), "te": te, "relative": relative}
    present = groups.present
    n_left = state["n"][present]
    for name, values in columns.items():
        _add_moments(state, name, present, n_left, values, is_tested)
    state["n"][present] = n_left + is_tested.sum(1)
    divergence = groups.padded(outcome.divergence).masked_fill_(~is_tested, 0.0)
    state["divergence"].index_add_(0, present, divergence.sum(1))
    _add_reference(state, "reference", groups, plain)
    state["reference_max"][present] = torch.maximum(
        state["reference_max"][present], plain.abs().amax(1)
    )
    drawn = groups.padded(weights.T).transpose(1, 2)  # (present, replicates, longest)
    state["drawn"].index_add_(0, present, drawn.sum(2))
    columns |= {"te2": te.square(), "logit2": logit.square()}
    for name in _DRAWN + _DRAWN_COMPAT:
        if f"drawn_{name}" in state:
            state[f"drawn_{name}"].index_add_(0, present, drawn @ columns[name])
    if "reference_inverse2" in state:
        inverse = plain.square().reciprocal().masked_fill_(~groups.is_row, 0.0)
        state["reference_inverse2"].index_add_(0, present, inverse.sum(1))
    _add_wider(state, groups, plain, drawn)
    return state


@torch.no_grad()
def with_reference(state: State, member: Tensor, reference: Tensor, weights: Tensor) -> State:
    """Add rows to the wider reference alone, in place, and return the tally.

    The original compares with the logits of one sample more than it intervenes on.
    """
    if "wider_n" not in state:
        raise ValueError(
            "got a tally without a wider reference, expected one made by empty(..., is_compat=True)"
        )
    if len(member) == 0:
        return state
    groups = _Groups.of(member.to(state["n"].device))
    drawn = groups.padded(weights.T).transpose(1, 2)
    _add_wider(state, groups, groups.padded(reference), drawn)
    return state


def merged(left: State, right: State) -> State:
    """Return the tally of the rows of both; one without rows changes no bit of the other."""
    result = dict(left)
    counts = dict.fromkeys(_PER_NEURON, "n") | {"reference": "reference_n", "wider": "wider_n"}
    for name, count in counts.items():
        if count not in left:
            continue
        mean, m2 = f"{name}_mean", f"{name}_m2"
        result[mean], result[m2] = _chan(
            (left[count], left[mean], left[m2]), (right[count], right[mean], right[m2])
        )
    for key in left:
        if key == "reference_max":
            result[key] = torch.maximum(left[key], right[key])
        elif not key.endswith(("_mean", "_m2")):
            result[key] = left[key] + right[key]
    return result


@dataclass(frozen=True, eq=False)
class _Groups:
    """Rows by their class, each class padded to as many as the largest has."""

    present: Tensor
    """Positions of the classes there are, int64 ``(present,)``."""
    rows: Tensor
    """Of each class, int64 ``(present, longest)``; the first row where it has no more."""
    is_row: Tensor
    """Where `rows` are rows of the class, bool."""

    @classmethod
    def of(cls, member: Tensor) -> _Groups:
        present, counts = torch.unique(member, return_counts=True)
        order = member.argsort(stable=True)
        places = torch.arange(int(counts.max()), device=member.device)
        is_row = places < counts[:, None]
        rows = torch.zeros_like(is_row, dtype=torch.int64)
        rows[is_row] = order
        return cls(present, rows, is_row)

    def padded(self, values: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return values ``(rows, ...)`` as ``(present, longest, ...)``, 0 where there is no row."""
        found = values.to(self.rows.device, dtype)[self.rows]
        mask = self.is_row.reshape(*self.is_row.shape, *[1] * (found.dim() - 2))
        return found.masked_fill_(~mask, 0)


def _add_moments(
    state: State, name: str, present: Tensor, n_left: Tensor, values: Tensor, mask: Tensor
) -> None:
    """Add values ``(present, rows, ...)``, 0 where the mask is not, to a mean and squares."""
    count = mask.sum(1)
    mean = values.sum(1) / count.clamp(min=1)
    m2 = (values - mean[:, None]).masked_fill_(~mask, 0.0).square_().sum(1)
    left = (n_left, state[f"{name}_mean"][present], state[f"{name}_m2"][present])
    state[f"{name}_mean"][present], state[f"{name}_m2"][present] = _chan(left, (count, mean, m2))


def _add_reference(state: State, name: str, groups: _Groups, plain: Tensor) -> None:
    n_left = state[f"{name}_n"][groups.present]
    _add_moments(state, name, groups.present, n_left, plain, groups.is_row)
    state[f"{name}_n"][groups.present] = n_left + groups.is_row.sum(1)


def _add_wider(state: State, groups: _Groups, plain: Tensor, drawn: Tensor) -> None:
    if "wider_n" not in state:
        return
    _add_reference(state, "wider", groups, plain)
    sums = drawn @ torch.stack([plain.new_ones(plain.shape), plain, plain.square()], -1)
    for place, name in enumerate(("wider_drawn", "wider_drawn_logit", "wider_drawn_logit2")):
        state[name].index_add_(0, groups.present, sums[..., place])


def _chan(
    left: tuple[Tensor, Tensor, Tensor], right: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return mean and squared deviations of both parts (Chan, Golub and LeVeque 1979)."""
    share = right[0].double() / (left[0] + right[0]).clamp(min=1)  # 0 or 1 where a part is empty
    delta = right[1] - left[1]
    # a part without rows is not to bring its zeros in, not even beside a mean that is infinite
    moved = torch.where(share == 1, right[1], left[1] + delta * share)
    mean = torch.where(share == 0, left[1], moved)
    between = torch.where((share == 0) | (share == 1), 0.0, delta.square() * left[0] * share)
    return mean, left[2] + right[2] + between


def _reference(name: str, n_classes: int) -> State:
    count = torch.zeros(n_classes, dtype=torch.int64)
    return {f"{name}_n": count, f"{name}_mean": _zeros(n_classes), f"{name}_m2": _zeros(n_classes)}


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
