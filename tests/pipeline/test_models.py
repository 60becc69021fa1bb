from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline import user_code
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError, PlanError
from pipeline.models import code_digest, code_files, load_model, weights_digest

if TYPE_CHECKING:
    from pathlib import Path

NET = """
from torch import nn
import beside

class Net(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, n_classes)

    def forward(self, inputs):
        return self.head(self.norm(inputs))

def load(n_classes=3):
    return Net(n_classes)

def fails():
    raise RuntimeError("no such thing")

def number():
    return 3
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "beside.py").write_text("value = 1\n")
    return tmp_path


def python(name: str = "net.py:load", **fields: Any) -> ModelConfig:
    return ModelConfig(source="python", name=name, **fields)


def weights(base: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    state = load_model(python(), base).state_dict()
    return {
        name: torch.rand(value.shape, generator=generator).to(value.dtype)
        for name, value in state.items()
    }


def refused(config: ModelConfig, base: Path) -> str:
    with pytest.raises(PlanError) as caught:
        load_model(config, base)
    assert caught.value.fix
    return str(caught.value)


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_python_model_is_built_in_eval_mode(base: Path) -> None:
    model = load_model(python(params={"n_classes": 5}), base)
    assert not model.training
    assert model(torch.zeros(2, 4)).shape == (2, 5)


def test_the_folder_of_a_file_is_on_the_path_only_during_its_import(base: Path) -> None:
    before = list(sys.path)
    load_model(python(), base)
    assert sys.path == before
    assert "net" not in sys.modules


def test_files_of_the_same_name_do_not_meet(base: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "net.py").write_text("def load():\n    return None\n")
    assert user_code.find("net.py:load", base) is not user_code.find("other/net.py:load", base)


def test_modules_beside_a_file_are_those_of_its_own_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text("from beside import load\n")
        (tmp_path / folder / "beside.py").write_text(f"def load():\n    return {folder!r}\n")
    assert [user_code.find(f"{folder}/net.py:load", tmp_path)() for folder in ("one", "two")] == [
        "one",
        "two",
    ]


def test_an_edited_file_is_imported_again(base: Path) -> None:
    first = user_code.find("net.py:load", base)
    assert user_code.find("net.py:load", base) is first
    (base / "net.py").write_text(NET + "\n# edited\n")
    assert user_code.find("net.py:load", base) is not first


def test_a_function_of_a_package_is_found(base: Path) -> None:
    model = load_model(
        python("torch.nn:Linear", params={"in_features": 2, "out_features": 3}), base
    )
    assert isinstance(model, nn.Linear)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded_and_the_digest_is_theirs(base: Path, suffix: str) -> None:
    state = weights(base)
    path = base / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    model = load_model(python(weights=path.name), base)
    assert torch.equal(model.state_dict()["head.weight"], state["head.weight"])
    direct = load_model(python(), base)
    assert weights_digest(direct) != weights_digest(model)
    direct.load_state_dict(state)
    assert weights_digest(direct) == weights_digest(model)


def test_a_wrapped_state_dict_is_unwrapped(base: Path) -> None:
    torch.save({"state_dict": weights(base), "epoch": 3}, base / "net.pt")
    load_model(python(weights="net.pt"), base)


def test_a_model_without_weights_is_the_same_every_time(base: Path) -> None:
    before = torch.random.get_rng_state()
    digests = {weights_digest(load_model(python(), base)) for _ in range(2)}
    assert len(digests) == 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_digest_sees_every_value_and_name() -> None:
    model = nn.Linear(3, 2)
    before = weights_digest(model)
    with torch.no_grad():
        model.bias[1] += 1e-7
    assert weights_digest(model) != before


def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not(base: Path) -> None:
    torch.save({"head.weight": Payload(base / "executed")}, base / "evil.pt")
    said = refused(python(weights="evil.pt"), base)
    assert "a pickle that wants to run code" in said
    assert "safetensors" in said
    assert not (base / "executed").exists()


def test_a_pickled_model_is_refused(base: Path) -> None:
    torch.save(nn.Linear(2, 2), base / "whole.pt")
    assert "a pickle that wants to run code" in refused(python(weights="whole.pt"), base)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_broken_file_is_refused(base: Path, suffix: str) -> None:
    (base / f"broken{suffix}").write_bytes(b"not weights at all")
    assert "broken" in refused(python(weights=f"broken{suffix}"), base)


def test_a_missing_file_and_an_unknown_format_are_refused(base: Path) -> None:
    assert "there are no weights at" in refused(python(weights="none.pt"), base)
    assert "expected .safetensors" in refused(python(weights="net.py"), base)


def test_wrong_weights_are_refused_with_what_is_missing_unexpected_and_misshapen(
    base: Path,
) -> None:
    state = weights(base)
    state["tail.weight"] = state.pop("norm.weight")
    state["head.weight"] = torch.zeros(7, 4)
    save_file(state, base / "wrong.safetensors")
    said = refused(python(weights="wrong.safetensors"), base)
    assert "1 missing: norm.weight" in said
    assert "1 unexpected: tail.weight" in said
    assert "1 of another shape: head.weight (got (7, 4), expected (3, 4))" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_with_their_names(base: Path, value: float) -> None:
    state = weights(base)
    state["head.weight"][1, :2] = value
    state["norm.bias"][:] = value
    save_file(state, base / "diverged.safetensors")
    said = refused(python(weights="diverged.safetensors"), base)
    assert said.startswith("model.weights: the weights contain NaN or infinity, 6 values in ")
    assert "2 of the tensors: norm.bias, head.weight" in said


def test_a_network_that_its_function_gives_with_nan_is_refused(base: Path) -> None:
    code = (
        NET + "\n\ndef diverged():\n    net = Net(3)\n    net.norm.running_var.fill_(float('nan'))"
    )
    (base / "net.py").write_text(code + "\n    return net\n")
    said = refused(python("net.py:diverged"), base)
    assert said.startswith("model.name: the weights contain NaN or infinity, 4 values in 1 of ")


def test_buffers_may_hold_infinity_and_lazy_weights_nothing(base: Path) -> None:
    code = """
