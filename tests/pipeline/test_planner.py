from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

import explainers
from explainers import Attribution, Cost, Target, explaining
from pipeline.config import RunConfig, load
from pipeline.errors import ConfigError, PlanError
from pipeline.metrics import Metric, metrics
from pipeline.plan import MapSpec, Plan
from pipeline.planner import make_plan
from pipeline.planning.brief import brief
from pipeline.planning.sizing import shard_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from explainers import Explained, Network, Trace

CODE = """
import torch
from torch import nn

class Tangent(nn.Module):
    def forward(self, inputs):
        return torch.special.i0e(inputs)

def model(n_classes=3, layer="relu"):
    torch.manual_seed(1)
    middle = {"relu": nn.ReLU(), "odd": Tangent()}[layer]
    return nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.Flatten(), nn.Linear(4 * 36, n_classes))

def feature_maps():
    return nn.Conv2d(1, 4, 3)

class Counting(list):
    n_read = 0
    def __getitem__(self, index):
        Counting.n_read += 1
        return super().__getitem__(index)

def images(n=20, n_classes=3, labels=True, broken=(), odd=(), classes=None):
    generator = torch.Generator().manual_seed(0)
    items = Counting(
        (torch.rand(1, 9 if index in odd else 8, 8, generator=generator), index % n_classes)
        for index in range(n)
    )
    for index in broken:
        items[index] = (torch.full((1, 8, 8), float("nan")), 0)
    items.targets = [index % n_classes if labels else -1 for index in range(n)]
    if classes:
        items.classes = classes
    return items
"""

RUN = """\
name: small
model: {source: python, name: "code.py:model"}
data: {source: python, function: "code.py:images"}
explainers:
  saliency: {}
  ig: {method: integrated_gradients, n_steps: 8}
  moments: {}
engine: {kind: serial, batch_size: 4}
output: {shard_size: 8}
"""


@pytest.fixture(scope="module")
def networks() -> dict[tuple[str, torch.Size], Network]:
    return {}


