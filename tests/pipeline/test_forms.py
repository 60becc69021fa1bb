"""Runs whose maps are not shaped as one picture: of layers, units, tokens and several inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import explainers
from pipeline.config import ConfigError, load
from pipeline.data import Record, Source, open_source, read_batch
from pipeline.data.batch import read_one
from pipeline.errors import PlanError
from pipeline.evaluate import evaluate
from pipeline.inputs import Part, n_rows
from pipeline.models import load_model
from pipeline.networks import network_of
from pipeline.planner import make_plan
from pipeline.report import build
from pipeline.run import run as start
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import write_run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import RunConfig

CODE = '''
import torch
from torch import nn


class Reader(nn.Module):
    """Words, and numbers beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 4)
        self.mix = nn.Linear(4, 3)
        self.beside = nn.Linear(2, 3)

    def forward(self, tokens, numbers=None, mask=None):
        words = torch.relu(self.mix(self.words(tokens)))
        if mask is not None:
            words = words * mask.unsqueeze(-1)
        found = words.sum(1)
        return found if numbers is None else found + self.beside(numbers)


def reader():
    return Reader().eval()


class Sentences:
    def __init__(self, n, is_alone):
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, 10, (n, 5), generator=generator)
        self.numbers = torch.randn(n, 2, generator=generator)
        self.targets = [index % 3 for index in range(n)]
        self.is_alone = is_alone

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        tokens = self.tokens[index]
        if index == 3:
            tokens = tokens[:4]
        if self.is_alone:
            return tokens, self.targets[index]
        mask = torch.arange(5) < 4
        return {"input": {"tokens": tokens, "numbers": self.numbers[index], "mask": mask}}


def sentences(n=8, is_alone=True):
    return Sentences(n, is_alone)
