"""A concept edited: the pictures change, the model does not, the file gives the same again."""

import asyncio
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from pellucid.studio.editing import KINDS, SEEN, ZOO, Editing
from pellucid.studio.editing_tab import editing_tab


@pytest.fixture(scope="module")
def editing(tmp_path_factory: pytest.TempPathFactory) -> Editing:
    return Editing(ZOO, tmp_path_factory.mktemp("studio"), "cpu")


def weights(editing: Editing) -> list[torch.Tensor]:
    return [
        value.clone()
        for part in (editing._pipe.unet, editing._pipe.text_encoder)
        for value in part.state_dict().values()
    ]


@pytest.mark.parametrize(("to", "method"), [(None, "all-layers"), ("mondrian", "quickfix")])
def test_pictures_change_and_the_model_does_not(editing: Editing, to: str | None, method: str) -> None:
    kept, prompts = weights(editing), editing.examples("van gogh", "style")
    made = editing.make("van gogh", "style", to, method)
    before, after, again, loaded = (
        [np.asarray(picture) for picture in editing.draw(prompts[:1], 3, 2, 4.0, edit)]
        for edit in (None, made.edit, None, WeightEdit.load(made.files[0]))
    )
    assert before[0].shape == (SEEN, SEEN, 3)
    assert not np.array_equal(before, after)
    assert np.array_equal(before, again)
    assert np.array_equal(after, loaded)
    assert all(torch.equal(one, other) for one, other in zip(kept, weights(editing), strict=True))
    assert [path.name for path in made.files] == ["edit.safetensors", "pytorch_lora_weights.safetensors"]
    assert all(path.is_file() and path.is_relative_to(editing._keep) for path in made.files)
    assert ("“van gogh” taken out: " if to is None else "“van gogh” turned into “mondrian”: ") in made.summary


def test_the_sentence_tells_what_stands_in(editing: Editing) -> None:
    assert "“circle” taken out, “square” stands in for it" in editing.make("Circle", "object", None, "quickfix").summary


def test_concepts_and_prompts_of_the_drawn_world(editing: Editing) -> None:
    assert all(editing.concepts(kind) for kind in KINDS)
    prompts = editing.examples("van gogh", "style")
    assert len(prompts) == 4
    assert ["van gogh" in prompt for prompt in prompts] == [True, True, True, False]


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    tiny_pipeline("sd").save_pretrained(tmp_path / "model")
    own = Editing(str(tmp_path / "model"), tmp_path / "keep", "cpu")
    assert own.concepts("style") == own.examples("cubism", "style") == []
    made = own.make("cubism", "style", None, "all-layers")
    assert made.files[0].is_file()
    [picture] = own.draw(["a house in the style of cubism"], 0, 1, 1.0, made.edit)
    assert max(picture.size) == SEEN


def test_what_cannot_be_edited(editing: Editing) -> None:
    with pytest.raises(DataError, match="the concept is empty"):
        editing.make(" ", "style", None, "quickfix")
    with pytest.raises(DataError, match="the new concept is empty"):
        editing.make("van gogh", "style", "", "quickfix")
    with pytest.raises(OptionError, match="no method 'magic'"):
        editing.make("van gogh", "style", None, "magic")
    with pytest.raises(DataError, match="no prompts of the object 'van gogh': choose among circle"):
        editing.make("van gogh", "object", None, "quickfix")
    with pytest.raises(DataError, match="'van gogh' is to turn into itself"):
        editing.make("van gogh", "style", "Van Gogh ", "quickfix")
    with pytest.raises(OptionError, match="kind"):
        editing.make("van gogh", "mood", None, "quickfix")
    with pytest.raises(DataError, match="5 prompts: give 1 to 4"):
        editing.draw(["a"] * 5, 0, 1, 1.0)


def test_the_tab_asks_before_it_solves(editing: Editing) -> None:
    async def built() -> gr.Blocks:  # without a running loop Gradio opens one that it leaves open
        with gr.Blocks() as blocks:
            editing_tab(editing)
        return blocks

    drawn = next(found for found in asyncio.run(built()).fns.values() if found.concurrency_id == "model")
    given = ("van gogh", "style", "Take it out", "", "quickfix")
    assert drawn.fn is not None
    made = set(editing._keep.iterdir())
    with pytest.raises(gr.Error, match="5 prompts: give 1 to 4"):
        drawn.fn(*given, "a\n\nb\nc\nd\ne", 0, 5, 4.0)
    with pytest.raises(gr.Error, match="the seed is empty"):
        drawn.fn(*given, "a", None, 5, 4.0)
    assert set(editing._keep.iterdir()) == made