import torch
from torch import nn

def load():
    net = nn.Sequential(nn.LazyLinear(3))
    net.register_buffer("mask", torch.full((2, 2), float("-inf")))
    return net
"""
    (base / "masked.py").write_text(code)
    assert load_model(python("masked.py:load"), base)(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.py:lod", "did you mean 'load'"),
        ("none.py:load", "cannot read the python file"),
        ("no_such_package.module:load", "cannot import"),
        ("net.py", "expected 'file.py:function'"),
        ("net.py:fails", "RuntimeError: no such thing"),
        ("net.py:number", "gave int, expected a torch.nn.Module"),
        ("broken.py:load", "importing"),
    ],
)
def test_what_cannot_be_built_is_refused(base: Path, name: str, message: str) -> None:
    (base / "broken.py").write_text("import not_there_at_all\n")
    said = refused(python(name), base)
    assert message in said
    assert said.startswith("model.name: ")


def test_parameters_that_the_function_does_not_take_are_refused(base: Path) -> None:
    assert "unexpected keyword argument 'n'" in refused(python(params={"n": 3}), base)


def test_torchvision_builds_by_name(tmp_path: Path) -> None:
    config = ModelConfig(source="torchvision", name="squeezenet1_1", params={"num_classes": 4})
    model = load_model(config, tmp_path)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_an_unknown_architecture_is_refused_with_the_nearest(source: str, tmp_path: Path) -> None:
    if source == "timm":
        pytest.importorskip("timm")
    config = ModelConfig(source=source, name="resnet188")  # type: ignore[arg-type]
    said = refused(config, tmp_path)
    assert "has no model 'resnet188'" in said
    assert "'resnet18'" in said


def test_timm_builds_by_name(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    config = ModelConfig(source="timm", name="test_vit", params={"num_classes": 4})
    assert load_model(config, tmp_path)(torch.zeros(1, 3, 160, 160)).shape == (1, 4)


def test_without_timm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = refused(ModelConfig(source="timm", name="resnet18"), tmp_path)
    assert "xpipe-xai[timm]" in said


def test_the_code_digest_follows_the_users_file(base: Path) -> None:
    files = code_files(python(), base)
    assert files == (base / "net.py",)
    before = code_digest(files)
    (base / "net.py").write_text(NET + "# edited\n")
    assert code_digest(files) != before
    assert code_files(python("torch.nn:Linear"), base) == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused_with_advice(tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(4, 3), torch.zeros(2, 4))
    torch.jit.save(traced, tmp_path / "scripted.pt")
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nimport torch\n\n\n"
        "def load():\n    return torch.jit.load(Path(__file__).parent / 'scripted.pt')\n\n\n"
        "def plain():\n    return torch.nn.Linear(4, 3)\n"
    )
    asked = ModelConfig(source="python", name="own.py:load")
    with pytest.raises(PlanError, match="TorchScript program") as caught:
        load_model(asked, tmp_path)
    assert "load_state_dict" in caught.value.fix
    asked = ModelConfig(source="python", name="own.py:plain", weights="scripted.pt")
    with pytest.raises(PlanError, match="TorchScript archive") as caught:
        load_model(asked, tmp_path)
    assert "state_dict()" in caught.value.fix


def test_an_unknown_source_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'torchvision'"):
        load_model(ModelConfig(source="torchvison", name="resnet18"), tmp_path)
