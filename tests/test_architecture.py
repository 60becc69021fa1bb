"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("explainers", "pipeline", "cli")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULE_LINES = 400
FUNCTION_LINES = 40
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_by(statement: str) -> set[str]:
    """Top-level packages that are in memory after the statement, in a fresh interpreter."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(answer.stdout.split())


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: what has to fit on a screen."""
    first = function.body[0]
    is_documented = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    docstring = first.end_lineno - first.lineno + 1 if is_documented else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_import_contracts_hold() -> None:
    script = Path(sys.executable).parent / "lint-imports"
    answer = subprocess.run(
        [script, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]


def test_import_explainers_needs_torch_only() -> None:
    present = imported_by("import explainers")
    foreign = {"ray", "zarr", "pyarrow", "pydantic", "yaml", "typer", "rich", "xarray", "pipeline"}
    assert not present & foreign


def test_the_command_line_starts_without_heavy_libraries() -> None:
    present = imported_by("import cli.main")
    heavy = {"torch", "ray", "zarr", "pyarrow", "pydantic", "numpy", "xarray", "explainers"}
    assert not present & heavy


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short(path: Path) -> None:
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= MODULE_LINES, f"{name_of(path)} has {n_lines} lines: split it by idea"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    long = [
        f"{node.name}: {body_lines(node)}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_named_for_its_idea(path: Path) -> None:
    assert path.stem not in VAGUE


def test_nothing_is_printed_outside_the_output_module() -> None:
    printing = [
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert set(printing) <= {"cli/output.py"}


def test_no_module_swallows_every_exception_silently() -> None:
    silent = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"})
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not silent


def test_every_package_is_typed_and_shipped() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert (ROOT / package / "__init__.py").is_file()
