from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import torch

from pipeline.data import files, ranges, read_masks
from pipeline.data.webdataset import WebDataset
from pipeline.errors import ConfigError, PlanError
from tests.pipeline.pictured import is_same, pixels, png, read_all, source_of

if TYPE_CHECKING:
    from pathlib import Path

Members = dict[str, bytes] | list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "xpipe" / "tars"


def archive(path: str | Path, members: Members) -> None:
    with (
        fsspec.open(str(path), "wb", auto_mkdir=True) as file,
        tarfile.open(None, "w", file) as tar,
    ):
        for name, content in members.items() if isinstance(members, dict) else members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def saved(value: Any) -> bytes:
    held = io.BytesIO()
    np.save(held, value, allow_pickle=True)
    return held.getvalue()


def torch_saved(value: Any) -> bytes:
    held = io.BytesIO()
    torch.save(value, held)
    return held.getvalue()


def shards(base: Path, images: np.ndarray, n_each: int = 4) -> None:
    for first in range(0, len(images), n_each):
        members: dict[str, bytes] = {}
        for at, image in enumerate(images[first : first + n_each], first):
            about = {"about": {"kind": "even" if at % 2 == 0 else "odd"}}
            members |= {
                f"im/{at:03d}.png": png(image),
                f"im/{at:03d}.cls": f"{at % 3}\n".encode(),
                f"im/{at:03d}.json": json.dumps(about).encode(),
                f"im/{at:03d}.seg.png": png(image[..., 0] // 128),
            }
        archive(base / f"s-{first // n_each:02d}.tar", members)


def test_samples_are_what_tarfile_finds(tmp_path: Path) -> None:
    images = pixels(10)
    shards(tmp_path, images)
    source = source_of("webdataset", tmp_path, "s-{00..02}.tar")
    records = source.records()
    assert records[5].sample_id == "s-01/im/005"
    assert [record.label for record in records] == [at % 3 for at in range(10)]
    name, _, span = records[5].source.partition("#png=")
    start, size = map(int, span.split("+"))
    with tarfile.open(tmp_path / name) as tar:
        member = tar.getmember("im/005.png")
        assert (member.offset_data, member.size) == (start, size)
    assert is_same(read_all(pickle.loads(pickle.dumps(source))), images)


def test_labels_are_a_field_of_json_and_masks_a_member(tmp_path: Path) -> None:
    images = pixels(5)
    shards(tmp_path, images)
    fields = {"label_field": "about.kind", "classes": ["odd", "even"], "mask_member": "seg.png"}
    source = source_of("webdataset", tmp_path, ".", **fields)
    records = source.records()
    assert [record.label for record in records] == [1, 0, 1, 0, 1]
    assert source.class_names == ("odd", "even")
    masks = read_masks(source, records, (6, 5))
    assert torch.equal(masks, torch.from_numpy(images[..., 0] >= 128))
    with pytest.raises(PlanError, match=r"no sample of .* has the field 'about\.sort'"):
        source_of("webdataset", tmp_path, ".", label_field="about.sort").records()
    with pytest.raises(PlanError, match="has a file class"):
        source_of("webdataset", tmp_path, ".", label_member="class").records()


def test_members_of_a_sample_need_not_be_neighbours(tmp_path: Path) -> None:
    images = pixels(3)
    members = [(f"{at}.png", png(images[at])) for at in (2, 0, 1)]
    members += [(f"{at}.cls", b"%d" % at) for at in (1, 2)]
    archive(tmp_path / "a.tar", [*members, ("README", b"no sample"), (".hidden.png", b"")])
    source = source_of("webdataset", tmp_path, "a.tar")
    found = [(record.sample_id, record.label) for record in source.records()]
    assert found == [("a/2", 2), ("a/0", -1), ("a/1", 1)]
    assert is_same(read_all(source), images[[2, 0, 1]])


def test_arrays_are_read_and_pickles_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "run"

    class Bad:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    values = np.float32([[1, 2], [3, 4]])
    members = {
        "a.npy": saved(values),
        "b.npy": saved(np.array([Bad()], dtype=object)),
        "c.pth": torch_saved(torch.tensor(values).bfloat16()),
        "d.pth": pickle.dumps(Bad()),
        "e.pt": torch_saved({"a": torch.zeros(1)}),
        "f.npy": saved(np.float64([[5, 6], [7, 8]])),
    }
    archive(tmp_path / "a.tar", members)
    found = read_all(source_of("webdataset", tmp_path, "a.tar"))
    assert [each.tolist() for each in (found[0], found[2], found[5])] == [
        [[1, 2], [3, 4]],
        [[1, 2], [3, 4]],
        [[5, 6], [7, 8]],
    ]
    assert all(isinstance(found[at], str) for at in (1, 3, 4))
    reason = "unreadable: ValueError: the file pth holds more than tensors, or none, and pickles"
    assert found[3] == f"{reason} are not run"
    assert not marker.exists()


def test_texts_are_tokens_as_long_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<unk>\ngood\nfilm\n")
    archive(
        tmp_path / "a.tar",
        {"0.txt": b"good film", "0.cls": b"1", "1.txt": b"", "2.txt": b"good new film"},
    )
    tokenizer = {"vocabulary": "words.txt"}
    source = source_of("webdataset", tmp_path, "a.tar", tokenizer=tokenizer)
    records = source.records()
    assert [(record.length, record.label) for record in records] == [(2, 1), (None, -1), (3, -1)]
    found = read_all(source)
    assert [each if isinstance(each, str) else each.tolist() for each in found] == [
        [1, 2],
        "unreadable: ValueError: the text has nothing that makes a token",
        [1, 0, 2],
    ]
    assert source.tokens(records[2]) == ("good", "<new>", "film")
    assert source.code_files() == (tmp_path / "words.txt",)
    with pytest.raises(PlanError, match="they have txt, cls") as raised:
        source_of("webdataset", tmp_path, "a.tar").records()
    assert "data.tokenizer" in raised.value.fix


def test_what_is_bad_in_a_sample_is_its_status(tmp_path: Path) -> None:
    images = pixels(6)
    members = [(f"{at}.png", png(image)) for at, image in enumerate(images)]
    members[1] = ("1.png", png(images[1])[:50])
    members[2] = ("2.cls", b"0")
    members.insert(4, ("3.png", png(images[3])))
    archive(tmp_path / "a.tar", members)
    source = source_of("webdataset", tmp_path, "a.tar")
    found = {
        record.sample_id: each
        for record, each in zip(source.records(), read_all(source), strict=True)
    }
    assert is_same([found["a/0"], found["a/4"], found["a/5"]], images[[0, 4, 5]])
    assert isinstance(found["a/1"], str)
    assert "no file of its own is usable; it has cls" in found["a/2"]
    assert "it has 2 files png" in found["a/3"]


def test_an_archive_that_was_cut_gives_what_came_before(tmp_path: Path) -> None:
    images = pixels(4)
    shards(tmp_path, images)
    path = tmp_path / "s-00.tar"
    last = source_of("webdataset", tmp_path, "s-00.tar").records()[-1]
    start = int(last.source.partition("=")[2].partition("+")[0])
    path.write_bytes(path.read_bytes()[: start + 40])
    source = source_of("webdataset", tmp_path, "s-00.tar")
    found = read_all(source)
    assert is_same(found[:3], images[:3])
    assert "the file ends after 40 of" in found[3]
    assert "s-00.tar ends early after 13 files" in source.notes()[0]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (3072, "it has no mark of its end"),
        (3112, "the header at byte 3072 is cut"),
        (3583, "the header at byte 3072 is cut"),
        (3584, "unexpected end of data"),
        (4096, "it has no mark of its end"),
    ],
)
def test_every_cut_is_told(tmp_path: Path, stop: int, reason: str) -> None:
    archive(tmp_path / "a.tar", {f"{at}.png": b"x" * 400 for at in range(8)})
    path = tmp_path / "a.tar"
    whole = path.read_bytes()
    source = source_of("webdataset", tmp_path, "a.tar")
    assert (len(source.records()), source.notes()) == (8, ())
    path.write_bytes(whole[:stop])
    source = source_of("webdataset", tmp_path, "a.tar")
    n_files = (stop + 512) // 1024
    assert len(source.records()) == n_files
    (note,) = source.notes()
    assert note.startswith(f"a.tar ends early after {n_files} files: ")
    assert reason in note


