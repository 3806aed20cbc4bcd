"""`pellucid t2i`, end to end on a tiny random pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pellucid.core.cli import main
from pellucid.core.edits import WeightEdit
from pellucid.core.testing_pipelines import clip_tokenizer, tiny_pipeline
from pellucid.t2i_edit.probes import Probe, write_probes
from PIL import Image

FAST = ["--steps", "2", "--guidance", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("sd").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The scorer: a tiny random CLIP."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder, tokenizer = tmp_path_factory.mktemp("clip"), clip_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(
            text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=8
        )
        CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"clip:{folder}"


def _run(*words: str) -> Any:
    assert main(["t2i", *words]) == 0


def _result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))["results"]
    return found


@pytest.mark.parametrize("where", ["unet", "text"])
def test_trace_gives_each_state_an_effect_and_resumes(
    where: str, model: str, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = [Probe(f"a {thing} by monet", "monet", "style") for thing in ("dog", "cat", "house")]
    write_probes(tmp_path / "probes.jsonl", probes)
    words = ["--model", model, "--scorer", clip, "--attribute", "style", "--probes", str(tmp_path / "probes.jsonl")]
    out = tmp_path / "out"
    _run("trace", *words, "--where", where, "-n", "2", "--seeds", "2", "--out", str(out), *FAST)
    found = _result(out)
    assert found["probes"] == 2
    assert len(found["layers"]) > 3
    for layer in found["layers"]:
        assert layer["effect"]["value"] == pytest.approx(layer["score"]["value"] - found["corrupted"]["value"])
        assert layer["effect"]["low"] <= layer["effect"]["value"] <= layer["effect"]["high"]
    segments = {path: path.stat().st_mtime_ns for path in out.glob("ledger/segments/*")}
    assert len(segments) == 4
    _run("trace", *words, "--where", where, "-n", "2", "--seeds", "2", "--out", str(out), *FAST)
    assert {path: path.stat().st_mtime_ns for path in out.glob("ledger/segments/*")} == segments
    assert _result(out) == found
    assert {path.name for path in out.glob("figures/*.png")} == {"effects.png", "pictures.png"}
    assert "Of " in capsys.readouterr().out


def test_locate_feeds_edit_which_feeds_generate_and_evaluate(model: str, clip: str, tmp_path: Path) -> None:
    common = ["--model", model, *FAST]
    _run(
        "locate", *common, "--scorer", clip, "--concept", "monet", "--threshold", "-2", "--largest", "2", "-n", "4",
        "--out", str(tmp_path / "where"),
    )  # fmt: skip
    found = _result(tmp_path / "where")
    assert found["located"]["m"] == 2  # no score is below -2: the largest size, not reached
    assert not found["located"]["reached"]
    assert [at["m"] for at in found["each"].values()] == [2, 2]
    start = found["located"]["start"]
    assert found["layers"] == [start, start + 1]
    assert found["prompts"] == [2, 2]
    _run(
        "edit", *common, "--erase", "monet", "--located", str(tmp_path / "where"), "-n", "4",
        "--out", str(tmp_path / "edit"),
    )  # fmt: skip
    made = _result(tmp_path / "edit")
    assert len(made["modules"]) == 4
    assert made["ranks"] == [4] * 4
    file = str(tmp_path / "edit" / "edit.safetensors")
    assert len(WeightEdit.load(file).updates) == 4
    assert (tmp_path / "edit/lora/pytorch_lora_weights.safetensors").is_file()
    for folder, more in (("plain", []), ("edited", ["--edit", file])):
        _run(
            "generate",
            *common,
            "--prompt",
            "a dog by monet",
            "--prompt",
            "a cat",
            *more,
            "--out",
            str(tmp_path / folder),
        )
    pictures = [np.asarray(Image.open(tmp_path / folder / "0000.png")) for folder in ("plain", "edited")]
    assert (pictures[0] != pictures[1]).any()
    assert (tmp_path / "plain/captions.csv").read_text().splitlines() == [
        "file,caption",
        "0000.png,a dog by monet",
        "0001.png,a cat",
    ]
    _run(
        "evaluate", *common, "--scorer", clip, "--concept", "monet", "--edit", file, "--surrounding", "van gogh",
        "-n", "3", "--out", str(tmp_path / "judged"),
    )  # fmt: skip
    (changes,) = _result(tmp_path / "judged").values()
    assert [change["group"] for change in changes] == ["edited", "surrounding: van gogh"]
    for change in changes:
        assert change["difference"]["value"] == pytest.approx(change["after"]["value"] - change["before"]["value"])


@pytest.mark.parametrize("method", ["quickfix", "all-layers"])
def test_facts_are_changed_by_every_method(method: str, model: str, tmp_path: Path) -> None:
    words = ["--erase", "the king", "--kind", "fact", "--to", "the queen", "--method", method, "-n", "3"]
    _run("edit", "--model", model, *words, "--out", str(tmp_path), *FAST)
    assert _result(tmp_path)["concepts"] == ["the king"]


def test_neurons_reports_each_count(model: str, clip: str, tmp_path: Path) -> None:
    words = ["--concept", "monet", "--layers", "0,1", "--counts", "2,4", "-n", "6"]
    _run("neurons", "--model", model, "--scorer", clip, *words, "--out", str(tmp_path), *FAST)
    found = _result(tmp_path)
    assert list(found["scores"]) == ["as it is", "2 dropped", "4 dropped", "target"]
    assert all(len(channels) == 4 for channels in found["neurons"].values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edit", "--erase", "monet"], "locoedit needs layers"),
        (["edit", "--erase", "monet", "--layers", "1,x"], "whole numbers"),
        (["edit", "--erase", "monet", "--method", "magic"], "there is no method 'magic'"),
        (["edit", "--erase", "monet", "--layers", "99"], "no cross-attention layer 99"),
        (["edit", "--erase", "monet", "--located", "nowhere"], "no result.json"),
        (["edit", "--erase", "", "--layers", "0"], "the concept is empty"),
        (["trace", "--scorer", "none", "--attribute", "style"], "nothing installed offers the scorer 'none'"),
        (["trace", "--scorer", "none", "--attribute", "smell"], "no attribute 'smell'"),
        (["trace", "--scorer", "none", "--attribute", "style", "--where", "vae"], "choose unet or text"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], said: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["t2i", *words, "--model", model, "--out", str(tmp_path / "out"), *FAST]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
