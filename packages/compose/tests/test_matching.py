import json

import numpy as np
import pytest
import torch
from pellucid.compose.benchmarks import MatchingCase, Shown
from pellucid.compose.diffusion_score import diffusion_scores
from pellucid.compose.matching import (
    clip_matcher,
    clip_scores,
    diffusion_matcher,
    hits,
    macro_average,
    matching_results,
    score_cases,
)
from pellucid.compose.zero_shot import class_embeddings, read_labelled, zero_shot
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from torch.nn.functional import cosine_similarity

CAPTIONS = [["a red dog", "a blue car"], ["a blue car", "a clock"]]


@pytest.fixture
def cases(tmp_path, pictures):
    shown = []
    for number in range(4):
        pictures[number].save(tmp_path / f"{number}.png")
        shown.append(Shown(str(tmp_path / f"{number}.png")))
    return [
        MatchingCase("a", (shown[0], shown[1]), ("a red dog", "a blue car"), ("object",)),
        MatchingCase("b", (shown[2],), ("a clock", "a pizza", "a tree"), ("relation",)),
        MatchingCase("c", (shown[3],), ("a cat", "a house"), ("relation",)),
    ]


@pytest.mark.parametrize("kind", ["transformers", "vit"])
def test_clip_scores_are_cosines(kind, make_clip, pictures):
    clip = make_clip(kind)
    found = clip_scores(clip, pictures[:2], CAPTIONS)
    for row in range(2):
        for column in range(2):
            seen = clip.image_features(clip.prepare([pictures[row]]))
            said = clip.text_features(clip.tokenize([CAPTIONS[row][column]]))
            assert found[row, column] == pytest.approx(cosine_similarity(seen, said).item(), abs=1e-6)


def test_records_of_any_shape_are_scored_in_their_order(cases, make_clip):
    clip = make_clip()
    found = score_cases(cases, clip_matcher(clip))
    assert [table.shape for table in found] == [(2, 2), (1, 3), (1, 2)]
    for case, table in zip(cases, found, strict=True):
        images = [shown.open() for shown in case.images]
        np.testing.assert_allclose(table, clip_scores(clip, images, [case.captions] * len(images)), atol=1e-6)


def test_a_diffusion_model_matches_by_its_lowest_score(cases):
    pipe = tiny_pipeline("sd")
    found = score_cases(cases, diffusion_matcher(pipe, samples=2))
    images = [shown.open() for shown in cases[0].images]
    np.testing.assert_allclose(found[0], -diffusion_scores(pipe, images, [cases[0].captions] * 2, samples=2).scores)
    assert len(score_cases(cases, diffusion_matcher(pipe, samples=10, confidence=0.9))) == 3


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[2, 1], [1, 2]], (True, True, True)),
        (
            [[2, 1], [4, 5]],
            (True, False, False),
        ),  # both pictures know their caption; the first caption likes the second
        ([[2, 3], [1, 4]], (False, True, False)),
        ([[1, 1], [0, 2]], (False, True, False)),  # a tie is wrong
        ([[1, 2], [2, 1]], (False, False, False)),
        ([[3, 1, 2]], (True, True, True)),
        ([[2, 1, 3]], (False, True, False)),
    ],
)
def test_winogrounds_three_scores(scores, expected):
    assert hits(np.array(scores, dtype=float)) == expected


def test_chance_is_winogrounds(cases):
    """Scores by chance: text and image one in four, group one in six."""
    chance = np.random.default_rng(0)
    found = np.mean([hits(chance.normal(size=(2, 2))) for _ in range(20000)], axis=0)
    np.testing.assert_allclose(found, [1 / 4, 1 / 4, 1 / 6], atol=0.01)


def test_results_by_tag(cases):
    scores = [np.array([[2.0, 1], [1, 2]]), np.array([[1.0, 0, 0]]), np.array([[0.0, 1]])]
    rows = {row.tag: row for row in matching_results(cases, scores)}
    assert list(rows) == ["all", "object", "relation"]
    assert rows["all"].text.value == pytest.approx(2 / 3)
    assert rows["all"].image is None
    assert rows["object"].group.value == 1
    assert (rows["relation"].records, rows["relation"].text.value) == (2, 0.5)
    assert rows["relation"].text.low <= 0.5 <= rows["relation"].text.high
    assert macro_average(list(rows.values())) == 0.75
    with pytest.raises(DataError, match="3 records and 1 scores"):
        matching_results(cases, scores[:1])


@pytest.fixture
def labelled(tmp_path, pictures):
    for number in range(6):
        place = tmp_path / f"class_{number % 2}"
        place.mkdir(exist_ok=True)
        pictures[number].save(place / f"{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps({"class_0": "dog"}))
    return tmp_path


def test_zero_shot_names_the_nearest_class(labelled, make_clip, pictures):
    data, clip = read_labelled(labelled), make_clip()
    assert data.classes == ("dog", "class 1")
    found = zero_shot(clip, data)
    slow = []
    for path in data.images:
        number = int(path.rsplit("/", 1)[1][0])
        prompts = [f"a photo of a {name}." for name in data.classes]
        slow.append(clip_scores(clip, [pictures[number]], [prompts])[0].argmax())
    assert found.predictions.tolist() == slow
    assert found.accuracy.value == np.mean(np.array(slow) == data.labels)


def test_templates_are_averaged(make_clip):
    clip = make_clip()
    both = class_embeddings(clip, ["dog"], ["a {}", "the {}"])
    first, second = class_embeddings(clip, ["dog"], ["a {}"]), class_embeddings(clip, ["dog"], ["the {}"])
    torch.testing.assert_close(both, torch.nn.functional.normalize(first + second, dim=1))
    with pytest.raises(OptionError, match=r"must have \{\}"):
        class_embeddings(clip, ["dog"], ["a dog"])


def test_labels_from_a_table(labelled):
    rows = "".join(f"class_{number % 2}/{number}.png,{'ab'[number % 2]}\n" for number in range(6))
    (labelled / "labels.csv").write_text("file,kind\n" + rows)
    assert read_labelled(labelled, "kind").classes == ("a", "b")
    with pytest.raises(DataError, match="no field 'label'"):
        read_labelled(labelled)
    (labelled / "labels.csv").write_text("file,kind\nclass_0/0.png,a\n")
    with pytest.raises(DataError, match="has 1 classes"):
        read_labelled(labelled, "kind")
