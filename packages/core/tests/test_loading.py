"""Loading tiny random models from folders, and each bad input's one line."""

import importlib.metadata
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pellucid.core.errors import ModelError, OptionError, PellucidError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.quiet import import_bitsandbytes
from pellucid.core.testing import tiny_decoder
from safetensors.torch import load_file, save_file

TEXT = "the capital of france is paris"


needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `quantize` is not installed"
)


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *TEXT.split()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )
    fast.save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    tiny_decoder("llama").save_pretrained(path)
    save_tokenizer(path)
    return path


def error_of(name: Any, kind: type[PellucidError] = ModelError, **fields: Any) -> str:
    with pytest.raises(kind) as caught:
        load(name, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# What comes back


def test_the_same_model_comes_back_ready_to_be_looked_into(folder: Path) -> None:
    loaded = load(folder)
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    assert ids.shape == (1, 6)
    torch.testing.assert_close(loaded.model(ids).logits, tiny_decoder("llama")(ids).logits, rtol=0, atol=0)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "</s>"
    assert loaded.spec == ModelSpec(str(folder))


def test_a_pad_token_of_its_own_is_kept(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "<unk>"
    tokenizer.save_pretrained(folder)
    assert load(folder).tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize(
    ("saved", "asked", "expected"),
    [
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.float32, "float16", torch.float16),
        (torch.bfloat16, "float32", torch.float32),
        (torch.bfloat16, "auto", torch.bfloat16),
    ],
)
def test_dtype(folder: Path, saved: torch.dtype, asked: str, expected: torch.dtype) -> None:
    tiny_decoder("llama").to(saved).save_pretrained(folder)
    assert {parameter.dtype for parameter in load(folder, dtype=asked).model.parameters()} == {expected}


def test_fields_go_over_those_of_a_spec(folder: Path) -> None:
    spec = ModelSpec(str(folder), dtype="bfloat16")
    assert load(spec).model.dtype == torch.bfloat16
    assert load(spec, dtype="float32").model.dtype == torch.float32


def test_a_load_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    load(folder)
    load(folder, max_memory={"cpu": "20KB"})
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_transformers_bars_are_back_after_a_load(folder: Path) -> None:
    from transformers.utils import logging as chatter

    assert chatter.is_progress_bar_enabled()
    load(folder)
    assert chatter.is_progress_bar_enabled()


def test_weights_with_no_place_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(folder, lambda weights: weights.update({"extra.weight": torch.zeros(2)}))
    load(folder)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "extra.weight" in caplog.text


# Placement


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_disk_offload_gives_the_logits_of_memory(folder: Path, dtype: str) -> None:
    whole, parts = load(folder, dtype=dtype), load(folder, dtype=dtype, max_memory={"cpu": "20KB"})
    assert "disk" in parts.model.hf_device_map.values()
    assert any(parameter.is_meta for parameter in parts.model.parameters())
    ids = whole.tokenizer(TEXT, return_tensors="pt").input_ids
    torch.testing.assert_close(parts.model(ids).logits, whole.model(ids).logits, rtol=0, atol=1e-5)


def test_an_explicit_map_is_followed(folder: Path) -> None:
    here = ("model.embed_tokens", "model.layers.0", "model.layers.2", "model.norm", "model.rotary_emb", "lm_head")
    parts = load(folder, device_map={"model.layers.1": "disk"} | dict.fromkeys(here, "cpu"))
    away = {name for name, parameter in parts.model.named_parameters() if parameter.is_meta}
    assert away
    assert all(name.startswith("model.layers.1.") for name in away)


@needs_bitsandbytes
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_quantized_on_the_processor(folder: Path, quantize: Any, caplog: pytest.LogCaptureFixture) -> None:
    bitsandbytes = import_bitsandbytes()
    loaded = load(folder, quantize=quantize)
    layer = loaded.model.model.layers[0].mlp.up_proj
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    logits = loaded.model(ids).logits
    assert logits.isfinite().all()
    assert caplog.records == []
    if quantize == "int8":
        assert isinstance(layer, bitsandbytes.nn.Linear8bitLt)
        return
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    assert layer.weight.quant_state.quant_type == "nf4"
    # The slow twin: the same layer with its weights written out, read after the forward pass above.
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    before = load(folder).model.model.layers[0].mlp.up_proj.weight
    assert (weight - before).norm() < 0.3 * before.norm()
    x = torch.randn(3, layer.in_features, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, x @ weight.T, rtol=0, atol=1e-5)
    y.sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, -1), rtol=0, atol=1e-5)


