import json

import numpy as np
import pytest
import torch
from pellucid.core.edits import WeightEdit, base_output, find_part, solve
from pellucid.core.errors import DataError, ModelError, SiteError
from pellucid.core.testing_pipelines import tiny_pipeline
from safetensors.torch import load_file, save_file
from torch import nn

TEXT_KEYS = (".attn2.to_k", ".attn2.to_v", ".add_k_proj", ".add_v_proj")
CLIP_0 = "encoder.layers.0.self_attn.out_proj"


def model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4, bias=False)).eval().requires_grad_(False)


def edit(part, modules, seed=1, ridge=0.5, n=2):
    """Each module gets one key more than the one before, so that the ranks differ."""
    generator, updates = torch.Generator().manual_seed(seed), []
    for more, name in enumerate(modules):
        linear = find_part(part, name)
        keys = torch.randn(n + more, linear.in_features, generator=generator)
        change = torch.randn(n + more, linear.out_features, generator=generator)
        updates.append(solve(part, name, keys, base_output(part, name, keys) + change, ridge))
    return WeightEdit.of(part, updates)


def rewrite(path, tensors=None, metadata=None):
    """Write an edit's file again with something changed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        old = file.metadata()
    save_file(load_file(path) | (tensors or {}), path, {**old, **(metadata or {})})


def test_a_saved_edit_is_the_same_to_the_bit(tmp_path):
    part = model()
    a = edit(part, ("0", "2"))
    for path in (a.save(tmp_path / "new" / "folder"), a.save(tmp_path / "vg.safetensors")):
        for found in (WeightEdit.load(path), WeightEdit.load(path.parent if path.name == "edit.safetensors" else path)):
            assert all(u.same(v) for u, v in zip(found.updates, a.updates, strict=True))
            assert all(found.base[name].matches(mark) for name, mark in a.base.items())
            assert [(m.shape, m.dtype) for m in found.base.values()] == [((6, 8), "float32"), ((4, 6), "float32")]
    assert (tmp_path / "new" / "folder" / "edit.safetensors").is_file()


def test_files_compose_and_undo_one_by_one(tmp_path):
    part = model()
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    plain = part(x)
    saved = [edit(part, ("0", "2"), seed) for seed in (1, 2, 3)]
    a, b, c = (WeightEdit.load(e.save(tmp_path / str(i))) for i, e in enumerate(saved))
    together = WeightEdit.load((a + b + c).save(tmp_path / "all"))
    with saved[0].applied(part), saved[2].applied(part):
        expected = part(x)
    with (together - b).applied(part):
        torch.testing.assert_close(part(x), expected)
    # A loaded edit takes back what the one in memory applied.
    saved[0].apply(part)
    a.revert(part)
    assert torch.equal(part(x), plain)


def test_a_file_is_refused_by_another_base(tmp_path):
    path = edit(model(), ("0", "2")).save(tmp_path)
    with WeightEdit.load(path).applied(model().half()):
        pass
    with pytest.raises(ModelError, match="made for another base model: here 0 has other weights"):
        WeightEdit.load(path).apply(model(seed=1))
    with pytest.raises(SiteError, match="has no module '2'"):
        WeightEdit.load(path).apply(model()[:1])


def test_strict_keys(tmp_path):
    path = edit(model(), ("0",)).save(tmp_path)
    good = path.read_bytes()

    def refused(match, tensors=None, metadata=None):
        rewrite(path, tensors, metadata)
        with pytest.raises(DataError, match=match) as caught:
            WeightEdit.load(path)
        assert "\n" not in str(caught.value)
        path.write_bytes(good)

    refused("too many, such as 2.keys", {"2.keys": torch.zeros(1, 1)})
    refused("precision", {"0.keys": torch.zeros(2, 8)})
    refused(r"do not fit its weight of shape \(6, 8\)", {"0.keys": torch.zeros(2, 9, dtype=torch.float64)})
    refused("2 residuals", {"0.keys": torch.zeros(3, 8, dtype=torch.float64)})
    refused("not all finite", {"0.keys": torch.full((2, 8), torch.nan, dtype=torch.float64)})
    about = {"ridge": 1.0, "shape": [6, 8], "dtype": "float32"}
    refused("too many, such as 1.base", metadata={"modules": json.dumps({"0": about, "1": about})})
    refused("damaged", metadata={"modules": "{"})
    refused("damaged", metadata={"modules": "[]"})
    refused("damaged", metadata={"modules": json.dumps({"0": {"ridge": 1.0}})})
    refused("unknown precision 'int3'", metadata={"modules": json.dumps({"0": about | {"dtype": "int3"}})})
    refused("above 0", metadata={"modules": json.dumps({"0": about | {"ridge": 0}})})
    refused("version '2', and this release reads '1'", metadata={"pellucid_edit": "2"})
    assert WeightEdit.load(path).updates[0].ridge == 0.5


def test_wrong_files(tmp_path):
    with pytest.raises(DataError, match=r"there is no edit at .*edit\.safetensors"):
        WeightEdit.load(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"not safetensors, but some other file")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        WeightEdit.load(tmp_path / "weights.bin")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="is not an edit of Pellucid's"):
        WeightEdit.load(tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"cannot write .*weights\.bin"):
        edit(model(), ("0",)).save(tmp_path / "weights.bin")


def test_a_plain_model_gets_an_adapter_that_peft_loads(tmp_path):
    from peft import PeftModel

    part = model()
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    a = edit(part, ("0", "2"))
    paths = a.to_lora(part, tmp_path / "lora")
    assert [path.name for path in paths] == ["adapter_config.json", "adapter_model.safetensors"]
    with a.applied(part):
        expected = part(x)
    torch.testing.assert_close(PeftModel.from_pretrained(part, tmp_path / "lora")(x), expected, atol=1e-5, rtol=0)
    # An edit of what PEFT wrapped goes on top of the adapter, and comes off again.
    with edit(part, ("0",), seed=5).applied(part):
        assert (part(x) - expected).abs().max() > 0.05
    torch.testing.assert_close(part(x), expected, atol=1e-5, rtol=0)


def test_one_rank_for_all_modules_and_no_alpha(tmp_path):
    part = model()
    a = edit(part, ("0", "2"))
    assert [u.down.shape[0] for u in a.updates] == [2, 3]
    tensors = load_file(a.to_lora(part, tmp_path)[1])
    assert {key.rpartition(".lora_")[2]: value.shape[0 if "_A" in key else 1] for key, value in tensors.items()} == {
        "A.weight": 3,
        "B.weight": 3,
    }
    assert len(tensors) == 4
    for update in a.updates:
        up, down = (tensors[f"base_model.model.{update.module}.lora_{side}.weight"] for side in "BA")
        torch.testing.assert_close((up @ down).double(), update.up @ update.down, atol=1e-6, rtol=1e-6)


def picture(pipe, family):
    """Pixels from 0 to 1, with little guidance: it enlarges float32's rounding along with all else."""
    options = {"pixart": {"use_resolution_binning": False, "clean_caption": False}, "if": {"clean_caption": False}}
    found = pipe(
        "a dog in the style of van gogh",
        num_inference_steps=2,
        guidance_scale=2.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
        **options.get(family, {}),
    )
    return np.asarray(found.images)