@pytest.mark.parametrize("place", [1024 + 148, 1024 + 257, 7 * 1024])
def test_a_broken_header_is_told(tmp_path: Path, place: int) -> None:
    archive(tmp_path / "a.tar", {f"{at}.png": b"x" * 400 for at in range(8)})
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[place] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    source = source_of("webdataset", tmp_path, "a.tar")
    n_before = place // 1024
    assert len(source.records()) == n_before
    expected = f"after {n_before} files: at byte {n_before * 1024} is neither the header of a file"
    assert expected in source.notes()[0]


def test_archives_behind_one_another_are_told(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        archive(tmp_path / name, {f"{name[0]}.png": b"x"})
    with (tmp_path / "a.tar").open("ab") as file:
        file.write((tmp_path / "b.tar").read_bytes())
    source = source_of("webdataset", tmp_path, "a.tar")
    assert len(source.records()) == 1
    assert "more follows the mark of its end at byte 1024" in source.notes()[0]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(PlanError, match=r"cannot read .*a\.tar"):
        source_of("webdataset", tmp_path, "a.tar").records()
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.add(__file__, "0.txt")
    with pytest.raises(PlanError, match="as a tar archive: it is compressed by gzip") as raised:
        source_of("webdataset", tmp_path, "a.tar").records()
    assert "unpack it" in raised.value.fix
    archive(tmp_path / "a.tar", {})
    with pytest.raises(PlanError, match="are empty"):
        source_of("webdataset", tmp_path, "a.tar").records()
    with pytest.raises(ConfigError, match="got the extension 'pkl'"):
        source_of("webdataset", tmp_path, "a.tar", input_members=["pkl"])


def test_members_are_looked_for_once_and_again_when_the_archive_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = files.open_file
    monkeypatch.setattr(files, "open_file", lambda path: [opened.append(path), real(path)][1])
    shards(tmp_path, pixels(4))
    first = source_of("webdataset", tmp_path, "s-00.tar").records()
    assert len(opened) == len(list(cache.iterdir())) == 1
    assert source_of("webdataset", tmp_path, "s-00.tar").records() == first
    assert len(opened) == 1
    # what is kept for labels of one kind does not serve those of another
    source_of(
        "webdataset", tmp_path, "s-00.tar", label_field="about.kind", classes=["odd", "even"]
    ).records()
    assert len(opened) == 2
    (tmp_path / "s-00.tar").unlink()
    shards(tmp_path, pixels(3))
    assert len(source_of("webdataset", tmp_path, "s-00.tar").records()) == 3
    assert len(opened) == 3


def test_an_index_that_cannot_be_kept_or_is_damaged_is_made_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(tmp_path, pixels(4))
    first = source_of("webdataset", tmp_path, "s-00.tar").records()
    for place in cache.iterdir():
        place.write_text("{")
    assert source_of("webdataset", tmp_path, "s-00.tar").records() == first
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert source_of("webdataset", tmp_path, "s-00.tar").records() == first


def test_blocks_of_remote_archives_serve_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "BLOCK_BYTES", 5000)
    images = pixels(30)
    place = f"memory://{tmp_path.name}/a.tar"
    archive(place, {f"{at:02d}.png": png(image) for at, image in enumerate(images)})
    requests: list[tuple[int, int]] = []
    system = fsspec.filesystem("memory")
    real = type(system).cat_file

    def counting(self: Any, path: str, start: int, end: int, **options: Any) -> Any:
        requests.append((start, end))
        return real(self, path, start, end, **options)

    monkeypatch.setattr(type(system), "cat_file", counting)
    source = WebDataset(path=place)
    assert is_same(read_all(source), images)
    size = system.info(place)["size"]
    assert len(requests) <= -(-size // 5000)
    assert all(end == min(start + 5000, size) for start, end in requests)
