from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError
from pellucid.mllm_edit.patches import PatchGrid, patch_grid, seen_picture
from PIL import Image


def config(**more: Any) -> Any:
    return SimpleNamespace(vision_config=SimpleNamespace(image_size=32, patch_size=4), **more)


def test_where_families_put_the_whole_picture() -> None:
    assert patch_grid(config(), 64) == PatchGrid(0, 8, 8)
    assert patch_grid(config(), 65) == PatchGrid(1, 8, 8)
    assert patch_grid(config(image_grid_pinpoints=[]), 64 + 9 * 8) == PatchGrid(0, 8, 8)
    assert patch_grid(config(image_grid_pinpoints=[]), 65) == PatchGrid(0, 8, 8)  # and a newline's token
    assert patch_grid(config(scale_factor=2), 16) == PatchGrid(0, 4, 4)
    assert patch_grid(config(scale_factor=2), 5 * 16) == PatchGrid(64, 4, 4)
    qwen = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2, patch_size=14))
    assert patch_grid(qwen, 6, grid=(1, 4, 6)) == PatchGrid(0, 2, 3)
    assert patch_grid(SimpleNamespace(), 9) == PatchGrid(0, 3, 3)


def test_tokens_on_no_grid() -> None:
    with pytest.raises(DataError, match="70 image tokens lie on no grid"):
        patch_grid(config(), 70)
    with pytest.raises(DataError, match="0 image tokens"):
        patch_grid(config(), 0)
    with pytest.raises(DataError, match="7 image tokens are not the 1 x 2 x 3"):
        patch_grid(SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)), 7, grid=(1, 4, 6))


def test_numbers_are_laid_row_by_row() -> None:
    numbers = torch.arange(2 * 9).reshape(2, 9)
    laid = PatchGrid(1, 2, 3).lay(numbers)
    assert laid.tolist() == [[[1, 2, 3], [4, 5, 6]], [[10, 11, 12], [13, 14, 15]]]


def test_the_part_of_a_picture_that_is_seen() -> None:
    picture = Image.new("RGB", (60, 40), (200, 0, 0))
    plain = SimpleNamespace()
    assert seen_picture(picture, plain) is picture
    crop = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    assert seen_picture(picture, crop).size == (40, 40)
    stretched = SimpleNamespace(
        do_center_crop=True, size={"height": 40, "width": 40}, crop_size={"height": 20, "width": 20}
    )
    assert seen_picture(picture, stretched).size == (30, 20)
    padded = type("LlavaImageProcessor", (), {"do_pad": True, "do_center_crop": False})()
    square = seen_picture(picture, padded)
    assert square.size == (60, 60)
    assert square.getpixel((0, 0)) == (127, 127, 127)
    assert square.getpixel((0, 30)) == (200, 0, 0)


def test_it_agrees_with_the_image_processor() -> None:
    """The slow twin: what a real processor hands to the model."""
    from transformers import CLIPImageProcessor

    picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    picture.paste((255, 0, 0), (0, 0, 16, 64))  # cut off on both sides
    picture.paste((255, 0, 0), (80, 0, 96, 64))
    picture.paste((0, 255, 0), (24, 0, 40, 64))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    given = processor(picture, return_tensors="pt")["pixel_values"][0]
    seen = seen_picture(picture, processor).resize((32, 32), Image.Resampling.BICUBIC)
    ours = torch.tensor(np.asarray(seen)).permute(2, 0, 1) / 255
    # At the very edge, what is cut off still shines into the processor's pixels.
    assert float((given - ours).abs()[:, :, 2:-2].max()) < 0.02
