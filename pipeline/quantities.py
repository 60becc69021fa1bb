"""Times and sizes as a person would say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a time: ``850 ms``, ``12.3 s``, ``4 min 10 s``, ``2 h 05 min``."""
    # the limits are where rounding reaches the next unit: "1000 ms" and "60.0 s" are said by nobody
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(n_bytes: float) -> str:
    """Return a number of bytes in the decimal unit that leaves few digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < (999.5 if unit == "B" else 999.95):
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
