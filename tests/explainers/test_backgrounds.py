"""Backgrounds of several inputs and of tokens: for the methods that average over baselines."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import explainers
from explainers import Network, Trace
from explainers.base import Samples

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

# both sum the same products of doubles in another order
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
METHODS = ("deep_lift_shap", "expected_gradients")


class Two(nn.Module):
    """Two tables, and how often each row counts."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Linear(4, 3), nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, u: Tensor, v: Tensor, counts: Tensor) -> Tensor:
        return self.fc((self.left(u) + self.right(v)).tanh() * counts.to(u)[:, None])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.fc((self.embedding(ids).tanh() * mask.to(self.fc.weight)[..., None]).sum(1))


@functools.cache
def tables() -> tuple[Network, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return a network, three inputs and four rows of a background."""
    torch.manual_seed(0)
    drawn = (
        torch.randn(7, 4, dtype=torch.float64),
        torch.randn(7, 5, dtype=torch.float64),
        torch.tensor([1, 2, 3, 1, 2, 5, 7]),
    )
    inputs, rows = (tuple(part[at] for part in drawn) for at in (slice(3), slice(3, None)))
    return Network(Two().double().eval(), inputs), inputs, rows


@functools.cache
def words() -> tuple[Network, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    inputs = {"ids": torch.randint(0, 9, (3, 5)), "mask": torch.arange(15).view(3, 5) % 4 > 0}
    return Network(Words().double().eval(), inputs), inputs, torch.randint(0, 9, (4, 5))


def mean_of_deep_lifts(network: Network, inputs: Any, baselines: list[Any]) -> list[Tensor]:
    """Return the mean map of each input that has one."""
    bound = explainers.get("deep_lift")
    each = [bound(network, baseline=one).attribute(inputs, 1) for one in baselines]
    held: Any = [list(one.values()) if isinstance(one, dict) else list(one) for one in each]
    return [torch.stack(maps).mean(0) for maps in zip(*held, strict=True) if maps[0] is not None]


@pytest.mark.parametrize("form", ["tuple", "without", "scan"])
def test_deep_lift_shap_of_several_inputs_is_the_mean_over_rows(form: str) -> None:
    network, inputs, rows = tables()
    expected = mean_of_deep_lifts(
        network, inputs, [(rows[0][[row]], rows[1][[row]], None) for row in range(4)]
    )
    background: Any = rows
    if form == "without":
        background = (*rows[:2], None)
    if form == "scan":
        background = explainers.scan(network, "background", [(rows, None)])
        assert list(background["inputs"]) == ["0", "1", "2"]
    found = explainers.get("deep_lift_shap")(network, background=background).explain(inputs, 1)
    of_u, of_v, of_counts = found.relevance
    assert of_counts is None
    torch.testing.assert_close([of_u, of_v], expected, **TOLERANCE)
    assert found.arrays["standard_error.0"].shape == inputs[0].shape
    # counts are the sample's own at every baseline, or the sum would not be the difference
    assert float(found.arrays["convergence_delta"].abs().max()) <= 1e-12


def test_expected_gradients_of_several_inputs_are_those_of_one_that_holds_both() -> None:
    network, inputs, rows = tables()

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = network.module

        def forward(self, x: Tensor) -> Tensor:
            return self.of(x[:, :4], x[:, 4:9], x[:, 9])

    drawn = {"n_samples": 3}
    found = explainers.explain(network, "expected_gradients", inputs, 1, background=rows, **drawn)
    packed = torch.cat([inputs[0], inputs[1], inputs[2][:, None]], 1)
    whole = Network(Joined(), packed)
    # the count is the sample's own, so one background for each
    for row in range(3):
        count = inputs[2][[row]].expand(4)[:, None]
        joined = torch.cat([*rows[:2], count], 1)
        expected = explainers.explain(
            whole, "expected_gradients", packed, 1, background=joined, **drawn
        )
        torch.testing.assert_close(found[0][row], expected[row, :4], **TOLERANCE)
        torch.testing.assert_close(found[1][row], expected[row, 4:9], **TOLERANCE)


@pytest.mark.parametrize("form", ["alone", "dict", "scan"])
def test_tokens_have_tokens_for_a_background(form: str) -> None:
    network, inputs, rows = words()
    (expected,) = mean_of_deep_lifts(
        network, inputs, [{"ids": rows[[row]], "mask": None} for row in range(4)]
    )
    background: Any = {"alone": rows, "dict": {"ids": rows}}.get(form)
    if form == "scan":
        batch = {"ids": rows, "mask": torch.ones(4, 5, dtype=torch.bool)}
        background = explainers.scan(network, "background", [batch])
        assert set(background["inputs"]) == {"ids", "mask"}
    found = explainers.explain(network, "deep_lift_shap", inputs, 1, background=background)
    assert found["mask"] is None
    torch.testing.assert_close(found["ids"], expected, **TOLERANCE)
    others = explainers.get("expected_gradients")(network, background=background, n_samples=400)
    # 400 draws of a path that is nearly straight: five standard errors of a sum of five tokens
    spread = float(others.explain(inputs, 1).arrays["standard_error.ids"].max())
    assert float((others.attribute(inputs, 1)["ids"] - expected).abs().max()) < 25 * spread


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("background", "message"),
    [
        ((torch.zeros(4, 4), torch.zeros(3, 5), None), "differ in their number of rows, '0' "),
        ((torch.zeros(4, 4), torch.zeros(4, 6), None), r"\('n', 6\) for the input '1'"),
        ((torch.zeros(4, 4), torch.zeros(4, 5)), "one baseline for 3 inputs"),
        ((torch.zeros(0, 4), torch.zeros(0, 5), None), "with at least one row"),
        ({"u": torch.zeros(4, 4)}, "the inputs are '0', '1', '2'"),
    ],
)
def test_a_background_that_does_not_fit_is_refused(
    method: str, background: Any, message: str
) -> None:
    network, _, _ = tables()
    with pytest.raises(ValueError, match=message):
        explainers.get(method)(network, background=background)


def test_the_draw_of_several_inputs_is_the_same_whatever_the_shards() -> None:
    network, _, rows = tables()
    scan = explainers.build("background", n_samples=3)
    assert isinstance(scan, explainers.Scan)

    def folded(parts: list[Tensor]) -> dict[str, Any]:
        state = scan.init()
        for index in parts:
            labels = torch.full_like(index, -1)
            trace = Trace(network, tuple(part[index] for part in rows))
            state = scan.merge(state, load(save(scan.fold([(trace, Samples(index, labels))]))))
        return scan.finalise(state)

    whole, cut = folded([torch.arange(4)]), folded([torch.tensor([3, 1]), torch.tensor([0, 2])])
    assert torch.equal(whole["sample"], cut["sample"])
    for name, part in zip(("0", "1", "2"), rows, strict=True):
        assert torch.equal(whole["inputs"][name], cut["inputs"][name])
        assert torch.equal(cut["inputs"][name], part[cut["sample"]])


def test_a_layers_baselines_do_not_mistake_a_number_for_a_tensor() -> None:
    network, inputs, rows = tables()
    trace, target = Trace(network, inputs), explainers.Target.parse(1)
    number = explainers.build("deep_lift", layer="left", baseline=0.5)
    shap = explainers.build("deep_lift_shap", layer="left", background=rows)
    for built in (number, shap, number):
        assert isinstance(built, explainers.Attribution)
        explainers.explaining.explained(built, trace, target)


def test_a_run_of_several_inputs_draws_its_background(tmp_path: Path) -> None:
    from pipeline.run import run as start
    from tests.pipeline.test_forms import everything, of_words

    entries: dict[str, Any] = {"deep_lift_shap": {}, "expected_gradients": {"n_samples": 2}}
    config = of_words(tmp_path, is_alone=False, explainers=entries)
    assert start(config).exit_code == 5  # a sample is too short
    network, inputs, run = everything(config)
    good = [index for index in range(8) if index != 3]
    samples = Samples(torch.tensor(good), torch.zeros(7, dtype=torch.int64))
    trace = Trace(network, inputs, samples=samples, seed=config.seed)
    scan = explainers.build("background")
    assert isinstance(scan, explainers.Scan)
    background = scan.finalise(scan.fold([(trace, samples)]))
    assert set(background["inputs"]) == {"tokens", "numbers", "mask"}
    stored = run.scans["background"]
    assert (stored["inputs"]["tokens"] == background["inputs"]["tokens"].numpy()).all()
    for method in METHODS:
        parameters = {**entries[method], "background": background}
        built = explainers.build(method, **parameters)
        assert isinstance(built, explainers.Attribution)
        target = explainers.Target.parse("predicted")
        expected: Any = explainers.explaining.explained(
            built, trace.named(method), target
        ).relevance
        for part in ("tokens", "numbers"):
            found = torch.as_tensor(run.maps[f"{method}.{part}"].values[good])
            # batches of four against one of seven, in single precision
            torch.testing.assert_close(found, expected[part], rtol=0, atol=1e-5)
