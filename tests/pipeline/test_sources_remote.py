"""Sources on an object store: moto's, on loopback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.config import DataConfig, load
from pipeline.data import Source, files, open_source, read_batch, read_masks
from pipeline.errors import PlanError, RunConflictError
from pipeline.manifest import Manifest
from pipeline.store import open_run
from tests.pipeline.s3_server import environment, forget_clients, s3, s3_server  # noqa: F401
from tests.pipeline.test_sources_images import picture, save
from tests.pipeline.tiny_run import ROOT, write_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

NAMES = ("ant/1.jpg", "ant/2.png", "cat/1.png", "cat/deep/1.png")


def put(url: str, content: bytes) -> None:
    system, inside = files._system(url)
    system.pipe_file(inside, content)
    files.forget(url)


def encoded(pixels: np.ndarray, name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG" if name.endswith(".jpg") else "PNG")
    return file.getvalue()


def fill(folder: str | Path) -> None:
    """Write images and masks to a folder, or below a URL."""
    for seed, name in enumerate(NAMES):
        for place, pixels in (("images", picture(seed)), ("masks", np.uint8(np.eye(20, 30)))):
            stem = name if place == "images" else name.replace(".jpg", ".png")
            if isinstance(folder, str):
                put(f"{folder}/{place}/{stem}", encoded(pixels, stem))
            else:
                save(folder / place / stem, pixels)


def source_at(place: str, base: Path, **fields: Any) -> Source:
    config = DataConfig(
        source="image_folder", path=f"{place}images", masks=f"{place}masks", **fields
    )
    return open_source(config, base)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is asked of the store."""
    import s3fs

    asked: Counter[str] = Counter()
    real = s3fs.S3FileSystem._call_s3

    async def call(self: Any, method: str, *arguments: Any, **more: Any) -> Any:
        asked[method] += 1
        return await real(self, method, *arguments, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    real_list = s3fs.S3FileSystem._iterdir

    async def iterdir(self: Any, *arguments: Any, **more: Any) -> Any:
        asked["list"] += 1
        async for each in real_list(self, *arguments, **more):
            yield each

    monkeypatch.setattr(s3fs.S3FileSystem, "_iterdir", iterdir)
    return asked


def test_a_bucket_is_what_a_folder_is(
    s3: str,  # noqa: F811
    tmp_path: Path,
    requests: Counter[str],
) -> None:
    fill(s3)
    fill(tmp_path)
    forget_clients()
    requests.clear()
    local, remote = source_at("", tmp_path), source_at(f"{s3}/", tmp_path)
    records, there = local.records(), remote.records()
    # the images, the masks, and whether there is a table: not one more for each file
    assert sum(requests.values()) <= 4
    assert [(r.sample_id, r.label, r.mask) for r in there] == [
        (r.sample_id, r.label, r.mask) for r in records
    ]
    assert remote.class_names == ("ant", "cat")
    assert (local.is_remote, remote.is_remote) == (False, True)
    expected, got = (read_batch(each, there, (3, 20, 30)) for each in (local, remote))
    assert got[1:] == expected[1:]
    assert torch.equal(got[0], expected[0])
    assert torch.equal(read_masks(remote, there, (20, 30)), read_masks(local, records, (20, 30)))


def test_a_table_in_a_bucket_gives_labels(s3: str, tmp_path: Path) -> None:  # noqa: F811
    fill(s3)
    put(f"{s3}/images/labels.csv", b"file,index,name\ncat/1.png,1,cat\nant/1.jpg,0,ant\n")
    source = source_at(f"{s3}/", tmp_path)
    found = [(record.source, record.label) for record in source.records()]
    assert found == [("cat/1.png", 1), ("ant/1.jpg", 0)]
    assert source.class_names == ("ant", "cat")
    assert all(str(record.digest).startswith("etag:") for record in source.records())


def test_tags_are_pinned_and_a_change_is_told(
    s3: str,  # noqa: F811
    tmp_path: Path,
    requests: Counter[str],
) -> None:
    fill(s3)
    source = source_at(f"{s3}/", tmp_path)
    records = source.records()
    before = Manifest(records).digest()
    content = bytearray(encoded(picture(2), NAMES[2]))
    content[-1] ^= 1
    put(f"{s3}/images/{NAMES[2]}", bytes(content))
    requests.clear()
    _, rows, failures = read_batch(source, records, (3, 20, 30))
    assert rows == [0, 1, 3]
    assert failures[2].startswith("changed since the run was planned: its tag is ")
    # the store was asked for the tag of that one alone
    assert requests["head_object"] <= 1 + len(records)
    assert Manifest(source_at(f"{s3}/", tmp_path).records()).digest() != before


def test_the_tag_of_what_was_sent_in_parts_is_asked_for(s3: str, tmp_path: Path) -> None:  # noqa: F811
    name, content = "a.bmp", io.BytesIO()
    Image.fromarray(picture(size=(1400, 1400))).save(content, "BMP")
    system, inside = files._system(f"{s3}/images/{name}")
    with system.open(inside, "wb", block_size=5 * 2**20) as file:
        file.write(content.getvalue())
    files.forget(s3)
    config = DataConfig(source="image_folder", path=f"{s3}/images", resize=20)
    source = open_source(config, tmp_path)
    (record,) = source.records()
    assert "-" in str(record.digest), "a tag of parts has their number behind a dash"
    assert read_batch(source, [record], (3, 20, 20))[2] == {}


def test_a_bucket_that_is_not_there_is_refused(s3: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(PlanError, match="there is no folder 's3://nowhere/images'"):
        source_at("s3://nowhere/", tmp_path).records()
    put(f"{s3}/images/a.png", encoded(picture(), "a.png"))
    with pytest.raises(PlanError, match=r"there is no folder of masks"):
        source_at(f"{s3}/", tmp_path).records()


def test_a_store_that_cannot_be_reached_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment(""):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    forget_clients()
    with pytest.raises(PlanError, match=r"cannot reach 's3://bucket/images': NoCredentials") as e:
        source_at("s3://bucket/", tmp_path).records()
    assert "AWS_ACCESS_KEY_ID" in e.value.fix
    forget_clients()


@pytest.mark.long
def test_a_process_that_was_forked_reads_with_a_client_of_its_own(s3: str) -> None:  # noqa: F811
    put(f"{s3}/a.txt", b"abc")
    code = (
        "import os, sys, signal\n"
        "from pipeline.data import files\n"
        f"assert files.read('{s3}/a.txt') == b'abc'\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        f"    os._exit(0 if files.read('{s3}/a.txt') == b'abc' else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def image_run(folder: Path, out: Path, **fields: Any) -> Path:
    path = write_run(folder, out, explainers={"saliency": {}}, engine={"decode_threads": 3})
    sections = yaml.safe_load(path.read_text())
    sections["data"] = {"source": "image_folder", "mode": "gray", **fields}
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.mark.long
def test_a_run_on_a_bucket_explains_what_one_on_a_folder_does(
    s3: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    from pipeline import run as runs

    for seed in range(9):
        pixels, name = picture(seed, size=(8, 8))[..., 0], f"{'abc'[seed % 3]}/{seed}.png"
        save(tmp_path / "images" / name, pixels)
        put(f"{s3}/images/{name}", encoded(pixels, name))
    drawn = {"sample": 6, "stratify": "equal"}
    local = runs.run(load(image_run(tmp_path, tmp_path / "one", path="images", **drawn)))
    config = load(image_run(tmp_path, tmp_path / "two", path=f"{s3}/images", **drawn))
    remote = runs.run(config)
    assert (local.exit_code, remote.exit_code) == (0, 0)
    one, two = open_run(tmp_path / "one"), open_run(tmp_path / "two")
    assert one.manifest.sample_ids == two.manifest.sample_ids
    assert np.array_equal(one.maps["saliency"], two.maps["saliency"])
    # the same run is resumed; another content of the same size is another run
    runs.run(config)
    changed = encoded(picture(0, size=(8, 8))[..., 0], "a.png")[:-1] + b"\0"
    name = two.manifest.sample_ids[1]
    put(f"{s3}/images/{name}", changed)
    with pytest.raises(RunConflictError, match="the samples"):
        runs.run(config)


def test_what_changes_after_a_run_was_planned_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import run as runs

    for seed in range(6):
        save(tmp_path / "images" / f"{seed}.png", picture(seed, size=(8, 8))[..., 0])
    path = image_run(tmp_path, tmp_path / "out", path="images", digests="content")
    plan = runs.make_plan

    def planned(*arguments: Any, **more: Any) -> Any:
        found = plan(*arguments, **more)
        save(tmp_path / "images" / "4.png", picture(9, size=(8, 8))[..., 0])
        return found

    monkeypatch.setattr(runs, "make_plan", planned)
    summary = runs.run(load(path))
    assert summary.exit_code == 5
    run = open_run(tmp_path / "out")
    assert all(str(record.digest).startswith("sha256:") for record in run.manifest)
    ((sample_id, status),) = run.failures()
    assert sample_id == "4.png"
    assert status.startswith("changed since the run was planned: its sha256 is ")
