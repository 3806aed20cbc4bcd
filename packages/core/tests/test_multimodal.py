import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.loading import load
from pellucid.core.multimodal import load_multimodal
from pellucid.core.testing import tiny_decoder
from pellucid.core.testing_multimodal import tiny_multimodal


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    model, processor = tiny_multimodal("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def copy_of(saved: Path, folder: Path, without: str = "") -> Path:
    for file in saved.iterdir():
        if file.name != without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_model_comes_back_as_it_was_saved(saved: Path) -> None:
    model, _ = tiny_multimodal("llava")
    loaded = load_multimodal(saved)
    for (name, before), (other, after) in zip(model.named_parameters(), loaded.model.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(before, after)
        assert not after.requires_grad
    assert not loaded.model.training
    processor: Any = loaded.processor
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token is not None


def test_dtype_and_revision_are_those_of_load(saved: Path) -> None:
    assert load_multimodal(saved, dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="are not those of revision"):
        load_multimodal(saved, revision="sha256:" + "0" * 64)
    with pytest.raises(OptionError, match="dtype"):
        load_multimodal(saved, dtype="float8")


def test_a_language_model_alone_is_refused_before_its_weights_are_read(saved: Path, tmp_path: Path) -> None:
    tiny_decoder("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"\(llama\) is no multimodal language model") as raised:
        load_multimodal(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_model_without_its_processor(saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path, "processor_config.json")
    with pytest.raises(ModelError, match="processor") as raised:
        load_multimodal(folder)
    assert "\n" not in str(raised.value)


def test_a_config_that_cannot_be_read(saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="has no config that can be read"):
        load_multimodal(folder)


def test_incomplete_weights(saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="are incomplete"):
        load_multimodal(folder)


def test_a_multimodal_folder_is_no_causal_language_model(saved: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(saved)
