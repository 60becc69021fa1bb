"""Gates: a bound is a bound of a mean; a change breaks one only if it is large and no chance."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline import aggregate
from pipeline.config import RelativeGate, dump, load
from pipeline.errors import ConfigError
from pipeline.evaluate import evaluate
from pipeline.gates import absolute, clusters, grammar, judging, junit, relative
from pipeline.gates.columns import check_columns, columns_of
from pipeline.gates.left_out import left_out
from pipeline.gates.places import check_places
from pipeline.gates.verdict import Verdict, overall, tally
from pipeline.metrics import build
from pipeline.run import narrowed, run
from pipeline.spray import Analysis, Cluster, Counterfactual, View
from tests.pipeline.compared import N, judged, make, some_maps
from tests.pipeline.explained import explained
from tests.pipeline.tiny_run import config_of

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.aggregate import Judged
    from pipeline.store import Run

FILE = """
name: x
model: {source: python, name: "m:f"}
data: {source: mnist5k}
explainers: {lrp: {}, ig: {}, edges: {method: sobel}}
metrics: {pixel_flipping: {}}
gates: [%s]
"""


def loaded(folder: Path, gates: str) -> Any:
    (folder / "run.yaml").write_text(FILE % gates)
    return load(folder / "run.yaml")


@pytest.mark.parametrize(
    ("text", "place", "value", "holds"),
    [
        ("lrp.pf.auc <= 0.35", ("lrp", "pf", "auc", "all"), 0.35, True),
        ("lrp.pf.auc < 0.35", ("lrp", "pf", "auc", "all"), 0.35, False),
        ("*.pf.auc.class:3>=-1e-2", ("*", "pf", "auc", "class:3"), 0.0, True),
        ("lrp.pf > 2", ("lrp", "pf", "", "all"), float("nan"), False),
        ("lrp.pf.macro > 2", ("lrp", "pf", "", "macro"), 3.0, True),
        ("lrp.left.pf.auc.1.correct > 2", ("lrp.left", "pf", "auc.1", "correct"), 2.0, False),
        ("lrp.other.auc > 2", ("lrp", "other", "auc", "all"), 2.1, True),
    ],
)
def test_a_gate_says_what_it_is_about(
    text: str, place: tuple[str, ...], value: float, holds: bool
) -> None:
    gate = grammar.parse(text)
    assert grammar.place(gate, {"pf"}) == grammar.Place(*place)
    assert gate.holds(value) is holds


@pytest.mark.parametrize(
    "text", ["lrp", "lrp <= 1", "lrp.pf.auc == 1", "lrp.pf.auc <= x", "a.b <= nan", "a..b < 1", ""]
)
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        grammar.parse(text)


def test_drops_are_numbers_or_shares() -> None:
    assert grammar.drop(0.02) == (0.02, False)
    assert grammar.drop("5%") == (0.05, True)
    for wrong in (-1.0, "5", "-5%", "x", float("nan")):
        with pytest.raises(ValueError, match="share such as"):
            grammar.drop(wrong)


def test_gates_survive_the_run_file(tmp_path: Path) -> None:
    config = loaded(tmp_path, '"lrp.pixel_flipping.auc <= 0.4", {metric: pixel_flipping}')
    assert config.gates == ("lrp.pixel_flipping.auc <= 0.4", RelativeGate(metric="pixel_flipping"))
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(tmp_path / "again.yaml").gates == config.gates
    assert config.digest() == loaded(tmp_path, "").digest()


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ('"lrp.pixel_fliping.auc <= 1"', "gates.0: there is no metric 'pixel_fliping'; did you"),
        ('"lpr.pixel_flipping.auc <= 1"', "there is no explainer 'lpr'; did you mean 'lrp'"),
        ("{metric: pixel_flippin}", "did you mean 'pixel_flipping'"),
        ("{metric: pixel_flipping, max_drp: 1}", "unknown field 'max_drp'; did you mean 'max_d"),
        ("{metric: pixel_flipping, max_drop: 5 percent}", "expected a number from 0 on"),
        ("{metric: pixel_flipping, alpha: 0}", "more than 0"),
        ("nonsense", "expected a gate such as"),
        ('"lrp.spray.clever_hans <= 0"', "does not analyse 'lrp'; it has to name whose maps"),
        ('"*.spray.clever_hans <= 0"', "does not analyse '*'"),
        ("{metric: spray, explainer: lrp}", "write 'lrp.spray.clever_hans <= 0'"),
    ],
)
def test_wrong_gates_are_refused_when_the_file_is_read(
    tmp_path: Path, gates: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, gates)
    assert said in str(caught.value)


def test_a_run_of_some_explainers_keeps_their_gates_alone(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, '"lrp.pixel_flipping <= 1", "ig.pixel_flipping <= 1", "*.pixel_flipping <= 1"'
    )
    assert narrowed(config, ["ig"], None).gates == config.gates[1:]


def test_columns_are_looked_up_when_a_run_is_planned(tmp_path: Path) -> None:
    def check(*gates: str) -> None:
        config = loaded(tmp_path, ", ".join(f'"{gate}"' for gate in gates))
        check_columns(config, {"pixel_flipping": build("pixel_flipping", {})})

    check("lrp.pixel_flipping <= 1", "lrp.pixel_flipping.auc.1.macro <= 1")
    with pytest.raises(ConfigError, match="is a curve; the area under it is 'auc'"):
        check("lrp.pixel_flipping.curve <= 1")
    assert columns_of(build("sparseness", {})) == {"sparseness"}
    assert columns_of(build("max_sensitivity", {})) == frozenset()  # it explains again


@pytest.mark.slow
def test_a_column_that_a_metric_lacks_is_found_out_by_trying_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, '"lrp.pixel_flipping.acu <= 1"')
    with pytest.raises(ConfigError, match=r"gates\.0: .* has no score 'acu'; did you mean 'auc'"):
        check_columns(config, {"pixel_flipping": build("pixel_flipping", {})})


def scored(tmp_path: Path, *gates: str, **columns: np.ndarray) -> tuple[Run, tuple[Verdict, ...]]:
    columns = columns or {"auc": np.arange(N) / 10}
    names = ("lrp", "sobel")
    made = make(
        tmp_path / "run",
        dict.fromkeys(names, some_maps(0)),
        {"pixel_flipping": dict.fromkeys(names, columns), "sparseness": {}},
        gates=gates,
    )
    metrics = [each for each in aggregate.judged(made) if each.explainers]
    rows = aggregate.aggregates(made)
    return made, absolute.judge(made, metrics, rows, ("pixel_flipping",))


def test_a_bound_is_one_of_the_mean_of_a_group(tmp_path: Path) -> None:
    values = np.arange(N) / 10
    run, verdicts = scored(
        tmp_path,
        f"lrp.pixel_flipping.auc <= {values.mean()}",
        "lrp.pixel_flipping <= 0.5",
        "lrp.pixel_flipping.auc.class:1 > 0.5",
        "*.pixel_flipping.auc < 1",  # of every explainer that is no control
        "sobel.pixel_flipping.auc < 1",
        auc=values,
    )
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", *["passed"] * 3]
    assert [verdict.explainer for verdict in verdicts] == [*["lrp"] * 4, "sobel"]
    assert verdicts[1].value == pytest.approx(0.55)
    assert verdicts[2].value == pytest.approx(values[1::3].mean())
    stored = json.loads(run.folder.read("gates.json"))
    assert stored["verdict"] == "failed"
    assert [gate["status"] for gate in stored["gates"]] == [each.status for each in verdicts]
    assert tally(verdicts) == "4 of 5 hold"


def test_what_nothing_shows_to_hold_is_broken_and_what_was_not_asked_for_is_skipped(
    tmp_path: Path,
) -> None:
    _, verdicts = scored(
        tmp_path,
        "lrp.pixel_flipping.acu <= 1",
        "lrp.pixel_flipping.auc.class:8 <= 1",
        "lrp.pixel_flipping.auc.class:2 <= 1",
        "lrp.sparseness.sparseness >= 0",
        auc=np.where(np.arange(N) % 3 == 2, np.nan, 0.5),
    )
    assert [verdict.status for verdict in verdicts] == ["failed", "failed", "failed", "skipped"]
    assert "did you mean 'auc'" in verdicts[0].message
    assert "no samples are in the group 'class:8'" in verdicts[1].message
    assert verdicts[2].message == "no sample has a defined score"


def test_a_bound_is_broken_where_samples_were_not_looked_at(tmp_path: Path) -> None:
    values = {"sparseness": {"lrp": {"sparseness": np.where(np.arange(N) == 1, np.nan, 0.5)}}}
    gates = ["lrp.sparseness > 0"]
    found: list[Verdict] = []
    for name, done in (("half", [0, 1, 2]), ("whole", range(6))):
        made = make(
            tmp_path / name, {"lrp": some_maps(0)}, values, shard_size=2, done=done, gates=gates
        )
        found += judging.judge(gates, made, made)
    assert [verdict.status for verdict in found] == ["failed", "passed"]
    assert found[0].message == "only 6 of 12 samples are scored"
    assert "11 samples (1 undefined) is 0.5" in found[1].message


CLUSTER = Counterfactual(n_pasted=9)


def an_analysis(verdicts: str, **fields: Any) -> Analysis:
    """Return one of a class whose clusters are confirmed (c), checked (k) or neither (n)."""
    words: dict[str, Any] = {"c": "clever_hans", "k": "cluster", "n": "cluster"}
    empty = np.zeros(1)
    of = tuple(
        Cluster(n, 5, 0.5, (0,), empty, empty, empty, 0.5, (0.5,), 1.0, words[each], outcome)
        for n, each in enumerate(verdicts)
        for outcome in [None if each == "n" else CLUSTER]
    )
    view = View("class:3", 3, 10, empty, empty, empty, empty, 0, 0.0, 0.0, of)
    return Analysis({"class:3": view} if of else {}, (1,), 10, 0, **fields)


def test_confirmed_clusters_break_a_gate_and_so_does_what_was_not_checked(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{FILE % ''}spray: {{lrp: {{}}, ig: {{}}}}")
    config = load(tmp_path / "run.yaml", ["gates=['*.spray.clever_hans <= 0']"])
    assert narrowed(config, ["edges"], None).gates == ()

    def judged_of(text: str, asked: tuple[str, ...] = (), **analyses: Analysis) -> list[Verdict]:
        gate = grammar.parse(text)
        run: Any = SimpleNamespace(config=config, spray=analyses)
        return list(clusters.verdicts(gate, grammar.place(gate, {"pf"}), run, asked))

    every = "*.spray.clever_hans <= 0"
    found = judged_of(every, lrp=an_analysis("kc"), ig=an_analysis("kk", skipped={1: 7}))
    assert [(v.explainer, v.status, v.value) for v in found] == [
        ("lrp", "failed", 1),
        ("ig", "passed", 0),
    ]
    assert found[0].name == "lrp.spray.clever_hans"
    assert found[0].message.endswith("has to be <= 0: class:3 cluster 1")
    assert found[1].message.endswith("1 classes have too few maps")
    assert judged_of("lrp.spray.clever_hans <= 1", lrp=an_analysis("kc"))[0].status == "passed"
    for nothing in ("nn", ""):
        (verdict,) = judged_of("lrp.spray.clever_hans <= 0", lrp=an_analysis(nothing))
        assert (verdict.status, verdict.message) == ("failed", "no cluster was checked")
    found = judged_of(every, (clusters.of("ig"),))
    assert [verdict.status for verdict in found] == ["skipped", "failed"]


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("means.sparseness <= 1", "'sparseness' does not score 'means'; "),
        ("lrp.sparseness.sparseness.class:3 <= 1", "there is no 'class:3': the network has 3 out"),
        ("ig.sparseness <= 1", "does not score 'ig', which its `explainers` leave out"),
        ("lrp.sparseness.sparseness.1 <= 1", "of target 1, counted from 0; the run has 1 target"),
        ({"metric": "sparseness", "explainer": "ig"}, "which its `explainers` leave out"),
        ("lrp.sparseness.sparseness.class:2 <= 1", ""),
        ("*.sparseness <= 1", ""),
    ],
)
def test_gates_that_can_never_hold_are_refused_when_a_run_is_planned(
    tmp_path: Path, gate: Any, said: str
) -> None:
    names = ("lrp", "ig", "means")
    run = make(tmp_path, dict.fromkeys(names[:2], some_maps(0)), {"sparseness": {}}, gates=[])
    config = run.config.model_copy(
        update={
            "explainers": {name: {} for name in names},
            "metrics": {"sparseness": {"explainers": ["lrp", "means"]}},
            "gates": (RelativeGate(**gate) if isinstance(gate, dict) else gate,),
        }
    )
    if not said:
        check_places(config, run.plan)
        return
    with pytest.raises(ConfigError) as caught:
        check_places(config, run.plan)
    assert said in str(caught.value)


def test_gates_of_what_a_run_leaves_out_are_skipped_and_told(tmp_path: Path) -> None:
    config = loaded(tmp_path, '"lrp.pixel_flipping <= 1", "*.pixel_flipping <= 1"')
    (verdict,) = left_out(config, narrowed(config, ["ig"], None))
    assert (verdict.status, verdict.name, verdict.limit) == ("skipped", "lrp.pixel_flipping", 1)


class Changed:
    """Scores of a metric before and after, as `pipeline.compare.score_drift.Scores` gives them."""

    was_done = np.ones(N, bool)

    def __init__(self, change: np.ndarray, is_done: np.ndarray) -> None:
        before = np.linspace(1, 2, N)
        self.values = before, np.where(is_done, before + change, np.nan)
        self.is_done = is_done

    def columns(self, metric: Judged, explainer: str) -> dict[str, Any]:
        return dict.fromkeys(("auc", "other"), self.values)

    def scored(self, metric: Judged, explainer: str) -> tuple[np.ndarray, np.ndarray]:
        return self.was_done, self.is_done

    def groups(self, *, by_class: bool) -> dict[str, np.ndarray]:
        classes = {f"class:{k}": np.arange(N) % 3 == k for k in range(3)}
        return {"all": np.ones(N, bool)} | (classes if by_class else {})


def changed(
    gate: dict[str, Any],
    change: np.ndarray,
    names: tuple[str, ...] = ("lrp",),
    n_done: int = N,
) -> list[Verdict]:
    config = SimpleNamespace(explainers={"lrp": {}, "sobel": {}})
    old, new = (judged("pixel_flipping", each, {}) for each in (("lrp", "sobel"), names))
    wanted = RelativeGate(metric="pixel_flipping", **gate)
    scores: Any = Changed(change, np.arange(N) < n_done)
    return relative.of_scores(wanted, old, new, scores, config, (1, 4, 4))  # type: ignore[arg-type]


NOISE = np.tile([1.0, -1.0], N // 2)


@pytest.mark.parametrize(
    ("change", "max_drop", "status"),
    [
        (0.10 + 0.01 * NOISE, 0.05, "failed"),  # large and sure
        (0.10 + 1.00 * NOISE, 0.05, "warned"),  # large, but it may be chance
        (0.04 + 0.01 * NOISE, 0.05, "warned"),  # sure, but small
        (0.04 + 1.00 * NOISE, 0.05, "passed"),
        (-0.5 + 0.01 * NOISE, 0.05, "passed"),  # better: lower is
        (0.10 + 0.01 * NOISE, "10%", "warned"),  # of 1.5
        (0.20 + 0.01 * NOISE, "10%", "failed"),
        (0.00 * NOISE, 0.0, "passed"),
    ],
)
def test_a_change_breaks_a_gate_only_if_it_is_large_and_no_chance(
    change: np.ndarray, max_drop: float | str, status: str
) -> None:
    (verdict,) = changed({"max_drop": max_drop}, change)
    assert verdict.status == status
    assert verdict.value == pytest.approx(change.mean())


def test_alpha_decides_what_is_chance() -> None:
    change = 0.1 + 0.14 * NOISE  # t = 2.37 of 11 degrees of freedom: p = .037
    assert changed({"alpha": 0.05}, change)[0].status == "failed"
    assert changed({"alpha": 0.01}, change)[0].status == "warned"


def test_classes_are_judged_each_with_their_part_of_alpha() -> None:
    worse = np.where(np.arange(N) % 3 == 1, 0.5, 0.0) + 0.01 * np.repeat(NOISE[:6], 2)
    verdicts = changed({"scope": "class", "max_drop": 0.1, "alpha": 0.06}, worse)
    assert [(v.group, v.status) for v in verdicts if v.status == "failed"] == [
        ("class:1", "failed")
    ]
    assert all("98 % interval" in verdict.message for verdict in verdicts)


def test_scores_that_go_missing_break_a_gate() -> None:
    none = np.zeros(N)
    (verdict,) = changed({}, none, n_done=10)
    assert verdict.status == "failed"
    assert "only 83.3% of the samples scored before are scored now" in verdict.message
    (verdict,) = changed({}, np.where(np.arange(N) == 3, np.nan, 0.0))
    assert verdict.status == "failed"
    assert "undefined scores has grown by 8.3%" in verdict.message
    (verdict,) = changed({"max_undefined": 0.1}, np.where(none == 0, none, none))
    assert verdict.status == "passed"
    (verdict,) = changed({}, none + np.nan)
    assert verdict.status == "failed"


def test_a_gate_warns_if_little_was_scored_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Changed, "was_done", np.arange(N) < 6)
    (verdict,) = changed({}, np.zeros(N))
    assert verdict.status == "warned"
    assert verdict.message.endswith("only 50.0% of the samples were scored before")


def test_an_explainer_that_is_scored_no_more_breaks_its_gate() -> None:
    (verdict,) = changed({}, np.zeros(N), names=())
    assert verdict.status == "failed"
    assert verdict.message == "lrp was scored before and is not any more"


def test_a_column_needs_a_better_end() -> None:
    with pytest.raises(ConfigError, match="which end of 'other' is better"):
        changed({"column": "other"}, np.zeros(N))
    (verdict,) = changed({"column": "other", "direction": "higher"}, NOISE * 0 - 1)
    assert verdict.status == "failed"
    with pytest.raises(ConfigError, match="did you mean 'other'"):
        changed({"column": "othr"}, np.zeros(N))


def test_gates_can_be_asked_for_by_text_and_by_file(tmp_path: Path) -> None:
    run = make(
        tmp_path / "run",
        {"lrp": some_maps(0)},
        {"sparseness": {"lrp": {"sparseness": np.ones(N)}}},
        gates=["lrp.sparseness > 0", {"metric": "sparseness"}],
    )
    assert judging.chosen(run) == (RelativeGate(metric="sparseness"),)
    file = tmp_path / "gates.yaml"
    file.write_text("gates: ['lrp.sparseness > 0.5', {metric: sparseness, max_drop: 1%}]")
    asked = judging.chosen(run, ["{metric: sparseness}", str(file), "lrp.sparseness > 2"])
    assert [isinstance(gate, str) for gate in asked] == [False, True, False, True]
    statuses = [verdict.status for verdict in judging.judge(asked, run, run)]
    assert statuses == ["passed", "failed", "passed", "passed"]
    assert judging.chosen(run, ["*.sparseness > 0.3"]) == ("*.sparseness > 0.3",)
    bare = make(tmp_path / "bare", {"lrp": some_maps(0)})
    with pytest.raises(ConfigError, match=r"bare was never scored by it.*\n.* --metric sparseness"):
        judging.judge(asked, bare, run)
    for wrong in ("{metric: nothing}", "{metric: sparseness, x: 1}", "{", "5"):
        with pytest.raises(ConfigError, match="--gate"):
            judging.chosen(run, [wrong])


def test_verdicts_are_junit_xml() -> None:
    def verdict(status: Any, message: str) -> Verdict:
        nan = float("nan")
        return Verdict(
            "a.b < 1", "absolute", status, "a", "b", "c", "all", 3, 1.0, nan, nan, 1.0, message
        )

    verdicts = [
        verdict("passed", "is 1"),
        verdict("warned", "nearly"),
        verdict("failed", 'is <2> & "\x00"'),
        verdict("skipped", "not asked for"),
    ]
    root = ElementTree.fromstring(junit.to_xml("run", verdicts).encode())
    (suite,) = root
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "0", "skipped": "1"}
    assert [[child.tag for child in case] for case in suite] == [
        ["system-out"],
        ["system-out"],
        ["failure"],
        ["skipped"],
    ]
    assert suite[2][0].get("message") == 'is <2> & "\N{REPLACEMENT CHARACTER}"'
    assert all(case.get("name") and case.get("classname") for case in suite)
    assert root.get("skipped") is None  # which schemas do not allow there
    assert ElementTree.fromstring(junit.to_xml("run", []).encode())[0].get("tests") == "0"
    (suite,) = ElementTree.fromstring(junit.to_xml("run", [], refused="no\nrun").encode())
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert suite[0][0].tag == "error"
    assert overall(verdicts) == "failed"


@pytest.mark.slow
def test_an_evaluation_judges_the_gates_of_its_run(tmp_path: Path) -> None:
    gates = ["gradient.sparseness.sparseness > 0", "*.sparseness.sparseness > 0.99"]
    run = explained(tmp_path, gates=gates, metrics={"sparseness": {}})
    found = evaluate(run)
    assert found.exit_code == 4
    assert f"1 of 11 samples failed; xpipe status {run.path} names them" in found.notes
    assert [verdict.status for verdict in found.gates] == ["passed", "failed", "failed"]
    assert json.loads(run.folder.read("gates.json"))["verdict"] == "failed"


@pytest.mark.slow
def test_an_evaluation_of_a_run_that_is_not_done_is_not_whole(tmp_path: Path) -> None:
    gates = ["gradient.sparseness.sparseness > 0"]
    run = explained(tmp_path, (0,), gates=gates, metrics={"sparseness": {}})
    found = evaluate(run)
    assert [verdict.message for verdict in found.gates] == ["only 4 of 11 samples are scored"]
    assert found.exit_code == 4
    assert "7 of 11 samples have no maps yet and count as undefined" in found.notes
    assert evaluate(run, ["complexity"]).exit_code == 4  # what was scored before is judged again


@pytest.mark.slow
def test_a_broken_gate_outranks_failed_samples(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "metrics": {"sparseness": {}},
        "data": {"params": {"n": 8, "bad": {"3": "nan"}}},
        "explainers": {"saliency": {}},
    }
    codes = [
        run(config_of(tmp_path / name, gates=[f"saliency.sparseness > {limit}"], **changes))
        for name, limit in (("a", 0), ("b", 1))
    ]
    assert [summary.exit_code for summary in codes] == [5, 4]
    assert [evaluate(summary.path).exit_code for summary in codes] == [5, 4]
    assert [summary.gates[0].status for summary in codes] == ["passed", "failed"]
