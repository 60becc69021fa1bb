"""How numbers are written for people."""

from __future__ import annotations

import math

from markupsafe import Markup

MISSING = "\N{EN DASH}"
_GROUPED = "\N{NARROW NO-BREAK SPACE}"
"""Between thousands."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return _minus("\N{INFINITY}" if value > 0 else "-\N{INFINITY}")
    value = value or 0.0  # zero has no sign
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return _minus(f"{mantissa}e{int(exponent)}")
    decimals = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _minus(_grouped(value, decimals))


def fixed(value: float, decimals: int = 2) -> str:
    """Return a number with so many decimals, whatever its size: for what is between -1 and 1."""
    if math.isnan(value):
        return MISSING
    # what rounds to nothing has no sign
    return _minus(f"{round(value, decimals) + 0.0:.{decimals}f}")


def interval(mean: float, half: float) -> tuple[str, str]:
    """Return a mean and half its interval, to the two digits that the interval leaves."""
    if math.isnan(mean):
        return MISSING, ""
    if math.isnan(half) or half <= 0:
        return number(mean), ""
    if not 1e-6 <= half < 1e5:
        return number(mean), number(half, 2)
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return _minus(_grouped(mean, decimals)), _grouped(half, decimals)


def count(value: float) -> str:
    """Return the nearest whole number."""
    return MISSING if math.isnan(value) else _grouped(value, 0)


def percent(value: float, digits: int = 1) -> str:
    """Return a share in percent."""
    if math.isnan(value):
        return MISSING
    # what rounds to nothing has no sign
    return _minus(f"{round(100 * value, digits) + 0.0:.{digits}f} %")


def breakable(name: str) -> Markup:
    """Return a name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _grouped(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace(",", _GROUPED)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text
