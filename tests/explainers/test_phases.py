"""The transpose of a strided convolution by phases is the transpose."""

import pytest
import torch
from torch.nn import functional

from explainers.operators import Convolution, phases

WHERE = {"name": "op", "module_path": "", "inputs": ("x",)}


def strided(
    kernel: tuple[int, int], stride: int, padding: tuple[int, int], margins: tuple[int, ...] = ()
) -> Convolution:
    """A convolution from three channels."""
    generator = torch.Generator().manual_seed(0)
    return Convolution(
        weight=torch.randn(5, 3, *kernel, generator=generator, dtype=torch.float64),
        bias=None,
        stride=(stride, stride),
        padding=padding,
        dilation=(1, 1),
        groups=1,
        transposed=False,
        output_padding=(0, 0),
        margins=margins,
        **WHERE,
    )


@pytest.mark.parametrize(
    "op",
    [
        strided((7, 7), 2, (3, 3)),
        strided((7, 5), 2, (0, 2)),
        strided((4, 4), 4, (0, 0)),  # patches
        strided((11, 11), 4, (2, 2)),
        strided((7, 7), 3, (1, 0), margins=(0, 1, 2, 3)),
    ],
    ids=["resnet", "uneven kernel", "patches", "alexnet", "margins"],
)
@pytest.mark.parametrize("extent", [(21, 24), (22, 19)])
def test_phases_give_the_gradient_also_where_the_last_windows_leave_pixels_out(
    op: Convolution, extent: tuple[int, int]
) -> None:
    assert phases.pays(op.weight, op.stride, op.dilation)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *extent, generator=generator, dtype=torch.float64, requires_grad=True)
    padded = functional.pad(x, op.margins) if op.margins else x
    output = functional.conv2d(padded, op.weight, None, op.stride, op.padding)
    relevance = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(output, x, relevance)
    # sums of a few hundred terms of order one
    torch.testing.assert_close(
        op.transpose(relevance, x.detach()), expected, rtol=1e-12, atol=1e-12
    )


def test_phases_are_left_where_channels_fill_the_kernels_blocks() -> None:
    wide, image = torch.empty(8, 64, 3, 3), torch.empty(64, 3, 7, 7)
    assert not phases.pays(wide, (2, 2), (1, 1))
    assert not phases.pays(image, (1, 1), (1, 1))
    assert not phases.pays(image, (2, 1), (1, 1))
    assert not phases.pays(image, (2, 2), (2, 2))
    assert phases.pays(image, (2, 2), (1, 1))
