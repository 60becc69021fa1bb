"""The command line's frame: help, versions, errors and their exit codes."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import output
from cli.main import app
from pipeline import errors, runs
from pipeline.error_pages import link


def commands_of(group: Any, *words: str) -> dict[str, Any]:
    """Commands by all words that name them, those of groups among them."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands_of(command, *words, name)
        else:
            found[" ".join((*words, name))] = command
    return found


COMMANDS = commands_of(typer.main.get_command(app))
runner = CliRunner()


def raising(error: BaseException):  # noqa: ANN201 - a stand-in for any function
    def stand_in(*_: object, **__: object) -> None:
        raise error

    return stand_in


def test_the_version_is_that_of_the_distribution() -> None:
    answer = runner.invoke(app, ["--version"])
    assert answer.exit_code == 0
    assert answer.stdout.strip() == version("xpipe-xai")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_one_worked_example(name: str) -> None:
    answer = runner.invoke(app, [*name.split(), "--help"])
    assert answer.exit_code == 0
    assert (COMMANDS[name].help or "").count(f"Example:  xpipe {name}") == 1


# what these print is a document for another program
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"schema", "schedule export"}))
def test_every_command_can_print_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


def test_an_unknown_command_is_wrong_usage() -> None:
    assert runner.invoke(app, ["frobnicate"]).exit_code == 2


def test_a_missing_argument_is_wrong_usage() -> None:
    assert runner.invoke(app, ["status"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.XpipeError, 1),
        (errors.StoreError, 1),
        (errors.ConfigError, 3),
        (errors.PlanError, 3),
        (errors.RunConflictError, 3),
    ],
)
def test_an_error_is_what_and_fix_and_page_and_an_exit_code(
    error: type[errors.XpipeError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "find", raising(error("the disk is gone", fix="bring it back")))
    answer = runner.invoke(app, ["list"])
    assert answer.exit_code == code
    page = link(error.page_of_kind)
    assert page is not None
    said = ["error: the disk is gone", "  to fix: bring it back", f"  see: {page}"]
    assert answer.stderr.splitlines() == said
    assert answer.stdout == ""


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_traceback_is_shown_when_asked_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "find", raising(errors.StoreError("the disk is gone")))
    arguments = ["--debug", "list"] if how == "option" else ["list"]
    answer = runner.invoke(app, arguments, env={"XPIPE_DEBUG": "1"} if how == "variable" else {})
    assert "Traceback" in answer.stderr
    assert answer.exit_code == 1


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "find", raising(KeyboardInterrupt()))
    assert runner.invoke(app, ["list"]).exit_code == 130


def test_the_shell_completes_commands() -> None:
    asked = {"_XPIPE_COMPLETE": "complete_bash", "COMP_WORDS": "xpipe expl", "COMP_CWORD": "1"}
    answer = subprocess.run(
        [Path(sys.executable).parent / "xpipe"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.split() == ["explainers"]


def test_json_has_no_nan() -> None:
    assert output.plain({"a": float("nan"), "b": (1.5, float("inf"))}) == {
        "a": None,
        "b": [1.5, None],
    }


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["a-long-folder"] * 12)
    output.table([{"run": path, "n": 3}], ("run", "n"), right=("n",))
    assert path in capsys.readouterr().out
