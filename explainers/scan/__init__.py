"""One file per scan; the package can be called, because `explainers.scan` is also the driver."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from explainers.base import Result
    from explainers.bound import Model


class _Driver(ModuleType):
    # Importing a module of this package sets `explainers.scan` to the package, over whatever
    # function stood there, in an order nobody controls; so the package is the function.
    def __call__(
        self, model: Model, name: str, loader: Iterable[Any], *, seed: int = 0, **params: Any
    ) -> Result:
        """Return the result of the scan `name` over `loader`: see `explainers.driver.scan`."""
        from explainers.driver import scan

        return scan(model, name, loader, seed=seed, **params)


sys.modules[__name__].__class__ = _Driver
