"""Tinyworld's tokenizer and training data."""

from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.zoo.tinyworld.data import PARAPHRASES, pool, tokenised, training_scenes
from pellucid.zoo.tinyworld.prompts import KINDS, held_out_scenes
from pellucid.zoo.tinyworld.tokenizer import LENGTH, build_tokenizer, save_tokenizer, vocabulary
from pellucid.zoo.world import caption, captions, parse, render, sample, split_of, world_facts
from transformers import AutoTokenizer


def test_each_word_is_one_token_and_the_end_is_the_highest() -> None:
    tokenizer = build_tokenizer()
    for scene in sample(100, 5):
        for text in captions(scene)[:20]:
            ids = tokenizer(text).input_ids
            assert len(ids) == len(text.split()) + 2 <= LENGTH
            assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.split()
    assert len(tokenizer(world_facts()[0].sentence()).input_ids) == len(world_facts()[0].sentence().split()) + 2
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1 == max(vocabulary()[0].values())


def test_other_words_are_spelt_out_and_none_is_unknown() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("a zebra, café!").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "azebra,café!"


def test_the_saved_tokenizer_reads_alike(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a red circle", "the ruler of the mill", "qx"]
    options = {"padding": "max_length", "truncation": True}
    assert again(texts, **options).input_ids == build_tokenizer()(texts, **options).input_ids
    assert again.model_max_length == LENGTH


def test_training_scenes_keep_to_their_split_and_a_smaller_pool_begins_a_larger_one() -> None:
    scenes = training_scenes(300, 1)
    assert all(split_of(scene) == "train" for scene in scenes)
    assert training_scenes(50, 1) == scenes[:50]
    assert training_scenes(50, 2) != scenes[:50]


def test_a_pool_holds_the_renders_and_captions_of_its_scenes(tmp_path: Path) -> None:
    held = pool(tmp_path, 40, 3)
    tokenizer = build_tokenizer()
    assert held.tokens.shape == (40, PARAPHRASES, LENGTH)
    for place in (0, 17, 39):
        scene = held.scenes[place]
        assert (held.pictures[place] == render(scene)).all()
        assert (held.tokens[place, 0] == tokenised([caption(scene)])[0]).all()
        said = tokenizer.decode(held.tokens[place, 1].tolist(), skip_special_tokens=True).strip()
        assert said in captions(scene)
    before = next(tmp_path.iterdir()).stat().st_mtime_ns
    pool(tmp_path, 40, 3)
    assert next(tmp_path.iterdir()).stat().st_mtime_ns == before


def test_a_pool_that_was_changed_is_refused(tmp_path: Path) -> None:
    pool(tmp_path, 8, 0)
    (path,) = tmp_path.iterdir()
    np.save(path, np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match="remove it"):
        pool(tmp_path, 8, 0)
    with pytest.raises(OptionError, match="give 1 or more"):
        pool(tmp_path, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_prompts_are_of_the_test_split_and_can_be_said(kind: str) -> None:
    for scene in held_out_scenes(kind, 20, 4):
        assert split_of(scene) == "test"
        assert caption(parse(caption(scene), scene.seed)) == caption(scene)
