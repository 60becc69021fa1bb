"""Images, weights and pickles that are not what they should be, through the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from cli.main import app
from pipeline.store import open_run
from tests.pipeline.tiny_run import config_of, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.drills import Seen

pytestmark = pytest.mark.slow


def xpipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _write_photographs(folder: Path, n: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(n):
        pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.jpg")


@pytest.mark.drill(11)
def test_a_jpeg_without_its_end_is_named_and_its_shard_goes_on(tmp_path: Path, drill: Seen) -> None:
    run_file = write_run(tmp_path)
    values = yaml.safe_load(run_file.read_text())
    values["data"] = {"source": "image_folder", "path": "photographs", "mode": "gray"}
    run_file.write_text(yaml.safe_dump(values))
    _write_photographs(tmp_path / "photographs", 16)
    for name, left in (("03.jpg", -20), ("12.jpg", 0)):
        path = tmp_path / "photographs" / name
        path.write_bytes(path.read_bytes()[:left])
    result = xpipe("run", run_file)
    out = tmp_path / "out"
    reasons = dict(open_run(str(out)).failures())
    drill.run(out, result.exit_code)
    drill(*(f"{name}: {reason}" for name, reason in sorted(reasons.items())))
    assert result.exit_code == 5, result.stderr
    assert sorted(reasons) == ["03.jpg", "12.jpg"]
    assert "truncated" in reasons["03.jpg"].lower()
    assert "empty" in reasons["12.jpg"]
    assert "2 of 16" in " ".join(result.output.split()) or "2 samples" in result.output
    maps = open_run(str(out)).maps["saliency"].values
    missing = np.isnan(maps).all(axis=(1, 2, 3))
    assert np.flatnonzero(missing).tolist() == [3, 12]
    assert np.isfinite(maps[~missing]).all()
    assert int(open_run(str(out)).scans["statistics"]["count"]) == 14


def _state(folder: Path) -> dict[str, torch.Tensor]:
    from pipeline.models.loading import load_model

    model = load_model(config_of(folder).model, folder)
    return dict(model.state_dict())


def _refusal(folder: Path, weights: str) -> Result:
    model = {"source": "python", "name": "tiny.py:model", "weights": weights}
    result = xpipe("run", write_run(folder, model=model))
    assert not (folder / "out").exists(), "nothing is written, let alone a shard"
    assert "Traceback" not in result.stderr
    return result


@pytest.mark.drill(13)
def test_weights_of_another_network_are_refused_before_anything_is_written(
    tmp_path: Path, drill: Seen
) -> None:
    state = _state(tmp_path)
    state["7.weight"] = state.pop("5.weight")
    save_file(state, tmp_path / "other.safetensors")
    result = _refusal(tmp_path, "other.safetensors")
    drill(f"exit {result.exit_code}", result.stderr.splitlines()[0])
    assert result.exit_code == 3
    assert "1 missing: 5.weight" in result.stderr
    assert "1 unexpected: 7.weight" in result.stderr


class _Payload:
    """What a pickle of which runs code when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return type(self.target).touch, (self.target,)


@pytest.mark.drill(14)
def test_a_pickle_that_runs_code_is_refused_and_runs_none(tmp_path: Path, drill: Seen) -> None:
    marker = tmp_path / "executed"
    torch.save({"0.weight": _Payload(marker)}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert marker.exists(), "the pickle does run code where it is let"
    marker.unlink()
    result = _refusal(tmp_path, "evil.pt")
    drill(f"exit {result.exit_code}", result.stderr.splitlines()[0])
    drill(f"code was {'' if marker.exists() else 'not '}executed")
    assert result.exit_code == 3
    assert "a pickle that wants to run code" in result.stderr
    assert not marker.exists()
