"""Loading tiny pipelines from folders, and each bad input's one line. The hub is played by stand-ins."""

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from pellucid.core.errors import ModelError, OptionError, PellucidError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from safetensors.torch import load_file, save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
TEXT = Path("text_encoder") / "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipelines") / "sd"
    tiny_pipeline("sd").save_pretrained(path)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "sd")


def models(pipe: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def error_of(name: Any, kind: type[PellucidError] = ModelError, **fields: Any) -> str:
    with pytest.raises(kind) as caught:
        load_pipeline(name, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


# What comes back


@pytest.mark.parametrize("family", PIPELINES)
def test_the_same_pipeline_comes_back_ready_and_silent(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tiny_pipeline(family)
    pipe.save_pretrained(tmp_path)
    capsys.readouterr()
    caplog.clear()
    loaded = load_pipeline(tmp_path)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert type(loaded) is type(pipe)
    assert models(loaded).keys() == models(pipe).keys()
    for name, model in models(pipe).items():
        again = models(loaded)[name]
        assert not again.training
        assert not any(parameter.requires_grad for parameter in again.parameters())
        expected = model.state_dict()
        assert again.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    assert loaded.progress_bar(total=1).disable
    prompt = "a dog by monet"
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if hasattr(pipe, part):
            assert getattr(loaded, part)(prompt).input_ids == getattr(pipe, part)(prompt).input_ids


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_float16_files_are_loaded_as_asked(family: str, tmp_path: Path) -> None:
    tiny_pipeline(family).to(torch.float16).save_pretrained(tmp_path)
    weights = next((tmp_path / "text_encoder").glob("*.safetensors"))
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16}
    for dtype in ("float32", "bfloat16"):
        for name, model in models(load_pipeline(tmp_path, dtype=dtype)).items():
            found = {parameter.dtype for parameter in model.parameters()}
            # transformers keeps one of T5's maps in float32, where half precision overflows.
            assert found - {torch.float32} == ({torch.bfloat16} if dtype == "bfloat16" else set()), name


def test_a_variant_is_read_when_asked_for(tmp_path: Path) -> None:
    tiny_pipeline("sd").to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert error_of(tmp_path).endswith("has only weights of a variant: give variant='fp16'")
    loaded = load_pipeline(tmp_path, variant="fp16")
    assert {parameter.dtype for parameter in loaded.unet.parameters()} == {torch.float32}


def test_an_asset_is_found_by_its_scheme(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = SimpleNamespace(name="zoo", load=lambda: lambda name: {"tiny": saved}[name])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [entry])
    assert type(load_pipeline("zoo:tiny")).__name__ == "StableDiffusionPipeline"
    assert PipelineSpec("zoo:tiny").resolved().name == "zoo:tiny"


def test_the_safety_checker_can_be_left_out(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "lacks its safety_checker" in error_of(folder)
    assert load_pipeline(folder, safety_checker=False).safety_checker is None


# What identifies a pipeline


def test_a_folder_is_known_by_its_content_and_not_by_where_it_goes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PipelineSpec(str(folder)).resolved()
    assert str(spec.revision).startswith("sha256:")
    assert spec.resolved() is spec
    assert spec == PipelineSpec(str(folder), device="cuda").resolved()
    monkeypatch.chdir(tmp_path)
    assert PipelineSpec("sd").resolved() == spec
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert PipelineSpec(str(copy)).resolved().revision == spec.revision
    load_pipeline(spec)
    with pytest.raises(OptionError, match="'main' is the hub's"):
        PipelineSpec(str(folder), revision="main").resolved()
    rewrite(folder / UNET, lambda weights: weights["conv_in.bias"].add_(1))
    assert "are not those of revision" in error_of(spec)


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"]
)
def test_configs_and_tokenizers_count(folder: Path, name: str) -> None:
    before = PipelineSpec(str(folder)).resolved().revision
    with (folder / name).open("a") as file:
        file.write(" ")
    assert PipelineSpec(str(folder)).resolved().revision != before


# Bad input


def test_missing_folders_and_indices() -> None:
    assert error_of("./nowhere") == "no such folder: ./nowhere"
    assert "neither a folder that exists nor a hub id" in error_of("no where", OptionError)
    assert "is empty" in error_of("", OptionError)
    assert "'float64' is not one of float32" in error_of("a/b", OptionError, dtype="float64")


def test_a_folder_that_is_no_pipeline(folder: Path, tmp_path: Path) -> None:
    assert "is a file" in error_of(folder / "model_index.json")
    assert "has no model_index.json" in error_of(folder / "unet")
    (folder / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in error_of(folder)
    (folder / "model_index.json").write_text('{"_class_name": ["pipeline", "Mine"]}')
    assert "comes with its own pipeline code" in error_of(folder)
    (folder / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    assert "NoSuchPipeline" in error_of(folder)


@pytest.mark.parametrize("weights", [UNET, TEXT])
def test_pickled_weights_are_refused(folder: Path, weights: Path) -> None:
    torch.save(load_file(folder / weights), (folder / weights).with_suffix(".bin"))
    load_pipeline(folder)
    (folder / weights).unlink()
    message = error_of(folder)
    assert f"the {weights.parent} of {folder} has only pickled weights ({weights.stem}.bin)" in message
    assert "use_safetensors=False" in message


def test_a_missing_component_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    assert "lacks its scheduler" in error_of(folder)


@pytest.mark.parametrize("weights", [UNET, TEXT])
def test_incomplete_or_broken_weights_are_an_error(folder: Path, weights: Path) -> None:
    rewrite(folder / weights, lambda found: found.pop(sorted(found)[-1]))
    assert "incomplete" in error_of(folder)
    (folder / weights).write_bytes(b"nonsense")
    assert "cannot be loaded" in error_of(folder)
    (folder / weights).unlink()
    assert "cannot be loaded" in error_of(folder)


def test_a_device_that_is_not_there(folder: Path) -> None:
    assert "device 'nonsense' cannot be used here" in error_of(folder, OptionError, device="nonsense")


# The hub


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def model_info(name: str, revision: str | None, timeout: float) -> Any:
        assert timeout <= 10
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)


def said_by_hub(kind: type[Exception]) -> Exception:
    return kind("said", response=SimpleNamespace(headers={}, request=None))  # type: ignore[call-arg]


def test_a_hub_pipeline_is_downloaded_at_its_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    asked: list[Any] = []
    hub_answers(monkeypatch, SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename="model_index.json")]))
    monkeypatch.setattr(DiffusionPipeline, "download", lambda name, **kw: asked.append((name, kw)) or str(folder))
    assert type(load_pipeline("owner/model")).__name__ == "StableDiffusionPipeline"
    assert asked == [("owner/model", {"revision": COMMIT, "use_safetensors": True})]
    assert PipelineSpec("owner/model", revision="main").resolved().revision == COMMIT

    def fails(name: str, **_: Any) -> str:
        raise OSError("no safetensors there\nat all")

    monkeypatch.setattr(DiffusionPipeline, "download", fails)
    assert error_of("owner/model") == "owner/model cannot be downloaded: no safetensors there"


def test_what_the_hub_refuses_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_answers(monkeypatch, said_by_hub(errors.GatedRepoError))
    assert "accept it at huggingface.co/owner/model" in error_of("owner/model")
    hub_answers(monkeypatch, said_by_hub(errors.RepositoryNotFoundError))
    assert "the hub has no model" in error_of("owner/model", OptionError)
    hub_answers(monkeypatch, said_by_hub(errors.RevisionNotFoundError))
    assert "has no revision 'x'" in error_of("owner/model", OptionError, revision="x")
    hub_answers(monkeypatch, SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename="config.json")]))
    assert "has no model_index.json" in error_of("owner/model")


def test_without_the_hub_the_cache_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_answers(monkeypatch, ConnectionError("no network"))

    def nothing(*_: Any, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    message = error_of("owner/model")
    assert "the hub was not reached (no network): connect, or give a local folder" in message
    cached = folder.rename(folder.with_name(COMMIT))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(cached))
    assert type(load_pipeline("owner/model")).__name__ == "StableDiffusionPipeline"
    assert PipelineSpec("owner/model").resolved().revision == COMMIT
