"""Samples of different lengths: one length a batch, and stored as long as the longest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline import lengths, user_code
from pipeline.data import Record, read_batch
from pipeline.errors import PlanError
from pipeline.evaluate import evaluate
from pipeline.examples import find_example, find_shortest
from pipeline.inputs import Part
from pipeline.inspection import contents, layers
from pipeline.ledger import Ledger
from pipeline.lengths import Lengths
from pipeline.manifest import Manifest
from pipeline.plan import EXPLAIN, Plan
from pipeline.planner import make_plan
from pipeline.planning.shortest import Shortest
from pipeline.run import resume, run
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import stored
from tests.pipeline.tiny_text import text_config

if TYPE_CHECKING:
    from pathlib import Path


def test_a_batch_holds_one_length_and_the_longest_come_first() -> None:
    found = lengths.batches([3, 5, 3, None, 5, 3], 2)
    assert found == [[1, 4], [0, 2], [5], [3]]
    assert lengths.batches([None] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert lengths.batches([], 2) == []


def test_only_what_is_as_long_as_the_sample_changes_with_its_length() -> None:
    def sample(length: int) -> dict[str, torch.Tensor]:
        tokens, mask = torch.zeros(length, dtype=torch.int64), torch.ones(length).bool()
        return {"tokens": tokens, "mask": mask, "other": torch.zeros(7)}

    found = Lengths.of([3, 0, 7, 3], [(sample(7), 7), (sample(3), 3)])
    assert found == Lengths((3, 7), ("tokens", "mask"))
    longest = {name: Part((7,), dtype) for name, dtype in [("tokens", "int64"), ("other", "float")]}
    assert found.form(longest, 3) == {"tokens": Part((3,), "int64"), "other": Part((7,), "float")}
    # no sample may be longer than what is stored, and one of no length is taken for the longest
    assert found.form(longest, 9) == found.form(longest, None) == longest
    with pytest.raises(PlanError, match="length 3 has inputs"):
        Lengths.of([3, 7], [(sample(7), 7), ({**sample(3), "other": torch.zeros(5)}, 3)])
    with pytest.raises(PlanError, match="tokens of that length"):
        Lengths.of([3], [(torch.zeros(3), 3)])


def test_arrays_are_filled_up_where_an_axis_is_tokens_or_they_have_the_shape_of_a_map() -> None:
    here, longest = {"": (("token",), (4,))}, {"": (("token",), (9,))}
    assert lengths.whole_shape("error", (4,), None, here, longest, 9) == (9,)
    assert lengths.whole_shape("error", (2, 4), ("level", "token"), here, longest, 9) == (2, 9)
    assert lengths.whole_shape("error", (2, 4), None, here, longest, 9) == (2, 4)


def test_an_array_of_one_input_of_several_is_as_long_as_that_input() -> None:
    here = {"words": (("token",), (3,)), "extra": (("extra",), (3,))}
    longest = {"words": (("token",), (5,)), "extra": (("extra",), (3,))}
    assert lengths.whole_shape("error.words", (3,), None, here, longest, 5) == (5,)
    assert lengths.whole_shape("error.extra", (3,), None, here, longest, 5) == (3,)


def test_texts_that_are_shorter_or_longer_than_the_model_takes_are_told() -> None:
    samples = [(torch.zeros(n, dtype=torch.int64), n) for n in (7, 3)]
    found = Lengths.of([3, 0, 2, 7, 8], samples)
    assert found.known == (3, 7)
    assert [found.misfit(n) for n in (3, 5, 7)] == ["", "", ""]
    assert found.misfit(2) == "2 tokens; the model takes from 3 to 7 of them"
    assert found.misfit(8)


def test_a_plan_speaks_of_lengths_where_there_are_several_and_of_samples_that_fail() -> None:
    of: Any = Shortest
    assert of(Lengths((8,), ("",)), None, None, None, 1.0, 0).notes == ()
    (note,) = of(Lengths((3, 8), ("",)), None, None, None, 1.0, 0).notes
    assert note.startswith("samples have 2 lengths, from 3 to 8 tokens")
    (note,) = of(Lengths((8,), ("",)), None, None, None, 1.0, 4).notes
    assert note.startswith("4 samples do not have 8 tokens")


def test_a_token_that_the_model_does_not_know_is_its_sample_s_failure() -> None:
    source: Any = SimpleNamespace(
        decode_threads=1, load=lambda record: torch.tensor([0, int(record.source)])
    )
    records = [Record(row, str(row), token) for row, token in enumerate(("3", "9", "-1", "8"))]
    form = {"": Part((2,), "int64")}
    _, good, failures = read_batch(source, records, form, {"": 9})
    assert good == [0, 3]
    assert "got the token 9, but the model's embedding has rows 0 to 8" in failures[1]
    assert "got the token -1" in failures[2]


def test_samples_that_are_tried_are_those_that_the_model_takes(tmp_path: Path) -> None:
    # of the longest the third and the fifth are unknown to it; two tokens are too few
    texts = [[1, 2], [1, 2, 3], [9, 1, 1, 1], [1, 2, 3, 4], [5, 5, 5, 9], [1, 2, 2, 2]]
    records = [Record(row, str(row), str(row), length=len(text)) for row, text in enumerate(texts)]
    source = SimpleNamespace(load=lambda record: torch.tensor(texts[record.index]))

    def model(tokens: torch.Tensor) -> torch.Tensor:
        return torch.ones(9, 1)[tokens].unfold(1, 3, 1).sum((1, 3))

    given: Any = (source, Manifest(records), model)
    assert find_example(*given)[1] == [3, 5]
    assert find_shortest(*given)[1] == [1, 1]
    without = Manifest([replace(record, length=None) for record in records])
    assert find_example(given[0], without, model)[1] == [3, 5]  # type: ignore


def test_what_lies_beyond_is_told_row_by_row() -> None:
    found = lengths.beyond(np.array([[2, 1], [1, 3]]), (2, 3))
    assert found.tolist() == [[[False, True, True]] * 2, [[False] * 3, [True] * 3]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    config = text_config(folder, metrics={"sparseness": {}, "pixel_flipping": {}})
    assert run(config).exit_code == 0
    return folder


def texts(folder: Path) -> tuple[Any, Any]:
    model = user_code.find("tiny_text.py:model", folder)()
    return model, user_code.find("tiny_text.py:texts", folder)()


@pytest.mark.slow
def test_maps_are_those_of_each_sample_alone_and_missing_beyond_its_length(made: Path) -> None:
    opened, (model, data) = open_run(made / "out"), texts(made)
    maps = opened.maps["occlusion"]
    assert maps.dims == ("sample", "token")
    assert maps["length"].values.tolist() == data.lengths
    for row, length in enumerate(data.lengths):
        tokens = data[row][0][None]
        with torch.no_grad():
            full, found = model(tokens), []
            for place in range(length):
                other = tokens.clone()
                other[:, place] = 3
                found.append((full - model(other))[0, full.argmax()])
        # float32 of other batches
        np.testing.assert_allclose(maps.values[row, :length], found, rtol=1e-4, atol=1e-6)
        assert np.isnan(maps.values[row, length:]).all()
    errors = opened.array("shapley", "standard_error")
    assert errors.dims == ("sample", "token")
    assert (np.isfinite(errors.values) == np.isfinite(maps.values)).all()


@pytest.mark.slow
def test_hierarchies_are_in_the_order_of_samples(made: Path) -> None:
    opened = open_run(made / "out")
    components = opened.array("tree", "components")
    assert components.dims == ("sample", "level", "token")
    # the last level is the root, which has every token of these
    is_there = components.values[:, -1] >= 0
    assert (is_there.sum(1) == components["length"].values).all()
    samples = opened.table("tree")["sample"].to_pylist()
    assert samples == sorted(samples)
    assert set(samples) == set(range(9))


@pytest.mark.slow
def test_summaries_and_scores_do_not_see_what_is_missing(made: Path) -> None:
    opened = open_run(made / "out")
    assert opened.not_finite() == {}
    values, facts = opened.maps["occlusion"].values, opened.samples().to_pydict()
    np.testing.assert_allclose(facts["occlusion.sum"], np.nansum(values, 1), rtol=1e-6)
    np.testing.assert_array_equal(facts["occlusion.min"], np.nanmin(values, 1))
    np.testing.assert_array_equal(facts["occlusion.max"], np.nanmax(values, 1))
    scores = opened.scores("sparseness", "occlusion")
    assert all(np.isfinite(column).all() for column in scores.values())
    assert opened.scores("pixel_flipping", "occlusion") == {}
    (note,) = evaluate(made / "out", ["pixel_flipping"], engine="serial").notes
    assert "pixel_flipping does not score occlusion" in note


@pytest.mark.slow
def test_the_plan_knows_the_lengths(made: Path) -> None:
    plan = open_run(made / "out").plan
    assert plan.lengths == Lengths((2, 4, 5), ("",))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.maps["occlusion"].shape == (5,)
    (note,) = [note for note in plan.notes if "lengths" in note]
    assert "from 2 to 5 tokens" in note
    table = {row["name"]: row for row in contents(made / "out")}
    assert table["maps/occlusion"]["dims"] == "sample, token"
    assert table["arrays/shapley/standard_error"]["dims"] == "sample, token"
    assert table["arrays/tree/components"]["dims"] == "sample, level, token"
    assert "members" in table["tables/tree"]["dims"]
    assert layers(made / "out.yaml")["inputs"] == {"": [5]}


@pytest.mark.slow
def test_results_do_not_depend_on_the_size_of_batches(made: Path) -> None:
    assert run(text_config(made, "by_one", engine={"batch_size": 1})).exit_code == 0
    one, other = open_run(made / "out"), open_run(made / "by_one")
    for name in one.maps:
        # kernels of other batches round otherwise
        np.testing.assert_allclose(one.maps[name], other.maps[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_that_lost_a_shard_goes_on_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    before = stored(folder / "out")
    entry = Ledger(folder / "out").entries(EXPLAIN)[1]
    Ledger(folder / "out").withdraw(EXPLAIN, 1)
    for path in entry.objects:
        if "/c" in path or path.startswith("samples"):
            (folder / "out" / path).unlink()
    assert resume(folder / "out").exit_code == 0
    assert stored(folder / "out") == before
    assert not verify(folder / "out")
    assert evaluate(folder / "out", engine="serial").n_scored == 0


@pytest.mark.slow
def test_a_sample_that_is_not_as_long_as_it_says_fails_alone(tmp_path: Path) -> None:
    data = {"params": {"n": 7, "kind": "bad"}}
    summary = run(text_config(tmp_path, explainers={"saliency": {}}, data=data))
    assert (summary.exit_code, summary.n_failed) == (5, 1)
    opened = open_run(tmp_path / "out")
    ((sample_id, reason),) = opened.failures()
    assert sample_id == "000002"
    assert "got" in reason
    assert np.isnan(opened.maps["saliency"].values[2]).all()
    assert opened.not_finite() == {}


@pytest.mark.slow
def test_texts_that_the_model_cannot_take_fail_alone(tmp_path: Path) -> None:
    data = {"params": {"kind": "unknown"}}
    entries = {"occlusion": {"baseline": 3}}
    model = {"name": "tiny_text.py:pairs"}
    config = text_config(tmp_path, explainers=entries, data=data, model=model)
    notes = make_plan(config).plan.notes
    assert any(note.startswith("3 samples do not have 4 to 5 tokens") for note in notes)
    assert run(config).exit_code == 5
    failures = dict(open_run(tmp_path / "out").failures())
    # three of two tokens, and one of tokens that the model does not know
    assert list(failures) == ["000001", "000003", "000006", "000008"]
    assert "2 tokens; the model takes from 4 to 5" in failures["000001"]
    assert "got the token" in failures["000003"]


@pytest.mark.slow
def test_masks_beside_tokens_are_as_long(tmp_path: Path) -> None:
    data = {"params": {"n": 5, "kind": "dict"}}
    entries: dict[str, Any] = {"occlusion": {}}
    config = text_config(tmp_path, explainers=entries, data=data, target=["predicted", 1])
    assert run(config).exit_code == 0
    opened = open_run(tmp_path / "out")
    assert opened.maps["occlusion.tokens"].dims == ("sample", "target", "token")
    assert opened.plan.lengths == Lengths((2, 4, 5), ("tokens", "mask"))
    is_there = np.isfinite(opened.maps["occlusion.tokens"].values[:, 1])
    assert (is_there.sum(1) == opened.maps["occlusion.tokens"]["length"].values).all()


@pytest.mark.slow
def test_models_that_pack_are_explained_by_perturbations(tmp_path: Path) -> None:
    model = {"name": "tiny_text.py:packing"}
    entries = {"occlusion": {"baseline": 3}, "feature_ablation": {}}
    config = text_config(tmp_path, explainers=entries, model=model, data={"params": {"n": 4}})
    assert any("pack_padded_sequence" in note for note in make_plan(config).plan.notes)
    assert run(config).exit_code == 0
    assert np.isfinite(open_run(tmp_path / "out").maps["occlusion"].values[:, :2]).all()
    refused = text_config(tmp_path, "refused", explainers={"saliency": {}}, model=model)
    with pytest.raises(PlanError, match=r"explainers.saliency.*pack_padded_sequence") as caught:
        make_plan(refused)
    assert "occlusion" in caught.value.fix
    assert "integrated_gradients" not in caught.value.fix


@pytest.mark.slow
def test_scans_that_cannot_fold_two_lengths_are_refused(tmp_path: Path) -> None:
    config = text_config(tmp_path, explainers={"statistics": {"method": "moments"}})
    with pytest.raises(PlanError, match=r"explainers.statistics.*different lengths"):
        make_plan(config)
