"""Composites by name, with whatever parameters they have."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from explainers.catalogue import methods
from explainers.composites.choice import Composite
from explainers.registry import Registry, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from explainers.composites.assignment import Assignment

ALIASES = {
    "deep_taylor.bounded": "deep_taylor_bounded",
    **{
        f"lrp.{name}": f"lrp_{name.lower()}"
        for name in (
            *("z", "z_IB", "epsilon", "epsilon_IB", "w_square", "flat", "alpha_beta"),
            *("alpha_2_beta_1", "alpha_2_beta_1_IB", "alpha_1_beta_0", "alpha_1_beta_0_IB"),
            *("z_plus", "z_plus_fast", "sequential_preset_a", "sequential_preset_a_flat"),
            *("sequential_preset_b", "sequential_preset_b_flat"),
            "sequential_preset_b_flat_until_idx",
        )
    },
}
"""iNNvestigate's names for analysers to ours for composites."""

composites: Registry[Composite | Callable[..., Composite]] = Registry(
    "composite", ("explainers.composites",), "xpipe.composites"
)
"""Composites, and functions that return one for their parameters."""

DEFAULTS = ("epsilon", "stabiliser", "zero_params")
"""Parameters that every composite has: of the rules that it assigns."""


def find(composite: str | Mapping[str, Any] | Composite) -> Composite:
    """Return a composite.

    Parameters
    ----------
    composite
        Its name, of iNNvestigate's also with its dots (``lrp.z``); or a mapping with its name as
        `name` and its parameters, such as
        ``{name: epsilon_gamma_box, low: -2.1, high: 2.6}``; or the composite itself.

    Raises
    ------
    LookupError
        If there is none of this name; the message names the nearest.
    TypeError
        If it has no such parameter, or one that must be given is missing.
    """
    if isinstance(composite, Composite):
        return composite
    given = {"name": composite} if isinstance(composite, str) else dict(composite)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise TypeError(
            f"got composite {composite!r}, expected a name, or a mapping with the name and the "
            "composite's parameters: {name: epsilon_gamma_box, low: -2.1, high: 2.6}"
        )
    made = _registered(name)
    own = parameters(name)
    defaults = {key: given.pop(key) for key in DEFAULTS if key in given and key not in own}
    for parameter in given:
        if parameter not in own:
            hint = suggest(parameter, [*own, *DEFAULTS])
            raise TypeError(f"composite {name!r} has no parameter {parameter!r}; {hint}")
    missing = [key for key, default in own.items() if default is ... and key not in given]
    if missing:
        raise TypeError(
            f"composite {name!r} needs the parameters {', '.join(missing)}; write "
            f"{{name: {name}, {', '.join(f'{key}: ...' for key in missing)}}}"
        )
    found = made if isinstance(made, Composite) else made(**given)
    return found.with_defaults(**defaults) if defaults else found


def parameters(name: str) -> dict[str, Any]:
    """Return a composite's own parameters with their defaults; ``...`` where one must be given.

    Raises
    ------
    LookupError
        If there is none of this name.
    """
    made = _registered(name)
    if isinstance(made, Composite):
        return {}
    signature = inspect.signature(made).parameters
    empty = inspect.Parameter.empty
    return {key: ... if one.default is empty else one.default for key, one in signature.items()}


def _registered(name: str) -> Composite | Callable[..., Composite]:
    found = ALIASES.get(name, name)
    if found not in composites and found in methods:
        raise LookupError(
            f"{name!r} is a method of its own and no composite; write method: {name} (in Python "
            f"explainers.explain(model, {name!r}, inputs)) in place of lrp with a composite"
        )
    return composites.get(found)


def constant(name: str, *assignments: Assignment, **defaults: Any) -> Composite:
    """Register a composite without parameters of its own, and return it."""
    composite = Composite(assignments).with_defaults(**defaults)
    composites.register(name)(composite)
    return composite
