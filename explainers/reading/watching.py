"""What a model that is no program does with its inputs, as far as watching it run once shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.reading.user_model import UserModel

_PACKING = (
    "; it packs sequences (pack_padded_sequence), which has no steps that are the same for every "
    "sample: a batch that holds one length alone needs no packing, so give the recurrence the "
    "padded tensor to have a program, or explain tokens by perturbing them"
)


@dataclass(frozen=True)
class Watched:
    """What was seen."""

    is_packing: bool = False
    """Whether sequences are packed."""
    n_tokens: tuple[int, ...] = ()
    """For each input, the rows of the embedding that it chooses from; 0 where it chooses none."""

    @property
    def reason(self) -> str:
        """What is added to the reason why the model is no program."""
        return _PACKING if self.is_packing else ""


def watched(model: UserModel, example: Sequence[Tensor]) -> Watched:
    """Run a model on its example, and tell what it does.

    An input chooses from an embedding if its numbers, in whatever order, are indices of one.
    """
    mode = _Mode()
    with torch.no_grad(), mode:
        model(*example)
    return Watched(mode.is_packing, tuple(mode.n_rows(part) for part in example))


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what embeddings are asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_packing = False
        self._asked: list[tuple[int, Tensor]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        """Run an operator."""
        if function is torch.ops.aten._pack_padded_sequence.default:
            self.is_packing = True
        if function is torch.ops.aten.embedding.default:
            self._asked.append((len(arguments[0]), arguments[1].flatten().sort().values))
        return function(*arguments, **(options or {}))

    def n_rows(self, part: Tensor) -> int:
        """Return the rows of the smallest embedding that an input chooses from; 0 for none."""
        if part.is_floating_point() or part.dtype == torch.bool:
            return 0
        wanted = part.flatten().sort().values
        sizes = [size for size, indices in self._asked if torch.equal(indices.to(wanted), wanted)]
        return min(sizes, default=0)
