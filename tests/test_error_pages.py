"""Every error leads to a page, every page is about an error, and quotes what is really said."""

import ast
import re
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from cli.main import app
from pipeline import (
    config,
    entries,
    error_pages,
    errors,
    paths,
    runs,
    session,
    templates,
    user_code,
)
from pipeline.config import DataConfig, ModelConfig
from pipeline.data import Record
from pipeline.data.selection import open_source
from pipeline.data.text_tables import read_columns
from pipeline.engine import authentication, capacity
from pipeline.gates import judging
from pipeline.jobs import client, submission
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest
from pipeline.models.loading import load_model
from pipeline.models.weights import read_weights
from pipeline.ownership.lock import OWNER, acquire, refuse_if_owned
from pipeline.ownership.owner import Owner
from pipeline.plan import Plan
from pipeline.planning import fit
from pipeline.schedule import checking
from pipeline.schedule.book import Book, Schedule
from pipeline.schedule.export import crontab
from pipeline.schedule.times import Times
from pipeline.store import open_run
from pipeline.task import Outcome, ShardError, WorkItem
from tests.own_code import MODULES, ROOT, nodes_of
from tests.pipeline.tiny_run import config_of, write_run

FOLDER = ROOT / "docs" / "errors"
INDEX = FOLDER / "README.md"
PAGES = {path.stem: path.read_text() for path in FOLDER.glob("*.md") if path != INDEX}
CODE = [path for path in MODULES if ROOT / "explainers" not in path.parents]


