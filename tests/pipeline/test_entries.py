"""Entries of a run file: presets, methods inside others, and where their errors are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import explainers
from explainers import Attribution, Cost
from pipeline.config import load
from pipeline.entries import build_explainers, needs_of
from pipeline.errors import ConfigError
from pipeline.schema import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from explainers import Target, Trace
    from pipeline.config import RunConfig


@dataclass(frozen=True)
class Sharp(Attribution):
    """Has presets, and a mapping that it checks itself."""

    epsilon: float = 1e-6
    bounds: tuple[float, ...] = ()
    rules: dict[str, str] = field(default_factory=dict)
    noise: Mapping[str, Any] | None = None

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "others": {"epsilon": 0.25, "bounds": (0.0, 1.0)}
    }
    needs: ClassVar[Mapping[str, str]] = {"noise": "moments"}
    cost = Cost(forward=1)

    def __post_init__(self) -> None:
        for rule in self.rules.values():
            if rule not in ("epsilon", "flat"):
                raise ValueError(f"unknown rule {rule!r}; expected 'epsilon' or 'flat'")

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        return trace.inputs


@dataclass(frozen=True)
class Around(Attribution):
    """Goes around another method."""

    attribution: str = "gradient"
    parameters: dict[str, Any] = field(default_factory=dict)

    cost = Cost(forward=1)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        return trace.inputs


@pytest.fixture(autouse=True)
def methods() -> Iterator[None]:
    explainers.methods.names()
    explainers.register("sharp")(Sharp)
    explainers.register("around")(Around)
    yield
    del explainers.methods._things["sharp"]
    del explainers.methods._things["around"]


def configured(folder: Path, entries: str) -> RunConfig:
    indented = "".join(f"  {line}\n" for line in entries.strip("\n").splitlines())
    path = folder / "run.yaml"
    path.write_text(
        "name: x\nmodel: {source: python, name: 'm:f'}\ndata: {source: mnist5k}\n"
        f"explainers:\n{indented}"
    )
    return load(path)


def refused(folder: Path, entries: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build_explainers(configured(folder, entries))
    return str(caught.value)


def test_a_preset_replaces_defaults_and_what_is_written_wins(tmp_path: Path) -> None:
    entries = "a: {method: sharp, preset: others}\nb: {method: sharp, preset: others, epsilon: 2}"
    found = build_explainers(configured(tmp_path, entries))
    assert found["a"] == Sharp(epsilon=0.25, bounds=(0.0, 1.0))
    assert found["b"] == Sharp(epsilon=2.0, bounds=(0.0, 1.0))


def test_a_preset_is_part_of_the_digest(tmp_path: Path) -> None:
    plain = configured(tmp_path, "sharp: {}")
    chosen = configured(tmp_path, "sharp: {preset: others}")
    assert chosen.canonical()["explainers"] == {"sharp": {"method": "sharp", "preset": "others"}}
    assert plain.digest() != chosen.digest()


def test_an_unknown_preset_is_refused_where_it_stands(tmp_path: Path) -> None:
    said = refused(tmp_path, "sharp:\n  preset: other")
    assert "run.yaml:6 explainers.sharp.preset: " in said
    assert "did you mean 'others'" in said
    assert "it has none" in refused(tmp_path, "around: {preset: others}")


def test_an_editor_knows_the_presets() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["explainer.sharp"]["properties"]["preset"] == {"enum": ["others"]}
    assert "preset" not in definitions["explainer.around"]["properties"]


def test_what_a_class_refuses_is_told_at_the_line_of_the_value(tmp_path: Path) -> None:
    said = refused(tmp_path, "sharp:\n  epsilon: 1e-3\n  rules:\n    a.*: flat\n    b: flatt")
    assert "run.yaml:9 explainers.sharp.rules.b: unknown rule 'flatt'" in said


def test_parameters_of_a_method_inside_another_are_checked(tmp_path: Path) -> None:
    outer = "around:\n  attribution: sharp\n  parameters:\n    "
    said = refused(tmp_path, f"{outer}epsilonn: 1")
    assert "run.yaml:8 explainers.around.parameters.epsilonn: unknown field" in said
    assert "did you mean 'epsilon'" in said
    said = refused(tmp_path, f"{outer}rules:\n      b: flatt")
    assert "run.yaml:9 explainers.around.parameters.rules.b: unknown rule" in said
    said = refused(tmp_path, f"{outer}preset: other")
    assert "run.yaml:8 explainers.around.parameters.preset" in said
    said = refused(tmp_path, "around:\n  attribution: sharpp")
    assert "run.yaml:6 explainers.around.attribution: unknown explainer 'sharpp'" in said
    said = refused(tmp_path, "around:\n  parameters:\n    postprocess: none\n    epsilon: 1")
    assert "run.yaml:8 explainers.around.parameters.epsilon: unknown field" in said


def test_parameters_of_a_method_inside_another_have_their_types(tmp_path: Path) -> None:
    entries = "around: {attribution: sharp, parameters: {preset: others, bounds: [1, 2]}}"
    (found, _) = build_explainers(configured(tmp_path, entries)).values()
    assert found == Around("sharp", {"epsilon": 0.25, "bounds": (1.0, 2.0)})


def test_a_method_inside_another_gets_the_result_of_its_scan(tmp_path: Path) -> None:
    config = configured(tmp_path, "around: {attribution: sharp}")
    assert needs_of(config) == {"around": {"parameters.noise": "moments"}}
    assert list(build_explainers(config)) == ["around", "moments"]
    named = "around: {attribution: sharp, parameters: {noise: s}}\ns: {method: moments}"
    config = configured(tmp_path, named)
    assert needs_of(config) == {"around": {"parameters.noise": "s"}}
    assert build_explainers(config)["around"] == Around("sharp", {})


def test_an_entry_of_another_method_is_not_taken_for_the_scan(tmp_path: Path) -> None:
    said = refused(tmp_path, "sharp: {}\nmoments: {method: background}")
    assert "run.yaml:5 explainers.sharp.noise: " in said
    assert "the entry 'moments' has the method 'background'" in said
    entries = "around: {attribution: sharp}\nmoments: {method: background}"
    assert "the entry 'moments' has the method 'background'" in refused(tmp_path, entries)


def test_of_two_scans_one_has_to_be_named(tmp_path: Path) -> None:
    scans = "a: {method: moments}\nmoments: {}"
    assert "name one: `noise: a`, of ['a', 'moments']" in refused(tmp_path, f"sharp: {{}}\n{scans}")
    config = configured(tmp_path, f"sharp: {{noise: moments}}\n{scans}")
    assert needs_of(config) == {"sharp": {"noise": "moments"}}
