from dataclasses import replace

import numpy as np
import pytest
from pellucid.compose.benchmarks import MatchingCase, Shown
from pellucid.compose.captioned import read_captions
from pellucid.compose.distill import distill
from pellucid.compose.distill_config import DistillConfig
from pellucid.compose.generation import Sampling
from pellucid.compose.jobs import (
    DistillCell,
    DistillJob,
    ProjectionCell,
    ProjectionJob,
    cases_digest,
    distill_sweep,
    projection_sweep,
)
from pellucid.compose.latents import encode_dataset, load_encoded, pictures_digest
from pellucid.compose.matching import clip_matcher, hits, score_cases
from pellucid.compose.projected_generation import projected_pictures
from pellucid.compose.train_projection import ProjectionTraining, train_projection
from pellucid.core.clips import load_clip
from pellucid.core.errors import OptionError, SweepError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.scorers import load_scorer
from pellucid.core.testing_pipelines import tiny_pipeline

PROMPTS, SEEDS = ("a red dog", "a blue car"), (0, 1)
SAMPLING = Sampling(steps=2, guidance=4.0)
TRAINING = ProjectionTraining(steps=3, batch=2)
CELLS = [ProjectionCell("wiclp", 1, 1e-2), ProjectionCell("clp", 0, 1e-3)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_clip, captioned_folder):
    folder = tmp_path_factory.mktemp("models")
    pipe = tiny_pipeline("sd")
    pipe.save_pretrained(folder / "sd")
    encode_dataset(pipe, read_captions(captioned_folder), folder / "encoded")
    make_clip().save(folder / "clip")
    return folder


@pytest.fixture
def job(place):
    spec = PipelineSpec(str(place / "sd"), safety_checker=False).resolved()
    data = load_encoded(place / "encoded").digest
    clip = f"clip:{place / 'clip'}"
    return ProjectionJob(spec, data, TRAINING, PROMPTS, SEEDS, (0, 800, 1), SAMPLING, clip, str(place / "encoded"))


@pytest.fixture
def distilling(place, captioned_folder):
    spec = PipelineSpec(str(place / "sd"), safety_checker=False).resolved()
    pairs = tuple(read_captions(captioned_folder))
    shown = [tuple(Shown(pair.image) for pair in pairs[at : at + 2]) for at in (0, 2, 4)]
    said = [tuple(pair.caption for pair in pairs[at : at + 2]) for at in (0, 2, 4)]
    cases = tuple(MatchingCase(str(row), *pair) for row, pair in enumerate(zip(shown, said, strict=True)))
    return DistillJob(
        str(place / "clip"),
        load_clip(place / "clip").revision,
        spec,
        pictures_digest(pairs),
        cases_digest(cases),
        DistillConfig(batch=4, steps=2),
        pairs,
        cases,
    )


def test_a_cell_is_a_training_and_its_pictures_scores(job, place, tmp_path):
    sweep = projection_sweep(job, CELLS)
    summary = sweep.run(tmp_path)
    assert (summary.done, summary.failed) == (2, 0)
    row = sweep.rows(tmp_path)[0]
    pipe, scorer = load_pipeline(job.model), load_scorer(job.scorer)
    training = replace(TRAINING, method="wiclp", window=1, rate=1e-2)
    trained = train_projection(pipe, load_encoded(place / "encoded"), training=training)
    made = projected_pictures(pipe, PROMPTS, SEEDS, trained, (0, 800, 1), sampling=SAMPLING)
    captions = [prompt for prompt in PROMPTS for _ in SEEDS]
    scores = {arm: scorer(shown.reshape(4, *shown.shape[2:]), captions) for arm, shown in made.arms.items()}
    np.testing.assert_allclose(row.losses, trained.losses)
    np.testing.assert_allclose(row.base, scores["base"])
    np.testing.assert_allclose(row.projected, [*scores["tau-0"], *scores["tau-0.8"], *scores["tau-1"]])
    assert row.projected[8:] == row.base
    assert row.parameters == trained.parameters == 3 * 32 * 32 + 32


def test_a_killed_cell_goes_on_from_its_checkpoint(job, tmp_path, monkeypatch):
    whole = projection_sweep(job, CELLS[:1])
    whole.run(tmp_path / "whole")
    kept = projection_sweep(replace(job, work=str(tmp_path / "work")), CELLS[:1])
    assert kept.keys == whole.keys  # where checkpoints lie is no part of a result
    kept.run(tmp_path / "first")
    [folder] = (tmp_path / "work").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "projection.safetensors",
    ]
    monkeypatch.setattr("pellucid.compose.train_projection.Batch", None)  # no step is run again
    kept.run(tmp_path / "second")
    assert kept.rows(tmp_path / "second") == whole.rows(tmp_path / "whole")


def test_other_data_than_the_sweep_s_are_refused(job, tmp_path):
    with pytest.raises(SweepError) as caught:
        projection_sweep(replace(job, data="other"), CELLS).run(tmp_path)
    assert "holds other data" in str(caught.value.__cause__)


def test_a_cell_of_lambda_is_a_distillation_and_its_matches(distilling, tmp_path):
    cells = [DistillCell(weight, 1e-3) for weight in (0.0, 0.001)]
    sweep = distill_sweep(distilling, cells)
    summary = sweep.run(tmp_path)
    assert (summary.done, summary.failed) == (2, 0)
    clip = load_clip(distilling.clip)
    config = replace(distilling.config, weight=0.001, rate=1e-3)
    fitted = distill(clip, distilling.captioned, None, config, load_pipeline(distilling.teacher))
    right = [hits(scores) for scores in score_cases(distilling.cases, clip_matcher(clip))]
    row = sweep.rows(tmp_path)[1]
    np.testing.assert_allclose(row.losses, fitted.losses)
    assert list(zip(row.text, row.image, row.group, strict=True)) == right
    assert row.losses != sweep.rows(tmp_path)[0].losses


def test_another_clip_than_the_sweep_s_is_an_error_row(distilling, tmp_path):
    sweep = distill_sweep(replace(distilling, revision="sha256:0"), [DistillCell(0.0, 1e-3)])
    assert sweep.run(tmp_path).failed == 1
    assert "is not the CLIP that the sweep was made for" in sweep.failures(tmp_path)[0][1]


def test_what_a_benchmark_shows_enters_its_digest(distilling):
    cases = distilling.cases
    assert cases_digest(cases) == cases_digest(list(cases))
    assert cases_digest(cases) != cases_digest(cases[::-1])
    assert cases_digest(cases) != cases_digest([replace(cases[0], tags=("colour",)), *cases[1:]])


def test_an_unknown_scorer_is_told():
    with pytest.raises(OptionError, match="nothing installed offers the scorer 'lost:x': choose from clip:MODEL"):
        load_scorer("lost:x")