def strings_in(node: ast.AST, named: dict[str, set[str]]) -> Iterator[str]:
    """Strings, and constants of the code, that a value may be."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value:
            yield each.value
        elif isinstance(each, ast.Name | ast.Attribute):
            name = each.id if isinstance(each, ast.Name) else each.attr
            yield from named.get(name, ())


def constants() -> dict[str, set[str]]:
    """Names of string constants of modules, with all values that they have anywhere."""
    found: dict[str, set[str]] = {}
    for path in CODE:
        module = nodes_of(path)[0]
        assert isinstance(module, ast.Module)
        for node in module.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                (target,) = node.targets
                # what ends otherwise is a file, as that of a comparison is
                if isinstance(target, ast.Name) and re.fullmatch(r"[a-z-]+", str(node.value.value)):
                    found.setdefault(target.id, set()).add(str(node.value.value))
    return found


def named_in_code() -> set[str]:
    found: set[str] = set()
    named = constants()
    for path in CODE:
        for node in nodes_of(path):
            if isinstance(node, ast.Call):
                given = [keyword.value for keyword in node.keywords if keyword.arg == "page"]
                if "see" in (getattr(node.func, "attr", ""), getattr(node.func, "id", "")):
                    given += node.args
                found |= {page for value in given for page in strings_in(value, named)}
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(to, ast.Name) and to.id == "page_of_kind" for to in targets):
                    found |= set(strings_in(node.value, named))
    return found


def kinds(kind: type[errors.XpipeError] = errors.XpipeError) -> Iterator[type[errors.XpipeError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds(child)


def test_every_page_that_code_names_is_there_and_every_page_is_named() -> None:
    assert named_in_code() == set(PAGES)


def test_every_kind_of_error_has_a_page() -> None:
    assert {kind.page_of_kind for kind in kinds()} <= set(PAGES)
    assert len(set(kinds())) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_its_sections_and_is_short(page: str) -> None:
    text = PAGES[page]
    parts = [r"# \w[^\n]*", r"```text\n.+?\n```", r"\S.+?", "## Causes", r"- .+?"]
    parts += ["## What to do", r"\S.+?", r"See also: .+\n"]
    assert re.fullmatch("\n\n".join(parts), text, re.DOTALL)
    assert len(text.splitlines()) <= 50


def test_the_index_lists_every_page_once_by_its_title() -> None:
    listed = re.findall(r"^- \[(.+)\]\((.+)\.md\)$", INDEX.read_text(), re.MULTILINE)
    titles = {page: text.splitlines()[0].removeprefix("# ") for page, text in PAGES.items()}
    assert sorted(listed) == sorted((title, page) for page, title in titles.items())


def load_with(folder: Path, **changes: object) -> None:
    entries.build_explainers(config_of(folder, **changes))


def misspelt(folder: Path) -> None:
    load_with(folder, output={"shard_sise": 3})


def no_file(folder: Path) -> None:
    config.load("nothing.yaml")


def unknown(folder: Path) -> None:
    load_with(folder, explainers={"salency": {}})


def no_date(folder: Path) -> None:
    config.load(write_run(folder, output={"path": "runs/{{ day }}"}))


def bad_gate(folder: Path) -> None:
    judging._read("nonsense: [")


def no_images(folder: Path) -> None:
    (folder / "images").mkdir()
    open_source(DataConfig(source="image_folder", path="images"), folder).records()


def no_folder(folder: Path) -> None:
    open_source(DataConfig(source="image_folder", path="images"), folder).records()


def words_for_labels(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"")
    (folder / "images" / "labels.csv").write_text("file,label\na.png,cat\n")
    open_source(
        DataConfig(source="image_folder", path="images", labels="labels.csv"), folder
    ).records()


def twice(folder: Path) -> None:
    Manifest([Record(index, "image_0", "") for index in range(2)])


def too_many_labels(folder: Path) -> None:
    records = [Record(index, f"image_{index}", "", label=index) for index in range(8)]
    fit.check_labels(config_of(folder), records, 3)


def no_column(folder: Path) -> None:
    (folder / "texts.csv").write_text("said,label\na,1\n")
    read_columns(str(folder / "texts.csv"), ["text"])


def no_weights(folder: Path) -> None:
    read_weights(folder / "weights.safetensors")


def pickled(folder: Path) -> None:
    torch.save(nn.ReLU(), folder / "weights.pt")
    read_weights(folder / "weights.pt")


def diverged(folder: Path) -> None:
    write_run(folder)
    code = "from torch import nn\n\ndef model():\n    return nn.Linear(2, 2)\n"
    (folder / "linear.py").write_text(code)
    weights = {"weight": torch.full((2, 2), 1.0), "bias": torch.tensor([0.0, float("nan")])}
    save_file(weights, folder / "weights.safetensors")
    asked = ModelConfig(source="python", name="linear.py:model", weights="weights.safetensors")
    load_model(asked, folder)


def other_weights(folder: Path) -> None:
    (folder / "wide.py").write_text(
        "from torch import nn\n\ndef model():\n    return nn.Linear(3, 2)\n"
    )
    save_file({"weight": torch.ones(2, 2)}, folder / "weights.safetensors")
    asked = ModelConfig(source="python", name="wide.py:model", weights="weights.safetensors")
    load_model(asked, folder)


def own_code(folder: Path) -> None:
    (folder / "mine.py").write_text("1 / 0\n")
    user_code.find("mine.py:model", folder)


def live_owner(folder: Path) -> None:
    acquire(folder / "out")
    refuse_if_owned(folder / "out")


def other_host(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / OWNER).write_bytes(Owner(1, 0.0, "elsewhere", 1).encode())
    refuse_if_owned(folder / "out")


def no_run(folder: Path) -> None:
    (folder / "nothing").mkdir()
    open_run(str(folder / "nothing"))


def nobody(folder: Path) -> None:
    runs.stop(folder / "out")


def twice_begun(folder: Path) -> None:
    for _ in range(2):
        templates.copy("quickstart", folder / "digits")


def torn_record(folder: Path) -> None:
    record = folder / paths.record_path("explain", 0)
    record.parent.mkdir(parents=True)
    record.write_text("{")
    Ledger(folder).entry("explain", 0)


def edited_plan(folder: Path) -> None:
    Plan.from_json("{}")


def full_disk(folder: Path) -> None:
    error = ShardError("OSError", "[Errno 28] No space left on device", "", 3, is_fatal=True)
    session._raise_if_fatal([Outcome(WorkItem("explain", 3, 1), "failed", error=error)])


def no_token(folder: Path) -> None:
    authentication.token()


def no_address(folder: Path) -> None:
    client.connect("head")


def nobody_answers(folder: Path) -> None:
    with socket.socket() as taken:
        # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        client.connect(f"http://127.0.0.1:{taken.getsockname()[1]}")


def inside_the_job(folder: Path) -> None:
    submission._refuse_relative(config.load(write_run(folder), ["output.path=runs/tiny"]))


def one_and_a_half(folder: Path) -> None:
    capacity.Demand(gpus=1.5)


def no_schedule(folder: Path) -> None:
    Book(folder / "schedules").read("nightly")


def four_fields(folder: Path) -> None:
    _ = Times("0 2 * *").expression


def no_last_day(folder: Path) -> None:
    crontab.expression(Times("0 2 L * *"))


def one_folder(folder: Path) -> None:
    write_run(folder)
    book = Book(folder / "schedules")
    schedule = Schedule(config="run.yaml", cron="0 2 * * *")
    checking.check(book, "nightly", schedule, datetime(2026, 11, 23, tzinfo=UTC))


RAISED: dict[str, Callable[[Path], object]] = {
    "config": misspelt,
    "unreadable-run-file": no_file,
    "unknown-name": unknown,
    "placeholder": no_date,
    "gate": bad_gate,
    "no-such-data": no_folder,
    "no-samples": no_images,
    "labels": words_for_labels,
    "duplicate-ids": twice,
    "class-count": too_many_labels,
    "missing-column": no_column,
    "unreadable-weights": no_weights,
    "refused-pickle": pickled,
    "weights-not-finite": diverged,
    "weights-do-not-fit": other_weights,
    "your-code": own_code,
    "folder-in-use": live_owner,
    "owner-elsewhere": other_host,
    "no-run-here": no_run,
    "not-running": nobody,
    "exists-already": twice_begun,
    "integrity": torn_record,
    "damaged-documents": edited_plan,
    "disk-full": full_disk,
    "cluster-token": no_token,
    "job": no_address,
    "cluster-unreachable": nobody_answers,
    "job-output": inside_the_job,
    "engine": one_and_a_half,
    "schedule": no_schedule,
    "cron-expression": four_fields,
    "schedule-export": no_last_day,
    "schedule-shared-folder": one_folder,
}


@pytest.mark.parametrize("page", RAISED)
def test_a_page_quotes_what_is_said(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if page == "cluster-unreachable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 40)
    with pytest.raises(errors.XpipeError) as caught:
        RAISED[page](tmp_path)
    assert caught.value.page == page
    found = re.search(r"```text\n(.+?)\n```", PAGES[page], re.DOTALL)
    assert found is not None
    # three dots stand for what differs from case to case
    pattern = ".*".join(re.escape(part) for part in found[1].split("..."))
    said = f"error: {caught.value}"
    assert re.fullmatch(pattern, said, re.DOTALL), said


def test_an_error_on_the_command_line_ends_with_a_file_to_read(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["status", str(tmp_path)])
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("  see: ")
    assert Path(last.removeprefix("  see: ")) == FOLDER / "no-run-here.md"


def test_a_page_survives_being_put_in_front_and_pickled() -> None:
    with pytest.raises(errors.PlanError) as caught, errors.written_at("data"):
        raise errors.PlanError("no", page="no-samples")
    assert caught.value.page == "no-samples"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without a checkout; returns the folder of its pages."""
    site = tmp_path / "lib" / "site-packages"
    about = site / "xpipe_xai-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Name: xpipe-xai\nVersion: 1\n")
    record = "../../share/doc/xpipe/errors/README.md,,\npipeline/errors.py,,\n"
    (about / "RECORD").write_text(record)
    monkeypatch.setattr(error_pages, "__file__", str(site / "pipeline" / "error_pages.py"))
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(error_pages.sysconfig, "get_path", lambda _: str(tmp_path / "elsewhere"))
    folder = tmp_path / "share" / "doc" / "xpipe" / "errors"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("")
    (folder / "plan.md").write_text("")
    return folder


def test_pages_are_found_where_the_record_of_the_installation_says(installed: Path) -> None:
    assert error_pages.link("plan") == installed / "plan.md"
    assert error_pages.link("config") is None


def test_pages_are_found_below_the_prefix(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "lib" / "site-packages" / "xpipe_xai-1.dist-info" / "RECORD").unlink()
    assert error_pages.link("plan") is None
    installed.parents[2].rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "share").mkdir()
    (tmp_path / "elsewhere" / "doc").rename(tmp_path / "elsewhere" / "share" / "doc")
    assert error_pages.link("plan") == tmp_path / "elsewhere" / error_pages.INSTALLED / "plan.md"


def test_nothing_is_printed_where_there_are_no_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(error_pages, "_folders", lambda: (tmp_path,))
    answer = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert "see:" not in answer.stderr
    assert "to fix:" in answer.stderr


def test_the_page_about_operations_has_every_state_and_exit_code() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    named = {each.strip() for row in rows for each in row.split(",")}
    states = {*runs._ENDINGS.values(), "running", "running elsewhere", "failed", "killed"}
    codes = {str(code) for code in (*runs._ENDINGS, 0, 1, 2, 3)}
    assert states | codes <= named
