from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.parameters import build, schema_of
from pipeline.run_file import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nowhere import Composite
    from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """Takes every kind of parameter."""

    n_steps: int
    baseline: float | Tensor | None = None
    composite: str | Composite = "epsilon_plus"
    layers: tuple[str, ...] = ()
    sizes: Mapping[str, int] | None = None
    postprocess: Literal["none", "abs"] = "none"

    kind: ClassVar[str] = "probe"

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"got n_steps {self.n_steps!r}, expected at least 1")


def refused(**values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Probe, values, "explainers.probe")
    return str(caught.value)


def test_parameters_become_fields_and_lists_become_tuples() -> None:
    probe = build(Probe, {"n_steps": 3, "layers": ["a", "b"], "sizes": {"a": 1}}, "x")
    assert probe == Probe(3, layers=("a", "b"), sizes={"a": 1})


def test_whole_numbers_serve_as_numbers() -> None:
    assert build(Probe, {"n_steps": 3, "baseline": 1}, "x").baseline == 1.0


def test_tensors_are_taken_from_callers_in_python() -> None:
    baseline = torch.ones(1)
    assert build(Probe, {"n_steps": 3, "baseline": baseline}, "x").baseline is baseline


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    said = refused(n_steps=1, n_step=3)
    assert "explainers.probe.n_step: unknown field 'n_step'; did you mean 'n_steps'?" in said


def test_class_variables_are_no_parameters() -> None:
    assert "unknown field 'kind'" in refused(n_steps=1, kind="other")


def test_a_wrong_type_is_refused_with_what_was_expected() -> None:
    assert "explainers.probe.n_steps: got '3', expected a whole number" in refused(n_steps="3")
    assert "baseline: got 'black', expected a number" in refused(n_steps=1, baseline="black")
    assert "sizes.a: got 'x', expected a whole number" in refused(n_steps=1, sizes={"a": "x"})


def test_a_missing_parameter_is_named() -> None:
    assert "explainers.probe.n_steps: missing" in refused()


def test_a_near_miss_of_a_literal_is_suggested() -> None:
    assert "did you mean 'none'?" in refused(n_steps=1, postprocess="non")


def test_what_the_class_refuses_is_a_config_error_too() -> None:
    assert "explainers.probe.n_steps: got n_steps 0, expected at least 1" in refused(n_steps=0)


def test_places_in_a_run_file_are_shown_for_each_parameter() -> None:
    run_file = parse("explainers:\n  probe:\n    n_steps: 1\n    layer: x\n", "run.yaml")
    with pytest.raises(ConfigError, match=r"run\.yaml:4 explainers\.probe\.layer: unknown field"):
        build(
            Probe,
            run_file.values["explainers"]["probe"],
            partial(run_file.where, "explainers", "probe"),
        )


def test_the_schema_says_what_a_run_file_can_say() -> None:
    schema = schema_of(Probe)
    assert schema["description"] == "Takes every kind of parameter."
    assert schema["required"] == ["n_steps"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["baseline"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert schema["properties"]["postprocess"]["enum"] == ["none", "abs"]
