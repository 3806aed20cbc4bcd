import json
from pathlib import Path

import numpy as np
import pytest
from pellucid.compose import curation
from pellucid.compose.captioned import read_captions
from pellucid.compose.curation import CurationJob, CurationRow, curation_sweep, write_curated
from pellucid.compose.generation import Sampling, encode_prompts, generate
from pellucid.core.errors import DataError, OptionError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.testing_pipelines import tiny_pipeline

PROMPTS = ("a red dog and a blue car", "a green tree")
QUICK = Sampling(steps=1, guidance=1.0, chunk=2)


def brightness(shown, captions):
    return shown.reshape(len(shown), -1).mean(1).astype(float)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pipe")
    tiny_pipeline("sd").save_pretrained(place)
    return str(place)


@pytest.fixture
def job(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(curation, "load_judge", lambda name, device: brightness)
    return CurationJob(PipelineSpec(folder), "brightness", QUICK, (5, 6, 7, 8, 9), 2, str(tmp_path / "out"))


def test_the_best_of_all_are_kept(job, folder, tmp_path):
    sweep = curation_sweep(job, PROMPTS)
    assert sweep.run(tmp_path / "ledger").done == 2
    pairs = sweep.pairs(tmp_path / "ledger")
    pipe = load_pipeline(folder)
    for cell, row in pairs:
        arguments = {name: value[[0] * 5] for name, value in encode_prompts(pipe, [cell.prompt]).items()}
        scores = brightness(generate(pipe, arguments, job.seeds, Sampling(steps=1, guidance=1.0)), [])
        order = np.argsort(-scores, kind="stable")[:2]
        assert row.seeds == [job.seeds[place] for place in order]
        np.testing.assert_allclose(row.scores, scores[order], atol=0.1)
        assert row.mean == pytest.approx(scores.mean(), abs=0.1)
    found = write_curated(job.out, [pairs], 2)
    assert read_captions(job.out) == found
    assert [item.caption for item in found] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert sweep.run(tmp_path / "ledger").skipped == 2


def test_generators_compete_for_each_prompt(job, tmp_path):
    cell = curation.CurationCell("a cat")
    rows = [CurationRow([1, 2], [0.9, 0.1], 0.5, "one"), CurationRow([3, 4], [0.5, 0.4], 0.45, "two")]
    for row in rows:
        (Path(job.out) / row.folder).mkdir(parents=True)
        for seed in row.seeds:
            (Path(job.out) / row.folder / f"0000-{seed}.png").write_bytes(b"")
    found = write_curated(job.out, [[(cell, row)] for row in rows], 2)
    assert [item.id for item in found] == ["one/0000-1.png", "two/0000-3.png"]
    lines = [json.loads(line) for line in (Path(job.out) / "captions.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [0.9, 0.5]
    with pytest.raises(OptionError, match="3 are wanted"):
        write_curated(job.out, [[(cell, rows[0])]], 3)
    (Path(job.out) / "one" / "0000-1.png").unlink()
    with pytest.raises(DataError, match="0000-1"):
        write_curated(job.out, [[(cell, rows[0])]], 1)
    with pytest.raises(DataError, match="no prompt"):
        write_curated(job.out, [], 1)


def test_jobs_are_checked(folder, tmp_path):
    with pytest.raises(OptionError, match="keep=3 of 2"):
        CurationJob(PipelineSpec(folder), "x", QUICK, (1, 2), 3, str(tmp_path))
    with pytest.raises(OptionError, match="1 of them different"):
        CurationJob(PipelineSpec(folder), "x", QUICK, (1, 1), 1, str(tmp_path))


def test_the_place_of_the_pictures_is_no_part_of_the_key(job, tmp_path):
    other = CurationJob(job.model, job.scorer, job.sampling, job.seeds, job.keep, str(tmp_path / "elsewhere"))
    assert curation_sweep(job, PROMPTS).keys == curation_sweep(other, PROMPTS).keys
