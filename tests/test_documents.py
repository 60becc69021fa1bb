"""What the documents say is so: generated parts are up to date, commands exist."""

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typer
import yaml
from torch import nn

from cli.main import app
from docs import generate
from pipeline.config import load
from pipeline.entries import build_explainers
from tests.own_code import MODULES, ROOT, nodes_of

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTRAS = (
    "demo",
    "timm",
    "zennit",
    "superpixels",
    "concepts",
    "causal",
    "text",
    "spray",
    "export",
    "quantus",
    "cluster",
    "s3",
    "gcs",
    "huggingface",
    "mlflow",
    "wandb",
    "tensorboard",
    "opentelemetry",
)
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def commands_of(path: Path) -> list[list[str]]:
    """Command lines in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line.partition(" >")[0], comments=True) for line in lines]


def command_of(words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """The command that words name, which may be in a group, and what is left of them."""
    found, rest = COMMANDS[words[0]], words[1:]
    while hasattr(found, "commands") and rest:
        found, rest = found.commands[rest[0]], rest[1:]
    return found, rest


def mentions_of(path: Path) -> list[list[str]]:
    """Commands that the text of a page mentions, often without their arguments."""
    return [
        shlex.split(found) for found in re.findall(r"`((?:xpipe|make) [^`]*)`", path.read_text())
    ]


def targets_of(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.name)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    assert path.read_text() == generate.page(path), "run `make docs`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_command_lines_that_are_shown_are_right(path: Path) -> None:
    for words in commands_of(path):
        if words[0] == "xpipe":
            # parses them, or exits with a usage error
            command, rest = command_of(words[1:])
            command.make_context(words[1], rest)
        elif words[0] == "make":
            assert set(words[1:]) <= targets_of(MAKEFILE), words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_that_are_mentioned_exist(path: Path) -> None:
    for command, *words in mentions_of(path):
        if command == "make":
            assert set(words) <= targets_of(MAKEFILE), words
        elif words[0].isupper() or words[0].startswith("-"):
            continue
        else:
            options = {name for entry in command_of(words)[0].params for name in entry.opts}
            used = {word for word in words if word.startswith("-")}
            assert used <= options, words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def blocks_of(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_entries_that_are_shown_can_be_written(tmp_path: Path) -> None:
    whole, *parts = [
        yaml.safe_load(block)
        for page in (
            "run-file.md",
            "perturbation.md",
            "concepts.md",
            "rate_distortion.md",
            "decomposition.md",
            "causal_graphs.md",
        )
        for block in blocks_of(page, "yaml")
    ]
    assert parts
    for block in (whole, *({**whole, **part} for part in parts)):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(block))
        assert build_explainers(load(path)).keys() >= block["explainers"].keys()


@pytest.mark.slow
def test_what_is_shown_of_perturbation_in_python_runs() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 12 * 12, 3))
    images = torch.rand(4, 1, 14, 14)
    given = {"model": nn.Sequential(*layers), "images": images, "loader": [(images, None)]}
    (block,) = blocks_of("perturbation.md", "python")
    exec(block, given)


@pytest.mark.slow
def test_what_is_shown_of_concepts_in_python_runs() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3))
    images = torch.rand(6, 1, 6, 6)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    given = {"model": nn.Sequential(*layers), "images": images, "loader": [(images, labels)]}
    for block in blocks_of("concepts.md", "python"):
        exec(block, given)


@pytest.mark.slow
def test_what_is_shown_of_rate_distortion_in_python_runs() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    images = torch.rand(5, 1, 6, 6)
    given = {"model": nn.Sequential(*layers), "images": images, "loader": [(images, None)]}
    # the other one reads a run
    (block,) = (each for each in blocks_of("rate_distortion.md", "python") if "loader" in each)
    exec(block, given)


@pytest.mark.slow
def test_what_is_shown_of_decompositions_in_python_runs() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 8 * 8, 3))
    given = {"model": nn.Sequential(*layers), "images": torch.rand(4, 1, 10, 10)}
    # the other one reads a run
    (block,) = (each for each in blocks_of("decomposition.md", "python") if "masks" in each)
    exec(block, given)
    assert given["relevant"].shape == (4, 2, 3)


@pytest.mark.slow
def test_what_is_shown_of_causal_graphs_in_python_runs() -> None:
    torch.manual_seed(0)
    first, second, last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6 * 4 * 4, 3)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last).eval()
    images = torch.randn(200, 1, 8, 8)
    labels = model(images).argmax(1)
    given = {"model": model, "images": images, "labels": labels}
    # the other one reads a run
    (block,) = (each for each in blocks_of("causal_graphs.md", "python") if "loader" in each)
    exec(block, given)
    assert given["maps"].shape == (200, 8, 8)
    assert len(given["layer"]["te"]) == 4


def test_the_quickstart_of_the_readme_is_that_of_the_template() -> None:
    words = [words for words in commands_of(ROOT / "README.md") if words[:2] == ["xpipe", "init"]]
    assert words[0] == ["xpipe", "init", "digits", "--from", "quickstart"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_every_make_target_of_the_house_is_there_and_explained() -> None:
    asked = {"install", "format", "lint", "test", "test-all", "bench", "demo", "docs", "clean"}
    asked |= {"montage"}
    assert asked <= targets_of(MAKEFILE)
    for target in asked:
        assert re.search(rf'echo "make {target} ', MAKEFILE), target


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "`make test`" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in EXTRAS for one in extras[name])]
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in wanted:
        name = re.split(r"[\[<>=]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", reasons), name


def test_everything_that_is_imported_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in EXTRAS for one in extras[name])]
    names = {re.split(r"[\[<>=]", entry)[0].replace("-", "_").lower() for entry in wanted}
    # what a dependency is certain to bring, because its interface is made of it
    brought = {"huggingface_hub", "markupsafe", "PIL", "pydantic_core", "requests", "tqdm", "yaml"}
    renamed = {"scikit_image": "skimage", "scikit_learn": "sklearn"}
    renamed |= {"mlflow_skinny": "mlflow", "opentelemetry_sdk": "opentelemetry"}
    names = {renamed.get(name, name) for name in names}
    known = names | brought | {"explainers", "pipeline", "cli"}
    foreign = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert foreign - known - set(sys.stdlib_module_names) == set()
