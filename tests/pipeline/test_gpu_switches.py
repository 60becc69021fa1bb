"""Precision, layout and compilation of a run; parts of a GPU; copies that nobody waits for."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pipeline import networks
from pipeline.acceleration import gpus, parity, transfer, trying
from pipeline.acceleration.parity import Difference, relative
from pipeline.acceleration.switches import Accelerator
from pipeline.config import EngineConfig
from pipeline.engine.host import Host
from pipeline.errors import EngineError, PlanError
from pipeline.planning import sizing
from pipeline.store import open_run
from tests.pipeline.tiny_run import config_of, run_tiny, stored

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("engine", "on_cpu", "on_gpu"),
    [
        ({}, False, False),
        ({"precision": "tf32"}, False, True),
        ({"channels_last": True}, False, True),
        ({"precision": "bfloat16"}, True, True),
        ({"compile": True}, True, True),
    ],
)
def test_a_switch_changes_maps_where_it_works(
    engine: dict[str, Any], on_cpu: bool, on_gpu: bool
) -> None:
    accelerator = Accelerator.of(EngineConfig(**engine))
    assert accelerator.changes(CPU) is on_cpu
    assert accelerator.changes(CUDA) is on_gpu
    is_idle = bool(engine) and not on_cpu
    assert len(accelerator.notes(CPU)) == int(is_idle)
    assert not accelerator.notes(CUDA)


def test_a_difference_is_relative_to_the_map_and_counts_what_is_no_number() -> None:
    nan, inf = float("nan"), float("inf")
    expected = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [nan, 1.0], [1.0, 1.0], [inf, 2]])
    found = torch.tensor([[3.0, 4.5], [0.0, 0.0], [0.1, 0.0], [nan, 1.0], [nan, 1.0], [inf, 2]])
    # 0.5 / 5; nothing of nothing; something of nothing; the same; a number lost; the same
    assert relative(found, expected).tolist() == pytest.approx([0.1, 0, inf, 0, inf, 0])


@pytest.mark.parametrize("median", [0.11, float("nan"), float("inf")])
def test_maps_that_differ_are_refused_and_named(median: float) -> None:
    found = [Difference("near", 0.1, 5.0, 4), Difference("far", median, 9.0, 4)]
    with pytest.raises(PlanError, match="far") as caught:
        parity.refuse(found, "run.yaml:3 engine", "precision: bfloat16")
    assert "near" not in caught.value.what
    assert "precision: bfloat16" in caught.value.what
    parity.refuse(found[:1], "run.yaml:3 engine", "precision: bfloat16")


def test_single_maps_that_are_far_off_are_told() -> None:
    near, far = Difference("near", 0.05, 0.3, 4), Difference("some", 0.05, float("inf"), 4)
    refused = Difference("refused", 0.2, 0.9, 4)
    assert parity.outliers([near]) == ""
    said = parity.outliers([near, far, refused])
    assert "some (inf)" in said
    assert "refused" not in said


@pytest.mark.parametrize(("asked", "part"), [("auto", 1.0), (0, 1.0), (0.25, 0.25), (2, 1.0)])
def test_a_worker_counts_on_its_part_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, asked: Any, part: float
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4)
    engine = EngineConfig(gpus_per_worker=asked)
    assert gpus.share(engine) == part
    # its part of 80, but no more than 70 that are free and 4 that are its own
    assert gpus.memory(CUDA, gpus.share(engine)) == min(80 * part, 74)
    assert gpus.memory(CPU, part) == 0


def test_a_batch_is_guessed_where_gpus_are_elsewhere() -> None:
    assert gpus.are_elsewhere(EngineConfig(gpus_per_worker=1)) is not torch.cuda.is_available()
    assert not gpus.are_elsewhere(EngineConfig(gpus_per_worker=1, kind="serial"))
    assert not gpus.are_elsewhere(EngineConfig())
    opaque: Any = SimpleNamespace(is_program=False)
    example = torch.zeros(2, 3)
    assert sizing.guessed_batch(opaque, example, 10_000, 1.0) == max(sizing.BATCH_SIZES)
    # eight batches at least, and a size that is tried elsewhere
    assert sizing.guessed_batch(opaque, example, 300, 1.0) == 32


def test_arrivals_are_entered_a_batch_later_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "is_away", lambda values: True)
    seen: list[float] = []
    arrivals = transfer.Arrivals()
    for number in range(3):
        for part in (0.0, 0.5):
            values = torch.tensor([number + part])
            arrivals.receive(values, lambda found: seen.append(float(found[0])))
            # a method may use its memory again at once
            values.zero_()
        arrivals.settle(keep_last=True)
        assert len(seen) == 2 * number
    arrivals.settle()
    assert seen == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_what_is_here_is_entered_at_once() -> None:
    seen: list[np.ndarray[Any, Any]] = []
    transfer.Arrivals().receive(torch.ones(2), seen.append)
    assert len(seen) == 1
    batches: list[Any] = [object(), object()]
    assert list(transfer.moved(batches, CPU)) == batches


@pytest.mark.slow
def test_a_run_in_bfloat16_is_compared_and_leaves_scans_as_they_are(tmp_path: Path) -> None:
    plain = run_tiny(tmp_path / "plain")
    half = run_tiny(tmp_path / "half", engine={"precision": "bfloat16"})
    assert (plain.exit_code, half.exit_code) == (0, 0)
    written = json.loads((half.path / "parity" / "explain.serial.json").read_text())
    assert {each["explainer"] for each in written} == {"ig", "saliency"}
    assert all(0 < each["median"] <= parity.BOUND for each in written)
    assert not (plain.path / "parity").exists()
    before, after = stored(plain.path), stored(half.path)
    for name in before:
        if name.startswith("states/statistics"):
            assert after[name] == before[name]
    assert any(after[name] != before[name] for name in before if "ig/relevance" in name)


def test_a_worker_whose_gpu_is_not_there_does_not_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: Any = SimpleNamespace(digest="none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(gpus.GIVEN, "1")
    with pytest.raises(EngineError, match="given a GPU") as caught:
        networks.network_of(config_of(tmp_path), planned, planned, planned)
    assert caught.value.page == "gpu-without-cuda"
    monkeypatch.setenv(gpus.GIVEN, "0")
    gpus.check_given()
    monkeypatch.setenv(gpus.GIVEN, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpus.check_given()


def test_a_host_says_whether_it_was_given_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (gpus.GIVEN, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "as before")
    monkeypatch.setattr("sys.path", [*sys.path])
    for has_gpu in (True, False):
        Host("worker-0", None, 1, has_gpu, ())
        assert os.environ[gpus.GIVEN] == str(int(has_gpu))


def test_only_errors_of_a_compiler_are_called_so(tmp_path: Path) -> None:
    # stands for the classes of that module, which takes seconds to import
    failure = type("BackendCompilerFailed", (RuntimeError,), {"__module__": "torch._dynamo.exc"})
    config = config_of(tmp_path)
    with pytest.raises(PlanError, match="no compiler") as caught, trying.compiling(config):
        raise failure("no compiler")
    assert caught.value.page == "cannot-compile"
    with pytest.raises(ValueError, match="mine") as raised, trying.compiling(config):
        raise ValueError("mine")
    assert not isinstance(raised.value, PlanError)


@pytest.mark.slow
def test_nothing_is_committed_where_maps_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, engine={"precision": "bfloat16"})
    from pipeline.run import run

    # as where the plan had no GPU to try it on
    monkeypatch.setattr(trying, "notes", lambda *args, **named: ())
    monkeypatch.setattr(parity, "BOUND", 1e-9)
    with pytest.raises(PlanError, match="maps differ"):
        run(config)
    assert not list((tmp_path / "out").rglob("explain/*.json"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_products_on_a_gpu_are_as_asked_and_then_as_before(precision: Any) -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    left = torch.randn(256, 256, device=CUDA)
    exact = left.double() @ left.double()
    with Accelerator(precision).numbers(CUDA):
        error = float(((left @ left).double() - exact).norm() / exact.norm())
    # 2**-11 is half of the last bit of TF32
    assert (error > 1e-5) == (precision == "tf32")
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "most"),
    [
        ({}, 1e-4),
        # half of the last of ten bits, of some layers and passes
        ({"precision": "tf32"}, 2**-7),
        ({"precision": "bfloat16"}, parity.BOUND),
        ({"channels_last": True}, 1e-4),
        ({"compile": True}, 1e-4),
    ],
)
def test_maps_of_a_run_on_a_gpu_are_those_of_the_cpu(
    tmp_path: Path, engine: dict[str, Any], most: float
) -> None:
    here = run_tiny(tmp_path / "cpu", engine={"gpus_per_worker": 0})
    torch.cuda.reset_peak_memory_stats()
    there = run_tiny(tmp_path / "gpu", engine=engine)
    assert torch.cuda.max_memory_allocated() > 0
    assert (here.exit_code, there.exit_code) == (0, 0)
    for name in ("ig", "saliency"):
        maps = [torch.tensor(open_run(str(each.path)).maps[name].values) for each in (there, here)]
        assert float(relative(*maps).median()) <= most, name


@pytest.mark.gpu
def test_batches_reach_a_gpu_unchanged_and_in_order() -> None:
    from pipeline.prefetch import Batch

    index = torch.arange(4)
    given = [
        Batch(torch.full((4, 3), float(n)).pin_memory(), [0], index, index, (), {})
        for n in range(5)
    ]
    found = [each.inputs.sum().item() for each in transfer.moved(given, CUDA)]  # type: ignore[union-attr]
    assert found == [12.0 * n for n in range(5)]
