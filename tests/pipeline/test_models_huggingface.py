"""Checkpoints that the library itself wrote, compared with what the library makes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

import explainers
from pipeline.config import ModelConfig
from pipeline.errors import PlanError
from pipeline.models import code_files, find, load_model
from pipeline.store import open_run
from tests.pipeline.tiny_run import run_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
}


def image_model(**changes: Any) -> PreTrainedModel:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    model = ViTForImageClassification(ViTConfig(**SMALL, **sizes, **changes)).eval()
    # as if trained: an untrained head has no bias
    torch.nn.init.constant_(model.classifier.bias, 0.5)
    return model


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "vit"
    image_model().save_pretrained(folder)
    return folder


def config(name: Any, **params: Any) -> ModelConfig:
    return ModelConfig(source="huggingface", name=str(name), params=params)


def test_a_checkpoint_computes_what_it_did_when_it_was_saved(
    vit: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    model = load_model(config("vit"), vit.parent)
    # no bar of "Loading weights"
    assert "Loading" not in "".join(capfd.readouterr())
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(images).logits, image_model()(images).logits)
    assert not model.training


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_read_as_such_however_it_is_written(vit: Path, attention: str) -> None:
    model = load_model(config("vit", attn_implementation=attention), vit.parent)
    images = torch.rand(2, 1, 8, 8)
    network = explainers.Network(model, images)
    assert network.is_program
    relevance = explainers.explain(network, "lrp", images, target=1, composite="epsilon_plus")
    assert float(relevance.abs().sum()) > 0
    wanted = images.clone().requires_grad_()
    model(wanted).logits[:, 1].sum().backward()
    found = explainers.explain(network, "gradient", images, target=1)
    # float32: the program computes attention in another order
    torch.testing.assert_close(found, wanted.grad, rtol=1e-4, atol=1e-6)


def test_a_run_explains_an_image_classifier(tmp_path: Path, vit: Path) -> None:
    summary = run_tiny(
        tmp_path,
        model={"source": "huggingface", "name": str(vit)},
        data={"source": "python", "function": "tiny.py:images", "params": {"n": 8}},
        explainers={"lrp": {"composite": "epsilon_plus"}},
    )
    assert summary.exit_code == 0
    run = open_run(summary.path)
    assert bool(run.maps["lrp"].notnull().all())
    assert not any("random" in note for note in run.plan.notes)


def test_text_classifiers_take_tokens_and_a_mask(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    saved = BertForSequenceClassification(
        BertConfig(vocab_size=50, max_position_embeddings=32, **SMALL)
    ).eval()
    saved.save_pretrained(tmp_path / "bert")
    model = load_model(config("bert"), tmp_path)
    tokens = torch.randint(1, 50, (2, 7))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    relevance = explainers.explain(model, "lrp", inputs, target=1)
    assert isinstance(relevance, dict)
    found = relevance["input_ids"]
    assert found is not None
    assert found.shape == (2, 7)
    assert relevance["attention_mask"] is None
    torch.testing.assert_close(model(**inputs).logits, saved(**inputs).logits)


def test_a_body_without_a_head_is_refused_instead_of_getting_a_random_one(tmp_path: Path) -> None:
    image_model().vit.save_pretrained(tmp_path / "body")
    with pytest.raises(PlanError, match=r"2 weights are missing.*classifier"):
        load_model(config("body", task="image"), tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path, vit: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((vit / "config.json").read_bytes())
    torch.save(image_model().state_dict(), tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(PlanError, match="cannot read the checkpoint") as caught:
        load_model(config("old"), tmp_path)
    assert "safetensors" in caught.value.fix


def test_code_of_a_checkpoint_is_not_run(vit: Path) -> None:
    with pytest.raises(PlanError, match="trust_remote_code"):
        load_model(config("vit", trust_remote_code=True), vit.parent)


def test_nothing_is_downloaded_unasked(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no checkpoint 'nobody/nothing'") as caught:
        load_model(config("nobody/nothing"), tmp_path)
    assert "local_files_only: false" in caught.value.fix


def test_what_does_not_classify_is_refused(tmp_path: Path, vit: Path) -> None:
    described = json.loads((vit / "config.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(
        json.dumps({**described, "architectures": ["ViTForMaskedImageModeling"]})
    )
    with pytest.raises(PlanError, match="it holds ViTForMaskedImageModeling"):
        load_model(config("other"), tmp_path)
    with pytest.raises(PlanError, match="got task 'sound'"):
        load_model(config("vit", task="sound"), vit.parent)


def test_an_architecture_can_be_had_without_its_weights(vit: Path) -> None:
    asked = config("vit", pretrained=False)
    model = load_model(asked, vit.parent)
    again = load_model(asked, vit.parent)
    assert not bool(model.classifier.bias.any())
    torch.testing.assert_close(model.classifier.weight, again.classifier.weight)
    assert find(asked).is_random(asked)


def test_the_configuration_counts_as_code_and_the_processor_is_told(vit: Path) -> None:
    asked = config("vit")
    assert code_files(asked, vit.parent) == (vit / "config.json",)
    assert find(asked).notes(asked, vit.parent) == ()
    (vit / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.25]})
    )
    (note,) = find(asked).notes(asked, vit.parent)
    assert note.endswith('size {"height": 8, "width": 8}, mean [0.5], std [0.25]')
