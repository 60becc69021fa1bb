"""What noise is resolved to, and draws of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from explainers.base import Samples
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.spreads import of_covariance
from explainers.sampling.randomness import RandomRows

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SHAPE = (2, 3)


class Rows(RandomRows):
    """Randomness of some samples."""

    numbers = (torch.float64, torch.device("cpu"))
    seed, namespace = 5, "test"

    def __init__(self, *samples: int) -> None:
        index = torch.tensor(samples)
        self.samples = Samples(index, torch.full_like(index, -1))

    @property
    def n_rows(self) -> int:
        return len(self.samples.index)


def network(dtype: torch.dtype = torch.float64) -> Any:
    """Return what noise is resolved for: only shape, type and device are looked at."""
    return SimpleNamespace(input_shape=SHAPE, dtype=dtype, device=torch.device("cpu"))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def covariance_of(factor: Tensor) -> Tensor:
    flat = factor.flatten(1)
    return flat.T @ flat


MEAN, FACTOR = normal(*SHAPE), normal(4, *SHAPE)
COVARIANCE = covariance_of(normal(9, *SHAPE))
STATISTICS = {
    "count": torch.tensor(9),
    "mean": MEAN,
    "variance": COVARIANCE.diagonal().reshape(SHAPE),
    "min": MEAN - 1,
    "max": MEAN + 1,
    "factor": FACTOR,
    "covariance": COVARIANCE,
}


def without(*names: str) -> dict[str, Tensor]:
    return {name: value for name, value in STATISTICS.items() if name not in names}


def test_each_mode_takes_its_part_of_the_statistics() -> None:
    diag, half, full = (resolve(STATISTICS, network(), mode) for mode in ("diag", "half", "full"))
    # to a part in 2**22 of the largest value
    near = {"rtol": 0, "atol": 2**-22 * float(COVARIANCE.max())}
    torch.testing.assert_close(diag.spread, STATISTICS["variance"], **near)
    torch.testing.assert_close(half.spread, FACTOR, **near)
    torch.testing.assert_close(covariance_of(full.spread), COVARIANCE, rtol=1e-6, atol=1e-5)
    for noise in (diag, half, full):
        torch.testing.assert_close(noise.mean, MEAN, **near)


def test_statistics_may_be_arrays_that_cannot_be_written_to() -> None:
    arrays = {name: value.numpy().copy() for name, value in STATISTICS.items()}
    for array in arrays.values():
        array.flags.writeable = False
    noise = resolve(arrays, network(torch.float32), "half")
    assert noise.spread.dtype == torch.float32
    torch.testing.assert_close(noise.spread, FACTOR.float())


@pytest.mark.parametrize("mode", ["diag", "half", "full"])
def test_what_the_order_of_shards_leaves_in_the_last_digits_is_dropped(mode: Any) -> None:
    names = ("mean", "variance", "factor", "covariance")
    found = {name: STATISTICS[name].double() for name in names}
    other = {name: one * (1 + 3e-15) + 1e-15 for name, one in found.items()}
    first, second = (
        resolve({**each, "count": torch.tensor(9)}, network(), mode) for each in (found, other)
    )
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.spread, second.spread)
    # a part in 2**22 of the largest value at most: what float32 tells apart there
    bound = 2**-22 * float(found["mean"].abs().max())
    torch.testing.assert_close(first.mean, found["mean"], rtol=0, atol=bound)


def test_a_rank_keeps_the_strongest_rows() -> None:
    singular = np.linalg.svd(FACTOR.flatten(1).numpy(), compute_uv=False)
    kept = resolve(STATISTICS, network(), "half", 2).spread
    lost = covariance_of(FACTOR) - covariance_of(kept)
    assert kept.shape == (2, *SHAPE)
    # of the best approximation, to the grid that what a scan found is on
    assert float(lost.trace()) == pytest.approx((singular[2:] ** 2).sum(), rel=1e-5)
    other = resolve(without("factor"), network(), "half", 2).spread
    strongest = of_covariance(COVARIANCE)[:2].reshape(2, *SHAPE)
    torch.testing.assert_close(other, strongest, rtol=0, atol=1e-5)


def test_a_square_root_drops_directions_in_which_nothing_varies() -> None:
    thin = covariance_of(FACTOR[:2])
    root = of_covariance(thin)
    assert root.shape == (2, 6)
    torch.testing.assert_close(covariance_of(root), thin)
    assert torch.equal(of_covariance(torch.zeros(3, 3)), torch.zeros(1, 3))


@pytest.mark.parametrize("mode", ["half", "full"])
def test_independent_noise_has_a_factor_of_one_row_a_value(mode: Any) -> None:
    for spec in ({"uniform": [-1, 2]}, {"mean": 0.5, "variance": 0.75}):
        noise = resolve(spec, network(), mode)
        torch.testing.assert_close(covariance_of(noise.spread), 0.75 * torch.eye(6).double())
        assert torch.equal(noise.mean, torch.full(SHAPE, 0.5, dtype=torch.float64))


def test_numbers_of_moments_may_be_one_a_channel() -> None:
    noise = resolve({"mean": [1, 2.0], "variance": 3}, network(), "diag")
    assert noise.mean.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert noise.spread.unique().tolist() == [3]


def test_rows_have_their_own_moments_and_are_what_is_drawn(tmp_path: Path) -> None:
    rows = normal(9, *SHAPE)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    expected = torch.from_numpy(np.cov(rows.flatten(1).numpy(), rowvar=False))
    for spec in (rows, {"file": str(tmp_path / "rows.safetensors")}):
        half, diag = resolve(spec, network(), "half"), resolve(spec, network(), "diag")
        torch.testing.assert_close(covariance_of(half.spread), expected)
        torch.testing.assert_close(diag.spread.flatten(), expected.diagonal())
        drawn = half.draw(Rows(3), "x", 40)[0]
        is_row = (drawn.unsqueeze(1) == rows).flatten(2).all(2)
        assert is_row.sum(1).tolist() == [1] * 40
        assert is_row.any(0).all()


@pytest.mark.parametrize(
    ("spec", "mode", "covariance"),
    [
        (STATISTICS, "diag", torch.diag(COVARIANCE.diagonal())),
        (STATISTICS, "half", covariance_of(FACTOR)),
        (STATISTICS, "full", COVARIANCE),
        ({"uniform": [0, 2]}, "half", torch.eye(6).double() / 3),
    ],
)
def test_draws_have_the_moments_of_the_mode(spec: Any, mode: Any, covariance: Tensor) -> None:
    n = 4000
    noise = resolve(spec, network(), mode)
    drawn = noise.draw(Rows(7), "x", n)[0].flatten(1)
    variances = covariance.diagonal()
    # five standard errors of mean and of (co)variance; seeded, so that it does not fail at times
    mean_error = (drawn.mean(0) - noise.mean.flatten()).abs()
    assert (mean_error < 5 * (variances / n).sqrt()).all()
    error = (torch.from_numpy(np.cov(drawn.numpy(), rowvar=False)) - covariance).abs()
    assert (error < 5 * (2 * torch.outer(variances, variances) / n).sqrt()).all()


def test_draws_follow_from_sample_and_purpose_alone() -> None:
    noise = resolve({"uniform": [0, 1]}, network(), "diag")
    both, alone = noise.draw(Rows(4, 9), "x", 5), noise.draw(Rows(9), "x", 5)
    assert torch.equal(both[1:], alone)
    assert not torch.equal(noise.draw(Rows(9), "y", 5), alone)
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize(
    ("spec", "mode", "message"),
    [
        (without("factor", "covariance"), "half", "set rank: 30 on the entry"),
        (without("covariance"), "full", "set covariance: exact on the entry"),
        ({"mean": MEAN, "factor": FACTOR}, "full", "give covariance="),
        ({"count": 0}, "diag", "over no samples"),
        ({**STATISTICS, "variance": MEAN * torch.nan}, "diag", "single sample"),
        ({**STATISTICS, "factor": FACTOR * torch.nan}, "half", "single sample"),
        ({"mean": 0, "variance": -1}, "diag", "at least 0"),
        ({"mean": 0, "factor": FACTOR[:0]}, "half", "K at least 1"),
        ({"mean": 0, "factor": FACTOR[0]}, "half", r"expected \(K, 2, 3\)"),
        ({"mean": MEAN[0], "variance": 1}, "diag", r"expected \(2, 3\), the shape of one input"),
        ({"mean": 0, "covariance": COVARIANCE[:3]}, "full", r"expected \(6, 6\)"),
        ({"mean": 0, "covariance": COVARIANCE.triu()}, "full", "not symmetric"),
        ({"mean": 0, "covariance": -COVARIANCE}, "full", "below zero"),
        ({"mean": 0, "variances": 1}, "diag", "expected 'mean' and at least one of"),
        ({"uniform": [1, 0]}, "diag", "in order"),
        ({"uniform": 1}, "diag", r"expected \[low, high\]"),
        (normal(1, *SHAPE), "diag", "n at least 2"),
        (normal(4, 5), "diag", r"expected \(n, 2, 3\)"),
        ({"file": "nowhere.safetensors"}, "diag", "a .safetensors file that exists"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(spec: Any, mode: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(spec, network(), mode)


def test_a_rank_is_refused_where_there_is_nothing_to_cut_short() -> None:
    with pytest.raises(ValueError, match="set mode: half"):
        resolve(STATISTICS, network(), "diag", 3)
    with pytest.raises(ValueError, match="leave most of it out"):
        resolve({"uniform": [0, 1]}, network(), "half", 3)
    with pytest.raises(TypeError, match="real rows"):
        resolve("uniform", network(), "diag")
    wide = SimpleNamespace(input_shape=(5000,), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="set mode: diag"):
        resolve({"uniform": [0, 1]}, wide, "half")  # type: ignore[arg-type]


def test_noise_that_is_resolved_is_taken_as_it_is() -> None:
    noise = resolve(STATISTICS, network(), "half")
    assert resolve(noise, network(), "half") is noise
    with pytest.raises(ValueError, match="resolve it again"):
        resolve(noise, network(), "diag")


def test_rows_and_bounds_may_be_arrays_and_rows_are_no_integers() -> None:
    rows = np.random.default_rng(0).random((5, *SHAPE)).astype(np.float32)
    rows.setflags(write=False)
    found = resolve(rows, network(), "diag")
    expected = resolve(torch.tensor(rows), network(), "diag")
    torch.testing.assert_close(found.spread, expected.spread)
    bounds = np.array([-1.0, 3.0])
    for given in (bounds, torch.tensor(bounds), [np.float32(-1), np.full(SHAPE, 3.0)]):
        found = resolve({"uniform": given}, network(), "diag")
        torch.testing.assert_close(found.spread, torch.full(SHAPE, 16 / 12).double())
    pixels = torch.arange(30).view(5, *SHAPE).to(torch.uint8)
    for refused in (pixels, pixels.numpy(), {"rows": pixels}):
        with pytest.raises(TypeError, match=r"rows as noise of torch.uint8.*as the model takes"):
            resolve(refused, network(), "diag")
