"""What is installed is complete: one wheel holds the packages and the templates."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("xpipe_xai-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_every_module(names: set[str]) -> None:
    for package in ("explainers", "pipeline", "cli", "configs"):
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert modules <= names
        assert package == "configs" or f"{package}/py.typed" in names


def test_the_wheel_holds_what_modules_read(names: set[str]) -> None:
    folders = ("configs", "clusters", "pipeline/atlas/templates", "pipeline/report/templates")
    beside = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"configs/quickstart/run.yaml", "configs/quickstart/lenet.safetensors"} <= beside
    assert beside <= names


def test_the_wheel_holds_the_pages_about_errors_and_what_they_link_to(names: set[str]) -> None:
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert Path("errors", "README.md") in pages
    below = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {f"share/doc/xpipe/{page}" for page in pages} <= below


def test_the_wheel_holds_nothing_else(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    packages = {"explainers", "pipeline", "cli", "clusters", "configs"}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == packages
    assert any(name.endswith("licenses/LICENSE") for name in names)