@needs_bitsandbytes
def test_four_bits_do_not_spill(folder: Path) -> None:
    assert "bitsandbytes #1411" in error_of(folder, quantize="nf4", max_memory={"cpu": "5KB"})


def test_missing_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "pip install pellucid-core[quantize]" in error_of(folder, quantize="nf4")


def test_bad_placements(folder: Path) -> None:
    assert "cpux" in error_of(folder, OptionError, device="cpux")
    assert "lots" in error_of(folder, OptionError, max_memory={"cpu": "lots"})
    assert "leave it out" in error_of(folder, OptionError, device="cpu", device_map="auto")
    assert "autox" in error_of(folder, device_map="autox")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_device_that_is_not_here(folder: Path) -> None:
    assert "'cuda:3' cannot be used here" in error_of(folder, OptionError, device="cuda:3")


@needs_bitsandbytes
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_on_a_gpu(folder: Path, quantize: Any) -> None:
    model = load(folder, device="cuda", quantize=quantize).model
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert model(torch.arange(6, device="cuda")[None]).logits.isfinite().all()


# Bad specs and folders


def test_bad_fields() -> None:
    assert "bf16" in error_of("x", OptionError, dtype="bf16")
    assert "int4" in error_of("x", OptionError, quantize="int4")
    assert "empty" in error_of("", OptionError)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/no-such-folder-here", "../nowhere"])
def test_no_such_folder_is_not_looked_up_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.core.loading.find_on_hub", lambda *_: pytest.fail("asked the hub"))
    assert error_of(name) == f"no such folder: {name}"
    assert "neither a folder" in error_of("a/b/c", OptionError)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    assert "is a file" in error_of(file)


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in error_of(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors" in error_of(folder)


def test_pickled_weights_are_refused_and_the_way_out_works(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (folder / "model.safetensors").unlink()
    torch.save(tiny_decoder("llama").state_dict(), folder / "pytorch_model.bin")
    message = error_of(folder)
    assert "pytorch_model.bin" in message
    assert "can run any code" in message
    command = message.split("once: ")[1].replace("FOLDER", repr(str(tmp_path / "converted")))
    eval(command, {"AutoModelForCausalLM": AutoModelForCausalLM})
    save_tokenizer(tmp_path / "converted")
    assert load(tmp_path / "converted").model.config.num_hidden_layers == 3


def test_a_lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_decoder("llama").save_pretrained(folder, max_shard_size="20KB")
    load(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    assert "lacks 1 of" in error_of(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "cannot be read" in error_of(folder)


def test_missing_weights_are_an_error(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    assert "1 are missing, such as model.layers.1.mlp.up_proj.weight" in error_of(folder)
    assert caplog.records == []


def test_weights_of_another_shape_are_an_error(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"model.norm.weight": torch.zeros(7)}))
    message = error_of(folder)
    assert "model.norm.weight: (7,) instead of (32,)" in message


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be loaded" in error_of(folder)


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "cannot be loaded" in error_of(folder)


def test_an_architecture_that_nobody_knows(folder: Path) -> None:
    rewrite_config(folder, model_type="nosuch", architectures=["NoSuchForCausalLM"])
    assert "nosuch" in error_of(folder)


def test_a_model_that_is_no_language_model(folder: Path) -> None:
    rewrite_config(folder, model_type="vit", architectures=["ViTModel"])
    assert "cannot be loaded" in error_of(folder)


def test_code_of_a_model_is_not_run_unasked(folder: Path, tmp_path: Path) -> None:
    sign = tmp_path / "it-ran"
    (folder / "own.py").write_text(
        f"open({str(sign)!r}, 'w').close()\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
        "class OwnConfig(C):\n    model_type = 'own'\nclass Own(M):\n    config_class = OwnConfig\n"
    )
    rewrite_config(
        folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    )
    assert "trust_remote_code=True" in error_of(folder)
    assert not sign.exists()


def test_a_folder_without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer" in error_of(folder)


# Assets


def test_an_asset_is_resolved_through_its_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "stable"

        def load(self) -> Any:
            return lambda rest: folder.parent / rest

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [Entry()] if group == "pellucid.assets" else []
    )
    assert load("stable:model").spec.name == "stable:model"
    assert "no config.json" in error_of("stable:.")
    assert error_of("zoo:smollm2", OptionError).endswith("pip install pellucid-zoo")
    assert "known: stable:" in error_of("other:x", OptionError)


def test_an_asset_whose_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "broken"

        def load(self) -> Any:
            raise ImportError("no module named it")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    assert "no module named it" in error_of("broken:x")
