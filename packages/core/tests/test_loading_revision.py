"""What identifies weights: content hashes of folders, commits of hub models; the hub is played by stand-ins."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from pellucid.core import revision
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.revision import content_hash, find_on_hub
from pellucid.core.testing import tiny_decoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_decoder("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_placement_does_not_enter_comparisons() -> None:
    spec = ModelSpec("owner/model", dtype="bfloat16")
    placed = dataclasses.replace(spec, max_memory={"cpu": "1GB"}, device_map={"": "cpu"}, offload_folder="x")
    assert spec == placed
    assert hash(spec) == hash(placed)
    assert spec == dataclasses.replace(spec, device="cuda:1")
    assert spec != dataclasses.replace(spec, dtype="float32")
    assert spec != dataclasses.replace(spec, quantize="nf4")


def test_a_folder_is_known_by_its_content(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = ModelSpec(str(folder)).resolved()
    assert resolved.revision is not None
    assert resolved.revision.startswith("sha256:")
    assert resolved.resolved() is resolved
    monkeypatch.chdir(tmp_path)
    assert ModelSpec("model").resolved() == resolved
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert content_hash(copy) == resolved.revision
    (copy / "README.md").write_text("notes do not count")
    assert content_hash(copy) == resolved.revision
    tiny_decoder("llama", seed=1).save_pretrained(copy)
    assert content_hash(copy) != resolved.revision


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_config_and_tokenizer_count(folder: Path, name: str) -> None:
    before = content_hash(folder)
    with (folder / name).open("a") as file:
        file.write(" ")
    assert content_hash(folder) != before


def test_a_file_is_read_once_as_long_as_it_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = content_hash(folder)
    monkeypatch.setattr(revision.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert content_hash(folder) == first


def test_load_checks_a_content_hash(folder: Path) -> None:
    spec = ModelSpec(str(folder)).resolved()
    tiny_decoder("llama", seed=1).save_pretrained(folder)
    with pytest.raises(ModelError, match="are not those of revision"):
        load(spec)


def test_a_folder_has_no_branches(folder: Path) -> None:
    for ask in (load, lambda spec: spec.resolved()):
        with pytest.raises(OptionError, match="'main' is the hub's"):
            ask(ModelSpec(str(folder), revision="main"))


# The hub. No test reaches it.


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    calls: list[Any] = []

    def model_info(name: str, revision: str | None, timeout: float) -> Any:
        calls.append((name, revision))
        assert timeout <= 10
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    return calls


def hub_error(kind: type[Exception]) -> Exception:
    """These classes want a whole HTTP response; only their type matters here."""
    return kind.__new__(kind)


def info(*files: str) -> SimpleNamespace:
    return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=file) for file in files])


def test_a_branch_becomes_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub_answers(monkeypatch, info("config.json", "model.safetensors"))
    assert ModelSpec("owner/model", revision="dev").resolved().revision == COMMIT
    assert calls == [("owner/model", "dev")]
    fixed = ModelSpec("owner/model", revision=COMMIT)
    assert fixed.resolved() is fixed
    assert len(calls) == 1


def test_a_hub_model_with_pickles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_answers(monkeypatch, info("config.json", "pytorch_model.bin"))
    with pytest.raises(ModelError, match=r"from_pretrained\('owner/model', use_safetensors=False\)"):
        load("owner/model")


@pytest.mark.parametrize(
    ("answer", "kind", "match"),
    [
        (errors.RepositoryNotFoundError, OptionError, "the hub has no model 'owner/model'"),
        (errors.RevisionNotFoundError, OptionError, "no revision 'dev'"),
        (errors.GatedRepoError, ModelError, "accept it at huggingface.co/owner/model"),
    ],
)
def test_what_the_hub_refuses(
    answer: type[Exception], kind: type[Exception], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_answers(monkeypatch, hub_error(answer))
    with pytest.raises(kind, match=match):
        find_on_hub("owner/model", "dev")


def test_without_network_one_line_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub_answers(monkeypatch, ConnectionError("[Errno -2] Name or service not known\nand more"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        load("owner/model")
    assert "the hub was not reached ([Errno -2] Name or service not known): connect" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(calls) == 1


def test_without_network_the_cache_serves(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_answers(monkeypatch, errors.OfflineModeIsEnabled("offline"))
    cache = tmp_path / "hub"
    place = cache / "models--owner--model"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    found = find_on_hub("owner/model", None)
    assert found.commit == COMMIT
    assert found.folder == place / "snapshots" / COMMIT
    with pytest.raises(ModelError, match="owner/model has no tokenizer"):  # so the model itself was loaded
        load("owner/model")
    (place / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load("owner/model")