def calm(family):
    """A tiny pipeline with the denoiser's weights made smaller: as drawn, it makes 3e-5 of a rounding in float32."""
    pipe = tiny_pipeline(family)
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    for parameter in denoiser.parameters():
        if parameter.ndim > 1:
            parameter.mul_(0.6)
    return pipe


def text_reading(pipe, component, number):
    names = [name for name, _ in getattr(pipe, component).named_modules() if f".{name}".endswith(TEXT_KEYS)]
    assert len(names) >= number
    return tuple(f"{component}.{name}" for name in names[:number])


def encoders(family):
    """Modules of the text encoders that the family's `load_lora_weights` reaches."""
    inner = f"text_model.{CLIP_0}"
    return {
        "sd": (f"text_encoder.{CLIP_0}", "text_encoder.encoder.layers.1.mlp.fc1"),
        "sd2": (f"text_encoder.{CLIP_0}",),
        "sdxl": (f"text_encoder.{CLIP_0}", f"text_encoder_2.{inner}"),
        "if": (),
        "sd3": (f"text_encoder.{inner}", f"text_encoder_2.{inner}"),
        "flux": (f"text_encoder.{CLIP_0}",),
    }[family]


@pytest.mark.parametrize("family", ["sd", "sd2", "sdxl", "if", "sd3", "flux"])
def test_load_lora_weights_gives_the_same_pictures(family, tmp_path):
    pipe = calm(family)
    denoiser = "unet" if hasattr(pipe, "unet") else "transformer"
    a = edit(pipe, (*text_reading(pipe, denoiser, 3), *encoders(family)))
    plain = picture(pipe, family)
    paths = a.to_lora(pipe, tmp_path)
    assert [path.name for path in paths] == ["pytorch_lora_weights.safetensors"]
    with a.applied(pipe):
        edited = picture(pipe, family)
    assert np.array_equal(picture(pipe, family), plain)
    with WeightEdit.load(a.save(tmp_path / "edit")).applied(pipe):
        assert np.array_equal(picture(pipe, family), edited)
    pipe.load_lora_weights(str(tmp_path))
    assert np.abs(picture(pipe, family) - edited).max() < 1e-5
    assert np.abs(edited - plain).max() > 0.01


