"""The benchmark of multimodal models: both ways find the same, and every number is there."""

from pathlib import Path

import torch
from pellucid.bench import mllm
from pellucid.core.testing_multimodal import tiny_multimodal


def test_both_ways_agree_and_the_finding_is_said(tmp_path: Path) -> None:
    model, processor = tiny_multimodal("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = mllm.measure(str(tmp_path), inner=300, width=64, threads=1)
    trace, edit = found["trace"], found["edit"]
    assert trace["windows"] == 2 * 5 * 3
    assert trace["largest_difference"] < 1e-3
    assert edit["error"] < 1e-6
    assert edit["inverse_error"] < 1e-1
    assert min(trace["ratio"], edit["ratio"]) > 0
    assert "one window at a time" in mllm.summary(found)


def test_the_exact_weight_is_that_of_the_inverse() -> None:
    chance = torch.Generator().manual_seed(1)
    weight, key, value = (torch.randn(*shape, generator=chance).double() for shape in ((8, 40), (1, 40), (1, 8)))
    ridge = mllm.RIDGE * torch.eye(40, dtype=torch.float64)
    exact = (mllm.RIDGE * weight + value.T @ key) @ torch.linalg.inv(ridge + key.T @ key)
    assert mllm._error(exact, weight, key, value) < 1e-10
    assert mllm._error(weight, weight, key, value) > 1e-3
