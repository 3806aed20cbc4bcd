"""What does not fit is refused from the files' headers, before a weight is read."""

from pathlib import Path

import pytest
import torch
from pellucid.core import fitting
from pellucid.core.errors import ModelError
from pellucid.core.fitting import check_fits, count_weights, free_memory
from pellucid.core.loading import ModelSpec, load
from pellucid.core.testing import tiny_decoder
from safetensors.torch import save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(1000, 10), "b": torch.zeros(500, dtype=torch.float16)}, tmp_path / "model.safetensors")
    return tmp_path


def test_weights_are_counted_from_headers(folder: Path) -> None:
    assert count_weights(folder) == (10_500, 41_000)


@pytest.mark.parametrize(
    ("options", "needed"),
    [({}, 42_000), ({"dtype": "bfloat16"}, 21_000), ({"quantize": "nf4"}, 5_418), ({"dtype": "auto"}, 41_000)],
)
def test_the_limit_is_what_is_needed(options: dict, needed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(str(folder), **options)
    monkeypatch.setattr(fitting, "free_memory", lambda device: needed)
    check_fits(spec, folder)
    monkeypatch.setattr(fitting, "free_memory", lambda device: needed - 1)
    with pytest.raises(ModelError, match=r"billion weights x .* bytes .* do not fit into the .* free on cpu: "):
        check_fits(spec, folder)
    check_fits(ModelSpec(str(folder), max_memory={"cpu": "1KB"}), folder)  # spread, it finds a place


def test_a_model_that_cannot_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_decoder()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(fitting, "free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match="quantize to nf4") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_free_memory_is_the_machines() -> None:
    assert 1e8 < free_memory("cpu") < 1e14


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x00\x01")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        count_weights(tmp_path)