@pytest.mark.parametrize("module", [CLIP_0, "encoder.layers.0.mlp.fc1", "encoder.layers.2.mlp.fc2"])
def test_an_edit_of_the_text_encoder_alone(module, tmp_path):
    pipe = calm("sd")
    a = edit(pipe, (f"text_encoder.{module}",))
    (path,) = a.to_lora(pipe, tmp_path)
    assert all(key.startswith(f"text_encoder.text_model.{module}.lora_") for key in load_file(path))
    plain = picture(pipe, "sd")
    with a.applied(pipe):
        edited = picture(pipe, "sd")
    pipe.load_lora_weights(str(path))
    assert np.abs(picture(pipe, "sd") - edited).max() < 1e-5
    assert np.abs(edited - plain).max() > 0.01


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # which PEFT 0.21 asks transformers
@pytest.mark.parametrize("family", ["pixart", "if"])
def test_what_the_pipeline_cannot_load_becomes_peft_adapters(family, tmp_path):
    from peft import PeftModel

    pipe = calm(family)
    denoiser = "transformer" if family == "pixart" else "unet"
    last = "text_encoder.encoder.block.2.layer.1.DenseReluDense.wo"
    a = edit(pipe, (*text_reading(pipe, denoiser, 2), last))
    paths = {str(path.relative_to(tmp_path)) for path in a.to_lora(pipe, tmp_path)}
    ours = {"text_encoder"} | ({"transformer"} if family == "pixart" else set())
    expected = {f"{name}/{file}" for name in ours for file in ("adapter_config.json", "adapter_model.safetensors")}
    assert paths == expected | ({"pytorch_lora_weights.safetensors"} if family == "if" else set())
    plain = picture(pipe, family)
    with a.applied(pipe):
        edited = picture(pipe, family)
    assert np.abs(edited - plain).max() > 0.01
    if family == "if":
        pipe.load_lora_weights(str(tmp_path))
    for name in ours:
        PeftModel.from_pretrained(getattr(pipe, name), tmp_path / name)
    assert np.abs(picture(pipe, family) - edited).max() < 1e-5


def test_to_lora_of_another_model(tmp_path):
    a = edit(model(), ("0", "2"))
    with pytest.raises(SiteError, match="has no module '2'"):
        a.to_lora(model()[:1], tmp_path)
    assert not any(tmp_path.iterdir())
