"""Write what is generated in the documents: `make docs`. A test checks that it is up to date."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.main import app
from pipeline import catalogue
from pipeline.config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
RUN_FILE = ROOT / "docs" / "run-file.md"
PAGES = (ROOT / "README.md", ROOT / "docs" / "cli.md", RUN_FILE)

CLI_HEAD = """# The command line

Results go to stdout, progress and messages to stderr. `--json` prints the result as JSON.
Nothing ever asks a question. `xpipe --install-completion` installs shell completion.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | error |
| 2 | wrong usage |
| 3 | run file or plan refused, or the folder belongs to another run |
| 4 | done, but a gate is broken |
| 5 | done, but samples failed or shards were given up |
| 130, 143 | interrupted by SIGINT, SIGTERM; `xpipe resume` goes on |

Errors are told as what, how to fix it, and where [the page about it](errors/README.md) lies;
`xpipe --debug COMMAND` adds the traceback, as does the variable `XPIPE_DEBUG=1`. How runs are kept
going is told in [operations](operations.md).
"""


def page(path: Path) -> str:
    """Return what a page should say."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if path.name == "cli.md":
        return "\n".join([CLI_HEAD, *_commands()])
    if path == RUN_FILE:
        text = _between(text, "fields", "\n".join(_fields()))
        return _between(text, "sources", "\n".join(_sources()))
    table = catalogue.markdown(catalogue.explainers(), catalogue.COLUMNS)
    return _between(text, "explainers", table)


def _between(text: str, name: str, content: str) -> str:
    """Return the text with what is between the marks of this name replaced."""
    pattern = rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)


def _commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    for name, command in _named(group, ""):
        arguments = [entry for entry in command.params if entry.param_type_name == "argument"]
        options = [entry for entry in command.params if entry.param_type_name == "option"]
        usage = " ".join(
            ["xpipe", name, *(_placeholder(entry) for entry in arguments), "[OPTIONS]"]
        )
        yield f"## {name}\n\n`{usage}`\n"
        yield from _help(command.help)
        rows = [{"": _option(entry), "what": entry.help or ""} for entry in (*arguments, *options)]
        yield catalogue.markdown(rows, ("", "what")) + "\n"


def _named(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group, and those of groups in it, with all words of their names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _named(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _help(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("Example:"):
            yield f"```console\n{paragraph.removeprefix('Example:').strip()}\n```\n"
        else:
            yield paragraph + "\n"


def _placeholder(argument: Any) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def _option(entry: Any) -> str:
    if entry.param_type_name == "argument":
        return f"`{entry.metavar}`"
    value = "" if entry.is_flag else f" {entry.metavar or entry.type.name.upper()}"
    return ", ".join(f"`{name}{value}`" for name in entry.opts)


def _fields() -> Iterator[str]:
    schema = RunConfig.model_json_schema()
    yield "| field | type | default | what |\n| --- | --- | --- | --- |"
    yield from _rows(schema, schema, "")


def _rows(section: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, field in section.get("properties", {}).items():
        inner = _resolved(field, schema)
        if "properties" in inner and prefix.count(".") < 1:
            yield from _rows(inner, schema, f"{prefix}{name}.")
            continue
        is_required = name in section.get("required", ())
        default = "required" if is_required else f"`{json.dumps(field.get('default'))}`"
        what = " ".join(field.get("description", "").split())
        yield f"| `{prefix}{name}` | {_type(field, schema)} | {default} | {what} |"


def _resolved(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in field:
        found: dict[str, Any] = schema["$defs"][field["$ref"].rsplit("/", 1)[1]]
        return found
    return field


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in field:
        return _type(_resolved(field, schema), schema)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field or "oneOf" in field:
        entries = field.get("anyOf") or field["oneOf"]
        return " or ".join(dict.fromkeys(_type(entry, schema) for entry in entries))
    return {"object": "mapping", "array": "list", "null": "nothing"}.get(
        field.get("type", ""), field.get("type", "any")
    )


def _sources() -> Iterator[str]:
    from pipeline.data import sources

    for name in sources.names():
        kind = sources.get(name)
        summary = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
        yield f"**`{name}`**: {summary}\n"
        documented = catalogue.field_documentation(kind)
        for field, signature in inspect.signature(kind).parameters.items():
            has_default = signature.default is not inspect.Parameter.empty
            value = "{}" if "factory" in repr(signature.default) else repr(signature.default)
            default = f" (`{value}`)" if has_default else " (required)"
            yield f"- `{field}`{default}: {documented.get(field, '')}"
        yield ""


def main() -> None:
    """Write all pages."""
    for path in PAGES:
        path.write_text(page(path), encoding="utf-8")


if __name__ == "__main__":
    main()
