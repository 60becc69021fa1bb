"""Labels as files have them, numbers or names, as class indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_N_SHOWN = 8


def indices(values: Sequence[Any], classes: Sequence[str] | None, what: str) -> list[int]:
    """Return the class index of each label; -1 of those that are missing, empty or NaN.

    Parameters
    ----------
    values
        Whole numbers, text that says one, or names of classes.
    classes
        Their names, by index.
    what
        Where the labels are, for the message.

    Raises
    ------
    PlanError
        If a label is neither a number nor the name of a class.
    """
    known = {name: index for index, name in enumerate(classes or ())}
    found = [_index_of(value, known) for value in values]
    if None in found:
        value = values[found.index(None)]
        names = f" or one of {', '.join(map(repr, classes))}" if classes else ""
        raise PlanError(
            f"{what}: got the label {value!r}, expected a whole number{names}",
            fix="name the classes in the order of the model's outputs with data.classes; the "
            f"labels are {_few(values)}",
            page="labels",
        )
    return [index for index in found if index is not None]


def check_names(classes: Sequence[str] | None) -> None:
    """Refuse names that tell nothing apart.

    Raises
    ------
    ValueError
        If one is there twice.
    """
    if len(set(classes or ())) < len(classes or ()):
        raise ValueError(f"classes: got {classes!r}, expected every name once")


def _index_of(value: Any, known: dict[str, int]) -> int | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = text.strip() if isinstance(text, str) else text
    if text is None or text == "" or text != text:
        return -1
    if isinstance(text, str) and text in known:
        return known[text]
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _few(values: Iterable[Any]) -> str:
    distinct = sorted({str(value) for value in values})
    return ", ".join(distinct[:_N_SHOWN]) + (", ..." if len(distinct) > _N_SHOWN else "")
