"""What can be looked up without a run."""

import json

import pytest
from typer.testing import CliRunner

import explainers
from cli.main import app
from pipeline import catalogue
from pipeline.metrics import metrics

runner = CliRunner()


def test_every_explainer_is_listed_with_its_cost() -> None:
    rows = json.loads(runner.invoke(app, ["explainers", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(explainers.methods.names())
    assert all(row["what it is"] and row["passes"] for row in rows)


def test_every_metric_is_listed_with_its_direction() -> None:
    rows = json.loads(runner.invoke(app, ["metrics", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(metrics.names())
    assert {row["better"] for row in rows} <= {"higher", "lower"}


@pytest.mark.slow
@pytest.mark.parametrize("name", explainers.methods.names())
def test_every_parameter_of_an_explainer_is_documented(name: str) -> None:
    entry = json.loads(runner.invoke(app, ["explainers", name, "--json"]).stdout)
    missing = [key for key, about in entry["parameters"].items() if not about["documentation"]]
    assert not missing, "a string below the field says what it is"
    assert entry["documentation"]
    assert name in runner.invoke(app, ["explainers", name]).stdout


@pytest.mark.parametrize("name", metrics.names())
def test_every_parameter_of_a_metric_is_documented(name: str) -> None:
    entry = json.loads(runner.invoke(app, ["metrics", name, "--json"]).stdout)
    missing = [key for key, about in entry["parameters"].items() if not about["documentation"]]
    assert not missing, "a string below the field says what it is"
    assert name in runner.invoke(app, ["metrics", name]).stdout


@pytest.mark.parametrize("command", ["explainers", "metrics"])
def test_an_unknown_name_is_wrong_usage_with_a_hint(command: str) -> None:
    name = {"explainers": "salency", "metrics": "sparsness"}[command]
    answer = runner.invoke(app, [command, name])
    assert answer.exit_code == 2
    assert "did you mean" in answer.stderr


def test_a_table_in_markdown_has_a_row_per_explainer() -> None:
    lines = runner.invoke(app, ["explainers", "--markdown"]).stdout.splitlines()
    assert len(lines) == 2 + len(explainers.methods.names())
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_the_schema_knows_every_explainer() -> None:
    schema = json.loads(runner.invoke(app, ["schema"]).stdout)
    text = json.dumps(schema)
    assert all(f'"{name}"' in text for name in explainers.methods.names())


def test_a_field_is_documented_by_the_string_below_it_also_in_a_parent() -> None:
    documented = catalogue.field_documentation(explainers.method("integrated_gradients"))
    assert documented["n_steps"]
    assert "return" not in documented


def test_a_cost_that_depends_on_the_input_is_null_in_json() -> None:
    text = runner.invoke(app, ["explainers", "feature_ablation", "--json"]).stdout
    known = json.loads(text)["cost"]
    assert known == {"forward": None, "backward": 0.0, "steps": 0, "shared": 0.0}
    assert json.loads(text)["passes"] == "forwards by the input"
    assert "passes      forwards by the input" in (
        runner.invoke(app, ["explainers", "feature_ablation"]).stdout
    )


def test_costs_are_said_in_words() -> None:
    cost = explainers.Cost
    assert catalogue.passes(cost(forward=1, backward=2)) == "1 forward, 2 backwards"
    assert catalogue.passes(cost()) == "none of its own"
    assert catalogue.passes(cost(forward=float("nan"), backward=1)) == (
        "forwards by the input, 1 backward"
    )
    assert catalogue.passes(None) == "by its parameters"