@pytest.fixture(autouse=True)
def _read_each_model_once(
    networks: dict[tuple[str, torch.Size], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share networks among tests: exporting takes longer than all the rest of planning."""

    def read(model: torch.nn.Module, example: Tensor) -> Network:
        # all models here are seeded alike, so that their repr tells them apart
        key = (repr(model), example.shape)
        if key not in networks:
            networks[key] = explainers.Network(model, example)
        return networks[key]

    monkeypatch.setattr("pipeline.planning.fit.Network", read)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def configured(folder: Path, *overrides: str) -> RunConfig:
    return load(folder / "run.yaml", overrides)


def plan(folder: Path, *overrides: str) -> Plan:
    return make_plan(configured(folder, *overrides)).plan


def refused(folder: Path, *overrides: str) -> str:
    with pytest.raises((PlanError, ConfigError)) as caught:
        plan(folder, *overrides)
    assert caught.value.fix
    return str(caught.value)


def test_a_plan_says_what_will_be_done(folder: Path) -> None:
    planned = make_plan(configured(folder))
    found = planned.plan
    assert (found.n_samples, found.shard_size, found.batch_size) == (20, 8, 4)
    assert len(found.shards) == 3
    assert found.input_shape == (1, 8, 8)
    assert found.n_classes == 3
    assert found.targets == ("predicted",)
    assert list(planned.explainers) == ["saliency", "ig", "moments"]
    assert len(planned.manifest) == 20
    assert found.manifest_digest == planned.manifest.digest()
    (explain,) = found.passes
    assert explain.name == "explain"
    assert explain.attributions == ("saliency", "ig")
    assert explain.scans == ("moments",)
    assert any("moments.<round>" in note for note in found.notes)
    assert Plan.from_json(found.to_json()) == found


def test_planning_twice_gives_the_same_digest(folder: Path) -> None:
    assert plan(folder).digest == plan(folder).digest


@pytest.mark.parametrize(
    "override", ["seed=1", "data.limit=19", "model.params={n_classes: 4}", "target=label"]
)
def test_what_changes_results_changes_the_digest(folder: Path, override: str) -> None:
    assert plan(folder, override).digest != plan(folder).digest


def test_the_users_code_is_in_the_digest(folder: Path) -> None:
    before = plan(folder).digest
    (folder / "code.py").write_text(CODE + "# edited\n")
    assert plan(folder).digest != before


def test_a_file_of_masks_is_beside_the_run_file_and_in_the_digest(folder: Path) -> None:
    np = pytest.importorskip("numpy")
    masks = np.arange(64).reshape(8, 8) // 32
    np.save(folder / "masks.npy", masks)
    features = "features: {masks: masks.npy}"
    entries = (
        f"explainers={{a: {{method: feature_ablation, {features}}}, "
        f"smooth_grad: {{attribution: feature_ablation, parameters: {{{features}}}}}}}"
    )
    before = plan(folder, entries)
    assert before.costs["a"]["forward"] == 3
    np.save(folder / "masks.npy", masks.T)
    assert plan(folder, entries).digest != before.digest


@pytest.mark.slow
def test_a_file_of_directions_is_beside_the_run_file_and_in_the_digest(folder: Path) -> None:
    np = pytest.importorskip("numpy")
    rows = np.eye(4, dtype="float32")
    concepts = "concepts: {'0': {directions: rows.npy}}"
    entries = (
        f"{{method: concept_relevance, conditions: {{'0': 1}}, {concepts}}}",
        f"{{method: concept_relevance, composition: {{layer: '0', {concepts}}}}}",
        f"{{method: activation_maximization, layers: '0', {concepts}}}",
    )
    for entry in entries:
        np.save(folder / "rows.npy", rows)
        before = plan(folder, f"explainers={{a: {entry}}}")
        np.save(folder / "rows.npy", rows[::-1])
        assert plan(folder, f"explainers={{a: {entry}}}").digest != before.digest
        (folder / "rows.npy").unlink()
        said = refused(folder, f"explainers={{a: {entry}}}")
        assert "directions: got directions" in said
        assert str(folder / "rows.npy") in said


def test_costs_are_per_sample_and_in_all(folder: Path) -> None:
    costs = plan(folder, "target=[label, predicted]").costs
    ig = explainers.method("integrated_gradients")(n_steps=8).cost  # type: ignore[call-arg]
    assert costs["ig"]["backward"] == 2 * ig.backward
    assert costs["ig"]["backwards"] == 2 * ig.backward * 20
    assert costs["moments"]["backwards"] == 0


def test_costs_are_those_on_the_network_that_is_explained(folder: Path) -> None:
    entries = (
        "{grid: {method: feature_ablation, features: {grid: 4}}, "
        "hidden: {method: feature_ablation, features: channels, layer: '0'}, "
        "around: {method: smooth_grad, attribution: feature_ablation, n_samples: 2, "
        "parameters: {features: {grid: 4}}}, "
        "unknown: {method: feature_ablation, features: {slic: {n_segments: 4}}}}"
    )
    found = plan(folder, f"explainers={entries}")
    assert found.costs["grid"]["forward"] == 17
    assert found.costs["grid"]["forwards"] == 17 * 20
    assert found.costs["hidden"]["forward"] == 5
    assert found.costs["around"]["forward"] == 1 + 2 * 17
    assert found.costs["unknown"]["forward"] is None
    assert found.costs["unknown"]["backward"] == 0
    assert "NaN" not in found.to_json()
    assert Plan.from_json(found.to_json()) == found


def test_bytes_are_maps_and_states(folder: Path) -> None:
    found = plan(folder)
    assert found.bytes["maps"] == 2 * 20 * 64 * 4
    assert found.bytes["states"] > 0
    assert found.bytes["total"] == found.bytes["maps"] + found.bytes["states"]
    assert found.bytes["arrays"] == 0
    halved = plan(folder, "output.dtype=float16", "target=[label, predicted]")
    assert halved.bytes["maps"] == found.bytes["maps"]


def test_errors_are_stored_as_maps_are(folder: Path) -> None:
    entries = "{lime: {method: lime, features: {grid: 2}, surrogate: ridge}}"
    found = plan(folder, f"explainers={entries}", "target=[label, predicted]")
    assert found.bytes["arrays"] == found.bytes["maps"] == 2 * 20 * 64 * 4
    assert found.bytes["total"] == 2 * found.bytes["maps"]


def test_summed_channels_leave_the_dimension_out(folder: Path) -> None:
    assert plan(folder).maps["ig"] == MapSpec(("channel", "height", "width"), (1, 8, 8))
    assert plan(folder, "output.channels=sum").maps["ig"] == MapSpec(("height", "width"), (8, 8))


def test_no_more_than_two_samples_are_read(folder: Path) -> None:
    config = configured(folder)
    make_plan(config)
    from pipeline import user_code

    counting = user_code.find("code.py:Counting", folder)
    assert counting.n_read == 2  # type: ignore[attr-defined]


def test_broken_and_odd_samples_in_front_do_not_decide_the_shape(folder: Path) -> None:
    found = plan(folder, "data.params={broken: [0, 2], odd: [1]}")
    assert found.input_shape == (1, 8, 8)
    assert found.n_samples == 20


def test_data_of_which_nothing_can_be_read_is_refused(folder: Path) -> None:
    said = refused(folder, "data.params={n: 3, broken: [0, 1, 2]}")
    assert "none of the first 3 samples can be read" in said
    assert "NaN" in said


def test_a_single_sample_is_enough(folder: Path) -> None:
    assert plan(folder, "data.limit=1", "output.shard_size=auto").shard_size == 1


def test_no_samples_are_refused(folder: Path) -> None:
    assert "there are no samples" in refused(folder, "data.params={n: 0}")


def test_weights_with_another_class_count_than_the_labels_are_refused(folder: Path) -> None:
    said = refused(folder, "model.params={n_classes: 2}")
    assert "wrong class count: the network has 2 outputs, but labels go up to 2" in said
    assert "6 of 20 samples" in said
    assert "run.yaml:3 data" in said


def test_the_class_count_does_not_depend_on_which_samples_are_taken(folder: Path) -> None:
    said = refused(folder, "model.params={n_classes: 2}", "data.limit=2")
    assert "the network has 2 outputs, but labels go up to 2" in said
    unlabelled = "data.params={labels: false, classes: [a, b, c, d]}"
    said = refused(folder, unlabelled, "data.limit=2")
    assert "run.yaml:3 data: wrong class count: the network has 3 outputs" in said.replace(
        "--set", ""
    )
    assert "the data has 4 classes" in said


def test_more_outputs_than_classes_are_noted(folder: Path) -> None:
    found = plan(folder, "data.params={n_classes: 2, classes: [a, b]}")
    assert "the network has 3 outputs, the data names 2 classes" in found.notes
    for params in ("{}", "{classes: 3}"):
        notes = plan(folder, f"data.params={params}").notes
        assert not any("classes" in note for note in notes)


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("model.name=code.py:modle", "--set model.name: 'code.py' has no function 'modle'"),
        ("model.weights=none.pt", "--set model.weights: there are no weights at"),
        ("data.function=none.py:images", "run.yaml:3 data: cannot read the python file"),
    ],
)
def test_code_and_weights_that_are_missing_are_refused_with_their_place(
    folder: Path, override: str, place: str
) -> None:
    assert place in refused(folder, override)


def test_a_function_that_is_missing_is_refused_with_file_and_line(folder: Path) -> None:
    (folder / "run.yaml").write_text(RUN.replace("code.py:model", "cod.py:model"))
    assert "run.yaml:2 model.name: cannot read the python file" in refused(folder)


def test_wrong_weights_are_refused(folder: Path) -> None:
    torch.save({"0.weight": torch.zeros(2, 1, 3, 3)}, folder / "w.pt")
    said = refused(folder, "model.weights=w.pt")
    assert "3 missing: 0.bias, 3.weight, 3.bias" in said
    assert "0.weight (got (2, 1, 3, 3), expected (4, 1, 3, 3))" in said


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_with_code_is_refused_and_not_executed(folder: Path) -> None:
    (folder / "w.pt").write_bytes(pickle.dumps(Payload(folder / "executed")))
    assert "wants to run code" in refused(folder, "model.weights=w.pt")
    assert not (folder / "executed").exists()


def test_an_unknown_explainer_is_refused_with_the_nearest(folder: Path) -> None:
    said = refused(folder, "explainers.salincy={}")
    assert "--set explainers.salincy: unknown explainer 'salincy'; did you mean 'saliency'?" in said


def test_an_unknown_method_and_metric_are_refused_with_their_line(folder: Path) -> None:
    text = RUN.replace("moments: {}", "moments: {method: moment}\nmetrics: {sparsenes: {}}")
    (folder / "run.yaml").write_text(text)
    assert "run.yaml:7 explainers.moments.method: unknown explainer 'moment'" in refused(folder)
    (folder / "run.yaml").write_text(text.replace("moment}", "moments}"))
    said = refused(folder)
    assert "run.yaml:8 metrics.sparsenes: unknown metric 'sparsenes'" in said
    assert "did you mean 'sparseness'?" in said


def test_an_unknown_parameter_is_refused_with_its_line(folder: Path) -> None:
    (folder / "run.yaml").write_text(RUN.replace("n_steps", "n_step"))
    said = refused(folder)
    assert "run.yaml:6 explainers.ig.n_step: unknown field 'n_step'" in said
    assert "did you mean 'n_steps'?" in said


def test_a_target_that_the_network_does_not_have_is_refused(folder: Path) -> None:
    assert "target" in refused(folder, "target=3")
    assert "weights" in refused(folder, "target={weights: [1, 2]}")
    assert plan(folder, "target={weights: [1, 2, 0]}").targets == ({"weights": [1, 2, 0]},)


def test_the_target_label_needs_all_labels(folder: Path) -> None:
    said = refused(folder, "target=[predicted, label]", "data.params={labels: false}")
    assert "the target 'label' needs labels, but 20 of 20 samples have none" in said


def test_a_model_that_does_not_take_the_samples_is_refused(folder: Path) -> None:
    said = refused(folder, "data.params={odd: [0, 1]}")
    assert "the model does not take inputs of shape (1, 9, 8)" in said


def test_a_model_without_one_row_of_logits_is_refused(folder: Path) -> None:
    said = refused(folder, "model.name=code.py:feature_maps")
    assert "for 2 inputs the model gave shape (2, 4, 6, 6), expected (2, classes)" in said


def test_an_operator_without_a_rule_is_refused(folder: Path) -> None:
    said = refused(folder, "explainers={lrp: {}}", "model.params={layer: odd}")
    assert "--set explainers" in said
    assert "i0e" in said
    assert "integrated_gradients" in said
    plan(folder, "explainers={saliency: {}}", "model.params={layer: odd}")


@dataclass(frozen=True)
class Probe(Attribution):
    """Needs a layer and the result of a scan."""

    layer: str = "3"
    noise: Mapping[str, Tensor] | None = None

    cost: ClassVar[Cost] = Cost(forward=2)
    needs: ClassVar[Mapping[str, str]] = {"noise": "moments"}
    requires: ClassVar[frozenset[str]] = frozenset({"labels"})

    def check(self, network: Network) -> None:
        network.match((self.layer,))

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        return trace.inputs


@dataclass(frozen=True)
class Pointing(Metric):
    """Needs masks."""

    headline: ClassVar[str] = "hit"
    requires: ClassVar[frozenset[str]] = frozenset({"masks"})

    @property
    def direction(self) -> Any:
        return "higher"

    def score(self, case: Any, relevance: Tensor) -> dict[str, Tensor]:
        return {"hit": relevance.sum()}


@pytest.fixture
def probe() -> Iterator[None]:
    _ = explainers.methods.names(), metrics.names()
    explainers.register("probe")(Probe)
    metrics.register("pointing")(Pointing)
    yield
    del explainers.methods._things["probe"]
    del metrics._things["pointing"]


@pytest.mark.usefixtures("probe")
def test_an_unknown_layer_is_refused_with_the_layers_there_are(folder: Path) -> None:
    said = refused(folder, "explainers={probe: {layer: convv}}")
    assert "--set explainers" in said
    assert "convv" in said
    assert "name a layer of the network: 0, " in said


@pytest.mark.usefixtures("probe")
def test_what_needs_a_scan_comes_in_a_later_pass(folder: Path) -> None:
    planned = make_plan(configured(folder, "explainers={probe: {}, saliency: {}}"))
    assert [entry.name for entry in planned.plan.passes] == ["explain", "explain.moments"]
    assert planned.plan.passes[0].attributions == ("saliency",)
    assert planned.plan.passes[0].scans == ("moments",)
    assert planned.plan.passes[1].attributions == ("probe",)
    assert planned.plan.needs == {"probe": {"noise": "moments"}}
    assert "moments" in planned.explainers
    assert any("moments: added" in note for note in planned.plan.notes)


@pytest.mark.usefixtures("probe")
def test_a_need_may_name_an_entry(folder: Path) -> None:
    entries = "{probe: {noise: statistics}, statistics: {method: moments, rank: 2}}"
    planned = make_plan(configured(folder, f"explainers={entries}"))
    assert planned.plan.needs == {"probe": {"noise": "statistics"}}
    assert list(planned.explainers) == ["probe", "statistics"]
    unnamed = make_plan(
        configured(folder, f"explainers={entries.replace('noise: statistics', '')}")
    )
    assert unnamed.plan.needs == planned.plan.needs


@pytest.mark.usefixtures("probe")
def test_a_need_that_names_no_scan_is_refused(folder: Path) -> None:
    said = refused(folder, "explainers={probe: {noise: saliency}, saliency: {}, moments: {}}")
    assert "got 'saliency', expected an entry of `explainers` with the method 'moments'" in said
    assert "'moments'" in said


@pytest.mark.usefixtures("probe")
def test_labels_and_masks_that_are_required_must_be_there(folder: Path) -> None:
    said = refused(folder, "explainers={probe: {}}", "data.params={labels: false}")
    assert "'probe' needs labels" in said
    said = refused(folder, "metrics={pointing: {}}")
    assert "the metric 'pointing' needs masks, but none of the 20 samples has one" in said


def test_a_metric_that_cannot_score_the_samples_is_refused(folder: Path) -> None:
    (folder / "run.yaml").write_text(f"{RUN}metrics:\n  infidelity: {{square: 9}}\n")
    said = refused(folder)
    assert "run.yaml:11 metrics.infidelity.square: got squares of 9 pixels" in said
    said = refused(folder, "metrics={mprt: {layers: ['nope*']}}")
    assert "metrics.mprt.layers.0: no layer" in said


def test_automatic_sizes_are_fixed_in_the_plan(folder: Path) -> None:
    found = plan(
        folder, "data.params={n: 1000}", "engine.batch_size=auto", "output.shard_size=auto"
    )
    assert 1 <= found.batch_size <= found.shard_size <= 256
    assert found.shard_size % found.batch_size == 0
    assert len(found.shards) >= 4


@pytest.mark.parametrize(
    ("n_samples", "batch", "expected"),
    [
        (5000, 64, 128),
        (5000, 32, 96),
        (1_000_000, 64, 256),
        (1_000_000, 100, 200),
        (1_000_000, 512, 512),
        (20, 8, 8),
        (3, 8, 3),
    ],
)
def test_shards_are_whole_batches_and_do_not_depend_on_workers(
    n_samples: int, batch: int, expected: int
) -> None:
    maps = {"a": MapSpec(("height",), (8,))}
    assert shard_size(maps, n_samples, 1, batch) == expected


def test_maps_of_a_shard_fit_in_a_quarter_of_a_workers_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.planning.sizing.worker_memory", lambda: 4 * 100 * 1000)
    maps = {"a": MapSpec(("x",), (250,))}
    assert shard_size(maps, 100_000, 1, 32) == 96
    assert shard_size(maps, 100_000, 2, 32) == 32
    assert shard_size(maps, 100_000, 1, 32, beside=1_000) == 32
    assert shard_size(maps, 100_000, 4, 32) == 25
    assert shard_size({"a": MapSpec(("x",), (250_000,))}, 100_000, 1, 32) == 1


def test_measuring_estimates_the_time_and_keeps_the_threads(folder: Path) -> None:
    before = torch.get_num_threads()
    found = make_plan(configured(folder), measure=True).plan
    assert found.seconds is not None
    assert found.seconds > 0
    assert torch.get_num_threads() == before
    assert plan(folder).seconds is None


def test_what_takes_many_passes_is_tried_in_a_brief_form(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def explained(attribution: Attribution, trace: Trace, target: Target) -> Explained:
        tried.append(explaining.cost(attribution, trace.network).forward)
        return whole(attribution, trace, target)

    whole = explaining.explained
    monkeypatch.setattr(explaining, "explained", explained)
    entries = "{a: {method: shapley_value_sampling, n_evaluations: 100000}}"
    found = make_plan(configured(folder, f"explainers={entries}"), measure=True).plan
    assert len(tried) == 2  # by the trial, and by what measures
    assert 0 < max(tried) <= 16
    assert found.costs["a"]["forward"] > 1000  # type: ignore[operator]
    assert found.seconds is not None


def test_what_is_brief_already_is_tried_as_it_is(folder: Path) -> None:
    few = explainers.build("integrated_gradients", n_steps=2)
    many = explainers.build("integrated_gradients", n_steps=50)
    unbounded = explainers.build(
        "smooth_grad", attribution="integrated_gradients", parameters={"n_steps": 50}
    )
    network = make_plan(configured(folder)).network
    for explainer, expected in ((few, few), (many, few), (unbounded, None)):
        assert isinstance(explainer, Attribution)
        assert brief(explainer, network) == expected


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "{method: shapley_value_sampling, features: {grid: 4}, n_evaluations: 5}",
            "explainers.bad.n_evaluations: ",
        ),
        (
            "{method: shapley_value_sampling, features: {grid: 5}, estimator: exact}",
            "explainers.bad.",
        ),
        ("{method: feature_ablation, features: {grid: 9}}", "explainers.bad.features"),
        (
            "{method: feature_ablation, features: {masks: [[0, 1], [1, 0]]}}",
            "explainers.bad.features.masks: ",
        ),
        (
            "{method: feature_ablation, features: {masks: %s}}"
            % [[2 * (row > 3)] * 8 for row in range(8)],
            "explainers.bad.features.masks: ",
        ),
    ],
)
def test_features_and_budgets_that_do_not_fit_are_refused(
    folder: Path, entry: str, said: str
) -> None:
    assert said in refused(folder, f"explainers={{saliency: {{}}, bad: {entry}}}")


@pytest.mark.parametrize(
    "entry",
    [
        "{method: deep_taylor, low: [0, 1], high: 1}",
        "{method: lrp, rules: {'0': {rule: z_box, low: [0, 0], high: [1, 1]}}}",
        "{method: smooth_grad, attribution: deep_taylor, parameters: {low: [0, 1], high: 1}}",
        "{method: integrated_gradients, baseline: [0, 1], n_steps: 50}",
    ],
)
def test_what_only_shows_when_it_runs_is_refused(folder: Path, entry: str) -> None:
    said = refused(folder, f"explainers={{saliency: {{}}, bad: {entry}}}")
    assert "--set explainers" in said
    assert " explainers.bad" in said
    assert "(2,)" in said


def test_what_only_shows_with_the_result_of_a_scan_is_refused(folder: Path) -> None:
    entry = "{method: lime, features: {grid: 2}, background: background, distance: cosine}"
    said = refused(folder, f"explainers={{saliency: {{}}, bad: {entry}}}")
    assert " explainers.bad.background: lime got a background and distance" in said
    entry = entry.replace("cosine", "hamming")
    found = plan(folder, f"explainers={{good: {entry}}}")
    assert found.needs == {"good": {"background": "background"}}


def test_a_scan_that_cannot_fold_the_example_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fold(*_: object) -> None:
        raise RuntimeError("no such values")

    monkeypatch.setattr(type(explainers.build("moments")), "fold", fold)
    said = refused(folder)
    assert "run.yaml:7 explainers.moments: RuntimeError: no such values" in said


def test_a_rule_that_does_not_serve_a_layer_is_refused_where_it_is_named(folder: Path) -> None:
    said = refused(folder, "explainers={lrp: {rules: {'type:Activation': gamma}}}")
    assert "explainers.lrp.rules.type:Activation: rule table 'lrp' has no rule" in said
    assert "name a rule that serves the layer" in said
    said = refused(folder, "explainers={lrp: {rules: {'type:Convolutn': flat}}}")
    assert "explainers.lrp.rules.type:Convolutn: unknown operator class" in said


def test_a_unit_out_of_range_is_refused_at_the_unit(folder: Path) -> None:
    said = refused(folder, "target={layer: '0', unit: 9}")
    assert " target.unit: unit 9 does not exist" in said


def test_rules_that_cannot_conserve_are_noted(folder: Path) -> None:
    entries = "{lrp: {rules: {'0': gamma}}, plain: {method: lrp, composite: lrp_z}}"
    notes = plan(folder, f"explainers={entries}").notes
    assert "lrp: rules that cannot conserve relevance: gamma" in notes
    assert not any(note.startswith("plain:") for note in notes)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{method: shapley_value_sampling, %s, estimator: exact}", "estimator: the estimator"),
        ("{method: kernel_shap, %s, n_evaluations: 20}", "n_evaluations: got"),
        (
            "{method: shapley_value_sampling, %s, estimator: permutation, n_evaluations: 20}",
            "n_evaluations: got n_evaluations=20 for the estimator permutation",
        ),
    ],
)
def test_budgets_are_checked_on_features_of_the_example(
    folder: Path, entry: str, said: str
) -> None:
    # labels for each sample, of which there are more in the second, as superpixels might be
    labels = torch.stack([torch.arange(64).view(8, 8) % n for n in (4, *[18] * 19)])
    entry %= f"features: {{masks: {labels.tolist()}}}"
    assert f" explainers.bad.{said}" in refused(folder, f"explainers={{bad: {entry}}}")


def test_superpixels_are_looked_for_in_the_example(folder: Path) -> None:
    pytest.importorskip("skimage")
    entry = "{method: kernel_shap, features: {slic: {n_segments: 16}}, n_evaluations: 8}"
    said = refused(folder, f"explainers={{bad: {entry}}}")
    assert " explainers.bad.n_evaluations: got n_evaluations=8 for the estimator kernel" in said


def test_costs_know_of_backgrounds_that_are_to_come(folder: Path) -> None:
    given = "features: {grid: 3}, background: background"
    shapley = f"method: shapley_value_sampling, {given}"
    entries = (
        f"{{drawn: {{method: feature_ablation, n_samples: 3, {given}}}, "
        f"exact: {{{shapley}, estimator: exact, n_evaluations: 1540}}, "
        f"orders: {{{shapley}}}, one: {{{shapley}, n_evaluations: 20}}, "
        "shap: {method: deep_lift_shap}, background: {n_samples: 7}}"
    )
    found = plan(folder, f"explainers={entries}")
    costs = {name: found.costs[name]["forward"] for name in ("drawn", "exact", "orders", "one")}
    assert costs == {"drawn": 28, "exact": 1534, "orders": 171, "one": 18}
    assert found.costs["shap"]["backward"] == 7
    assert any("one: " in note and "below 35 evaluations" in note for note in found.notes)
