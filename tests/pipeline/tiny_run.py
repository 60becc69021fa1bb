"""A run that takes a moment: forty images of 8 x 8 pixels and a small convolutional network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import explainers
from pipeline.config import load

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.run import RunSummary

ROOT = Path(explainers.__file__).parents[1]

CODE = '''
import contextlib
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 3),
    ).eval()


class Images:
    def __init__(self, n, bad):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(n, 1, 8, 8, generator=generator)
        self.targets = [index % 3 for index in range(n)]
        self.ids = [f"image_{index}" for index in range(n)]
        self.bad = bad

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.misbehave(index)
        image = self.images[index]
        kind = self.bad.get(str(index))
        if kind == "nan":
            image = image.clone()
            image[0, 2, 3] = float("nan")
        if kind == "size":
            image = image[:, :5]
        if kind == "truncated":
            raise OSError("image file is truncated")
        return image, self.targets[index]

    def misbehave(self, index):
        """Files beside this one say what happens: they are no part of the run's digest."""
        with contextlib.suppress(FileNotFoundError):  # it may vanish at any time
            time.sleep(float((HERE / "slow").read_text()))
        kill = HERE / f"kill_{index}"
        if kill.exists():
            if kill.read_text() == "once":
                kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def images(n=40, bad=None):
    return Images(n, bad or {})
'''

EXPLAINERS = {
    "saliency": {},
    "ig": {"method": "integrated_gradients", "n_steps": 4},
    "statistics": {"method": "moments", "rank": 4},
}


def write_run(folder: Path, out: Path | None = None, **changes: Any) -> Path:
    """Write a run file and its code; `changes` are sections with their fields."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(CODE)
    sections: dict[str, Any] = {
        "name": "tiny",
        "model": {"source": "python", "name": "tiny.py:model"},
        "data": {"source": "python", "function": "tiny.py:images"},
        "explainers": EXPLAINERS,
        "output": {"path": str(out or folder / "out"), "shard_size": 8},
        "engine": {"kind": "serial", "batch_size": 4, "workers": 2},
    }
    for name, value in changes.items():
        present = sections.get(name)
        is_section = isinstance(present, dict) and name not in ("explainers", "metrics")
        sections[name] = {**present, **value} if is_section and present else value
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def config_of(folder: Path, out: Path | None = None, **changes: Any) -> RunConfig:
    return load(write_run(folder, out, **changes))


def run_tiny(folder: Path, out: Path | None = None, **changes: Any) -> RunSummary:
    from pipeline.run import run

    return run(config_of(folder, out, **changes))


def run_in_process(run_file: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run, or with ``resume`` as argument its resumption, in a process of its own."""
    code = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from pipeline.config import load\n"
        "from pipeline.run import resume, run\n"
        "target = Path(sys.argv[1])\n"
        "summary = resume(target) if 'resume' in sys.argv else run(load(target))\n"
        "sys.exit(summary.exit_code)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(run_file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def stored(path: Path) -> dict[str, bytes]:
    """Return every object of maps, facts, states and results by name."""
    folders = ("maps.zarr", "samples", "tables", "states", "scans")
    return {
        str(file.relative_to(path)): file.read_bytes()
        for folder in folders
        for file in sorted((path / folder).rglob("*"))
        if file.is_file() and not file.name.endswith(".tmp")
    }


def events(path: Path, kind: str = "") -> list[dict[str, Any]]:
    lines = (path / "events.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [event for event in found if not kind or event["event"] == kind]


def committed(path: Path) -> list[tuple[str, int]]:
    """Return pass and shard of every commit, in the order in which they were made."""
    return [(event["pass_name"], event["shard"]) for event in events(path, "shard_committed")]
