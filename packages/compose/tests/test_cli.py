"""The commands on tiny models of the real classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.compose.cli import app
from pellucid.compose.match_report import read_benchmark
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import clip_tokenizer, tiny_pipeline
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
from typer.testing import CliRunner

_TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPTS = ("a red car and a blue bag", "a green dog and a black cat")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion, a tiny CLIP, captioned pictures, records, classes and prompts."""
    out = tmp_path_factory.mktemp("home")
    tiny_pipeline("sd").save_pretrained(out / "sd")
    tokenizer = clip_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {**_TOWER, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
        vision = {**_TOWER, "image_size": 32, "patch_size": 8}
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    clip.save_pretrained(out / "clip")
    tokenizer.save_pretrained(out / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(out / "clip")
    random = np.random.default_rng(0)

    def picture(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
        return path.name

    lines = [{"image": picture(out / f"train/{n}.png"), "caption": PROMPTS[n % 2]} for n in range(6)]
    (out / "train/captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = [
        {"id": str(n), "images": [picture(out / f"cases{n}-{k}.png") for k in range(2)], "captions": list(PROMPTS),
         "tags": ["swap"]}
        for n in range(3)
    ]  # fmt: skip
    (out / "cases.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name in ("car", "dog"):
        picture(out / f"classes/{name}/0.png")
    (out / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return out


def _run(home: Path, out: Path, *words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    if code:
        assert isinstance(done.exception, OptionError | DataError), done.output
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert (out / "report.html").is_file()
    return json.loads((out / "result.json").read_text())["results"]


def test_scoring_by_clip_and_by_diffusion(home: Path, tmp_path: Path) -> None:
    options = ["--cases", str(home / "cases.jsonl"), "--clip", str(home / "clip"), "--classes", str(home / "classes")]
    found = _run(home, tmp_path, "score", *options, "--model", str(home / "sd"), "--samples", "2")
    assert len(found["matching"]) == 2
    assert [row["tag"] for row in found["matching"][str(home / "clip")]] == ["all", "swap"]
    assert 0 <= found["zero_shot"][str(home / "clip")]["value"] <= 1
    assert "nothing to match with" in _run(home, tmp_path, "score", "--cases", str(home / "cases.jsonl"), code=2)


def test_distilling_and_its_sweep(home: Path, tmp_path: Path) -> None:
    options = ["distill", "--clip", str(home / "clip"), "--model", str(home / "sd"), "--captions", str(home / "train")]
    options += ["--steps", "2", "--batch", "2", "--cases", str(home / "cases.jsonl")]
    found = _run(home, tmp_path / "one", *options, "--classes", str(home / "classes"))
    assert set(found["gains"]) == {"text", "image", "group", "zero-shot"}
    assert (tmp_path / "one/clip/model.safetensors").is_file()
    found = _run(home, tmp_path / "many", *options, "--rate", "1e-4,1e-3")
    assert [row["rate"] for row in found["trainings"]] == [1e-4, 1e-3]


def test_a_projection_from_training_to_votes(home: Path, tmp_path: Path) -> None:
    train = ["train-projection", "--model", str(home / "sd"), "--captions", str(home / "train"), "--steps", "2"]
    few = ["--sampling-steps", "2"]
    _run(home, tmp_path / "p", *train, "--rate", "0.1")
    drawn = ["generate", "--model", str(home / "sd"), "--prompts", str(home / "prompts.txt"), *few]
    found = _run(home, tmp_path / "g", *drawn, "--projection", str(tmp_path / "p"), "--taus", "0,1")
    assert list(found["arms"]) == ["base", "tau-0", "tau-1"]
    read = {name: (tmp_path / "g/pictures" / name / "0000-0.png").read_bytes() for name in found["arms"]}
    assert read["base"] == read["tau-1"]
    assert read["base"] != read["tau-0"]
    nouns = [*drawn, "--projection", str(tmp_path / "p"), "--taus", "0", "--subset"]
    found = _run(home, tmp_path / "h", *nouns, "nouns+adjectives+eos")
    assert read["tau-0"] != (tmp_path / "h/pictures/tau-0/0000-0.png").read_bytes()
    judged = ["evaluate", "--pictures", str(tmp_path / "g/pictures/tau-0"), "--scorer", f"clip:{home / 'clip'}"]
    against = ["--against", str(tmp_path / "g/pictures/base"), "--reference", str(home / "train")]
    found = _run(home, tmp_path / "e", *judged, *against[:2])
    assert found[f"clip:{home / 'clip'}"]["gain"]["low"] <= found[f"clip:{home / 'clip'}"]["gain"]["high"]
    found = _run(home, tmp_path / "f", *judged, *against[2:], "--features", str(home / "clip"))
    assert found["fid"] >= 0
    sweep = ["--method", "clp,wiclp", "--prompts", str(home / "prompts.txt"), "--scorer", f"clip:{home / 'clip'}", *few]
    found = _run(home, tmp_path / "s", *train, *sweep, "--taus", "0,0.8")
    assert len(found["trainings"]) == 4
    assert "needs --prompts and --scorer" in _run(home, tmp_path / "n", *train, "--rate", "1,2", code=2)


def test_words_embeddings_and_curated_pictures(home: Path, tmp_path: Path) -> None:
    prompts = ["--model", str(home / "sd"), "--prompts", str(home / "prompts.txt")]
    found = _run(home, tmp_path / "w", "contributions", *prompts, "--reweight", "2", "--layers", "1")
    assert found["prompts"] == 2
    assert set(found["reweighted"]) == set(found["unintended"])
    scorer = ["--scorer", f"clip:{home / 'clip'}", "--seeds", "2", "--sampling-steps", "2"]
    some = ["--model", str(home / "sd"), "--captions", str(home / "train"), "--caption"]
    found = _run(home, tmp_path / "c", "optimise-embedding", *some, PROMPTS[0], *scorer, "--steps", "2")
    assert len(found["losses"]) == 2
    missing = _run(home, tmp_path / "m", "optimise-embedding", *some, "a lion", *scorer, code=2)
    assert "no picture with the caption 'a lion'" in missing
    found = _run(home, tmp_path / "k", "curate", *prompts, *scorer, "--keep", "1")
    assert found["kept"] == 2
    assert found["mean_kept"] >= found["mean_all"]


def test_bad_input_is_one_line(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no benchmark"):
        read_benchmark(home / "prompts.txt")
    (tmp_path / "none.txt").write_text("\n")
    drawn = ["generate", "--model", str(home / "sd"), "--prompts"]
    assert "holds no prompt" in _run(home, tmp_path / "a", *drawn, str(tmp_path / "none.txt"), code=2)
    assert "give numbers of 0 or more" in _run(
        home, tmp_path / "b", *drawn, str(home / "prompts.txt"), "--taus", "-1", code=2
    )
    (tmp_path / "odd.txt").write_text("something else\n")
    odd = [*drawn, str(tmp_path / "odd.txt"), "--projection", str(tmp_path), "--subset", "nouns"]
    assert str(tmp_path) in _run(home, tmp_path / "d", *odd, code=2)  # no projection lies there
    none = ["evaluate", "--pictures", str(home / "train")]
    assert "nothing to measure" in _run(home, tmp_path / "c", *none, code=2)
