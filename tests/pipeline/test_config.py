from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from pipeline.config import TAKEN, RunConfig, dump, load
from pipeline.errors import ConfigError
from pipeline.sinks.maps import COORDINATES
from pipeline.store import OWN

if TYPE_CHECKING:
    from pathlib import Path

RUN = """\
name: audit
model:
  source: python
  name: "net.py:load"
data:
  source: mnist5k
  limit: 50
explainers:
  saliency:
  lrp: {composite: epsilon_plus_flat}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def refused(path: Path, text: str, overrides: tuple[str, ...] = ()) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(str(path), "run.yaml")


def test_defaults_are_filled_in(run_file: Path) -> None:
    config = load(run_file)
    assert config.seed == 0
    assert config.target == "predicted"
    assert config.targets == ("predicted",)
    assert not config.has_target_dimension
    assert config.output.path == "runs/audit"
    assert config.output.shard_size == "auto"
    assert config.engine.kind == "ray"
    assert config.engine.threads == 1
    assert config.report.samples == 24
    assert config.metrics == {}


def test_an_entry_without_parameters_is_empty(run_file: Path) -> None:
    assert load(run_file).explainers == {
        "saliency": {},
        "lrp": {"composite": "epsilon_plus_flat"},
    }


def test_base_is_the_folder_of_the_run_file(run_file: Path) -> None:
    assert load(run_file).base == run_file.parent.resolve()


def test_further_fields_of_data_are_the_sources_parameters(run_file: Path) -> None:
    config = load(run_file, ["data.mean=1e-1"])
    assert config.data.parameters == {"mean": 0.1}
    assert config.data.limit == 50


@pytest.mark.parametrize(
    ("written", "targets"),
    [
        ("label", ("label",)),
        ("runner_up", ("runner_up",)),
        ("3", (3,)),
        ("[label, predicted, 2]", ("label", "predicted", 2)),
    ],
)
def test_targets_are_words_indices_and_lists(
    run_file: Path, written: str, targets: tuple[object, ...]
) -> None:
    config = load(run_file, [f"target={written}"])
    assert config.targets == targets
    assert config.has_target_dimension == written.startswith("[")


def test_a_target_can_be_weights(run_file: Path) -> None:
    (target,) = load(run_file, ["target={weights: [1, -1]}"]).targets
    assert target.weights == (1.0, -1.0)  # type: ignore[union-attr]


def test_dump_and_load_give_an_equal_run_in_any_folder(run_file: Path, tmp_path: Path) -> None:
    config = load(run_file, ["target=[label, {weights: [0.5]}]"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.yaml").write_text(dump(config))
    again = load(elsewhere / "run.yaml")
    assert again == config
    assert again.digest() == config.digest()
    assert again.base == config.base


def test_a_run_can_be_pickled(run_file: Path) -> None:
    config = load(run_file)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "metrics={sparseness: {}}",
        "report.samples=3",
        "output.path=elsewhere",
        "engine.kind=serial",
        "engine.workers=7",
        "engine.gpus_per_worker=1",
        "engine.address=auto",
        "explainers.saliency.method=saliency",
    ],
)
def test_what_does_not_change_results_does_not_change_the_digest(
    run_file: Path, override: str
) -> None:
    assert load(run_file, [override]).digest() == load(run_file).digest()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "target=label",
        "model.name=net.py:other",
        "data.limit=51",
        "explainers.lrp.composite=epsilon_plus",
        "explainers.gradient={}",
        "output.dtype=float16",
        "output.channels=sum",
        "output.shard_size=10",
        "engine.batch_size=10",
        "engine.threads=2",
    ],
)
def test_what_changes_results_changes_the_digest(run_file: Path, override: str) -> None:
    assert load(run_file, [override]).digest() != load(run_file).digest()


def test_an_unknown_field_is_refused_with_place_and_nearest_name(run_file: Path) -> None:
    said = refused(run_file, RUN.replace("limit: 50", "limit: 50\nengine:\n  workrs: 3"))
    assert "run.yaml:9 engine.workrs: unknown field 'workrs'; did you mean 'workers'?" in said


def test_all_mistakes_are_listed_at_once(run_file: Path) -> None:
    text = RUN.replace("name: audit", "name: Audit\nsed: 1").replace("source: python", "sorce: x")
    said = refused(run_file, text.replace("limit: 50", "limit: '50'"))
    assert "run.yaml:1 name: got 'Audit', expected lower-case letters" in said
    assert "run.yaml:2 sed: unknown field 'sed'; did you mean 'seed'?" in said
    assert "run.yaml:4 model.sorce: unknown field 'sorce'; did you mean 'source'?" in said
    assert "model.source: missing, but 'source' is required" in said
    assert "data.limit: got '50', expected a whole number" in said


def test_a_near_miss_of_a_word_is_suggested(run_file: Path) -> None:
    said = refused(run_file, RUN + "engine: {kind: seral}\n")
    assert (
        "run.yaml:11 engine.kind: got 'seral', expected 'ray' or 'serial'; did you mean 'serial'?"
        in said
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "-1"),
        ("seed", "true"),
        ("seed", "1.5"),
        ("engine.batch_size", "0"),
        ("engine.batch_size", "automatic"),
        ("output.dtype", "float64"),
        ("explainers", "{}"),
        ("explainers", "{Saliency: {}}"),
        ("explainers.saliency", "[1]"),
        ("target", "[]"),
        ("target", "[label, label]"),
        ("target", "-1"),
        ("target", "{weights: []}"),
        ("gates", "lrp"),
        ("name", "3d"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_and_the_override_is_named(
    run_file: Path, field: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=f"--set {field}"):
        load(run_file, [f"{field}={value}"])


def test_names_that_the_store_gives_to_other_things_are_no_explainers(run_file: Path) -> None:
    of_exports = {"samples", "scores"}
    assert set(TAKEN) == {*COORDINATES, *(each.rstrip(".") for each in OWN), *of_exports}
    for name in TAKEN:
        said = refused(run_file, RUN + f"  {name}: {{method: saliency}}\n")
        assert f"run.yaml:11 explainers.{name}: the name {name!r} is taken by the store" in said
        assert "choose another: `method:` names the explainer" in said


def test_an_unknown_override_is_refused_with_the_nearest_name(run_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown field 'worker'; did you mean 'workers'"):
        load(run_file, ["engine.worker=2"])


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", "seed=[1", "seed.a=1"])
def test_an_override_that_cannot_be_applied_is_refused(run_file: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(run_file, [text])


def test_the_last_override_wins_and_a_new_entry_can_be_added(run_file: Path) -> None:
    config = load(run_file, ["seed=1", "seed=2", "explainers.ig.method=integrated_gradients"])
    assert config.seed == 2
    assert config.explainers["ig"] == {"method": "integrated_gradients"}


def test_numbers_with_an_exponent_are_numbers(run_file: Path) -> None:
    config = load(run_file, ["explainers.lrp.epsilon=1e-6"])
    assert config.explainers["lrp"]["epsilon"] == 1e-6


def test_a_key_given_twice_is_refused(run_file: Path) -> None:
    assert "run.yaml:11: 'name' is given twice" in refused(run_file, RUN + "name: again\n")


def test_what_is_not_yaml_is_refused_with_its_line(run_file: Path) -> None:
    assert "run.yaml:12: expected" in refused(run_file, RUN + "output: {path: [\n")


@pytest.mark.parametrize("text", ["[1, 2]", "just text"])
def test_a_file_that_is_no_mapping_is_refused(run_file: Path, text: str) -> None:
    assert "expected a mapping" in refused(run_file, text)


def test_an_empty_file_is_told_what_is_missing(run_file: Path) -> None:
    said = refused(run_file, "")
    assert "model: missing, but 'model' is required" in said
    assert "explainers: missing" in said


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the run file"):
        load(tmp_path / "none.yaml")


def test_yaml_that_wants_to_make_objects_is_refused(run_file: Path) -> None:
    said = refused(run_file, RUN + "seed: !!python/object/apply:os.getpid []\n")
    assert "run.yaml:11: the tag 'tag:yaml.org,2002:python/object/apply:os.getpid'" in said


def test_where_names_file_line_and_path(run_file: Path) -> None:
    config = load(run_file, ["seed=1"])
    assert config.where("explainers", "lrp") == f"{run_file}:10 explainers.lrp"
    assert config.where("explainers", "lrp", "new") == f"{run_file}:10 explainers.lrp.new"
    assert config.where("seed") == "--set seed"


def test_a_run_made_in_python_is_strict_too() -> None:
    with pytest.raises(ValueError, match="seed"):
        RunConfig.model_validate({"name": "a", "seed": "1"})
