"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.own_code import MODULES, PACKAGES, ROOT, name_of, nodes_of

MODULE_LINES = 400
FUNCTION_LINES = 40
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


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


def test_modules_are_short() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    long = {name: n_lines for name, n_lines in lines.items() if n_lines > MODULE_LINES}
    assert not long, "split them by idea"


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{name_of(path)}: {node.name}: {body_lines(node)}"
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > FUNCTION_LINES
    ]
    assert not long


def test_modules_are_named_for_their_ideas() -> None:
    assert not [name_of(path) for path in MODULES if path.stem in VAGUE]


def test_nothing_is_printed_outside_the_output_module() -> None:
    printing = [
        name_of(path)
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert set(printing) <= {"cli/output.py"}


def test_no_module_swallows_every_exception_silently() -> None:
    silent = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"})
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not silent


def test_every_package_is_typed_and_shipped() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert (ROOT / package / "__init__.py").is_file()
