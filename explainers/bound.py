"""An attribution bound to a network: the interface that Captum's users know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from explainers import explaining
from explainers.base import Attribution, Explained
from explainers.catalogue import build, method
from explainers.inference import outside_inference_mode
from explainers.inputs.structure import Structure
from explainers.labels import samples_of
from explainers.network import Network
from explainers.targets import Target
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.base import Explainer
    from explainers.targets import TargetLike

    Model = nn.Module | Network | Callable[..., Tensor]

Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...], dict[str, Tensor])


@dataclass(eq=False)
class Bound:
    """One attribution method for one model; networks are read on first use and kept.

    The model is read as it is at the first call with inputs of a new shape; bind again after
    changing its weights.
    """

    model: Model
    """What is explained."""
    explainer: Attribution
    """Method and parameters."""
    seed: int = 0
    """Seeds stochastic methods, together with each row's number."""
    namespace: str = ""
    """Seeds them too: a run's entry draws under its name; by default the method's."""
    _networks: dict[tuple[Any, ...], Network] = field(default_factory=dict, repr=False)
    _other: tuple[Bound, dict[str, Tensor]] | None = field(default=None, repr=False)
    """The last other model that `__call__` was given, and which weights it had."""

    def network(self, inputs: Any) -> Network:
        """Return the network for inputs of this shape, device and dtype, checked by the method."""
        structure = Structure.of(inputs)
        parts = structure.parts(inputs)
        key = (structure, *((part.shape[1:], part.device, part.dtype) for part in parts))
        if key not in self._networks:
            network = self.model if isinstance(self.model, Network) else Network(self.model, inputs)
            explaining.check(self.explainer, network)
            self._networks[key] = network
        return self._networks[key]

    @outside_inference_mode
    def explain(
        self, inputs: Inputs, target: TargetLike = None, *, labels: Any = None
    ) -> Explained:
        """Return relevance and whatever the method finds beside it.

        Parameters
        ----------
        inputs
            ``(batch, ...)``, or a tuple or dict of such tensors, as the model takes them.
        target
            None (predicted), a class index, one for each row, weights over the outputs, or a unit
            of a layer: see `Target.parse`.
        labels
            Class indices ``(batch,)``, -1 where not known; what the target ``"label"`` means.
        """
        network = self.network(inputs)
        parts = network.structure.parts(inputs)
        samples = None if labels is None else samples_of(len(parts[0]), labels)
        given = network.structure.filled([part.detach() for part in parts])
        parsed = Target.parse(target)
        is_of_layer = parsed.layer is not None or self.explainer.source_layer is not None
        trace = Trace(
            network,
            given,
            samples=samples,
            seed=self.seed,
            namespace=self.namespace or self.explainer.name,
            for_gradients=self.explainer.requires == {"gradient"} and not is_of_layer,
        )
        return explaining.explained(self.explainer, trace, parsed)

    # Captum's NoiseTunnel calls `attribute.__wrapped__`; the decorator provides it.
    @torch.no_grad()
    def attribute(self, inputs: Inputs, target: TargetLike = None, *, labels: Any = None) -> Inputs:
        """Return the relevance of each input value, in the structure of the inputs."""
        relevance: Any = self.explain(inputs, target, labels=labels).relevance
        is_of_inputs = self.explainer.source_layer is None
        if is_of_inputs and isinstance(relevance, Tensor) and not isinstance(inputs, Tensor):
            relevance = Structure.of(inputs).filled([relevance])
        return relevance  # type: ignore[no-any-return]  # as the inputs

    def __call__(self, model: Any, inputs: Any, targets: Any, **_unused: Any) -> Any:
        """Return relevance as Quantus asks for it: NumPy arrays in, NumPy arrays out.

        A `model` other than the bound one (Quantus randomises copies, layer by layer in place) is
        read when its weights are not those of the last one.
        """
        same = model is None or model is self.model
        bound = self if same else self._of_other(model)
        tensor = torch.as_tensor(inputs)
        if not isinstance(inputs, Tensor) and tensor.is_floating_point():
            # sums with NumPy's draws are float64, whatever the model is
            tensor = tensor.to(_floating(bound.model, tensor.dtype))
        target = None if targets is None else torch.as_tensor(targets)
        relevance = bound.attribute(tensor, target)
        return relevance if isinstance(inputs, Tensor) else relevance.cpu().numpy()

    def _of_other(self, model: Any) -> Bound:
        """Return the method bound to another model, the last one if its weights are the same."""
        weights = _weights(model)
        last = self._other
        if last is None or last[0].model is not model or not _are_same(last[1], weights):
            # what is randomised in place may change again
            kept = {name: value.detach().clone() for name, value in weights.items()}
            last = Bound(model, self.explainer, self.seed, self.namespace), kept
            self._other = last
        return last[0]

    @property
    def forward_func(self) -> Model:
        """The model, by the name under which Captum's wrappers look for it."""
        return self.model

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether relevance is in units of the output rather than of its slope."""
        return bool(getattr(self.explainer, "multiply_by_inputs", True))

    def has_convergence_delta(self) -> bool:
        """Return False: `explain` has the delta, `attribute` returns a map alone."""
        return False


def _weights(model: Any) -> dict[str, Tensor]:
    """Return parameters and buffers by name, none for what is not a module."""
    if not isinstance(model, nn.Module):
        return {}
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _floating(model: Any, otherwise: torch.dtype) -> torch.dtype:
    """Return the type of numbers that a model computes with, as far as it can be told."""
    if isinstance(model, Network):
        return model.dtype if model.dtype.is_floating_point else otherwise
    found = (each.dtype for each in _weights(model).values())
    return next((dtype for dtype in found if dtype.is_floating_point), otherwise)


def _are_same(known: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    """Return whether weights are equal; what has none may have changed in any way."""
    if not weights or known.keys() != weights.keys():
        return False
    return all(
        each.device == known[name].device and torch.equal(each, known[name])
        for name, each in weights.items()
    )


@dataclass(frozen=True)
class Factory:
    """Binds the attribution `name` to models: ``get(name)(model, **params)``."""

    name: str

    @property
    def method(self) -> type[Explainer]:
        """The class; its dataclass fields are the parameters."""
        return method(self.name)

    def __call__(self, model: Model, *, seed: int = 0, namespace: str = "", **params: Any) -> Bound:
        """Return the method with these parameters, bound to a model or a network.

        With the seed of a run, and as `namespace` the name of an entry of its run file, a
        stochastic method draws what that entry drew for the run's first samples, in their order.

        Raises
        ------
        TypeError
            If the explainer has no such parameter.
        NotImplementedError
            If a network is given that the method cannot serve.
        """
        explainer = build(self.name, **params)
        if not isinstance(explainer, Attribution):
            raise TypeError(
                f"{self.name!r} is a scan and has no map per sample; "
                f"call explainers.scan(model, {self.name!r}, loader)"
            )
        if isinstance(model, Network):
            explaining.check(explainer, model)
        return Bound(model, explainer, seed, namespace)


def get(name: str) -> Factory:
    """Return the factory of an attribution method.

    Raises
    ------
    LookupError
        If there is no explainer `name`; the message names the nearest.
    """
    method(name)
    return Factory(name)


def explain(
    model: Model,
    name: str,
    inputs: Inputs,
    target: TargetLike = None,
    *,
    labels: Any = None,
    **params: Any,
) -> Inputs:
    """Return the relevance of `inputs` to `target` by the method `name`.

    Parameters
    ----------
    model
        A module, any callable from inputs to logits, or a `Network` (which saves reading the
        model again).
    name
        One of `available()`.
    inputs
        ``(batch, ...)``; a tuple or dict of several, of which the result then holds a map each,
        None for what has no relevance (masks, lengths). Tokens get one number each.
    target
        None (predicted), a class index, one for each row, weights over the outputs, or a unit of a
        layer, ``{"layer": path, "unit": 3}``.
    labels
        Class indices ``(batch,)``, -1 where not known; what the target ``"label"`` means.
    **params
        The method's parameters, `seed` and `namespace`, as `Factory` takes them.

    Examples
    --------
    >>> import torch
    >>> import explainers
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> inputs = torch.ones(2, 3)
    >>> relevance = explainers.explain(model, "input_x_gradient", inputs, target=1)
    >>> bool(torch.allclose(relevance.sum(1), model(inputs)[:, 1]))
    True
    """
    return get(name)(model, **params).attribute(inputs, target, labels=labels)
