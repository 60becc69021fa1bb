"""Parameters that have to be numbers: whole ones, finite ones, none too small."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse a parameter that is no whole number, or too small.

    Raises
    ------
    TypeError
        If it is none; True and 2.0 are none either.
    ValueError
        If it is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"got {name}={value!r}, expected a whole number, at least {least}")
    if int(value) < least:
        raise ValueError(f"got {name}={value}, expected at least {least}")


def check_finite(name: str, value: Any, least: float = 0.0) -> None:
    """Refuse a parameter that is no finite number, or too small.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is NaN, infinite or less than `least`.
    """
    expected = f"expected a finite number, at least {least:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"got {name}={value!r}, {expected.replace('finite ', '')}")
    if not math.isfinite(value) or value < least:
        raise ValueError(f"got {name}={value}, {expected}")