'''
METHODS: dict[str, dict[str, Any]] = {
    "ig": {"method": "integrated_gradients", "n_steps": 4},
    "saliency": {},
}


def configured(folder: Path, **changes: Any) -> RunConfig:
    path = write_run(
        folder, folder / "out", **{"explainers": METHODS, "data": {"params": {"n": 12}}} | changes
    )
    return load(path)


def of_words(folder: Path, *, is_alone: bool, **changes: Any) -> RunConfig:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.py").write_text(CODE)
    params = {"n": 8, "is_alone": is_alone}
    return configured(
        folder,
        model={"name": "words.py:reader"},
        data={"function": "words.py:sentences", "params": params},
        **changes,
    )


def everything(config: RunConfig) -> tuple[explainers.Network, Any, Any]:
    """Return network and good inputs of a run, and the run."""
    run = open_run(config.output.path)
    source = open_source(config.data, config.base)
    inputs, _, _ = read_batch(source, run.manifest.slice(0, run.plan.n_samples), run.plan.form)
    return network_of(config, run.plan, source, run.manifest), inputs, run


@pytest.mark.slow
def test_a_layer_can_take_the_inputs_place(tmp_path: Path) -> None:
    entries = {"at": {"method": "input_x_gradient", "layer": "0"}, "saliency": {}}
    config = configured(tmp_path, explainers=entries, metrics={"pixel_flipping": {"n_steps": 2}})
    planned = make_plan(config)
    assert planned.plan.maps["at"].shape == (4, 6, 6)
    assert planned.plan.maps["at"].layer == "0"
    said = "pixel_flipping does not score at (its maps are of the layer 0)"
    assert said in planned.plan.notes
    assert start(config).exit_code == 0
    network, inputs, run = everything(config)
    expected = explainers.explain(network, "input_x_gradient", inputs, layer="0")
    # batches of four against one of twelve
    np.testing.assert_allclose(run.maps["at"].values, expected, rtol=0, atol=1e-6)
    assert run.maps["at"].dims == ("sample", "channel", "height", "width")
    assert run.scores("pixel_flipping", "at") == {}
    assert np.isfinite(run.scores("pixel_flipping", "saliency")["auc"]).all()
    assert said in build(run, tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_a_unit_of_a_layer_can_be_explained(tmp_path: Path) -> None:
    target = ["predicted", {"layer": "0", "unit": 2}, {"layer": "2", "unit": [1, 3, 3]}]
    metrics = {"pixel_flipping": {"n_steps": 2, "output_space": "logit"}}
    config = configured(tmp_path, target=target, metrics=metrics)
    assert start(config).exit_code == 0
    network, inputs, run = everything(config)
    for position, each in enumerate(target):
        expected = explainers.explain(network, "saliency", inputs, each)
        found = run.maps["saliency"].values[:, position]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert run.array("", "target").values[:, 1:].tolist() == [[-1, -1]] * 12
    curve = run.scores("pixel_flipping", "saliency")["curve.1"]
    channel = network.value("0", network.run(inputs))[:, 2].flatten(1).sum(1)
    np.testing.assert_allclose(curve[:, 0], channel, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_logit_of_a_unit_is_its_value(tmp_path: Path) -> None:
    config = configured(tmp_path, target={"layer": "0", "unit": 2}, explainers={"saliency": {}})
    assert start(config).exit_code == 0
    network, inputs, run = everything(config)
    channel = network.value("0", network.run(inputs))[:, 2].flatten(1).sum(1)
    np.testing.assert_allclose(run.samples()["logit"], channel, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"layer": "9", "unit": 0}, r"target.layer: unknown layer '9'"),
        ({"layer": "0", "unit": 4}, "unit 4 does not exist"),
        (["predicted", {"layer": "0", "unit": [0, 9, 0]}], r"unit .0, 9, 0. does not exist"),
    ],
)
def test_a_unit_that_does_not_exist_is_refused(tmp_path: Path, target: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        make_plan(configured(tmp_path, target=target))
    assert "run.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"layer": "0", "unit": -1}, ["target.unit: got -1, expected at least 0 or a list"]),
        ({"layer": "0"}, ["target.unit: missing, but 'unit' is required"]),
        ({"weights": ["a"]}, ["target.weights.0: got 'a', expected a number"]),
        (
            ["label", {"layer": "0", "units": 3}],
            [
                "target.1.unit: missing",
                "target.1.units: unknown field 'units'; did you mean 'unit'",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_target_is_told_in_its_own_terms(
    tmp_path: Path, target: Any, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, target=target)
    lines = str(caught.value).splitlines()[:-1]
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


@pytest.mark.slow
def test_a_unit_has_no_probability(tmp_path: Path) -> None:
    unit = {"layer": "0", "unit": 2}
    with pytest.raises(PlanError, match="a unit of the layer '0' has none"):
        make_plan(configured(tmp_path, target=unit, metrics={"pixel_flipping": {}}))
    config = configured(tmp_path, target=unit, explainers={"saliency": {}})
    start(config)
    with pytest.raises(ConfigError, match="a unit of the layer '0' has none"):
        evaluate(config.output.path, ["pixel_flipping"])


@pytest.mark.slow
def test_tokens_are_explained_one_by_one(tmp_path: Path) -> None:
    config = of_words(
        tmp_path,
        is_alone=True,
        metrics={"sparseness": {}, "pixel_flipping": {}},
    )
    assert start(config).exit_code == 5  # a sentence is too short
    network, inputs, run = everything(config)
    assert run.plan.form == {"": Part((5,), "int64")}
    assert run.failures() == [("000003", "got shape (4,), expected (5,)")]
    good = [index for index in range(8) if index != 3]
    expected = explainers.explain(network, "integrated_gradients", inputs, n_steps=4)
    assert run.maps["ig"].dims == ("sample", "token")
    np.testing.assert_allclose(run.maps["ig"].values[good], expected, rtol=0, atol=1e-6)
    assert run.scores("pixel_flipping", "ig") == {}
    assert np.isfinite(run.scores("sparseness", "ig")["sparseness"][good]).all()
    page = build(run, tmp_path / "page.html").read_text()
    assert "pixel_flipping does not score ig, saliency (the inputs are not one tensor" in page


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_each_of_several_inputs_has_maps(tmp_path: Path, dtype: str) -> None:
    config = of_words(tmp_path, is_alone=False, output={"dtype": dtype})
    assert start(config).exit_code == 5
    network, inputs, run = everything(config)
    good = [index for index in range(8) if index != 3]
    assert list(run.maps) == ["ig.tokens", "ig.numbers", "saliency.tokens", "saliency.numbers"]
    expected = explainers.explain(network, "integrated_gradients", inputs, n_steps=4)
    assert expected["mask"] is None
    for part, dim in (("tokens", "token"), ("numbers", "feature_0")):
        found = run.maps[f"ig.{part}"]
        assert found.dims == ("sample", dim)
        tolerance = 1e-6 if dtype == "float32" else 2**-10 * float(expected[part].abs().max())
        np.testing.assert_allclose(found.values[good], expected[part], rtol=0, atol=tolerance)
    assert "relevance.numbers" in run.arrays("ig")
    total = sum(expected[part].sum(1) for part in ("tokens", "numbers"))
    np.testing.assert_allclose(run.samples()["ig.sum"].to_numpy()[good], total, rtol=0, atol=1e-5)
    page = build(run, tmp_path / "page.html").read_text()
    account = page[page.index('id="conservation"') :]
    assert '<tr><th scope="row">ig</th>' in account
    assert verify(run.path) == []


class Given(Source):
    """One sample, as it is."""

    def __init__(self, sample: Any) -> None:
        self.sample = sample

    def records(self) -> list[Record]:
        return [Record(0, "a", "0")]

    def load(self, record: Record) -> Any:
        return self.sample


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.uint8, torch.float32),
        (torch.float64, torch.float32),
        (torch.bool, torch.float32),
        (torch.int32, torch.int64),
        (torch.int64, torch.int64),
    ],
)
def test_integers_that_can_be_tokens_stay_integers(given: torch.dtype, dtype: torch.dtype) -> None:
    source = Given(torch.ones(3, dtype=given))
    found = read_one(source, source.records()[0])
    assert isinstance(found, torch.Tensor)
    assert found.dtype == dtype


def test_a_sample_of_another_form_is_set_aside() -> None:
    form = {"a": Part((2,), "float32"), "mask": Part((2,), "bool")}
    good = {"a": torch.ones(2), "mask": torch.ones(2) > 0}
    inputs, rows, _ = read_batch(Given(good), Given(good).records(), form)
    assert (n_rows(inputs), rows) == (1, [0])
    source = Given({"a": torch.ones(2)})
    inputs, rows, failures = read_batch(source, source.records(), form)
    assert failures == {0: "got a (2,), expected a (2,), mask (2,) of bool"}
    assert (n_rows(inputs), rows) == (0, [])


def test_a_model_of_several_inputs_is_called_by_their_names(tmp_path: Path) -> None:
    config = of_words(tmp_path, is_alone=False)
    model = load_model(config.model, config.base)
    planned = make_plan(config)
    assert planned.network.structure.names == ("tokens", "numbers", "mask")
    example: dict[str, Any] = planned.network.example  # type: ignore[assignment]
    torch.testing.assert_close(planned.network(example), model(**example).detach())
